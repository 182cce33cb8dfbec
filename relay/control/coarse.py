# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of who is there, made coarse for whoever reads them from afar: a graph must not show how many stood there.

What leaves the machine (metrics, status page, status.json) goes through here; the control socket, for whoever is on the
machine, has the exact numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from relay.control.status import LinkState
from relay.process.reports import MEMORY, PACKET_OUTCOMES, PACKET_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.control.status import ComponentStatus, LinkStatus, Status

#: People are rounded down to one of these, so that nobody who comes or goes alone is seen in them: 0 is "fewer than 5".
PEOPLE: Final = (0, 5, 10, 20, 50, 100, 200, 500, 1000)
#: Relays are boxes that an operator put up and counts; of many he needs no more than this.
RELAYS: Final = (0, 1, 2, 3, 4, 8, 16, 32, 64, 128)
#: What other processes count: phones, connections of phones, and what they take up.
_PEOPLE_GAUGES: Final = frozenset({"clients", "phones", "slots_used", "letters_brief", "peers", "topics", "blocks"})
#: Three phones tell a clock, so that is told only where phones are.
_OF_PEOPLE: Final = frozenset({"clock_learned"})
#: Counted once for what a phone says, or more often.
_PEOPLE_TOTALS: Final = frozenset({"live", "live_dropped"})
_RELAY_GAUGES: Final = frozenset({"neighbours", "relays_heard", "mesh_peers"})
#: Events that happen once for each that comes or goes are told in steps of this: counts rise by it or not at all.
EVENT_STEP: Final = 10
#: Memory is told in steps of this: a session takes some hundred kilobytes.
MEMORY_STEP_BYTES: Final = 1 << 20
_PEOPLE_EVENTS: Final = frozenset(
    {"connections", "clients_accepted", "idle_ended", "slots_given", "slot_unused", "channel_lost", "slow_reader"}
    | {"clients_orphaned", "refused_busy", "gave_way"}
    # What a phone with bitchat or Berty says goes to other relays, too, and letters are of people.
    | {"live_sent", "live_lost", "live_received", "live_untrue"}
    | {"letters_kept", "letters_refused", "letters_lost"}
    | {"live_limited", "live_too_long", "live_known", "live_elsewhere", "live_refused"}
    # Of libp2p: who comes, and what one reader asks for.
    | {
        "peers_met",
        "peers_renewed",
        "peers_silent",
        "connections_dropped",
        "peer_dials",
        "peer_dials_failed",
        "handshakes_failed",
    }
    | {"blocks_sent", "wants_missed", "records_taken", "published_taken", "published_known", "published_elsewhere"}
    | {"seals_taken", "seals_kept", "seals_known", "seals_elsewhere"}
    | {"seals_given", "seals_not_taken", "seals_published"}
    | {"blocks_received", "blocks_kept", "blocks_foreign", "blocks_not_found"}
    | {"http_served", "http_unchanged", "http_missing", "http_elsewhere"}
    # Each phone says a few in a minute.
    | {f"packets_{outcome}" for outcome in PACKET_OUTCOMES}
    | {f"type_{kind}" for kind in PACKET_TYPES}
)


def people(count: int) -> int:
    """Round a number of people, or of their phones and connections, down to a step of PEOPLE."""
    return _down(PEOPLE, count)


def relays(count: int) -> int:
    """Round a number of relays down to a step of RELAYS."""
    return _down(RELAYS, count)


def events(count: float) -> int:
    """Round what is counted once for each visit down to EVENT_STEP."""
    return int(count) // EVENT_STEP * EVENT_STEP


def memory(count: int) -> int:
    """Round bytes of memory up to MEMORY_STEP_BYTES."""
    return -(-count // MEMORY_STEP_BYTES) * MEMORY_STEP_BYTES


def coarse(status: Status) -> Status:
    """Return the status with coarse counts; what it says of the relay's health is by the exact ones."""
    # A row that is there only because somebody is shows that he is.
    links = [row for row in (_link(link) for link in status.links) if not row.passing or row.relays or row.clients]
    are_up = {link.kind for link in links if link.state is LinkState.UP}
    return replace(
        status,
        relays=relays(status.relays),
        memory_bytes=None if status.memory_bytes is None else memory(status.memory_bytes),
        links=links,
        link_states={
            kind: str(LinkState.LISTENING) if state == LinkState.UP and kind not in are_up else state
            for kind, state in status.link_states.items()
        },
        components=[_component(row) for row in status.components],
        totals={
            family: {name: events(count) for name, count in counts.items()} if family in _PEOPLE_TOTALS else counts
            for family, counts in status.totals.items()
        },
    )


def _link(link: LinkStatus) -> LinkStatus:
    ended = {reason: told for reason, count in link.ended.items() if (told := events(count))}
    row = replace(link, relays=relays(link.relays), clients=people(link.clients), ended=ended)
    # A link on which somebody is would be up for as long as he is there, to the second of a scrape.
    is_few = row.state is LinkState.UP and not row.relays and not row.clients
    return replace(row, state=LinkState.LISTENING) if is_few else row


def _component(row: ComponentStatus) -> ComponentStatus:
    steps: dict[str, Callable[[int], int]] = {MEMORY: memory}
    for names, step in ((_PEOPLE_GAUGES, people), (_RELAY_GAUGES, relays)):
        steps |= dict.fromkeys(names, step)
    if not people(row.gauges.get("clients", 0)):
        steps |= dict.fromkeys(_OF_PEOPLE, _nothing)
    return replace(
        row,
        gauges={name: steps[name](count) if name in steps else count for name, count in row.gauges.items()},
        counters={
            name: told
            for name, count in row.counters.items()
            if (told := events(count) if name in _PEOPLE_EVENTS else count)
        },
    )


def _nothing(_: int) -> int:
    return 0


def _down(steps: Sequence[int], count: int) -> int:
    return steps[bisect_right(steps, count) - 1]
