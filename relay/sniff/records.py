# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of one stream, without any key (docs/protocol.md sections 4.1 and 4.2).

Bytes of each direction come in, in order; lengths come out, and the handshake's
bytes, which are the only ones that anybody can read. A hole in the capture is
bridged when it lies within one record, since only lengths are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.core.noise import TAG_BYTES
from relay.sniff import layers

LENGTH_BYTES: Final = 2
#: Longest handshake message; all that is kept of a record, 6 x 256 B a stream at most.
MAX_HANDSHAKE_BYTES: Final = 256
#: Bytes kept of the first transport record of each direction, to see whether it ever repeats.
KEPT_BYTES: Final = 32
#: Length of each handshake record by (from the dialling side, its number there).
_HANDSHAKE: Final = {(True, 0): (34, 50), (False, 0): (96,), (True, 1): (64,)}

_FRAME_BYTES: Final = 3
_ENVELOPES: Final = (256, 1024, 4096, 16384)
#: One lane's turn on a fast link, so a class 3 envelope takes four frames (section 5).
_FAST_TURN_BYTES: Final = 4352
#: Bytes of a message besides its envelope, by name (section 6).
_CARRIERS: Final = {"ENVELOPE": 1, "PUT": 5}
#: Records of one message whose length no other usual one has.
_SINGLE: Final = {
    20: "PING, PONG or CAUGHT_UP",
    21: "PRICE or GOODBYE",
    22: "CREDIT",
    26: "SUBSCRIBE",
    35: "HELLO",
    36: "NEWS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record: how long (without its two length bytes) and, of a handshake, what. ``number`` counts from 0."""

    from_initiator: bool
    number: int
    length_bytes: int
    handshake: int
    """1, 2 or 3, or 0 after the handshake."""
    kept: bytes


def could_be(length_bytes: int) -> str:
    """What a transport record of this length may hold: its length is all that a listener has to go by.

    Only exact matches with one message, or with several envelopes of one class, are
    told; "" for the rest. A match is no proof.
    """
    if single := _SINGLE.get(length_bytes):
        return single
    plaintext = length_bytes - TAG_BYTES
    for size_class, size in enumerate(_ENVELOPES):
        for name, more in _CARRIERS.items():
            message = size + more
            framed = message + _FRAME_BYTES * -(-message // _FAST_TURN_BYTES)
            if plaintext > 0 and plaintext % framed == 0:
                count = plaintext // framed
                return f"{name} of class {size_class}" + (f", {count} of them" if count > 1 else "")
    return ""


class _Direction:
    """Cuts one direction into records."""

    __slots__ = ("_header", "_kept", "_length", "_missing", "number")

    def __init__(self) -> None:
        self.number = 0
        self._header = b""
        self._length = 0
        self._missing = 0
        self._kept = b""

    def take(self, data: bytes, keep_bytes: int) -> tuple[bytes, tuple[int, bytes] | None]:
        """Use up the front of ``data``: return what is left, and (length, kept bytes) of a record that is complete."""
        if not self._missing:
            need = LENGTH_BYTES - len(self._header)
            self._header += data[:need]
            data = data[need:]
            if len(self._header) < LENGTH_BYTES:
                return data, None
            self._length = self._missing = int.from_bytes(self._header, "big")
            self._kept = b""
        room = keep_bytes - len(self._kept)
        used = min(self._missing, len(data))
        if room > 0:
            self._kept += data[: min(used, room)]
        self._missing -= used
        if self._missing:
            return b"", None
        self._header = b""
        return data[used:], (self._length, self._kept)

    def skip(self, count: int) -> tuple[int, bytes] | None:
        """Go on behind ``count`` bytes that were not captured: (length, kept bytes) of a record that ends there.

        Only possible within a record: see `can_skip`.
        """
        self._missing -= count
        # What was kept has a hole now.
        self._kept = b""
        if self._missing:
            return None
        self._header = b""
        return self._length, self._kept

    def can_skip(self, count: int) -> bool:
        """Whether so many bytes do not hide the length of the next record."""
        return 0 < count <= self._missing


class RecordReader:
    """Both directions of one stream.

    ``failed`` tells why no more records can be told apart: "" while they can,
    "not ours", "joined midway" or "bytes are missing".
    """

    __slots__ = ("_directions", "failed", "pattern")

    def __init__(self) -> None:
        self._directions = {True: _Direction(), False: _Direction()}
        self.pattern: int | None = None
        self.failed = ""

    def feed(self, data: bytes, *, from_initiator: bool) -> list[Record]:
        """Return the records that ``data`` completes."""
        direction = self._directions[from_initiator]
        records: list[Record] = []
        while data and not self.failed:
            key = (from_initiator, direction.number)
            keep_bytes = MAX_HANDSHAKE_BYTES if key in _HANDSHAKE else KEPT_BYTES if self._is_first(key) else 0
            data, done = direction.take(data, keep_bytes)
            if done is not None:
                records += self._complete(direction, key, *done)
        return records

    def gap(self, count: int | None, *, from_initiator: bool) -> list[Record]:
        """``count`` bytes of this direction (None: nobody knows) were not captured; return a record that ends there."""
        direction = self._directions[from_initiator]
        if self.failed:
            return []
        if count is None or not direction.can_skip(count):
            self.failed = "bytes are missing"
            return []
        done = direction.skip(count)
        return [] if done is None else self._complete(direction, (from_initiator, direction.number), *done)

    def _complete(self, direction: _Direction, key: tuple[bool, int], length: int, kept: bytes) -> list[Record]:
        if not self._fits(key, length, kept):
            self.failed = "not ours"
            return []
        from_initiator, number = key
        direction.number += 1
        handshake = 0 if key not in _HANDSHAKE else 2 * number + 1 if from_initiator else 2
        return [
            Record(from_initiator=from_initiator, number=number, length_bytes=length, handshake=handshake, kept=kept)
        ]

    @staticmethod
    def _is_first(key: tuple[bool, int]) -> bool:
        return key in ((True, 2), (False, 1))

    def _fits(self, key: tuple[bool, int], length: int, kept: bytes) -> bool:
        if key not in _HANDSHAKE:
            return length >= TAG_BYTES
        if length not in _HANDSHAKE[key]:
            return False
        if key == (True, 0) and len(kept) == length:
            preface = layers.dissect(layers.RelayPreface, kept)
            if preface is None or preface.version != 1 or length != {0: 34, 3: 50}.get(preface.pattern):
                return False
            self.pattern = preface.pattern
        return True


def looks_like_start(data: bytes) -> bool:
    """Whether these are the first bytes of a dialling side: to recognise a stream on a port that nobody named."""
    return data[:4] in (b"\x00\x22\x01\x00", b"\x00\x32\x01\x03")
