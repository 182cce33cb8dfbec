# SPDX-License-Identifier: GPL-2.0-or-later
"""Rateless invertible Bloom lookup table over 48-bit short IDs.

L. Yang, Y. Gilad, M. Alizadeh, "Practical Rateless Set Reconciliation", ACM
SIGCOMM 2024. A set is an endless row of symbols; entry ``x`` is in symbol ``i``
with probability 1 / (1 + i/2). The row of one set minus the row of another is
the row of their difference, and 1.4 to 2 symbols for each different entry
recover it, however large the sets. Bytes and arithmetic: docs/protocol.md
section 8.6.
"""

from __future__ import annotations

from array import array
from math import isqrt, sqrt
from typing import TYPE_CHECKING, Protocol

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

SHORT_ID_BYTES = 6
SHORT_ID_MASK = (1 << 48) - 1
#: A sum of several entries passes for a single one with probability 2**-24, and
#: only if what it passes for also maps to the symbol it stands in. With 100
#: differences 90 such sums are tested, with 10,000 some 15,000: fewer than one
#: session in 190,000, or 1,100, meets one, and pays for it with the list of IDs.
CHECK_BYTES = 3
COUNT_BYTES = 1
SYMBOL_BYTES = SHORT_ID_BYTES + CHECK_BYTES + COUNT_BYTES

#: Entries (or peeling attempts) between two yields: 4 to 10 ms on the slowest
#: board meant for this, when numpy does the work; at most 40 ms when it does not.
SLICE = 2048

_MASK_64 = (1 << 64) - 1
_CHECK_SHIFT = 40
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_MIX_1 = 0xBF58_476D_1CE4_E5B9
_MIX_2 = 0x94D0_49BB_1331_11EB
_STEP = 0xDA94_2042_E4DD_58B5
_ROOT_SCALE = 67_108_864.0  # sqrt(2**52)


def mix(short_id: int) -> int:
    """SplitMix64's finaliser: 48 bits in, 64 bits out; its top 24 bits are the check.

    It need not be keyed: short IDs are outputs of a PRF whose key nobody has who
    could choose envelopes.
    """
    z = (short_id + _GOLDEN) & _MASK_64
    z = ((z ^ z >> 30) * _MIX_1) & _MASK_64
    z = ((z ^ z >> 27) * _MIX_2) & _MASK_64
    return z ^ z >> 31


def indices(short_id: int, stop: int) -> list[int]:
    """Return the indices below ``stop`` of the symbols that hold ``short_id``, ascending."""
    state, index, found = mix(short_id) | 1, 0, []
    while index < stop:
        found.append(index)
        state = state * _STEP & _MASK_64
        index += 1 + int((index + 1.5) * (_ROOT_SCALE / sqrt((state >> 12) + 1) - 1.0))
    return found


class Symbols:
    """A row of symbols: XOR of short IDs, XOR of their checks, count of entries mod 256."""

    __slots__ = ("checks", "counts", "ids")

    def __init__(self) -> None:
        self.ids = array("Q")
        self.checks = array("I")
        self.counts = array("B")

    def __len__(self) -> int:
        return len(self.ids)

    def grow(self, length: int) -> None:
        """Append empty symbols up to ``length``."""
        missing = length - len(self.ids)
        self.ids.extend([0] * missing)
        self.checks.extend([0] * missing)
        self.counts.extend([0] * missing)

    def encode(self, start: int, stop: int) -> bytes:
        """Return symbols ``start`` to ``stop`` as SYMBOL_BYTES each."""
        shift = 8 * CHECK_BYTES
        return b"".join(
            ((self.ids[i] << shift | self.checks[i]) << 8 | self.counts[i]).to_bytes(SYMBOL_BYTES, "big")
            for i in range(start, stop)
        )

    def decode(self, data: bytes) -> None:
        """Append symbols from ``data``; DecodeError unless it is whole symbols."""
        if len(data) % SYMBOL_BYTES:
            raise DecodeError("part of a symbol")
        for offset in range(0, len(data), SYMBOL_BYTES):
            middle = offset + SHORT_ID_BYTES
            self.ids.append(int.from_bytes(data[offset:middle], "big"))
            self.checks.append(int.from_bytes(data[middle : middle + CHECK_BYTES], "big"))
            self.counts.append(data[middle + CHECK_BYTES])


