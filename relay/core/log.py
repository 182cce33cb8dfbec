# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay has admitted, in order of arrival, in memory.

Columns of plain arrays, about 86 bytes an entry beside the dictionary of
identities (about 190): 100,000 entries take 28 MB. No index lives on the card:
random keys would multiply the bytes written there.

An entry is PENDING until its commit, then HELD; when its body leaves it is GONE,
so that it is not taken again, or DISPLACED, and at last forgotten.
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, islice
from typing import TYPE_CHECKING, Final

from relay.core.envelope import (
    BUCKET_BITS,
    HEADER,
    HEADER_BYTES,
    ID_BYTES,
    SIZES,
    TAG_BYTES,
    EnvelopeType,
    Header,
    decode_header,
    price_paid,
)
from relay.core.ranks import Ranks
from relay.core.reconcile_set import AdmittedColumns

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


_PENDING: Final = int(EntryState.PENDING)
_HELD: Final = int(EntryState.HELD)
_GONE: Final = int(EntryState.GONE)
_FORGOTTEN: Final = int(EntryState.FORGOTTEN)
_DISPLACED: Final = int(EntryState.DISPLACED)
#: Without a body: it has left.
_LEFT: Final = frozenset({_GONE, _DISPLACED})
_PURGE_FLAG: Final = 0x80
_CLASS_MASK: Final = 0x0F
_CLASS_OF_KIND: Final = bytes(kind & _CLASS_MASK for kind in range(256))
_IS_HELD: Final = bytes(state == _HELD for state in range(256))
_IS_ZERO: Final = bytes(taken == 0 for taken in range(256))
#: Forgotten entries are squeezed out when they are this many and half of all.
COMPACT_AT_LEAST: Final = 4096


@lru_cache(1 << BUCKET_BITS + 1)
def _first_bytes(prefix_bits: int, prefix: int) -> bytes:
    """Return 1 for each first byte of a tag that lies under the prefix."""
    return bytes(byte >> 8 - prefix_bits == prefix for byte in range(256))


