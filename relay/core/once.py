# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether something was counted before: what neighbours offer again and again is refused once in the counts.

A Bloom filter, so it takes the same memory whatever is offered. It may say of one in a thousand that it was there
although it was not, which costs a count and nothing else; identities are hashes, so their bytes are its hashes.
"""

from __future__ import annotations

from typing import Final

#: 128 KiB: with MAX_REMEMBERED in it and four bits for each, one in 400 is taken for one that was there.
BITS: Final = 1 << 20
#: After that it begins anew, and what is offered then is counted once more.
MAX_REMEMBERED: Final = 100_000
_WORDS: Final = 4
_WORD_BYTES: Final = 4


class Once:
    """Remembers identities of 32 bytes, for counting only."""

    def __init__(self) -> None:
        self._bits = bytearray(BITS // 8)
        self._count = 0

    def is_new(self, identity: bytes) -> bool:
        """Whether this is the first time; remembers it."""
        if self._count >= MAX_REMEMBERED:
            self._bits = bytearray(BITS // 8)
            self._count = 0
        is_new = False
        for start in range(0, _WORDS * _WORD_BYTES, _WORD_BYTES):
            place, bit = divmod(int.from_bytes(identity[start : start + _WORD_BYTES]) % BITS, 8)
            if not self._bits[place] >> bit & 1:
                self._bits[place] |= 1 << bit
                is_new = True
        self._count += is_new
        return is_new
