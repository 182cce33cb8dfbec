# SPDX-License-Identifier: GPL-2.0-or-later
"""One side's entries of a reconciliation, hashed under the session's key.

Two implementations with one interface: plain Python up to SCALAR_ENTRIES, numpy
above. Loading numpy costs about 20 MiB and half a second on a small board, in
which plain Python hashes and encodes that many entries.
docs/protocol.md sections 8.1 and 8.2.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nacl.bindings import crypto_shorthash_siphash24

from relay.core.envelope import ID_BYTES
from relay.core.riblt import SHORT_ID_MASK, SLICE, Encoder, ScalarEncoder, VectorEncoder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import numpy as np
    import numpy.typing as npt

#: Entries up to which numpy is not loaded.
SCALAR_ENTRIES = 16_384
#: Entries that numpy hashes between two yields: under 2 ms here, 10 ms on a small board.
VECTOR_SLICE = 4 * SLICE

_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedColumns:
    """What a relay has admitted, column by column, one row an entry; a snapshot.

    ``ids`` holds 32 bytes a row. ``price`` is leading zero bits less 2 a class.
    ``seq`` is the owner's own number of the entry, which comes back in `to_offer`.
    """

    ids: bytes | bytearray | memoryview
    expiry_hour: array[int]
    size_class: array[int]
    price: array[int]
    seq: array[int]

    def __post_init__(self) -> None:
        codes = [column.typecode for column in (self.expiry_hour, self.size_class, self.price, self.seq)]
        if codes != ["I", "B", "b", "Q"]:
            raise ValueError(f"columns of types {codes}")
        rows = {len(self.expiry_hour), len(self.size_class), len(self.price), len(self.seq)}
        if rows != {len(self.ids) // ID_BYTES} or len(self.ids) % ID_BYTES:
            raise ValueError("columns of different lengths")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What both hellos admit: hours (both ends included), classes (bit mask), least price."""

    first_hour: int
    last_hour: int
    classes: int
    min_price: int


class Entries(Protocol):
    """Entries in scope; `scan` first, `keep` before what comes after it."""

    hours: dict[int, tuple[int, int]]
    """Hour to (sum of PRF values mod 2**64, number of entries)."""

    def scan(self) -> Iterator[None]:
        """Hash what is in scope; yields between bounded slices."""

    def keep(self, hours: Collection[int]) -> None:
        """Restrict `encoder`, `listing`, `missing` and `select` to entries of ``hours``."""

    def encoder(self) -> Encoder:
        """A fresh encoder over the entries kept."""

    def listing(self) -> array[int]:
        """Short IDs of the entries kept, ascending."""

    def missing(self, short_ids: array[int]) -> bytes:
        """One bit for each of ``short_ids``, most significant first: 1 where no entry kept has it."""

    def select(self, short_ids: array[int], *, others: bool = False) -> array[int]:
        """Sequence numbers of the entries kept whose short ID is (``others``: is not) given."""

    def in_hours(self, hours: Collection[int]) -> array[int]:
        """Sequence numbers of all entries of ``hours``."""


def make_entries(columns: AdmittedColumns, scope: Scope, key: bytes, *, scalar_entries: int) -> Entries:
    """Return the implementation that suits the number of rows."""
    if len(columns.seq) <= scalar_entries:
        return ScalarEntries(columns, scope, key)
    return VectorEntries(columns, scope, key)