@lru_cache(1 << len(SIZES))
def _kinds(classes: int) -> bytes:
    """Return 1 for each kind of these classes."""
    return bytes(classes >> (kind & _CLASS_MASK) & 1 for kind in range(256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Sequence numbers whose bodies leave, and those to be forgotten; the former may be among the latter."""

    drop: list[int]
    forget: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One admitted envelope. ``arrived_s`` is residence time (relay.core.clock), when it came last."""

    seq: int
    identity: bytes
    header: Header
    price: int
    interface: int
    arrived_s: float
    state: EntryState

    @property
    def size_bytes(self) -> int:
        """Length of the envelope."""
        return SIZES[self.header.size_class]


class AdmittedLog:
    """All admitted envelopes, by sequence number and by identity."""

    def __init__(self) -> None:
        self._seq = array("Q")
        self._ids = bytearray()
        self._tags = bytearray()
        self._expiry = array("I")
        self._kind = bytearray()
        self._price = array("b")
        self._interface = bytearray()
        self._arrived = array("d")
        self._state = bytearray()
        #: In which of some periods the body was found to be what it should be; 0 for none.
        self._checked = bytearray()
        #: Whether anybody took it since the start of this process: its operator sees the age of the oldest left.
        self._taken = bytearray()
        self._by_id: dict[bytes, int] = {}
        #: When what was displaced and came again arrived first: its time counts from then.
        self._first_arrived: dict[int, float] = {}
        #: Up to here entries were loaded: of those that came again it is not known when.
        self._loaded_seq = 0
        #: Tag to the expiry hours of its purges, ascending: the latest is at the end, and one of many leaves
        #: without a walk.
        self._purges: dict[bytes, array[int]] = {}
        self._forgotten = 0
        #: Changes with the set of committed identities.
        self.version = 0
        #: Counts bodies that left, so that others see whether any did.
        self.departures = 0
        self.next_seq = 1
        #: Everything below is committed: what cursors may see.
        self.committed_seq = 0
        #: Held and pending envelopes by size class, in all and per interface.
        self.held = [0] * len(SIZES)
        #: Of these, those that are not committed yet.
        self.pending = [0] * len(SIZES)
        self.held_by_interface: dict[int, list[int]] = {}
        #: Held and pending entries by expiry hour, per interface.
        self.hours: dict[int, dict[int, int]] = {}
        #: What each interface holds, in the order in which it would have to leave.
        self.ranks: dict[int, Ranks] = {}
        #: Changes whenever an envelope comes or leaves.
        self.balance = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._by_id

    # -- changes ----------------------------------------------------------

    def append(
        self,
        *,
        identity: bytes,
        header: Header,
        interface: int,
        arrived_s: float,
        state: EntryState,
        seq: int = 0,
        first_arrived_s: float | None = None,
    ) -> int:
        """Add an entry and return its sequence number (drawn here unless loaded).

        ``first_arrived_s``: of one that was here before, and was displaced.
        """
        seq = seq or self.next_seq
        if first_arrived_s is not None:
            self._first_arrived[seq] = first_arrived_s
        self.next_seq = seq + 1
        purge = header.type is EnvelopeType.PURGE
        self._seq.append(seq)
        self._ids += identity
        self._tags += header.tag
        self._expiry.append(header.expiry_hour)
        self._kind.append(header.size_class | (_PURGE_FLAG if purge else 0))
        self._price.append(price_paid(identity, header.size_class))
        self._interface.append(interface)
        self._arrived.append(arrived_s)
        self._state.append(state)
        self._checked.append(0)
        self._taken.append(0)
        self._by_id[identity] = seq
        self.pending[header.size_class] += state == _PENDING
        if state not in _LEFT:
            self._account(interface, header.expiry_hour, header.size_class, 1)
            if purge:
                insort(self._purges.setdefault(header.tag, array("I")), header.expiry_hour)
            if state == _HELD:
                self._rank(len(self._seq) - 1)
        return seq

    def _rank(self, position: int) -> None:
        """From now on the entry may have to leave for others."""
        interface = self._interface[position]
        ranks = self.ranks.get(interface)
        if ranks is None:
            ranks = self.ranks[interface] = Ranks()
        ranks.add(self._price[position], self._expiry[position], self._seq[position])

    def reload(self, rows: Iterable[tuple[int, bytes, bytes, int, int, bool, bool]]) -> None:
        """Forget everything and :meth:`load`; sequence numbers are not used again.

        Nothing changes when ``rows`` raises.
        """
        fresh = AdmittedLog()
        fresh.load(rows)
        fresh.reserve(self.next_seq - 1)
        fresh.version = self.version + 1
        fresh.departures = self.departures + 1
        self.__dict__.update(fresh.__dict__)

    def load(self, rows: Iterable[tuple[int, bytes, bytes, int, int, bool, bool]]) -> None:
        """Take what the store holds: (seq, id, header, interface, first arrived_s, has_body, displaced).

        What arrived before the row above it came again since, some time after that one.
        """
        latest_s = 0.0
        for seq, identity, header, interface, arrived_s, has_body, displaced in rows:
            latest_s = max(latest_s, arrived_s)
            self.append(
                seq=seq,
                identity=identity,
                header=decode_header(header),
                interface=interface,
                arrived_s=latest_s,
                state=EntryState.HELD if has_body else EntryState.DISPLACED if displaced else EntryState.GONE,
                first_arrived_s=arrived_s if arrived_s < latest_s else None,
            )
        self.committed_seq = self._loaded_seq = self.next_seq - 1

    def reserve(self, last_seq: int) -> None:
        """Do not use sequence numbers up to ``last_seq`` again."""
        self.next_seq = max(self.next_seq, last_seq + 1)
        self.committed_seq = self.next_seq - 1

    def _account(self, interface: int, expiry_hour: int, size_class: int, sign: int) -> None:
        self.balance += 1
        self.held[size_class] += sign
        held = self.held_by_interface.get(interface)
        if held is None:
            held = self.held_by_interface[interface] = [0] * len(SIZES)
            self.hours[interface] = {}
        held[size_class] += sign
        hours = self.hours[interface]
        count = hours.get(expiry_hour, 0) + sign
        if count:
            hours[expiry_hour] = count
        else:
            del hours[expiry_hour]

    def _forget_purge(self, tag: bytes, expiry_hour: int) -> None:
        hours = self._purges[tag]
        del hours[bisect_right(hours, expiry_hour) - 1]
        if not hours:
            del self._purges[tag]

    def commit(self, first_seq: int, last_seq: int) -> None:
        """Turn the PENDING entries of a committed batch into HELD ones."""
        for position in range(self._position(first_seq), self._position(last_seq + 1)):
            if self._state[position] == _PENDING:
                self._state[position] = _HELD
                self.pending[self._kind[position] & _CLASS_MASK] -= 1
                self._rank(position)
        self.committed_seq = max(self.committed_seq, last_seq)
        self.version += 1

    def drop_body(self, seq: int) -> None:
        """The body left the store: remember the identity only."""
        position = self._position(seq)
        self._leave(position)
        self._state[position] = _GONE

    def displace(self, seq: int) -> None:
        """The body left the store to make room for others."""
        self.drop_body(seq)
        self._state[self._position(seq)] = _DISPLACED

    def forget(self, seq: int) -> None:
        """The identity may be admitted again."""
        position = self._position(seq)
        if self._state[position] not in _LEFT:
            self._leave(position)
        self._first_arrived.pop(seq, None)
        self._state[position] = _FORGOTTEN
        self._forgotten += 1
        self.version += 1
        del self._by_id[self._id(position)]
        if self._forgotten >= COMPACT_AT_LEAST and self._forgotten * 2 > len(self._seq):
            self._compact()

    def _leave(self, position: int) -> None:
        self.departures += 1
        kind = self._kind[position]
        interface, expiry_hour = self._interface[position], self._expiry[position]
        self._account(interface, expiry_hour, kind & _CLASS_MASK, -1)
        if self._state[position] == _HELD:
            self.ranks[interface].remove(self._price[position], expiry_hour, self._seq[position])
        elif self._state[position] == _PENDING:
            self.pending[kind & _CLASS_MASK] -= 1
        if kind & _PURGE_FLAG:
            self._forget_purge(self._tag(position), expiry_hour)

    def _compact(self) -> None:
        keep = [position for position, state in enumerate(self._state) if state != _FORGOTTEN]
        self._ids = bytearray().join(self._ids[ID_BYTES * p : ID_BYTES * (p + 1)] for p in keep)
        self._tags = bytearray().join(self._tags[TAG_BYTES * p : TAG_BYTES * (p + 1)] for p in keep)
        self._seq = array("Q", [self._seq[p] for p in keep])
        self._expiry = array("I", [self._expiry[p] for p in keep])
        self._price = array("b", [self._price[p] for p in keep])
        self._arrived = array("d", [self._arrived[p] for p in keep])
        self._kind = bytearray(self._kind[p] for p in keep)
        self._interface = bytearray(self._interface[p] for p in keep)
        self._state = bytearray(self._state[p] for p in keep)
        self._checked = bytearray(self._checked[p] for p in keep)
        self._taken = bytearray(self._taken[p] for p in keep)
        self._forgotten = 0

    # -- questions --------------------------------------------------------

    @property
    def held_count(self) -> int:
        """Envelopes held or about to be."""
        return sum(self.held)

    @property
    def held_bytes(self) -> int:
        """Bytes of the envelopes held or about to be."""
        return sum(count * size for count, size in zip(self.held, SIZES, strict=True))

    @property
    def committed_count(self) -> int:
        """Envelopes held, of those that are committed."""
        return self.held_count - sum(self.pending)

    @property
    def committed_bytes(self) -> int:
        """Bytes of the envelopes held that are committed."""
        return self.held_bytes - sum(count * size for count, size in zip(self.pending, SIZES, strict=True))

    def oldest_held_arrived_s(self) -> float | None:
        """Return the residence time at which the oldest of what is held arrived, None if nothing is."""
        position = self._state.find(_HELD)
        return None if position < 0 else self._arrived[position]

    def oldest_untaken_arrived_s(self) -> float | None:
        """Return when the oldest of what is held arrived that nobody took since the start, None if there is none."""
        held = int.from_bytes(self._state.translate(_IS_HELD)) & int.from_bytes(self._taken.translate(_IS_ZERO))
        position = held.to_bytes(len(self._state)).find(1)
        return None if position < 0 else self._arrived[position]

    def note_taken(self, seqs: Sequence[int]) -> None:
        """Remember that somebody took these."""
        positions = self._positions(seqs)
        if isinstance(positions, range):
            self._taken[positions.start : positions.stop] = b"\1" * len(positions)
            return
        for position in positions:
            self._taken[position] = 1

    def _position(self, seq: int) -> int:
        return bisect_left(self._seq, seq)

    def _id(self, position: int) -> bytes:
        return bytes(self._ids[ID_BYTES * position : ID_BYTES * (position + 1)])

    def _tag(self, position: int) -> bytes:
        return bytes(self._tags[TAG_BYTES * position : TAG_BYTES * (position + 1)])

    def _entry(self, position: int) -> Entry:
        kind = self._kind[position]
        return Entry(
            seq=self._seq[position],
            identity=self._id(position),
            header=Header(
                type=EnvelopeType.PURGE if kind & _PURGE_FLAG else EnvelopeType.MESSAGE,
                size_class=kind & _CLASS_MASK,
                expiry_hour=self._expiry[position],
                tag=self._tag(position),
            ),
            price=self._price[position],
            interface=self._interface[position],
            arrived_s=self._arrived[position],
            state=EntryState(self._state[position]),
        )

    def entry(self, seq: int) -> Entry | None:
        """Return the entry of a sequence number unless it is forgotten."""
        position = self._position(seq)
        if position == len(self._seq) or self._seq[position] != seq or self._state[position] == _FORGOTTEN:
            return None
        return self._entry(position)

    def find(self, identity: bytes) -> Entry | None:
        """Return the entry of an identity."""
        seq = self._by_id.get(identity)
        return None if seq is None else self.entry(seq)

    def held_seq(self, identity: bytes) -> int | None:
        """Return the sequence number of an identity whose body is committed and here."""
        seq = self._by_id.get(identity)
        return seq if seq is not None and self.is_held(seq) else None

    def size_class(self, identity: bytes) -> int:
        """Return the size class of an identity, the smallest if it is not known."""
        seq = self._by_id.get(identity)
        return 0 if seq is None else self._kind[self._position(seq)] & _CLASS_MASK

    def is_held(self, seq: int) -> bool:
        """Tell whether the body of ``seq`` is committed and here."""
        return self.held_identity(seq) is not None

    def largest_bytes(self, first_seq: int, last_seq: int) -> int:
        """Return the length of the largest envelope between two known sequence numbers, both included."""
        kinds = self._kind[self._position(first_seq) : self._position(last_seq) + 1]
        return SIZES[max(kinds.translate(_CLASS_OF_KIND))]

    def held_identity(self, seq: int) -> bytes | None:
        """Return the identity of ``seq`` if its body is committed and here."""
        position = self._position(seq)
        if position == len(self._seq) or self._seq[position] != seq or self._state[position] != _HELD:
            return None
        return self._id(position)

    def _positions(self, seqs: Sequence[int]) -> range | list[int]:
        # What arrived together is usually asked for together.
        first, last = self._position(seqs[0]), self._position(seqs[-1])
        if last - first + 1 == len(seqs) and self._seq[first : last + 1].tolist() == seqs:
            return range(first, last + 1)
        return [self._position(seq) for seq in seqs]

    def identities(self, seqs: Sequence[int]) -> list[bytes]:
        """Return the identities of known sequence numbers."""
        return [self._id(position) for position in self._positions(seqs)]

    def are_headers_of(self, seqs: Sequence[int], envelopes: Sequence[bytes]) -> bool:
        """Tell whether what is known of these is what their envelopes say: headers are stored beside them."""
        positions = self._positions(seqs)
        known = [(self._expiry[p], self._kind[p], self._tag(p)) for p in positions]
        said = map(HEADER.unpack_from, envelopes)
        return known == [
            (expiry, size_class | (_PURGE_FLAG if kind else 0), tag) for _, kind, size_class, _, expiry, tag in said
        ]

    def were_checked(self, seqs: Sequence[int], period: int) -> bool:
        """Tell whether the bodies of all these were found sound in a period."""
        positions = self._positions(seqs)
        if isinstance(positions, range):
            return self._checked.count(period, positions.start, positions.stop) == len(seqs)
        return all(self._checked[position] == period for position in positions)

    def note_checked(self, seqs: Sequence[int], period: int) -> None:
        """Remember that the bodies of these were found sound in a period."""
        for position in self._positions(seqs):
            self._checked[position] = period

    def terms(self, seq: int) -> tuple[int, int, int]:
        """Return size class, expiry hour and price of a known ``seq``."""
        position = self._position(seq)
        return self._kind[position] & _CLASS_MASK, self._expiry[position], self._price[position]

    def arrived_s(self, seq: int) -> float:
        """Return the residence time at which a known ``seq`` arrived."""
        return self._arrived[self._position(seq)]

    def first_arrived_s(self, seq: int) -> float:
        """Return the residence time at which a known ``seq`` arrived first, had it been displaced in between."""
        return self._first_arrived.get(seq, self._arrived[self._position(seq)])

    def displaced_below(self, seq: int) -> Iterator[int]:
        """Yield what was displaced, the latest first, from below a sequence number on."""
        position = self._position(seq)
        while (position := self._state.rfind(_DISPLACED, 0, position)) >= 0:
            yield self._seq[position]

    def seq_arrived_since(self, arrived_s: float) -> int:
        """Return the sequence number from which entries arrived at or after ``arrived_s``."""
        position = bisect_left(self._arrived, arrived_s)
        before = self._seq[position - 1] if position else 0
        if 0 < before <= self._loaded_seq and before in self._first_arrived:
            # It came again later than is known, and so did all of the same time.
            position = bisect_left(self._arrived, self._arrived[position - 1])
        return self._seq[position] if position < len(self._seq) else self.next_seq

    def held_in_prefix(
        self, *, first_seq: int, last_seq: int, prefix_bits: int, prefix: int, after_hour: int, classes: int
    ) -> array[int]:
        """Return the held ones under a prefix between two sequence numbers, both included, in order of arrival.

        ``classes`` has a bit for each size class that is wanted. Those that expire at ``after_hour`` or before
        are left out.
        """
        start = self._position(first_seq)
        stop = max(start, self._position(last_seq + 1))
        # Masks of whole columns, because this walk is most of what a subscription costs.
        first_bytes = self._tags[TAG_BYTES * start : TAG_BYTES * stop : TAG_BYTES]
        mask = (
            int.from_bytes(first_bytes.translate(_first_bytes(prefix_bits, prefix)))
            & int.from_bytes(self._kind[start:stop].translate(_kinds(classes)))
            & int.from_bytes(self._state[start:stop].translate(_IS_HELD))
        ).to_bytes(stop - start)
        expiry, seq = self._expiry, self._seq
        return array("Q", [seq[p] for p in compress(range(start, stop), mask) if expiry[p] > after_hour])

    def seq_off(self, seq: int, entries: int) -> int:
        """Return the sequence number so many entries after ``seq``, or before it if negative: 1 to ``next_seq``."""
        position = self._position(seq) + entries
        if position < 0:
            return 1
        return self._seq[position] if position < len(self._seq) else self.next_seq

    def entries(self, *states: EntryState) -> Iterator[Entry]:
        """Yield the entries in any of ``states``, oldest first."""
        wanted = bytes(states)
        for position, state in enumerate(self._state):
            if state in wanted:
                yield self._entry(position)

    def due(self, *, hour: int | None, by_hour_from_s: float, drop_before_s: float, forget_before_s: float) -> Due:
        """Return what has to leave.

        By the trusted wall ``hour``, for what arrived from ``by_hour_from_s`` on;
        by residence, for bodies that arrived before ``drop_before_s`` and
        identities that arrived before ``forget_before_s``.
        """
        due = Due(drop=[], forget=[])
        expiry, state, first_arrived = self._expiry, self._state, self._first_arrived
        for p, seq in enumerate(self._seq):
            if state[p] != _HELD and state[p] not in _LEFT:
                continue
            arrived_s = self._arrived[p] if seq not in first_arrived else first_arrived[seq]
            over = hour is not None and expiry[p] <= hour and arrived_s >= by_hour_from_s
            if state[p] == _HELD and (over or arrived_s <= drop_before_s):
                due.drop.append(seq)
            if over or arrived_s <= forget_before_s:
                due.forget.append(seq)
        return due

    def oldest_gone(self, count: int) -> list[int]:
        """Return up to ``count`` identities whose body has left, oldest first."""
        found = (self._seq[p] for p, state in enumerate(self._state) if state in _LEFT)
        return list(islice(found, count))

    def by_rank(self, interface: int) -> Iterator[tuple[int, int]]:
        """Yield (price, seq) of what ``interface`` holds, in the order in which it would have to leave."""
        return iter(self.ranks.get(interface, ()))

    def purged(self, header: Header) -> bool:
        """Tell whether a purge envelope that is here removes this one."""
        hours = self._purges.get(header.tag)
        return hours is not None and header.type is not EnvelopeType.PURGE and header.expiry_hour <= hours[-1]

    def purged_by(self, purges: dict[bytes, int]) -> list[int]:
        """Return held messages that purges (tag to expiry hour) remove, in one pass.

        A lone purge is found at the speed of a memory search, a batch by one
        walk over the tags, so a flood of purges costs one pass for each commit.
        """
        if len(purges) == 1:
            [(tag, _)] = purges.items()
            positions = self._positions_of_tag(tag)
        else:
            tags = bytes(self._tags)
            positions = [p for p in range(len(self._seq)) if tags[TAG_BYTES * p : TAG_BYTES * (p + 1)] in purges]
        return [
            self._seq[p]
            for p in positions
            if self._state[p] in (_HELD, _PENDING)
            and not self._kind[p] & _PURGE_FLAG
            and self._expiry[p] <= purges[self._tag(p)]
        ]

    def _positions_of_tag(self, tag: bytes) -> list[int]:
        positions = []
        at = self._tags.find(tag)
        while at >= 0:
            position, misaligned = divmod(at, TAG_BYTES)
            if not misaligned:
                positions.append(position)
            at = self._tags.find(tag, at + 1)
        return positions

    def columns(self) -> AdmittedColumns:
        """Return a snapshot of everything admitted and committed, for a reconciliation."""
        stop = self._position(self.committed_seq + 1)
        live = [p for p in range(stop) if self._state[p] != _FORGOTTEN] if self._forgotten else None
        if live is None:
            return AdmittedColumns(
                ids=bytes(memoryview(self._ids)[: ID_BYTES * stop]),
                expiry_hour=self._expiry[:stop],
                size_class=array("B", bytes(kind & _CLASS_MASK for kind in self._kind[:stop])),
                price=self._price[:stop],
                seq=self._seq[:stop],
            )
        return AdmittedColumns(
            ids=b"".join(self._id(p) for p in live),
            expiry_hour=array("I", [self._expiry[p] for p in live]),
            size_class=array("B", [self._kind[p] & _CLASS_MASK for p in live]),
            price=array("b", [self._price[p] for p in live]),
            seq=array("Q", [self._seq[p] for p in live]),
        )


if HEADER_BYTES != 8 + TAG_BYTES:  # pragma: no cover - the columns above are cut by it
    raise AssertionError
