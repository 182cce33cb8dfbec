# SPDX-License-Identifier: GPL-2.0-or-later
"""One side's entries of a reconciliation, hashed under the session's key.

Two implementations with one interface: plain Python up to SCALAR_ENTRIES, numpy
above. Loading numpy costs about 20 MiB and half a second on a small board, in
which plain Python hashes and encodes that many entries. Above, nothing is kept of
an entry: it is hashed again when it is asked for, a tenth of a microsecond here, as a
million of them for each of eight neighbours would be more than a small board has.
docs/protocol.md sections 8.1 and 8.2.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from nacl.bindings import crypto_shorthash_siphash24

from relay.core.envelope import ID_BYTES
from relay.core.riblt import SHORT_ID_MASK, SLICE, Encoder, ScalarEncoder, VectorEncoder

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator

    import numpy as np
    import numpy.typing as npt

    #: Work that yields between bounded slices, and what it comes to.
    Numbers = Generator[None, None, array[int]]

#: Entries up to which numpy is not loaded.
SCALAR_ENTRIES = 16_384
#: Entries of a part, which numpy hashes between two yields: under 2 ms here, 10 ms on a small board.
VECTOR_SLICE = 2 * SLICE
#: In the place of a class: an entry that is none any more, and in no scope.
NO_CLASS: Final = 255

_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedColumns:
    """What a relay has admitted, or a part of it, column by column, one row an entry; a snapshot.

    ``ids`` holds 32 bytes a row. ``price`` is leading zero bits less 2 a class.
    ``seq`` is the owner's own number of the entry, which comes back in `to_offer`.
    """

    ids: bytes | bytearray | memoryview
    expiry_hour: array[int]
    size_class: array[int]
    price: array[int]
    seq: array[int] | range

    def __post_init__(self) -> None:
        codes = [column.typecode for column in (self.expiry_hour, self.size_class, self.price)]
        if codes != ["I", "B", "b"] or getattr(self.seq, "typecode", "Q") != "Q":
            raise ValueError(f"columns of types {codes}")
        rows = {len(self.expiry_hour), len(self.size_class), len(self.price), len(self.seq)}
        if rows != {len(self.ids) // ID_BYTES} or len(self.ids) % ID_BYTES:
            raise ValueError("columns of different lengths")

    def __len__(self) -> int:
        return len(self.seq)

    def parts(self) -> Iterator[AdmittedColumns]:
        """See :class:`Admitted`."""
        for start in range(0, len(self), VECTOR_SLICE):
            rows = slice(start, start + VECTOR_SLICE)
            yield AdmittedColumns(
                ids=self.ids[ID_BYTES * rows.start : ID_BYTES * rows.stop],
                expiry_hour=self.expiry_hour[rows],
                size_class=self.size_class[rows],
                price=self.price[rows],
                seq=self.seq[rows],
            )


class Admitted(Protocol):
    """What a relay has admitted, as it was at one moment."""

    def __len__(self) -> int:
        """Rows, those of no class included."""

    def parts(self) -> Iterator[AdmittedColumns]:
        """Yield it in parts of up to VECTOR_SLICE rows, the same ones each time."""


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

    def listing(self) -> Numbers:
        """Short IDs of the entries kept, ascending."""

    def missing(self, short_ids: array[int]) -> Generator[None, None, bytes]:
        """One bit for each of ``short_ids``, most significant first: 1 where no entry kept has it."""

    def select(self, short_ids: array[int], *, others: bool = False) -> Numbers:
        """Sequence numbers of the entries kept whose short ID is (``others``: is not) given."""

    def in_hours(self, hours: Collection[int]) -> Numbers:
        """Sequence numbers of all entries of ``hours``."""


def make_entries(admitted: Admitted, scope: Scope, key: bytes, *, scalar_entries: int) -> Entries:
    """Return the implementation that suits the number of rows."""
    if len(admitted) <= scalar_entries:
        return ScalarEntries(admitted, scope, key)
    return VectorEntries(admitted, scope, key)


class ScalarEntries:
    """Entries in plain Python; see :class:`Entries`."""

    def __init__(self, admitted: Admitted, scope: Scope, key: bytes) -> None:
        self.hours: dict[int, tuple[int, int]] = {}
        self._admitted = admitted
        self._scope = scope
        self._key = key
        #: Of what is in scope.
        self._seqs = array("Q")
        self._expiry = array("I")
        self._short_ids = array("Q")
        self._kept: list[int] = []

    def scan(self) -> Iterator[None]:
        """See :class:`Entries`."""
        scope = self._scope
        for part in self._admitted.parts():
            for row, hour in enumerate(part.expiry_hour):
                if (
                    scope.first_hour <= hour <= scope.last_hour
                    and part.price[row] >= scope.min_price
                    and scope.classes >> part.size_class[row] & 1
                ):
                    identity = bytes(part.ids[row * ID_BYTES : (row + 1) * ID_BYTES])
                    value = int.from_bytes(crypto_shorthash_siphash24(identity, self._key), "little")
                    self._seqs.append(part.seq[row])
                    self._expiry.append(hour)
                    self._short_ids.append(value & SHORT_ID_MASK)
                    total, count = self.hours.get(hour, (0, 0))
                    self.hours[hour] = ((total + value) & _MASK_64, count + 1)
                if row % SLICE == SLICE - 1:
                    yield

    def keep(self, hours: Collection[int]) -> None:
        """See :class:`Entries`."""
        self._kept = [i for i, hour in enumerate(self._expiry) if hour in hours]

    def encoder(self) -> Encoder:
        """See :class:`Entries`."""
        return ScalarEncoder(array("Q", [self._short_ids[i] for i in self._kept]))

    def listing(self) -> Numbers:
        """See :class:`Entries`."""
        yield
        return array("Q", sorted(self._short_ids[i] for i in self._kept))

    def missing(self, short_ids: array[int]) -> Generator[None, None, bytes]:
        """See :class:`Entries`."""
        yield
        own = {self._short_ids[i] for i in self._kept}
        bits = 0
        for short_id in short_ids:
            bits = bits << 1 | (short_id not in own)
        return (bits << -len(short_ids) % 8).to_bytes((len(short_ids) + 7) // 8, "big")

    def select(self, short_ids: array[int], *, others: bool = False) -> Numbers:
        """See :class:`Entries`."""
        yield
        given = set(short_ids)
        return array("Q", [self._seqs[i] for i in self._kept if (self._short_ids[i] in given) != others])

    def in_hours(self, hours: Collection[int]) -> Numbers:
        """See :class:`Entries`."""
        yield
        return array("Q", [seq for seq, hour in zip(self._seqs, self._expiry, strict=True) if hour in hours])


class VectorEntries:
    """Entries hashed by numpy, a part at a time, and none kept; see :class:`Entries`.

    Views of the columns live no longer than a call: an array whose buffer is
    exported cannot be appended to by its owner.
    """

    def __init__(self, admitted: Admitted, scope: Scope, key: bytes) -> None:
        self.hours: dict[int, tuple[int, int]] = {}
        self._admitted = admitted
        self._scope = scope
        self._key = key
        self._kept: frozenset[int] = frozenset()

    def scan(self) -> Iterator[None]:
        """See :class:`Entries`."""
        import numpy as np  # noqa: PLC0415 - 20 MiB that small sets do without

        for part in self._admitted.parts():
            inside = self._inside(part)
            values = siphash24(_words(part)[inside], self._key)
            hours, slots = np.unique(np.frombuffer(part.expiry_hour, np.uint32)[inside], return_inverse=True)
            sums = np.zeros(len(hours), np.uint64)
            np.add.at(sums, slots, values)
            counts = np.bincount(slots, minlength=len(hours))
            for hour, total, count in zip(hours.tolist(), sums.tolist(), counts.tolist(), strict=True):
                old_total, old_count = self.hours.get(hour, (0, 0))
                self.hours[hour] = ((old_total + total) & _MASK_64, old_count + count)
            yield

    def _inside(self, part: AdmittedColumns, hours: Collection[int] | None = None) -> npt.NDArray[np.bool_]:
        """Return which rows of a part are in scope, and in ``hours``."""
        import numpy as np  # noqa: PLC0415 - see scan

        scope, expiry = self._scope, np.frombuffer(part.expiry_hour, np.uint32)
        inside = (expiry >= scope.first_hour) & (expiry <= scope.last_hour)
        inside &= np.frombuffer(part.price, np.int8) >= scope.min_price
        inside &= np.array([scope.classes >> c & 1 for c in range(256)], np.bool_)[
            np.frombuffer(part.size_class, np.uint8)
        ]
        if hours is not None:
            inside &= np.isin(expiry, np.array(sorted(hours), np.uint32))
        return inside

    def _kept_parts(self) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
        """Yield the short IDs of the entries kept and their sequence numbers, a part at a time."""
        import numpy as np  # noqa: PLC0415 - see scan

        for part in self._admitted.parts():
            inside = self._inside(part, self._kept)
            yield siphash24(_words(part)[inside], self._key) & np.uint64(SHORT_ID_MASK), _seqs(part)[inside]

    def keep(self, hours: Collection[int]) -> None:
        """See :class:`Entries`."""
        self._kept = frozenset(hours)

    def encoder(self) -> Encoder:
        """See :class:`Entries`."""
        return VectorEncoder(_Again(self))

    def listing(self) -> Numbers:
        """See :class:`Entries`."""
        import numpy as np  # noqa: PLC0415 - see scan

        found = array("Q")
        for short_ids, _ in self._kept_parts():
            found.frombytes(short_ids.tobytes())
            yield
        return array("Q", np.sort(np.frombuffer(found, np.uint64)).tobytes())

    def missing(self, short_ids: array[int]) -> Generator[None, None, bytes]:
        """See :class:`Entries`."""
        import numpy as np  # noqa: PLC0415 - see scan

        given = np.frombuffer(short_ids, np.uint64)
        order = np.argsort(given)
        missing = np.ones(len(given), np.bool_)
        for own, _ in self._kept_parts():
            if given.size:
                places = np.searchsorted(given, own, sorter=order)
                places[places == len(given)] = 0
                found = order[places]
                missing[found[given[found] == own]] = False
            yield
        return np.packbits(missing).tobytes()

    def select(self, short_ids: array[int], *, others: bool = False) -> Numbers:
        """See :class:`Entries`."""
        import numpy as np  # noqa: PLC0415 - see scan

        table = np.sort(np.frombuffer(short_ids, np.uint64))
        found = array("Q")
        for own, seqs in self._kept_parts():
            found.frombytes(seqs[_among(own, table) != others].tobytes())
            yield
        return found

    def in_hours(self, hours: Collection[int]) -> Numbers:
        """See :class:`Entries`."""
        found = array("Q")
        for part in self._admitted.parts() if hours else ():
            found.frombytes(_seqs(part)[self._inside(part, hours)].tobytes())
            yield
        return found


class _Again:
    """Short IDs of the entries kept, hashed anew for each walk over them."""

    def __init__(self, entries: VectorEntries) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[npt.NDArray[np.uint64]]:
        return (short_ids for short_ids, _ in self._entries._kept_parts())  # noqa: SLF001 - a part of them


def _words(part: AdmittedColumns) -> npt.NDArray[np.uint64]:
    """Return the identities of a part as rows of four words."""
    import numpy as np  # noqa: PLC0415 - see VectorEntries

    return np.frombuffer(part.ids, "<u8").reshape(len(part), 4).astype(np.uint64)


def _seqs(part: AdmittedColumns) -> npt.NDArray[np.uint64]:
    import numpy as np  # noqa: PLC0415 - see VectorEntries

    if isinstance(part.seq, range):
        return np.arange(part.seq.start, part.seq.stop, dtype=np.uint64)
    return np.frombuffer(part.seq, np.uint64)


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
