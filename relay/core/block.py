# SPDX-License-Identifier: GPL-2.0-or-later
"""A part of the log of what was admitted: entries that arrived one after the other, in columns.

Bounded, so that whatever is done to a part (squeezing out what is forgotten, a walk, a
copy for a reconciliation) takes a millisecond or two, however much there is in all.
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left
from functools import lru_cache
from itertools import compress
from typing import TYPE_CHECKING, Final, NamedTuple

from relay.core.envelope import BUCKET_BITS, ID_BYTES, SIZES, TAG_BYTES
from relay.core.reconcile_set import NO_CLASS, AdmittedColumns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class EntryState(enum.IntEnum):
    """Where an entry stands."""

    PENDING = 0
    HELD = 1
    GONE = 2
    FORGOTTEN = 3
    #: Gone to make room for others: it may return (relay.core.returns).
    DISPLACED = 4


PENDING: Final = int(EntryState.PENDING)
HELD: Final = int(EntryState.HELD)
FORGOTTEN: Final = int(EntryState.FORGOTTEN)
DISPLACED: Final = int(EntryState.DISPLACED)
#: Without a body: it has left.
LEFT: Final = frozenset({int(EntryState.GONE), DISPLACED})
#: Of a kind, which is one byte: a purge or none, and the class.
PURGE_FLAG: Final = 0x80
CLASS_MASK: Final = 0x0F
CLASS_OF_KIND: Final = bytes(kind & CLASS_MASK for kind in range(256))
IS_HELD: Final = bytes(state == HELD for state in range(256))
_IS_PENDING: Final = bytes(state == PENDING for state in range(256))
_COMMITTED: Final = bytes(HELD if state == PENDING else state for state in range(256))
_IS_KNOWN: Final = bytes(state != FORGOTTEN for state in range(256))
_NONE_IF_FORGOTTEN: Final = bytes(NO_CLASS if state == FORGOTTEN else 0 for state in range(256))
_IS_ZERO: Final = bytes(taken == 0 for taken in range(256))
#: Entries of a part, at most: 0.3 MB.
BLOCK_ENTRIES: Final = 4096
_NO_HOUR: Final = 1 << 32

#: An entry on its way into the columns: sequence number, identity, tag, expiry hour, kind, price, interface,
#: when it arrived, when it arrived first, state.
Row = tuple[int, bytes, bytes, int, int, int, int, float, float, int]


@lru_cache(1 << BUCKET_BITS + 1)
def _first_bytes(prefix_bits: int, prefix: int) -> bytes:
    """Return 1 for each first byte of a tag that lies under the prefix."""
    return bytes(byte >> 8 - prefix_bits == prefix for byte in range(256))


@lru_cache(1 << len(SIZES))
def _kinds(classes: int) -> bytes:
    """Return 1 for each kind of these classes."""
    return bytes(classes >> (kind & CLASS_MASK) & 1 for kind in range(256))


def both(first: bytes | bytearray, second: bytes | bytearray) -> bytes:
    """AND of two columns: as numbers, which is a hundred times as fast as byte by byte."""
    return (int.from_bytes(first) & int.from_bytes(second)).to_bytes(len(first))


class Block:
    """Up to BLOCK_ENTRIES entries by ascending sequence number; 71 bytes each, 8 more where numbers are missing."""

    __slots__ = (
        "arrived",
        "checked",
        "classes",
        "expiry",
        "first_arrived",
        "first_seq",
        "forgotten",
        "held",
        "ids",
        "interface",
        "kind",
        "least_arrived",
        "least_hour",
        "left",
        "price",
        "seqs",
        "state",
        "tags",
        "taken",
    )

    def __init__(self, first_seq: int) -> None:
        """``first_seq``: not above that of the first entry."""
        self.first_seq = first_seq
        #: Sequence numbers; None while they are those from the first one on.
        self.seqs: array[int] | None = None
        self.ids = bytearray()
        self.tags = bytearray()
        self.expiry = array("I")
        self.kind = bytearray()
        self.price = array("b")
        self.interface = bytearray()
        #: Residence time, never before that of the entry above.
        self.arrived = array("d")
        #: ... of those that were here before, were displaced, and came again; None while there is none.
        self.first_arrived: array[float] | None = None
        self.state = bytearray()
        #: In which of some periods the body was found to be what it should be; 0 for none.
        self.checked = bytearray()
        #: Whether anybody took it since the start of this process: its operator sees the age of the oldest left.
        self.taken = bytearray()
        #: How many are in which state.
        self.held = self.left = self.forgotten = 0
        #: Bits of the classes that may be here; no entry that is known expires, or arrived first, before these.
        self.classes = 0
        self.least_hour = _NO_HOUR
        self.least_arrived = float("inf")

    def __len__(self) -> int:
        return len(self.state)

    @property
    def known(self) -> int:
        """How many are not forgotten."""
        return len(self.state) - self.forgotten

    # -- changes ----------------------------------------------------------

    def extend(self, rows: Sequence[Row]) -> None:
        """Add entries at the end: columns at a time, which costs a third of entry by entry."""
        position = len(self.state)
        seqs, ids, tags, hours, kinds, prices, interfaces, arrivals, first_arrivals, states = zip(*rows, strict=True)
        if self.seqs is not None:
            self.seqs.extend(seqs)
        elif seqs[0] != self.first_seq + position or seqs[-1] - seqs[0] >= len(rows):
            self.seqs = array("Q", (*range(self.first_seq, self.first_seq + position), *seqs))
        self.ids += b"".join(ids)
        self.tags += b"".join(tags)
        self.expiry.extend(hours)
        self.kind += bytes(kinds)
        self.price.extend(prices)
        self.interface += bytes(interfaces)
        if first_arrivals != arrivals and self.first_arrived is None:
            self.first_arrived = array("d", self.arrived)
        self.arrived.extend(arrivals)
        if self.first_arrived is not None:
            self.first_arrived.extend(first_arrivals)
        self.state += bytes(states)
        self.checked += bytes(len(rows))
        self.taken += bytes(len(rows))
        self.held += states.count(HELD)
        self.left += sum(map(states.count, LEFT))
        self.classes |= sum({1 << (kind & CLASS_MASK) for kind in set(kinds)})
        self.least_hour = min(self.least_hour, *hours)
        self.least_arrived = min(self.least_arrived, *first_arrivals)

    def commit(self, some: slice) -> bytes:
        """Let those that are PENDING be HELD; return 1 for each of these."""
        states = self.state[some]
        were_pending = states.translate(_IS_PENDING)
        self.state[some] = states.translate(_COMMITTED)
        self.held += were_pending.count(1)
        return bytes(were_pending)

    def set_state(self, position: int, state: int) -> None:
        """Change where an entry stands."""
        before = self.state[position]
        self.state[position] = state
        self.held += (state == HELD) - (before == HELD)
        self.left += (state in LEFT) - (before in LEFT)
        self.forgotten += state == FORGOTTEN

    def tally(self) -> None:
        """Count anew, after columns were filled otherwise than by :meth:`extend`."""
        state = self.state
        self.held, self.forgotten = state.count(HELD), state.count(FORGOTTEN)
        self.left = sum(map(state.count, LEFT))
        self.classes = sum(1 << kind for kind in set(self.kind.translate(CLASS_OF_KIND)))
        self.find_least()

    def find_least(self) -> None:
        """Bring the least expiry hour and arrival up to date with what is known."""
        known = self.state.translate(_IS_KNOWN)
        self.least_hour = min(compress(self.expiry, known), default=_NO_HOUR)
        self.least_arrived = min(compress(self.first_arrived or self.arrived, known), default=float("inf"))

    def shrink(self) -> None:
        """Give back what the columns were given to grow into."""
        for name in ("ids", "tags", "kind", "interface", "state", "checked", "taken"):
            setattr(self, name, bytearray(getattr(self, name)))
        for column in ("expiry", "price", "arrived", "seqs", "first_arrived"):
            values = getattr(self, column)
            if values is not None:
                setattr(self, column, array(values.typecode, values))

    # -- questions --------------------------------------------------------

    def lower(self, seq: int) -> int:
        """Return the position of the first entry that is not below a sequence number."""
        if self.seqs is not None:
            return bisect_left(self.seqs, seq)
        return min(max(seq - self.first_seq, 0), len(self.state))

    def seq(self, position: int) -> int:
        """Return the sequence number of an entry."""
        return self.first_seq + position if self.seqs is None else self.seqs[position]

    def numbers(self, start: int = 0, stop: int | None = None) -> range | array[int]:
        """Return the sequence numbers of some entries, or all."""
        stop = len(self.state) if stop is None else stop
        return range(self.first_seq + start, self.first_seq + stop) if self.seqs is None else self.seqs[start:stop]

    def knows(self, seq: int, position: int) -> bool:
        """Tell whether the entry at a position is this one, and not forgotten."""
        return position < len(self.state) and self.seq(position) == seq and self.state[position] != FORGOTTEN

    def identity(self, position: int) -> bytes:
        """Return the identity of an entry, 32 bytes."""
        return bytes(self.ids[ID_BYTES * position : ID_BYTES * (position + 1)])

    def tag(self, position: int) -> bytes:
        """Return the tag of an entry, 16 bytes."""
        return bytes(self.tags[TAG_BYTES * position : TAG_BYTES * (position + 1)])

    def first_arrived_s(self, position: int) -> float:
        """Return when an entry arrived first."""
        return (self.first_arrived or self.arrived)[position]

    def first_untaken(self) -> int:
        """Return the position of the first that is held and that nobody took, below 0 if there is none."""
        return both(self.state.translate(IS_HELD), self.taken.translate(_IS_ZERO)).find(1) if self.held else -1

    def by_interface(self, some: slice, mine: bytes | bytearray) -> Iterator[tuple[int, bytes | bytearray]]:
        """Yield the interfaces of those of ``some`` that ``mine`` has a 1 for, each with a column of its own ones."""
        interfaces = self.interface[some]
        for number in set(interfaces):
            chosen = mine
            if interfaces.count(number) < len(interfaces):
                chosen = both(mine, interfaces.translate(bytes(each == number for each in range(256))))
            if chosen.count(1):
                yield number, chosen

    def held_in_prefix(
        self, start: int, stop: int, *, prefix_bits: int, prefix: int, after_hour: int, classes: int
    ) -> list[int]:
        """Return the sequence numbers of those held under a prefix; see AdmittedLog.held_in_prefix."""
        if not self.held or not self.classes & classes:
            return []
        # Masks of whole columns, because this walk is most of what a subscription costs.
        mask: bytes | bytearray = self.state[start:stop].translate(IS_HELD)
        if prefix_bits:
            first_bytes = self.tags[TAG_BYTES * start : TAG_BYTES * stop : TAG_BYTES]
            mask = both(mask, first_bytes.translate(_first_bytes(prefix_bits, prefix)))
        if self.classes & ~classes:
            mask = both(mask, self.kind[start:stop].translate(_kinds(classes)))
        numbers = self.numbers(start, stop)
        if self.least_hour > after_hour:
            return list(compress(numbers, mask))
        expiry = compress(self.expiry[start:stop], mask)
        return [seq for seq, hour in zip(compress(numbers, mask), expiry, strict=True) if hour > after_hour]

    def due(
        self, *, hour: int | None, by_hour_from_s: float, drop_before_s: float, forget_before_s: float
    ) -> Iterator[tuple[int, bool, bool]]:
        """Yield what has to leave: sequence number, whether its body, whether all of it; see AdmittedLog.due."""
        early_s = max(drop_before_s, forget_before_s) if self.held else forget_before_s
        by_hour = False
        for is_least_known in (False, True):
            by_hour = hour is not None and self.least_hour <= hour and self.arrived[-1] >= by_hour_from_s
            if not by_hour and self.least_arrived > early_s:
                return
            if not is_least_known:
                # What it was of may have been forgotten since.
                self.find_least()
        first_arrived = self.first_arrived or self.arrived
        found = set[int]()
        if by_hour and hour is not None:
            found.update(p for p, expiry in enumerate(self.expiry) if expiry <= hour)
        if self.least_arrived <= early_s:
            found.update(p for p, arrived_s in enumerate(first_arrived) if arrived_s <= early_s)
        for p in sorted(found):
            state, arrived_s = self.state[p], first_arrived[p]
            if state == HELD or state in LEFT:
                over = by_hour and hour is not None and self.expiry[p] <= hour and arrived_s >= by_hour_from_s
                drop = state == HELD and (over or arrived_s <= drop_before_s)
                forget = over or arrived_s <= forget_before_s
                if drop or forget:
                    yield self.seq(p), drop, forget

    def tagged(self, tags: Sequence[bytes]) -> list[int]:
        """Return the positions of entries with any of these tags: of one at the speed of a memory search."""
        if len(tags) > 1:
            # The later half of a tag is a number that nobody has to make bytes of.
            with memoryview(self.tags) as view, view.cast("Q") as words:
                if {memoryview(tag).cast("Q")[1] for tag in tags}.isdisjoint(words[1::2].tolist()):
                    return []
            wanted = frozenset(tags)
            return [p for p in range(len(self.state)) if self.tag(p) in wanted]
        [tag] = tags
        positions = []
        at = self.tags.find(tag)
        while at >= 0:
            position, misaligned = divmod(at, TAG_BYTES)
            if not misaligned:
                positions.append(position)
            at = self.tags.find(tag, at + 1)
        return positions


def squeezed(blocks: Iterable[Block]) -> Block:
    """Return one block with what is known of some that follow each other."""
    blocks = list(blocks)
    new = Block(blocks[0].first_seq)
    new.seqs = array("Q")
    if any(block.first_arrived for block in blocks):
        new.first_arrived = array("d")
    for block in blocks:
        known = block.state.translate(_IS_KNOWN)
        for name, width in (("ids", ID_BYTES), ("tags", TAG_BYTES)):
            column = getattr(block, name)
            cells = [column[at : at + width] for at in range(0, len(column), width)]
            getattr(new, name).extend(b"".join(compress(cells, known)))
        new.seqs.extend(compress(block.numbers(), known))
        new.expiry.extend(compress(block.expiry, known))
        new.price.extend(compress(block.price, known))
        new.arrived.extend(compress(block.arrived, known))
        if new.first_arrived is not None:
            new.first_arrived.extend(compress(block.first_arrived or block.arrived, known))
        for name in ("kind", "interface", "state", "checked", "taken"):
            getattr(new, name).extend(compress(getattr(block, name), known))
    new.tally()
    new.shrink()
    return new


class _Frozen(NamedTuple):
    block: Block
    rows: int
    #: States as they were, where some were forgotten.
    state: bytes | None


class Snapshot:
    """What was admitted and committed at a moment, for a reconciliation: it stays as it was while the log goes on.

    Of the columns nothing is copied but the states, as no row of a block ever changes otherwise.
    """

    def __init__(self, blocks: Iterable[Block], committed_seq: int) -> None:
        self._parts = [
            _Frozen(block, rows, bytes(block.state[:rows]) if block.forgotten else None)
            for block in blocks
            if (rows := block.lower(committed_seq + 1))
        ]
        self._rows = sum(part.rows for part in self._parts)

    def __len__(self) -> int:
        return self._rows

    def parts(self) -> Iterator[AdmittedColumns]:
        """Yield copies of the columns, a block at a time; what was forgotten is of no class."""
        for block, rows, state in self._parts:
            classes = block.kind[:rows].translate(CLASS_OF_KIND)
            if state is not None:
                none = int.from_bytes(state.translate(_NONE_IF_FORGOTTEN))
                classes = bytearray((int.from_bytes(classes) | none).to_bytes(rows))
            yield AdmittedColumns(
                ids=bytes(memoryview(block.ids)[: ID_BYTES * rows]),
                expiry_hour=block.expiry[:rows],
                size_class=array("B", classes),
                price=block.price[:rows],
                seq=block.numbers(0, rows),
            )
