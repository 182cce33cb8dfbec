# SPDX-License-Identifier: GPL-2.0-or-later
"""One budget for the memory of all sessions, and who goes when it is used up (docs/protocol.md section 11).

Bounds of a session cannot add up to what a small board has: 256 times what one honest
session may need is more. So what all hold together is bounded, and beyond that the
session goes that is furthest from its part: of the interface furthest above its
share, of the address that holds most there, the one that holds most.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from relay.core.shares import furthest_above

if TYPE_CHECKING:
    from collections.abc import Mapping

#: For all sessions together: a sixth of the service's MemoryMax, of which a full default
#: store and ten neighbours take 110 MiB, and a store in memory 80 MiB more.
MAX_SESSION_MEMORY_BYTES: Final = 64 << 20


class Budget:
    """What each session holds, in bytes."""

    def __init__(self, most_bytes: int, named: Mapping[str, float]) -> None:
        """``named``: interfaces that have one of their own."""
        self._most_bytes = most_bytes
        self._named = named
        self._held: dict[int, int] = {}
        self._who: dict[int, tuple[str, str]] = {}
        self.held_bytes = 0

    def open(self, number: int, interface: str, peer: str) -> None:
        """Take in a session; one whose ``peer`` is not known ("") is alone at its address."""
        self._who[number] = (interface, peer or f"#{number}")
        self._held[number] = 0

    def close(self, number: int) -> None:
        """Forget a session and what it held."""
        self._who.pop(number, None)
        self.held_bytes -= self._held.pop(number, 0)

    def note(self, number: int, held_bytes: int) -> None:
        """Take note of what a session holds now."""
        before = self._held.get(number)
        if before is not None:
            self._held[number] = held_bytes
            self.held_bytes += held_bytes - before

    @property
    def is_exceeded(self) -> bool:
        """Whether :meth:`worst` has to go."""
        return self.held_bytes > self._most_bytes

    def worst(self) -> int:
        """Return the session that goes first."""
        interfaces: defaultdict[str, int] = defaultdict(int)
        addresses: defaultdict[tuple[str, str], int] = defaultdict(int)
        for number, held_bytes in self._held.items():
            who = self._who[number]
            interfaces[who[0]] += held_bytes
            addresses[who] += held_bytes
        interface = furthest_above(interfaces, self._named, self._most_bytes)
        address = max((who for who in addresses if who[0] == interface), key=lambda who: addresses[who])
        return max((number for number in self._held if self._who[number] == address), key=self._held.__getitem__)
