# SPDX-License-Identifier: GPL-2.0-or-later
"""The status page: one HTML document, no scripts, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from relay.control.text import (
    COMPONENTS,
    clock_text,
    gauge_text,
    human_bytes,
    human_duration,
    idle_text,
    people_text,
    plural,
)
from relay.run import pictures

if TYPE_CHECKING:
    from relay.control.status import ComponentStatus, LinkStatus, Status
    from relay.run.history import Sample

#: Half a minute: soon enough to watch, rare enough for a battery.
REFRESH_S = 30


class Page:
    """Renders the status; holds the style sheet and the policy that admits it alone."""

    def __init__(self) -> None:
        self._style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        self.content_security_policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )

    def render(self, status: Status, samples: list[Sample]) -> str:
        """Return the document."""
        bad = bool(status.problems())
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<meta http-equiv="refresh" content="{REFRESH_S}"><meta name="referrer" content="no-referrer">'
            f"<title>{'Needs a look' if bad else 'All well'} - mesh relay</title><style>{self._style}</style></head>"
            "<body><main><header><h1>Mesh relay</h1>"
            f'<span class="soft">{escape(status.version)}, up {human_duration(status.uptime_s)}</span></header>'
            f"{_health(status)}{_notes(status)}{_figures(status)}{_topology(status)}{_store(status, samples)}"
            f"{_links(status)}{_components(status)}{_events(status)}"
            f'<footer>Anew every {REFRESH_S} s. For machines: <a href="/status.json">status.json</a>, '
            '<a href="/metrics">metrics</a>.</footer></main></body></html>\n'
        )


def _section(title: str, body: str, classes: str = "") -> str:
    return f'<section class="{classes}"><h2>{title}</h2>{body}</section>'


def _health(status: Status) -> str:
    problems = status.problems()
    if not problems:
        in_use = "up" in status.link_states.values()
        text = "Takes, keeps and passes on envelopes." if in_use else "Takes envelopes; nobody is connected yet."
        return f'<section class="wide health"><strong>All well</strong><div>{text}</div></section>'
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f'<section class="wide health bad"><strong>Needs a look</strong><ul>{items}</ul></section>'


def _notes(status: Status) -> str:
    notes = [notice.text for notice in status.notices if not notice.serious]
    notes += [f"{COMPONENTS.get(row.name, row.name)}: {text}" for row in status.components if (text := idle_text(row))]
    items = "".join(f"<li>{escape(note).replace('`', '')}</li>" for note in notes)
    return _section("Worth knowing", f'<ul class="soft">{items}</ul>', "wide") if items else ""


def _figures(status: Status) -> str:
    store = status.store
    totals = status.totals.get("total", {})
    figures = [
        ("Held now", f"{store.envelopes:,}"),
        ("Accepted", f"{totals.get('accepted', 0):,}"),
        ("Forwarded", f"{totals.get('forwarded', 0):,}"),
        ("Relays near", f"{status.relays:,}"),
        ("Clients", people_text(sum(link.clients for link in status.links))),
        ("Price", plural(max(store.price_bits.values(), default=0), "bit")),
    ]
    body = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    clock = f'<p class="soft">Clock: {escape(clock_text(status.clock).replace("`", ""))}</p>'
    return f'<section class="wide"><dl>{body}</dl>{clock}</section>'


def _topology(status: Status) -> str:
    segments = pictures.segments(status)
    if not segments:
        return _section("Around this relay", '<p class="soft">No segment yet.</p>')
    return _section("Around this relay", pictures.topology(segments))


def _store(status: Status, samples: list[Sample]) -> str:
    store = status.store
    kind = "durable" if store.durable else "volatile"
    text = (
        f'<p class="soft">{store.part:.0%} full: {store.envelopes:,} of {store.max_envelopes:,} envelopes, '
        f"{human_bytes(store.bytes)} of {human_bytes(store.max_bytes)}, {kind}"
        + (f"; the oldest has been here for {human_duration(store.oldest_age_s)}" if store.envelopes else "")
        + "</p>"
    )
    return _section("Store", pictures.sparkline(samples) + text)


def _links(status: Status) -> str:
    if not status.links:
        return ""
    head = "".join(
        f"<th>{name}</th>" for name in ("Link", "State", "Relays", "Clients", "In", "Out", "Restarts", "Errors")
    )
    rows = "".join(_link_row(link) for link in status.links)
    return _section("Links", f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>', "wide")


def _link_row(link: LinkStatus) -> str:
    state = f'<span class="down">{link.state}</span>' if link.state == "down" or link.missed else str(link.state)
    cells = (
        f'{escape(link.interface)} <span class="soft">{escape(link.kind)}</span>',
        state,
        f"{link.relays}",
        people_text(link.clients),
        human_bytes(link.bytes_in),
        human_bytes(link.bytes_out),
        f"{link.restarts}",
        f"{sum(link.errors.values())}",
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _components(status: Status) -> str:
    if not status.components:
        return ""
    rows = "".join(
        f"<tr><td>{escape(COMPONENTS.get(row.name, row.name))}</td><td>{_state(row)}</td>"
        f"<td>{escape(', '.join(gauge_text(name, count) for name, count in row.gauges.items()))}</td></tr>"
        for row in status.components
    )
    head = "<tr><th>Part</th><th>State</th><th>Now</th></tr>"
    return _section("Radios and board", f'<div class="scroll"><table>{head}{rows}</table></div>', "wide")


def _state(component: ComponentStatus) -> str:
    if component.idle:
        return f'<span class="soft">{_words(component.idle)}</span>'
    return "up" if component.up else f'<span class="down">{component.state}</span>'


def _events(status: Status) -> str:
    happened = {family: counts for family, counts in status.totals.items() if family != "total"}
    happened |= {COMPONENTS.get(row.name, row.name): row.counters for row in status.components}
    rows = "".join(
        f"<tr><td>{_words(family)}</td><td>{_words(reason)}</td><td>{count:,}</td></tr>"
        for family, counts in happened.items()
        for reason, count in counts.items()
        if count
    )
    if not rows:
        return ""
    table = f'<div class="scroll"><table><tr><th>What</th><th>Why</th><th>Times</th></tr>{rows}</table></div>'
    return _section("Events since start", table, "wide")


def _words(label: str) -> str:
    return escape(label.replace("_", " "))
