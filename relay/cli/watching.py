# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay status --watch` on a terminal: health, store and links on one screen, anew every two seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NoReturn

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relay.control.conditions import FULL, NEARLY_FULL
from relay.control.text import COMPONENTS, clock_text, component_text, human_bytes, human_duration, plural
from relay.core.stats import LinkKind
from relay.run import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from relay.control.status import Status

#: Colour, sign and word of each severity: never the colour alone.
_SEVERITIES: Final = {
    "critical": ("red", "✗", "something is broken"),
    "warning": ("yellow", "!", "works, but needs a look"),
    "info": ("green", "✓", "all well"),
}


def watch(read: Callable[[], Status], interval_s: float, console: Console | None = None) -> NoReturn:
    """Show what ``read`` returns until interrupted; raises what it raises."""
    with Live(picture(read()), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            live.update(picture(read()), refresh=True)


def picture(status: Status) -> RenderableType:
    """One screen; texts of other processes are shown as they are, never read as markup."""
    parts: list[RenderableType] = [_health(status), _figures(status), _store(status)]
    if status.links:
        parts.append(_links(status))
    rows = [
        Text.assemble((f"{COMPONENTS.get(row.name, row.name)}  ", "bold"), component_text(row))
        for row in status.components
    ]
    rows += [Text.assemble(("note  ", "bold"), notice.text) for notice in status.notices if not notice.serious]
    rows.append(Text.assemble(("clock  ", "bold"), clock_text(status.clock)))
    happened = [
        f"{words.REASONS.get(family, {}).get(reason, reason)} {count:,}"
        for family, counts in status.totals.items()
        for reason, count in counts.items()
        if count and family in words.FAMILIES
    ]
    if happened:
        rows.append(Text.assemble(("since the start  ", "bold"), "; ".join(happened)))
    return Group(*parts, *rows, Text("Ctrl-C ends this.", style="dim"))


def _health(status: Status) -> Panel:
    conditions = status.conditions
    worst = conditions[0].severity if conditions else "info"
    colour, sign, word = _SEVERITIES[worst]
    lines = [Text.assemble((f"{sign} {word}", f"bold {colour}"))]
    for condition in conditions:
        said = words.CONDITIONS.get(condition.name, words.Said(condition.says, condition.remedy))
        shade, mark, _ = _SEVERITIES[condition.severity]
        mark = "i" if condition.severity == "info" else mark
        lines.append(Text.assemble((f"{mark} {said.what}. ", shade if mark != "i" else "cyan"), said.do))
        lines += [Text(f"  {detail}", style="dim") for detail in condition.details if detail]
    title = f"relay {status.version}, up {human_duration(status.uptime_s)}"
    return Panel(Group(*lines), title=Text(title), title_align="left", border_style=colour)


def _figures(status: Status) -> Columns:
    totals = status.totals.get("total", {})
    figures = [
        ("kept", f"{status.store.envelopes:,}"),
        ("taken in", f"{totals.get('accepted', 0):,}"),
        ("handed on", f"{totals.get('forwarded', 0):,}"),
        ("near", plural(status.relays, "relay")),
        *((str(queue.name), f"{queue.length:,} wait") for queue in status.queues),
    ]
    return Columns([Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in figures], padding=(0, 3))


def _store(status: Status) -> Table:
    store = status.store
    grid = Table.grid(padding=(0, 1))
    levels = (
        ("messages", store.envelopes, store.max_envelopes, f"{store.envelopes:,} of {store.max_envelopes:,}"),
        ("room", store.bytes, store.max_bytes, f"{human_bytes(store.bytes)} of {human_bytes(store.max_bytes)}"),
    )
    for name, now, most, shown in levels:
        part = now / max(most, 1)
        colour = "red" if part >= FULL else "yellow" if part >= NEARLY_FULL else "green"
        bar = ProgressBar(total=1, completed=part, width=30, complete_style=colour, finished_style=colour)
        grid.add_row(Text(name, style="dim"), bar, Text(f"{part:.0%}  {shown}"))
    return grid


def _links(status: Status) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("link")
    table.add_column("state")
    for name in ("relays", "clients", "in", "out", "restarts", "errors"):
        table.add_column(name, justify="right")
    for link in status.links:
        is_down = link.missed or link.state == "down"
        state = Text(f"✗ {link.state}", style="bold red") if is_down else Text(f"✓ {link.state}", style="green")
        cells = (
            f"{link.relays}",
            f"{link.clients}",
            human_bytes(link.bytes_in),
            human_bytes(link.bytes_out),
            f"{link.restarts}",
            f"{sum(link.errors.values())}",
        )
        carries = link.kind != str(LinkKind.DNSSD)
        table.add_row(Text(f"{link.interface} {link.kind}"), state, *(cells if carries else ()))
    return table
