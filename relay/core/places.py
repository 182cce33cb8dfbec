# SPDX-License-Identifier: GPL-2.0-or-later
"""Places for sessions, and who gives one up to a newcomer (docs/protocol.md section 11).

Addresses cost nothing on a segment, so a bound for each of them keeps nobody from
taking all places there are. What cannot be had for nothing is an interface: each has
its share, and whoever comes in by one that has less than that gets a place of the
interface furthest above its own. Within an interface the address with the most
gives way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.core.shares import furthest_above

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class _Holder:
    interface: str
    peer: str


class Places:
    """So many places; holders are numbered in the order in which they came."""

    def __init__(self, count: int, named: Mapping[str, float]) -> None:
        """``named``: interfaces that have one of their own."""
        self._count = count
        self._named = named
        self._holders: dict[int, _Holder] = {}
        self._unproven: set[int] = set()
        self._interfaces: Counter[str] = Counter()
        self._peers: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._holders)

    def of_peer(self, interface: str, peer: str) -> int:
        """How many an address has; one that is not known ("") is nobody's second."""
        return self._peers[interface, peer] if peer else 0

    def take(self, number: int, interface: str, peer: str = "", *, is_proven: bool = True) -> None:
        """Give a place to a newcomer; ``is_proven``: it has shown already that it can speak the protocol."""
        self._holders[number] = _Holder(interface, peer)
        self._interfaces[interface] += 1
        self._peers[interface, peer] += 1
        if not is_proven:
            self._unproven.add(number)

    def prove(self, number: int) -> None:
        """Note that a holder has become a session."""
        self._unproven.discard(number)

    def leave(self, number: int) -> None:
        """Take a place back."""
        holder = self._holders.pop(number, None)
        self._unproven.discard(number)
        if holder is None:
            return
        self._interfaces[holder.interface] -= 1
        self._peers[holder.interface, holder.peer] -= 1
        # Counters keep what is zero, and a name that is not there any more has no share.
        self._interfaces += Counter()
        self._peers += Counter()

    @property
    def is_full(self) -> bool:
        """Whether a newcomer needs somebody else's place."""
        return len(self._holders) >= self._count

    def loser(self, interface: str, peer: str = "") -> int | None:
        """Return who gives a place up to a newcomer when all are taken; None when nobody has less right to stay.

        Of the interface furthest above its share, the newcomer included, it is the address
        with the most; there one without a session if there is any, and the oldest of these. On
        the newcomer's own interface it is only an address that keeps as many as the newcomer's
        then has, or one without a session where it would have one less.
        """
        used = Counter(self._interfaces)
        used[interface] += 1
        loser = furthest_above(used, self._named, self._count)
        candidates = [
            (self.of_peer(loser, holder.peer) or 1, number in self._unproven, -number)
            for number, holder in self._holders.items()
            if holder.interface == loser
        ]
        if not candidates:
            return None
        count, is_unproven, negative = max(candidates)
        if loser == interface:
            own = self.of_peer(interface, peer) + 1
            if count < own or (count == own and not is_unproven):
                return None
        return -negative