class Encoder(Protocol):
    """Computes the row of one set, as far as it is asked to."""

    @property
    def symbols(self) -> Symbols:
        """The row so far."""

    def extend(self, stop: int) -> Iterator[None]:
        """Lengthen the row to ``stop`` symbols; yields after each SLICE of entries."""


class ScalarEncoder:
    """Encoder without numpy: 4 us an entry for 200 symbols, and nothing to load."""

    __slots__ = ("_ids", "_indices", "_states", "symbols")

    def __init__(self, short_ids: array[int]) -> None:
        self.symbols = Symbols()
        self._ids = short_ids
        self._states = array("Q", [mix(short_id) | 1 for short_id in short_ids])
        self._indices = array("Q", bytes(8 * len(short_ids)))

    def extend(self, stop: int) -> Iterator[None]:
        """See :class:`Encoder`."""
        self.symbols.grow(stop)
        ids, checks, counts = self.symbols.ids, self.symbols.checks, self.symbols.counts
        for row, short_id in enumerate(self._ids):
            index = self._indices[row]
            if index < stop:
                state, check = self._states[row], mix(short_id) >> _CHECK_SHIFT
                while index < stop:
                    ids[index] ^= short_id
                    checks[index] ^= check
                    counts[index] = counts[index] + 1 & 0xFF
                    state = state * _STEP & _MASK_64
                    index += 1 + int((index + 1.5) * (_ROOT_SCALE / sqrt((state >> 12) + 1) - 1.0))
                self._states[row], self._indices[row] = state, index
            if row % SLICE == SLICE - 1:
                yield


class VectorEncoder:
    """Encoder on numpy arrays, one of them after the other, of which nothing is kept but the row."""

    __slots__ = ("_parts", "symbols")

    def __init__(self, parts: Iterable[npt.NDArray[np.uint64]]) -> None:
        """``parts``: short IDs, some thousand at a time; walked over anew for each :meth:`extend`."""
        self.symbols = Symbols()
        self._parts = parts

    def extend(self, stop: int) -> Iterator[None]:
        """See :class:`Encoder`."""
        import numpy as np  # noqa: PLC0415 - 20 MiB that small sets do without

        begin = len(self.symbols)
        ids, checks = np.zeros(stop - begin, np.uint64), np.zeros(stop - begin, np.uint32)
        counts = np.zeros(stop - begin, np.int64)
        for part in self._parts:
            short_ids, state, index = part, _mixed(part), np.zeros(len(part), np.int64)
            check = (state >> np.uint64(_CHECK_SHIFT)).astype(np.uint32)
            state |= np.uint64(1)
            while index.size:
                here = index >= begin
                places = index[here] - begin
                np.bitwise_xor.at(ids, places, short_ids[here])
                np.bitwise_xor.at(checks, places, check[here])
                counts += np.bincount(places, minlength=stop - begin)
                state *= np.uint64(_STEP)
                root = np.sqrt(((state >> np.uint64(12)) + np.uint64(1)).astype(np.float64))
                index += 1 + ((index + 1.5) * (_ROOT_SCALE / root - 1.0)).astype(np.int64)
                left = index < stop
                short_ids, check, state, index = short_ids[left], check[left], state[left], index[left]
            yield
        self.symbols.ids.frombytes(ids.tobytes())
        self.symbols.checks.frombytes(checks.tobytes())
        self.symbols.counts.frombytes(counts.astype(np.uint8).tobytes())


