# SPDX-License-Identifier: GPL-2.0-or-later
"""The status in words, for a terminal."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from relay.config.settings import DEFAULT_PORT
from relay.control.coarse import PEOPLE
from relay.core.stats import LinkKind
from relay.process.reports import MEMORY

if TYPE_CHECKING:
    from relay.config.file import Config
    from relay.control.status import ClockStatus, ComponentStatus, LinkStatus, Status, StoreStatus

#: Width of the left column.
_COLUMN = 10


def human_bytes(count: float) -> str:
    """1536 becomes "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def human_duration(seconds: float) -> str:
    """The two largest units: "2 d 3 h", "4 min 5 s"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def plural(count: int, singular: str) -> str:
    """The count with its noun: 1 relay, 2 relays."""
    return f"{count} {singular}" if count == 1 else f"{count} {singular}s"


def people_text(count: int) -> str:
    """A coarse number of people (relay.control.coarse)."""
    return f"{count} or more" if count else f"under {PEOPLE[1]}"


def clock_text(clock: ClockStatus) -> str:
    """What the relay goes by."""
    if clock.wanted and not clock.trusted:
        return "the system's cannot be right; envelopes leave after a bounded stay (`relay clock set` gives the time)"
    if not clock.trusted:
        return "not trusted; envelopes leave after a bounded stay (`relay clock set` gives the time)"
    return "the operator's word" if clock.source == "operator" else f"trusted ({clock.source})"


def store_text(store: StoreStatus) -> str:
    """How full the store is."""
    of = f" of {store.max_envelopes:,}" if store.max_envelopes else ""
    bound = f"{plural(store.envelopes, 'envelope')}{of}, {human_bytes(store.bytes)} of {human_bytes(store.max_bytes)}"
    price = max(store.price_bits.values(), default=0)
    notes = [f"{store.part:.0%} full", "durable" if store.durable else "volatile"]
    if price:
        notes.append(f"price {price} bits")
    if store.oldest_age_s >= 1:
        notes.append(f"oldest {human_duration(store.oldest_age_s)}")
    if store.free_bytes is not None:
        notes.append(f"{human_bytes(store.free_bytes)} free on its disk")
    return f"{bound} ({', '.join(notes)})"


#: What each component is about.
COMPONENTS = {"ble": "Bluetooth", "bitchat": "bitchat", "libp2p": "libp2p", "net": "Wi-Fi", "board": "board"}


#: Why one of them does no work although nothing is wrong, and what changes that.
IDLE = {
    "stopped": "stopped; systemctl start relay-{name}, or `relay {name}`, starts it again",
    "no_adapter": "no adapter in this machine; one that is plugged in is used at once",
}


def idle_text(component: ComponentStatus) -> str:
    """Why it does no work although nothing is wrong, with the remedy; empty if that is not so."""
    return IDLE.get(component.idle, component.idle.replace("_", " ")).format(name=component.name)


def gauge_text(name: str, value: int) -> str:
    """A gauge of a component in words; bytes as such."""
    if name == MEMORY:
        return f"{human_bytes(value)} of memory"
    return f"{value} {name.replace('_', ' ')}"


def component_text(component: ComponentStatus) -> str:
    """How another process of the relay is: its gauges in words, then what it counted."""
    state = {"up": "works", "failing": "does not work", "dead": "gone"}.get(component.state, "")
    gauges = [gauge_text(name, count) for name, count in component.gauges.items()]
    counted = [f"{count} {name.replace('_', ' ')}" for name, count in component.counters.items()]
    parts = [idle_text(component) or ", ".join([state, *gauges])] + ([", ".join(counted)] if counted else [])
    return "; ".join(parts)


def link_text(link: LinkStatus) -> str:
    """Who is connected by a link, and how much it carried."""
    if link.kind == str(LinkKind.DNSSD):
        return "finds relays" if link.up else str(link.state)
    peers = f"{plural(link.relays, 'relay')}, {plural(link.clients, 'client')}"
    errors = [f"{count} {reason.replace('_', ' ')}" for reason, count in link.errors.items()]
    traffic = f"{human_bytes(link.bytes_in)} in, {human_bytes(link.bytes_out)} out"
    return "; ".join([peers if link.up else str(link.state), traffic, *([", ".join(errors)] if errors else [])])


def status_text(status: Status) -> str:
    """`relay status`: health first, then store, clock, links and what went wrong."""
    problems = status.problems()
    rows = [
        ("relay", f"{status.version}, up {human_duration(status.uptime_s)}"),
        ("health", problems[0] if problems else "all well"),
        *(("", problem) for problem in problems[1:]),
        ("store", store_text(status.store)),
        ("clock", clock_text(status.clock)),
        ("near", plural(status.relays, "relay")),
    ]
    rows += [("note", notice.text) for notice in status.notices if not notice.serious]
    for link in status.links:
        rows.append(("link", f"{link.kind} on {link.interface}: {link_text(link)}"))
    rows += [(COMPONENTS.get(row.name, row.name), component_text(row)) for row in status.components]
    for family, counts in status.totals.items():
        happened = [f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count]
        if happened:
            rows.append((family.replace("_", " "), ", ".join(happened)))
    return "\n".join(f"{name:<{_COLUMN}} {value}" for name, value in rows)


def startup_summary(status: Status, config: Config, program: str, port: int) -> str:
    """What `relay run` prints once it is ready on ``port``; ``program`` is how the user calls the command."""
    tcp = config.tcp
    where = ", ".join(tcp.interfaces) or "every interface"
    rows = [
        ("relay", f"{status.version}, ready"),
        ("store", store_text(status.store)),
        ("in", str(config.store.path)),
        ("clock", clock_text(status.clock)),
        ("listens", f"port {port} on {where}" if tcp.enabled else "not on IP"),
        ("finds", "other relays by multicast DNS" if tcp.enabled and tcp.discovery else "no relays by itself"),
    ]
    if not (config.store.max_bytes and config.store.max_envelopes):
        room = f"{human_bytes(status.store.max_bytes)}, {status.store.max_envelopes:,} envelopes"
        rows.append(("room", f"{room}: what this machine has; max_bytes and max_envelopes in [store] set others"))
    if tcp.peers:
        rows.append(("peers", plural(len(tcp.peers), "static peer")))
    if config.http.enabled:
        rows.append(("status", f"http://{config.http.listen}/ or `{program} status`"))
    summary = "\n".join(f"{name:<{_COLUMN}} {value}" for name, value in rows)
    return f"{summary}\n\n{first_message(program, port)}"


def key_text(public: bytes, port: int) -> str:
    """`relay key`: the key alone on the first line, then where others put it. ``port``: 0 if it is not fixed."""
    digits = public.hex()
    where = f"HOST:{port or 'PORT'}"
    lines = (
        digits,
        "",
        "With HOST for this relay's address, in the relay.toml of a relay that is to connect to this one:",
        "",
        "  [tcp]",
        f'  peers = ["{where}#{digits}"]',
        "",
        "In the client.toml (~/.config/mesh-relay, mode 0600) of somebody who uses this relay:",
        "",
        "  [[relay]]",
        f'  address = "{where}"',
        f'  key = "{digits}"',
    )
    return "\n".join(lines)


def program_name(argv0: str) -> str:
    """How a user calls this program again, `argv0` being how it was called; quoted for the shell."""
    if Path(argv0).name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m relay"
    return shlex.quote(argv0)


def first_message(program: str, port: int) -> str:
    """How to send oneself a first message; each line can be pasted into a shell as it stands."""
    where = "" if port == DEFAULT_PORT else f" --relay localhost:{port}"
    commands = (
        ("identity", "makes your keys and shows your contact URI"),
        ("contact add 'URI' --name me", "with that URI"),
        (f"send{where} me 'hello'", ""),
        (f"receive{where}", ""),
    )
    lines = [f"  {program} {command}" + (f"   # {remark}" if remark else "") for command, remark in commands]
    return "\n".join(["Send a first message, from another terminal:", *lines])
