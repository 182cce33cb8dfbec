# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operator's side asks of the node: counts and ages, read and never changed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from relay.core.clock import HOUR_S, LAST_HOUR
from relay.core.messages import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.core.clock import Clock
    from relay.core.link import Link
    from relay.core.log import AdmittedLog
    from relay.core.neighbours import Neighbours
    from relay.core.stats import LinkKind


class Sight:
    """Looks at a node's parts."""

    def __init__(self, log: AdmittedLog, clock: Clock, links: Mapping[int, Link], neighbours: Neighbours) -> None:
        self._log = log
        self._clock = clock
        self._links = links
        self._neighbours = neighbours

    def peers(self) -> Counter[tuple[LinkKind, str, Role]]:
        """Count who is connected, by kind of link, interface and role: a relay once on each, however many sessions."""
        relays = {
            (link.kind_stats.kind, link.kind_stats.interface, relay)
            for relay, sessions in enumerate(self._neighbours.relays())
            for link in sessions
        }
        peers = Counter((kind, interface, Role.RELAY) for kind, interface, _ in relays)
        peers.update(
            (link.kind_stats.kind, link.kind_stats.interface, Role.CLIENT)
            for link in self._links.values()
            if link.role is Role.CLIENT
        )
        return peers

    @property
    def relays_near(self) -> int:
        """How many relays are connected, each counted once."""
        return len(self._neighbours.relays())

    def oldest_age_s(self, now: float) -> float:
        """Residence of the envelope that is here longest, in seconds."""
        return self._age_s(self._log.oldest_held_arrived_s(), now)

    def untaken_age_s(self, now: float) -> float:
        """Residence of the oldest envelope that nobody took since the start, in seconds; 0 if there is none."""
        return self._age_s(self._log.oldest_untaken_arrived_s(), now)

    def _age_s(self, arrived_s: float | None, now: float) -> float:
        return 0.0 if arrived_s is None else self._clock.residence_s(now) - arrived_s

    def clock_offset_hours(self, now: float) -> int | None:
        """Our hour less that of our neighbours, the median of those that have a clock; None without one or the other.

        A relay with a clock says in its HELLO which hours it takes (docs/protocol.md section 10). Nothing follows from
        it but what the operator is told: anybody may lie.
        """
        hour = self._clock.hour(now)
        hours = []
        for sessions in self._neighbours.relays():
            link = next(iter(sessions))
            peer = link.session.peer
            if peer is not None and peer.window[1] < LAST_HOUR:
                hours.append(peer.window[0] - 1 + int((now - link.since) // HOUR_S))
        # The lower of two in the middle. statistics.median_low has it too, with fractions and decimals at every start.
        return hour - sorted(hours)[(len(hours) - 1) // 2] if hour is not None and hours else None
