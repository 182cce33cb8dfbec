# SPDX-License-Identifier: GPL-2.0-or-later
"""Places for connections that strangers open: bounded, and nobody waits for one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Connection(Protocol):
    """What has a place: from ``address``, closed at once by ``drop``."""

    address: str

    @property
    def is_waiting(self) -> bool:
        """Whether it has said all that it has to say, and its answer is being made: for a bounded time."""

    def drop(self) -> None:
        """Close at once."""


class Places:
    """Who is connected. The newest takes the place of the oldest, of its own address or of the one with most.

    Who says what he has to say at once has his answer before anybody with another address can take his place; who
    connects and is silent has it taken. Were that not so, one with a hundred addresses could come anew so fast that
    nobody else stays until his answer is made. Where all wait for theirs, it is the newest that finds no place.
    """

    def __init__(self, *, most: int, per_address: int, on_dropped: Callable[[], None] | None = None) -> None:
        self._most = most
        self._per_address = per_address
        self._on_dropped = on_dropped
        #: In order of arrival; a dict for its order.
        self._connections: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def enter(self, newcomer: Connection) -> None:
        """Give a place: at the expense of its own address, if that has too many, else of the one with the most.

        Where there is none, ``newcomer`` is dropped.
        """
        loser = self._loser(newcomer)
        if loser is not newcomer:
            self._connections[newcomer] = None
        if loser is not None:
            self.leave(loser)
            loser.drop()
            if self._on_dropped:
                self._on_dropped()

    def _loser(self, newcomer: Connection) -> Connection | None:
        """Who has to go for ``newcomer``, which may be himself; None while there is room."""
        counts = Counter(connection.address for connection in self._connections)
        address = newcomer.address
        if counts[address] < self._per_address:
            if len(self) < self._most:
                return None
            address = max(counts, key=counts.__getitem__)
        if counts[address] > 1 or address == newcomer.address:
            found = [connection for connection in self._connections if connection.address == address]
            # Who floods from one address is answered no more often, but those who share it with him are.
            instead = newcomer if address == newcomer.address else found[0]
            return next((connection for connection in found if not connection.is_waiting), instead)
        return next((connection for connection in self._connections if not connection.is_waiting), newcomer)

    def leave(self, connection: Connection) -> None:
        """Give the place back, if it still has it."""
        self._connections.pop(connection, None)
