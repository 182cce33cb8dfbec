# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink attributes (linux/netlink.h, struct nlattr): a total codec.

pyroute2 carries the messages; what is in those of nl80211 and batman-adv is
read here. Drivers put the oddest things into a wiphy dump, and newer kernels
attributes that no table of names has: here every buffer is a list of numbered
byte strings or a DecodeError.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Encoded = tuple[int, bytes]

_HEADER: Final = struct.Struct("=HH")
#: NLA_F_NESTED and NLA_F_NET_BYTEORDER share the field with the number.
_NUMBER_MASK: Final = 0x3FFF
_NESTED: Final = 0x8000


class Attributes:
    """The attributes of one message or nest, in their order."""

    __slots__ = ("_pairs",)

    def __init__(self, data: bytes) -> None:
        """Split ``data``; raise DecodeError when a length in it cannot be."""
        self._pairs = tuple(_split(data))

    def __iter__(self) -> Iterator[Encoded]:
        return iter(self._pairs)

    def __contains__(self, number: int) -> bool:
        return any(number == found for found, _ in self._pairs)

    def get(self, number: int) -> bytes | None:
        """The value of the first attribute with this number."""
        return next((value for found, value in self._pairs if found == number), None)

    def unsigned(self, number: int) -> int | None:
        """A number of 1, 2, 4 or 8 bytes in the machine's order."""
        value = self.get(number)
        if value is None:
            return None
        if len(value) not in {1, 2, 4, 8}:
            raise DecodeError(f"attribute {number} has {len(value)} bytes, which is no number")
        return int.from_bytes(value, _ORDER)

    def text(self, number: int) -> str | None:
        """A string, with or without its final zero."""
        value = self.get(number)
        return None if value is None else value.partition(b"\0")[0].decode("utf-8", "replace")

    def nest(self, number: int) -> Attributes:
        """The attributes within an attribute; none of them when it is absent."""
        return Attributes(self.get(number) or b"")


def _split(data: bytes) -> Iterator[Encoded]:
    offset = 0
    # Less than a header at the end is padding.
    while offset + _HEADER.size <= len(data):
        length, number = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise DecodeError(f"an attribute of {length} bytes in a buffer of {len(data)}")
        yield number & _NUMBER_MASK, data[offset + _HEADER.size : offset + length]
        offset += _aligned(length)


def encode(attributes: Iterable[Encoded]) -> bytes:
    """Write attributes, each padded to four bytes."""
    parts = bytearray()
    for number, value in attributes:
        length = _HEADER.size + len(value)
        parts += _HEADER.pack(length, number) + value + bytes(_aligned(length) - length)
    return bytes(parts)


def u8(number: int, value: int) -> Encoded:
    return number, struct.pack("=B", value)


def u32(number: int, value: int) -> Encoded:
    return number, struct.pack("=I", value)


def text(number: int, value: str) -> Encoded:
    return number, value.encode() + b"\0"


def flag(number: int) -> Encoded:
    return number, b""


def nest(number: int, attributes: Iterable[Encoded]) -> Encoded:
    return number | _NESTED, encode(attributes)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


_ORDER: Final = "little" if struct.pack("=H", 1) == b"\1\0" else "big"
