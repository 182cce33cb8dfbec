# SPDX-License-Identifier: GPL-2.0-or-later
"""What all of libp2p is written in: unsigned varints, messages with their length before them, protocol buffers.

Of protocol buffers (https://protobuf.dev/programming-guides/encoding/) just what the messages of libp2p use: varints
and strings of bytes. What a message has more than that is skipped where its length is known, as its makers want it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    Field = tuple[int, int | bytes]

#: Of nine groups of seven bits (https://github.com/multiformats/unsigned-varint).
MAX_VARINT_BYTES: Final = 9
#: Protocol buffers write a negative number in ten.
_MAX_PROTOBUF_VARINT_BYTES: Final = 10
_U64: Final = (1 << 64) - 1
_MAX_FIELD_NUMBER: Final = (1 << 29) - 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """Return an unsigned varint."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes | bytearray, at: int, most_bytes: int = MAX_VARINT_BYTES) -> tuple[int, int]:
    """Return the varint at ``at`` and where it ends; raise DecodeError where there is none, IndexError if it is cut."""
    value = shift = 0
    for place in range(at, at + most_bytes):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not byte and shift:
                raise DecodeError("a varint is not in its shortest form")
            return value, place + 1
        shift += 7
    raise DecodeError("a varint is too long")


def delimited(message: bytes) -> bytes:
    """Return a message with its length before it."""
    return varint(len(message)) + message


class Cutter:
    """What has arrived, cut into messages with their length before them; holds one message at most, and what came."""

    __slots__ = ("_buffer", "_most")

    def __init__(self, most_bytes: int) -> None:
        """``most_bytes``: of one message."""
        self._buffer = bytearray()
        self._most = most_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of a message that is not whole."""
        return len(self._buffer)

    def receive(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data

    def next(self) -> bytes | None:
        """Return the next message, None while it is not whole; raise DecodeError for a length that none may have."""
        buffer = self._buffer
        try:
            size, start = read_varint(buffer, 0)
        except IndexError:
            return None
        if size > self._most:
            raise DecodeError(f"a message of more than {self._most} bytes")
        end = start + size
        if len(buffer) < end:
            return None
        message = bytes(memoryview(buffer)[start:end])
        del buffer[:end]
        return message

    def rest(self) -> bytes:
        """Return what came after the last message, and forget it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def fields(message: bytes, most: int) -> Iterator[Field]:
    """Yield number and value of each field of a protocol buffer; DecodeError for none, or over ``most``.

    Values are whole numbers, of 64 bits, or bytes; fields of fixed length, which no message of libp2p has, are skipped.
    """
    at, size = 0, len(message)
    while at < size:
        if not most:
            raise DecodeError("too many fields")
        most -= 1
        try:
            tag, at = _read_protobuf_varint(message, at)
            number, kind = tag >> 3, tag & 7
            if not 0 < number <= _MAX_FIELD_NUMBER:
                raise DecodeError("a field has no such number")
            if kind == _VARINT:
                value, at = _read_protobuf_varint(message, at)
                yield number, value
            elif kind == _BYTES:
                length, at = _read_protobuf_varint(message, at)
                if length > size - at:
                    raise DecodeError("a field is cut")
                yield number, message[at : at + length]
                at += length
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
                if at > size:
                    raise DecodeError("a field is cut")
            else:
                raise DecodeError("a field of a kind that is not used")
        except IndexError:
            raise DecodeError("a field is cut") from None


def _read_protobuf_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, at + _MAX_PROTOBUF_VARINT_BYTES):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, place + 1
        shift += 7
    raise DecodeError("a varint is too long")


def number_field(number: int, value: int) -> bytes:
    """Return a field with a whole number."""
    return varint(number << 3 | _VARINT) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Return a field with bytes."""
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


def as_bytes(value: int | bytes) -> bytes:
    """Return a value that has to be bytes; raise DecodeError."""
    if isinstance(value, int):
        raise DecodeError("a number where bytes are due")
    return value


def as_number(value: int | bytes) -> int:
    """Return a value that has to be a number; raise DecodeError."""
    if isinstance(value, bytes):
        raise DecodeError("bytes where a number is due")
    return value


def as_text(value: int | bytes, most_bytes: int) -> str:
    """Return a value that has to be text; raise DecodeError."""
    found = as_bytes(value)
    if len(found) > most_bytes:
        raise DecodeError(f"a text of more than {most_bytes} bytes")
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise DecodeError("a text is not UTF-8") from None
