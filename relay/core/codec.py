# SPDX-License-Identifier: GPL-2.0-or-later
"""Big-endian readers and writers shared by every decoder (docs/protocol.md section 1).

A :class:`Reader` never reads past its end and never allocates more than its
input: whatever bytes come in, a decoder built on it returns a value or raises
:class:`~relay.core.errors.DecodeError`.
"""

from __future__ import annotations

from typing import TypeAlias

from relay.core.errors import DecodeError

#: Longest varint: 5 groups of 7 bits hold a u32, the largest integer on the wire.
MAX_VARINT_BYTES = 5
MAX_U32 = 0xFFFF_FFFF


#: Inside the classes below, ``bytes`` is a method.
Octets: TypeAlias = bytes


class Reader:
    """Pulls values off the front of ``data`` (bytes-like)."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = bytes(data)
        self._offset = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._offset

    def bytes(self, count: int) -> Octets:
        """Return the next ``count`` bytes; raise DecodeError when there are fewer."""
        end = self._offset + count
        if count < 0 or end > len(self._data):
            raise DecodeError("truncated")
        value = self._data[self._offset : end]
        self._offset = end
        return value

    def _uint(self, count: int) -> int:
        return int.from_bytes(self.bytes(count), "big")

    def u8(self) -> int:
        """Unsigned 8-bit integer."""
        return self._uint(1)

    def u16(self) -> int:
        """Unsigned 16-bit integer."""
        return self._uint(2)

    def u32(self) -> int:
        """Unsigned 32-bit integer."""
        return self._uint(4)

    def u64(self) -> int:
        """Unsigned 64-bit integer."""
        return self._uint(8)

    def varint(self) -> int:
        """LEB128 of at most 32 bits, shortest form only, so that encodings are unique."""
        value = 0
        for group in range(MAX_VARINT_BYTES):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * group)
            if byte < 0x80:
                if (byte == 0 and group > 0) or value > MAX_U32:
                    raise DecodeError("varint not in shortest form or over 32 bits")
                return value
        raise DecodeError("varint too long")

    def rest(self) -> Octets:
        """Everything left."""
        return self.bytes(self.remaining)

    def end(self) -> None:
        """Raise DecodeError when anything is left."""
        if self.remaining:
            raise DecodeError(f"{self.remaining} trailing bytes")


class Writer:
    """Pushes values onto a growing buffer; ``bytes(writer)`` is the result."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def __bytes__(self) -> Octets:
        return bytes(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def bytes(self, value: Octets | bytearray | memoryview) -> Writer:
        """Append raw bytes."""
        self._data += value
        return self

    def u8(self, value: int) -> Writer:
        """Append an unsigned 8-bit integer."""
        self._data += value.to_bytes(1, "big")
        return self

    def u16(self, value: int) -> Writer:
        """Append an unsigned 16-bit integer."""
        self._data += value.to_bytes(2, "big")
        return self

    def u32(self, value: int) -> Writer:
        """Append an unsigned 32-bit integer."""
        self._data += value.to_bytes(4, "big")
        return self

    def u64(self, value: int) -> Writer:
        """Append an unsigned 64-bit integer."""
        self._data += value.to_bytes(8, "big")
        return self

    def varint(self, value: int) -> Writer:
        """Append LEB128 of a value up to 32 bits."""
        if not 0 <= value <= MAX_U32:
            raise ValueError(f"varint out of range: {value}")
        while value >= 0x80:
            self._data.append(value & 0x7F | 0x80)
            value >>= 7
        self._data.append(value)
        return self
