# SPDX-License-Identifier: GPL-2.0-or-later
"""One direction of a TCP connection put in order (RFC 9293), as far as a listener can.

A listener cannot ask again: what does not come in time is a gap, and the rest goes on
behind it.
"""

from __future__ import annotations

from typing import Final

#: Bytes that wait for what is missing, of one direction: a few turns of a fast window.
MAX_WAITING_BYTES: Final = 262_144
#: Segments that wait, of one direction: bounds the search, and the overhead of single bytes.
MAX_WAITING_SEGMENTS: Final = 1024
#: Bytes that wait, of all streams together.
MAX_WAITING_TOTAL_BYTES: Final = 8 << 20
#: A retransmission would have come by then.
WAIT_S: Final = 10.0
_MODULUS: Final = 1 << 32
#: Farther from the expected number than any window (RFC 7323: 2^30): not of this connection.
_FAR: Final = 1 << 30


class Room:
    """What all streams together may keep waiting."""

    def __init__(self, count: int = MAX_WAITING_TOTAL_BYTES) -> None:
        self.left = count


class Assembly:
    """One direction. What it returns are pieces in order: bytes, or the length of a gap."""

    __slots__ = ("_next", "_room", "_since_s", "_waiting", "_waiting_bytes", "given_up_bytes", "repeated_bytes")

    def __init__(self, room: Room) -> None:
        self._room = room
        #: Sequence number of the next byte; None before the first segment.
        self._next: int | None = None
        #: (captured bytes, length) by number.
        self._waiting: dict[int, tuple[bytes, int]] = {}
        self._waiting_bytes = 0
        self._since_s = 0.0
        self.given_up_bytes = 0
        self.repeated_bytes = 0

    def is_at(self, number: int) -> bool:
        """Whether nothing but this number was ever expected next, or something close to it."""
        return self._next is not None and abs(self._ahead(number)) < MAX_WAITING_BYTES

    def start(self, number: int) -> None:
        """The first byte has this number; what came before that was said counts."""
        if self._next is None:
            self._next = number % _MODULUS

    def feed(self, number: int, data: bytes, length: int, now_s: float) -> list[bytes | int] | None:
        """Take a segment of ``length`` bytes, of which ``data`` was captured; None: it cannot belong here."""
        if self._next is None:
            self.start(number)
        ahead = self._ahead(number)
        if abs(ahead) > _FAR:
            return None
        if not self._waiting:
            self._since_s = now_s
        pieces: list[bytes | int] = []
        if ahead <= 0:
            self._advance(data, length, -ahead, pieces)
        else:
            self._keep(number, data, length)
        self._drain(pieces)
        if self._waiting and (now_s - self._since_s > WAIT_S or self._is_full()):
            self._jump(pieces)
            self._since_s = now_s
        return pieces

    def flush(self) -> list[bytes | int]:
        """Give up on all that is missing."""
        pieces: list[bytes | int] = []
        while self._waiting:
            self._jump(pieces)
        return pieces

    def _ahead(self, number: int) -> int:
        distance = (number - (self._next or 0)) % _MODULUS
        return distance - _MODULUS if distance >= _MODULUS // 2 else distance

    def _is_full(self) -> bool:
        return (
            self._waiting_bytes > MAX_WAITING_BYTES or len(self._waiting) > MAX_WAITING_SEGMENTS or self._room.left < 0
        )

    def _advance(self, data: bytes, length: int, skip: int, pieces: list[bytes | int]) -> None:
        """Append a segment but for the ``skip`` bytes at its front that were there before."""
        self.repeated_bytes += min(skip, length)
        if skip >= length:
            return
        self._next = ((self._next or 0) + length - skip) % _MODULUS
        if data[skip:]:
            pieces.append(data[skip:])
        if missing := length - max(skip, len(data)):
            pieces.append(missing)

    def _keep(self, number: int, data: bytes, length: int) -> None:
        before, before_length = self._waiting.get(number, (b"", 0))
        if length <= before_length:
            self.repeated_bytes += length
            return
        self._account(len(data) - len(before))
        self._waiting[number] = (data, length)

    def _account(self, more: int) -> None:
        self._waiting_bytes += more
        self._room.left -= more

    def _first(self) -> int:
        return min(self._waiting, key=self._ahead)

    def _drain(self, pieces: list[bytes | int]) -> None:
        while self._waiting and self._ahead(first := self._first()) <= 0:
            data, length = self._waiting.pop(first)
            self._account(-len(data))
            self._advance(data, length, -self._ahead(first), pieces)

    def _jump(self, pieces: list[bytes | int]) -> None:
        """Take what is missing before the first waiting segment for lost."""
        first = self._first()
        missing = self._ahead(first)
        self.given_up_bytes += missing
        pieces.append(missing)
        self._next = first
        self._drain(pieces)
