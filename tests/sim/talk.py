# SPDX-License-Identifier: GPL-2.0-or-later
"""Live datagrams in a world: who says one, who could hear it then, who did, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.core.messages import LIVE_ID_BYTES, LiveDatagram
from relay.core.stats import LiveTotal
from tests.sim.report import PERCENTILES, percentile, rounded

if TYPE_CHECKING:
    from tests.sim.relays import Relay
    from tests.sim.world import World

KIND: Final = 1
#: A line of chat with its signature.
DATA_BYTES: Final = 300
#: With what carries it in a record: type, hops, kind, id; a frame's header.
SENT_BYTES: Final = DATA_BYTES + 3 + LIVE_ID_BYTES + 3


@dataclass(slots=True)
class Said:
    """One datagram."""

    at_s: float
    reachable: set[int]
    heard: dict[int, float] = field(default_factory=dict)


class Talk:
    """All that was said in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.said: list[Said] = []
        self.twice = 0

    def say(self, relay: Relay) -> None:
        """Let a gateway of a relay say something to all others."""
        number = len(self.said)
        self.said.append(Said(self._world.now, self._reachable(relay)))
        data = number.to_bytes(4) * (DATA_BYTES // 4)
        datagram = LiveDatagram(kind=KIND, identity=number.to_bytes(LIVE_ID_BYTES), data=data)
        relay.node.live.handed_over("gate", datagram, self._world.now)
        relay.turn()

    def heard(self, name: int, datagram: LiveDatagram) -> None:
        """Note what the gateway of a relay got."""
        said = self.said[int.from_bytes(datagram.identity)]
        if name in said.heard:
            self.twice += 1
        else:
            said.heard[name] = self._world.now - said.at_s

    def _reachable(self, origin: Relay) -> set[int]:
        """Honest relays to which links in working order lead now, by others if need be."""
        by_hash: dict[bytes, list[int]] = {}
        for relay in self._world.honest():
            for link, end in relay.ends.values() if relay.up else ():
                if link.ready and not link.closed and not end.is_silent:
                    by_hash.setdefault(link.session.handshake_hash, []).append(relay.name)
        near: dict[int, list[int]] = {}
        for pair in by_hash.values():
            if len(pair) == 2:
                for name, other in (pair, pair[::-1]):
                    near.setdefault(name, []).append(other)
        found, edge = {origin.name}, [origin.name]
        while edge:
            edge = [other for name in edge for other in near.get(name, ()) if other not in found]
            found.update(edge)
        return found - {origin.name}

    def report(self) -> dict:
        """Return what came of it."""
        relays = self._world.honest()
        delays_s = sorted(delay_s for said in self.said for delay_s in said.heard.values())
        reachable = sum(len(said.reachable) for said in self.said)
        reached = sum(len(said.reachable & said.heard.keys()) for said in self.said)
        sent = sum(relay.counted(LiveTotal.SENT) for relay in relays)
        return {
            "said": len(self.said),
            "reachable": reachable,
            "reached": reached,
            "reach_ratio": round(reached / reachable, 4) if reachable else None,
            "beyond": len(delays_s) - reached,
            "twice": self.twice,
            "sent": sent,
            "sent_bytes_a_relay": round(sent * SENT_BYTES / len(relays)) if relays else 0,
            "delay_s": {f"p{percent}": rounded(percentile(delays_s, percent)) for percent in PERCENTILES},
        }
