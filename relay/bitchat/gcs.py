# SPDX-License-Identifier: GPL-2.0-or-later
"""Golomb-coded sets: the filter of a REQUEST_SYNC, which says what a phone has.

Each sync ID becomes a number below ``modulus``; the differences of the sorted numbers are written as a Golomb-Rice
code with ``p`` bits of remainder. A number stands for about one in ``2**p`` other IDs too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

P: Final = 7
"""Bits of remainder that both apps use."""
MAX_P: Final = 32
"""iPhones take no more."""
MAX_FILTER_BYTES: Final = 1024
"""iPhones take no longer filter; they send 400 bytes, Androids 256."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a phone has: ``numbers`` below ``modulus``."""

    p: int
    modulus: int
    numbers: frozenset[int]

    def may_have(self, sync_id: bytes) -> bool:
        """Whether the phone has a packet, or happens to have one of the same number."""
        return self.modulus > 1 and _number(sync_id, self.modulus) in self.numbers


def most_ids(size_bytes: int, p: int = P) -> int:
    """Return how many IDs a filter of so many bytes should hold, as both apps reckon."""
    return max(1, 8 * size_bytes // (p + 2))


def encode_filter(sync_ids: Iterable[bytes], p: int = P) -> tuple[int, bytes]:
    """Return (modulus, bits) of a filter that holds these IDs; modulus 1 for none."""
    ids = list(sync_ids)
    if not ids:
        return 1, b""
    modulus = len(ids) << p
    bits, length, last = 0, 0, 0
    for number in sorted({_number(sync_id, modulus) for sync_id in ids}):
        quotient, remainder = divmod(number - last - 1, 1 << p)
        # Ones as many as the quotient, a zero, the remainder.
        bits = (bits << quotient + 1 + p) | ((1 << quotient) - 1) << 1 + p | remainder
        length += quotient + 1 + p
        last = number
    missing = -length % 8
    return modulus, (bits << missing).to_bytes((length + missing) // 8, "big")


def decode_filter(p: int, modulus: int, data: bytes) -> Filter:
    """Return the filter; DecodeError for parameters that nobody uses. Bits that are left over are no number."""
    if not 1 <= p <= MAX_P or not 1 <= modulus < 1 << 32 or len(data) > MAX_FILTER_BYTES:
        raise DecodeError("filter with parameters out of range")
    numbers, total, offset, mask = set(), 0, 0, (1 << p) - 1
    bits, length = int.from_bytes(data, "big"), 8 * len(data)
    while True:
        rest = length - offset
        # The ones at the front are the zeros at the front of what is left, turned over.
        quotient = rest - (bits & (1 << rest) - 1 ^ (1 << rest) - 1).bit_length()
        offset += quotient + 1 + p
        if offset > length:
            break
        total += (quotient << p) + (bits >> length - offset & mask) + 1
        if total >= modulus:
            break
        numbers.add(total)
    return Filter(p, modulus, frozenset(numbers))


def _number(sync_id: bytes, modulus: int) -> int:
    """The hash of an ID below ``modulus``; 1 for 0, as differences begin at 1."""
    number = int.from_bytes(hashlib.sha256(sync_id).digest()[:8], "big") & 0x7FFF_FFFF_FFFF_FFFF
    return number % modulus or 1
