# SPDX-License-Identifier: GPL-2.0-or-later
"""Live datagrams that wait for one neighbour (docs/protocol.md section 6.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from relay.core.rate import Bucket

#: What waits longer for a link is no news any more.
LATE_S: Final = 8.0
#: What waits for one link; of 64 neighbours who all do not read that is 4 MiB.
MAX_WAITING: Final = 256
MAX_WAITING_BYTES: Final = 64 << 10


class LiveQueue:
    """What waits to be sent to one neighbour, each by its key."""

    __slots__ = ("_waiting", "held_bytes", "slow_bytes")

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[bytes, float]] = {}
        self.held_bytes = 0
        #: What is left of a slow link's rate.
        self.slow_bytes: Bucket | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: bytes, message: bytes, now: float) -> int:
        """Let a message wait; return how many that waited longest made way for it."""
        dropped = 0
        while self._waiting and (
            len(self._waiting) >= MAX_WAITING or self.held_bytes + len(message) > MAX_WAITING_BYTES
        ):
            self.discard(next(iter(self._waiting)))
            dropped += 1
        self._waiting[key] = (message, now + LATE_S)
        self.held_bytes += len(message)
        return dropped

    def discard(self, key: bytes) -> bool:
        """Forget a message; tell whether it waited."""
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return False
        self.held_bytes -= len(waiting[0])
        return True

    def take(self) -> bytes:
        """Return the message that waited longest."""
        key, (message, _) = next(iter(self._waiting.items()))
        self.discard(key)
        return message

    def drop_late(self, now: float) -> int:
        """Forget what has waited for too long; return how many those are."""
        dropped = 0
        while self._waiting and next(iter(self._waiting.values()))[1] <= now:
            self.take()
            dropped += 1
        return dropped
