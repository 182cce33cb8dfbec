# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes between a gateway and `relay run` after the first line (docs/links.md section 4), free of I/O.

Frames: ``length u16 | type u8 | body``, the length without its own two bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from relay.core.codec import Reader, Writer
from relay.core.errors import DecodeError
from relay.core.messages import LIVE_ID_BYTES, MAX_LIVE_BYTES, LiveDatagram, decode_live_datagram

_LENGTH_BYTES: Final = 2
#: A live datagram: type, kind, identity, data. As a length less than the "{" with which a refusal begins.
MAX_FRAME_BYTES: Final = 2 + LIVE_ID_BYTES + MAX_LIVE_BYTES


class FrameType(enum.IntEnum):
    """First byte of a frame."""

    LIVE = 0x01
    CLOCK = 0x02


def encode_live_frame(encoded: bytes) -> bytes:
    """Return the frame of an encoded datagram."""
    return _frame(bytes([FrameType.LIVE]) + encoded)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """What `relay run` takes for the time, in milliseconds since the Unix epoch; None while it trusts no clock."""

    unix_ms: int | None

    def encode(self) -> bytes:
        """Return the frame."""
        is_trusted = self.unix_ms is not None
        return _frame(bytes(Writer().u8(FrameType.CLOCK).u8(is_trusted).u64(self.unix_ms or 0)))


def _frame(content: bytes) -> bytes:
    return len(content).to_bytes(_LENGTH_BYTES) + content


def decode_frame(content: bytes) -> LiveDatagram | ClockReading:
    """Decode what follows the length; raise DecodeError with what is wrong."""
    reader = Reader(content)
    kind = reader.u8()
    if kind == FrameType.LIVE:
        return decode_live_datagram(content, 1)
    if kind == FrameType.CLOCK:
        trusted, unix_ms = reader.u8(), reader.u64()
        reader.end()
        if trusted > 1 or (not trusted and unix_ms):
            raise DecodeError("a clock is trusted, or says nothing")
        return ClockReading(unix_ms=unix_ms if trusted else None)
    raise DecodeError(f"the type of a frame must be one of {', '.join(str(int(known)) for known in FrameType)}")


def decode_datagram(content: bytes) -> LiveDatagram:
    """Decode what follows the length in a frame of a gateway, which says nothing else; raise DecodeError."""
    said = decode_frame(content)
    if not isinstance(said, LiveDatagram):
        raise DecodeError("a gateway does not tell the time")
    return said


class FrameCutter:
    """What has arrived, cut into frames; keeps less than two of the longest."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._rest)

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """Return what the frames that end in ``data`` hold; raise DecodeError for a length that none has."""
        buffer, at = self._rest + data, 0
        frames: list[bytes] = []
        while len(buffer) - at >= _LENGTH_BYTES:
            size = int.from_bytes(buffer[at : at + _LENGTH_BYTES])
            if not 0 < size <= MAX_FRAME_BYTES:
                raise DecodeError(f"a frame has 1 to {MAX_FRAME_BYTES} bytes")
            start, end = at + _LENGTH_BYTES, at + _LENGTH_BYTES + size
            if end > len(buffer):
                break
            frames.append(buffer[start:end])
            at = end
        self._rest = buffer[at:]
        return frames
