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

    def drop(self) -> None:
        """Close at once."""


class Places:
    """Who is connected. The newest takes the place of the oldest, of its own address or of the one with most.

    Who says what he has to say at once has his answer before anybody can take his place; who connects and is silent
    has it taken.
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
        """Give a place: at the expense of its own address, if that has too many, else of the one with the most."""
        counts = Counter(connection.address for connection in self._connections)
        address = newcomer.address
        if counts[address] < self._per_address:
            address = max(counts, key=counts.__getitem__) if len(self) >= self._most else ""
        if address:
            oldest = next(connection for connection in self._connections if connection.address == address)
            self.leave(oldest)
            oldest.drop()
            if self._on_dropped:
                self._on_dropped()
        self._connections[newcomer] = None

    def leave(self, connection: Connection) -> None:
        """Give the place back, if it still has it."""
        self._connections.pop(connection, None)
