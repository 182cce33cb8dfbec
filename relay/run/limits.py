# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is let in, whose turn it is, and who has to go: the bounds of all connections together.

The decisions are the core's (relay.core.places, turns, budget); this keeps their books.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.core.budget import MAX_SESSION_MEMORY_BYTES, Budget
from relay.core.places import Places
from relay.core.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.links import StreamInfo

#: Connections to relays that we found. Who announces himself does not take what is for
#: those who dial us, and what the operator named is not counted: he bounds it.
MAX_FOUND_CONNECTIONS: Final = 64


class Limits:
    """The connections of a relay, by the numbers of their links."""

    def __init__(self, *, max_connections: int, max_per_address: int, shares: Mapping[str, float]) -> None:
        """``max_connections``: that others opened; ``shares``: of the store, by interface."""
        self._max_per_address = max_per_address
        self._accepted = Places(max_connections, shares)
        self._found = Places(MAX_FOUND_CONNECTIONS, shares)
        self._unproven: dict[int, Places] = {}
        self.turns = Turns()
        self.memory = Budget(MAX_SESSION_MEMORY_BYTES, shares)

    def _places(self, info: StreamInfo) -> Places:
        return self._found if info.initiator else self._accepted

    def admits(self, info: StreamInfo) -> bool:
        """Whether there is a place for a newcomer, once :meth:`loser` has left; False turns him away."""
        if info.named:
            return True
        places = self._places(info)
        if not info.initiator and places.of_peer(info.interface, info.peer) >= self._max_per_address:
            return False
        return not places.is_full or self.loser(info) is not None

    def loser(self, info: StreamInfo) -> int | None:
        """Return who has to leave for a newcomer that is let in, None while there are free places."""
        places = self._places(info)
        return places.loser(info.interface, info.peer) if places.is_full and not info.named else None

    def opened(self, number: int, info: StreamInfo) -> None:
        """Take a connection in."""
        if not info.named:
            places = self._unproven[number] = self._places(info)
            places.take(number, info.interface, info.peer, is_proven=False)
        self.turns.open(number, info.interface, info.peer)
        self.memory.open(number, info.interface, info.peer)

    def proved(self, number: int) -> None:
        """Note that a connection has become a session."""
        places = self._unproven.pop(number, None)
        if places is not None:
            places.prove(number)

    def closed(self, number: int) -> None:
        """Forget a connection."""
        self._unproven.pop(number, None)
        self._accepted.leave(number)
        self._found.leave(number)
        self.turns.close(number)
        self.memory.close(number)