def _mixed(short_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return :func:`mix` of each."""
    import numpy as np  # noqa: PLC0415 - see VectorEncoder

    mixed = short_ids + np.uint64(_GOLDEN)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(_MIX_1)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(_MIX_2)
    mixed ^= mixed >> np.uint64(31)
    return mixed


class Decoder:
    """Peels the difference out of another side's symbols minus our own.

    ``theirs`` and ``ours`` are the short IDs found so far that only that side
    has. ``broken`` is set when the symbols cannot be those of any set (a false
    match of checks, or a peer that lies); the caller then turns to the list.
    """

    __slots__ = ("_applied", "_checks", "_counts", "_ids", "_raw_counts", "broken", "ours", "theirs")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._checks: list[int] = []
        self._counts: list[int] = []
        self._raw_counts = array("B")
        self._applied = 0
        self.theirs: set[int] = set()
        self.ours: set[int] = set()
        self.broken = False

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def complete(self) -> bool:
        """Whether everything cancelled: the difference is found, all of it."""
        return not (self.broken or any(self._ids) or any(self._checks) or any(self._counts))

    def add(self, theirs: Symbols, ours: Symbols) -> Iterator[None]:
        """Append ``theirs`` less ``ours``, rows as long as each other; yields after each SLICE of symbols."""
        for i in range(len(self._ids), len(theirs)):
            count = theirs.counts[i] - ours.counts[i] & 0xFF
            self._ids.append(theirs.ids[i] ^ ours.ids[i])
            self._checks.append(theirs.checks[i] ^ ours.checks[i])
            self._counts.append(count)
            self._raw_counts.append(count)
            if i % SLICE == SLICE - 1:
                yield

    def peel(self) -> Iterator[None]:
        """Take out single entries until none is left; yields after each SLICE of attempts.

        Ends on any input: no entry is taken twice and there are at most as many
        as symbols, which an honest difference that can be decoded never exceeds.
        """
        end = len(self._ids)
        for signed, found in ((1, self.theirs), (-1, self.ours)):
            for attempt, short_id in enumerate(found):
                self._remove(short_id, signed, [i for i in indices(short_id, end) if i >= self._applied])
                if attempt % SLICE == SLICE - 1:
                    yield
        self._applied = end
        pending = [i for i, count in enumerate(self._counts) if count in {1, 0xFF}]
        attempts = 0
        while pending and not self.broken:
            attempts += 1
            if attempts % SLICE == 0:
                yield
            self._try(pending)

    def _try(self, pending: list[int]) -> None:
        i = pending.pop()
        signed = {1: 1, 0xFF: -1}.get(self._counts[i])
        short_id = self._ids[i]
        if signed is None or mix(short_id) >> _CHECK_SHIFT != self._checks[i]:
            return
        within = indices(short_id, len(self._ids))
        if i not in within:
            return
        if short_id in self.theirs or short_id in self.ours or len(self.theirs) + len(self.ours) >= len(self._ids):
            self.broken = True
            return
        (self.theirs if signed == 1 else self.ours).add(short_id)
        self._remove(short_id, signed, within)
        pending.extend(j for j in within if self._counts[j] in {1, 0xFF})

    def _remove(self, short_id: int, signed: int, within: list[int]) -> None:
        check = mix(short_id) >> _CHECK_SHIFT
        for i in within:
            self._ids[i] ^= short_id
            self._checks[i] ^= check
            self._counts[i] = self._counts[i] - signed & 0xFF

    def estimate(self, surplus: int) -> int:
        """Estimate the number of differences from counts alone, before they can be decoded.

        ``surplus`` is their number of entries less ours. A count is a sum of as
        many signs as there are differences, each taken with probability p: it
        scatters around ``surplus * p`` with variance ``differences * p (1-p)``.
        Only the last 1,024 are used, which tell it to a twentieth; of a large
        difference not the first quarter either, where counts exceed a byte.
        """
        end = len(self._raw_counts)
        first = max(1, end - 1024)
        coarse = self._spread(max(first, end // 4), end, surplus)
        return max(abs(surplus), int(self._spread(first, end, surplus) if coarse < 2048 else coarse))

    def _spread(self, first: int, end: int, surplus: int) -> float:
        total = 0.0
        for i in range(first, end):
            p = 1 / (1 + i / 2)
            centre = round(surplus * p)
            count = (self._raw_counts[i] - centre + 128) % 256 - 128 + centre
            total += (count - surplus * p) ** 2 / (p * (1 - p))
        return total / max(1, end - first)


def symbols_for(differences: int) -> int:
    """Symbols that decode this many differences in more than 999 of 1,000 sessions."""
    return 8 + differences * 7 // 5 + 5 * isqrt(differences)