class ScalarEntries:
    """Entries in plain Python; see :class:`Entries`."""

    def __init__(self, columns: AdmittedColumns, scope: Scope, key: bytes) -> None:
        self.hours: dict[int, tuple[int, int]] = {}
        self._columns = columns
        self._scope = scope
        self._key = key
        self._rows = array("I")
        self._short_ids = array("Q")
        self._kept: list[int] = []

    def scan(self) -> Iterator[None]:
        """See :class:`Entries`."""
        columns, scope, ids = self._columns, self._scope, memoryview(self._columns.ids)
        for row, hour in enumerate(columns.expiry_hour):
            if (
                scope.first_hour <= hour <= scope.last_hour
                and columns.price[row] >= scope.min_price
                and scope.classes >> columns.size_class[row] & 1
            ):
                identity = bytes(ids[row * ID_BYTES : (row + 1) * ID_BYTES])
                value = int.from_bytes(crypto_shorthash_siphash24(identity, self._key), "little")
                self._rows.append(row)
                self._short_ids.append(value & SHORT_ID_MASK)
                total, count = self.hours.get(hour, (0, 0))
                self.hours[hour] = ((total + value) & _MASK_64, count + 1)
            if row % SLICE == SLICE - 1:
                yield

    def keep(self, hours: Collection[int]) -> None:
        """See :class:`Entries`."""
        expiry = self._columns.expiry_hour
        self._kept = [i for i, row in enumerate(self._rows) if expiry[row] in hours]

    def encoder(self) -> Encoder:
        """See :class:`Entries`."""
        return ScalarEncoder(array("Q", [self._short_ids[i] for i in self._kept]))

    def listing(self) -> array[int]:
        """See :class:`Entries`."""
        return array("Q", sorted(self._short_ids[i] for i in self._kept))

    def missing(self, short_ids: array[int]) -> bytes:
        """See :class:`Entries`."""
        own = {self._short_ids[i] for i in self._kept}
        bits = 0
        for short_id in short_ids:
            bits = bits << 1 | (short_id not in own)
        return (bits << -len(short_ids) % 8).to_bytes((len(short_ids) + 7) // 8, "big")

    def select(self, short_ids: array[int], *, others: bool = False) -> array[int]:
        """See :class:`Entries`."""
        given, seq = set(short_ids), self._columns.seq
        return array("Q", [seq[self._rows[i]] for i in self._kept if (self._short_ids[i] in given) != others])

    def in_hours(self, hours: Collection[int]) -> array[int]:
        """See :class:`Entries`."""
        expiry, seq = self._columns.expiry_hour, self._columns.seq
        return array("Q", [seq[row] for row in self._rows if expiry[row] in hours])


class VectorEntries:
    """Entries in numpy arrays, 20 bytes each; see :class:`Entries`.

    Views of the columns live no longer than a call: an array whose buffer is
    exported cannot be appended to by its owner.
    """

    def __init__(self, columns: AdmittedColumns, scope: Scope, key: bytes) -> None:
        import numpy as np  # noqa: PLC0415 - 20 MiB that small sets do without

        self.hours: dict[int, tuple[int, int]] = {}
        self._columns = columns
        self._scope = scope
        self._key = key
        self._rows: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._short_ids: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._kept: npt.NDArray[np.intp] = np.zeros(0, np.intp)

    def scan(self) -> Iterator[None]:
        """See :class:`Entries`."""
        import numpy as np  # noqa: PLC0415 - see __init__

        parts = []
        for start in range(0, len(self._columns.seq), VECTOR_SLICE):
            parts.append(self._scan_slice(start))
            yield
        self._rows = np.concatenate([self._rows, *(rows for rows, _ in parts)])
        self._short_ids = np.concatenate([self._short_ids, *(short_ids for _, short_ids in parts)])

    def _scan_slice(self, start: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
        import numpy as np  # noqa: PLC0415 - see __init__

        columns, scope = self._columns, self._scope
        count = min(VECTOR_SLICE, len(columns.seq) - start)
        hour = np.frombuffer(columns.expiry_hour, np.uint32, count, 4 * start)
        price = np.frombuffer(columns.price, np.int8, count, start)
        size_class = np.frombuffer(columns.size_class, np.uint8, count, start)
        inside = (hour >= scope.first_hour) & (hour <= scope.last_hour) & (price >= scope.min_price)
        inside &= np.array([scope.classes >> c & 1 for c in range(256)], np.bool_)[size_class]
        words = np.frombuffer(columns.ids, "<u8", 4 * count, ID_BYTES * start).reshape(count, 4)[inside]
        values = siphash24(words.astype(np.uint64), self._key)
        hours, slots = np.unique(hour[inside], return_inverse=True)
        sums = np.zeros(len(hours), np.uint64)
        np.add.at(sums, slots, values)
        for key, total, number in zip(
            hours.tolist(), sums.tolist(), np.bincount(slots, minlength=len(hours)).tolist(), strict=True
        ):
            old_total, old_number = self.hours.get(key, (0, 0))
            self.hours[key] = ((old_total + total) & _MASK_64, old_number + number)
        rows = (start + np.flatnonzero(inside)).astype(np.uint32)
        return rows, values & np.uint64(SHORT_ID_MASK)

    def _rows_in(self, hours: Collection[int]) -> npt.NDArray[np.bool_]:
        import numpy as np  # noqa: PLC0415 - see __init__

        expiry = np.frombuffer(self._columns.expiry_hour, np.uint32)[self._rows]
        return np.isin(expiry, np.array(sorted(hours), np.uint32))

    def _seqs(self, rows: npt.NDArray[np.uint32]) -> array[int]:
        import numpy as np  # noqa: PLC0415 - see __init__

        return array("Q", np.frombuffer(self._columns.seq, np.uint64)[rows].tobytes())

    def keep(self, hours: Collection[int]) -> None:
        """See :class:`Entries`."""
        import numpy as np  # noqa: PLC0415 - see __init__

        kept = self._rows_in(hours).nonzero()[0]
        # In order of short IDs, what is looked up later stays in the processor's cache.
        self._kept = kept[np.argsort(self._short_ids[kept])]

    def encoder(self) -> Encoder:
        """See :class:`Entries`."""
        return VectorEncoder(self._short_ids[self._kept])

    def listing(self) -> array[int]:
        """See :class:`Entries`."""
        return array("Q", self._short_ids[self._kept].tobytes())

    def missing(self, short_ids: array[int]) -> bytes:
        """See :class:`Entries`."""
        import numpy as np  # noqa: PLC0415 - see __init__

        return np.packbits(~_among(np.frombuffer(short_ids, np.uint64), self._short_ids[self._kept])).tobytes()

    def select(self, short_ids: array[int], *, others: bool = False) -> array[int]:
        """See :class:`Entries`."""
        import numpy as np  # noqa: PLC0415 - see __init__

        chosen = _among(self._short_ids[self._kept], np.sort(np.frombuffer(short_ids, np.uint64)))
        return self._seqs(self._rows[self._kept[chosen != others]])

    def in_hours(self, hours: Collection[int]) -> array[int]:
        """See :class:`Entries`."""
        return self._seqs(self._rows[self._rows_in(hours)])


def _among(values: npt.NDArray[np.uint64], table: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which ``values`` are in the ascending ``table``."""
    import numpy as np  # noqa: PLC0415 - see VectorEntries

    if not table.size:
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(table, values)
    places[places == len(table)] = 0
    return np.equal(table[places], values)


def siphash24(words: npt.NDArray[np.uint64], key: bytes) -> npt.NDArray[np.uint64]:
    """SipHash-2-4 of each row of four little-endian words (Aumasson, Bernstein, INDOCRYPT 2012)."""
    import numpy as np  # noqa: PLC0415 - see VectorEntries

    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    v0, v1, v2, v3 = (
        np.full(len(words), start, np.uint64)
        for start in (
            k0 ^ 0x736F_6D65_7073_6575,
            k1 ^ 0x646F_7261_6E64_6F6D,
            k0 ^ 0x6C79_6765_6E65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        )
    )

    def rotate(v: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint64]:
        return v << np.uint64(bits) | v >> np.uint64(64 - bits)

    def rounds(
        v0: npt.NDArray[np.uint64],
        v1: npt.NDArray[np.uint64],
        v2: npt.NDArray[np.uint64],
        v3: npt.NDArray[np.uint64],
        number: int,
    ) -> tuple[npt.NDArray[np.uint64], ...]:
        for _ in range(number):
            v0, v2 = v0 + v1, v2 + v3
            v1, v3 = rotate(v1, 13) ^ v0, rotate(v3, 16) ^ v2
            v0, v2 = rotate(v0, 32) + v3, v2 + v1
            v3, v1 = rotate(v3, 21) ^ v0, rotate(v1, 17) ^ v2
            v2 = rotate(v2, 32)
        return v0, v1, v2, v3

    # The length in the top byte, and nothing else: 32 bytes fill four words.
    last = np.full(len(words), ID_BYTES << 56, np.uint64)
    for word in (words[:, 0], words[:, 1], words[:, 2], words[:, 3], last):
        v3 ^= word
        v0, v1, v2, v3 = rounds(v0, v1, v2, v3, 2)
        v0 ^= word
    v2 ^= np.uint64(0xFF)
    v0, v1, v2, v3 = rounds(v0, v1, v2, v3, 4)
    return v0 ^ v1 ^ v2 ^ v3
