# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay has admitted, in order of arrival, in memory.

Columns in blocks (block.py), a table of identities (identities.py) and the order in which
envelopes would have to leave (ranks.py): about 90 bytes an entry. No
index lives on the card: random keys would multiply the bytes written there.

An entry is PENDING until its commit, then HELD; when its body leaves it is GONE,
so that it is not taken again, or DISPLACED, and at last forgotten.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass
from itertools import chain, compress, islice, repeat
from typing import TYPE_CHECKING, Final

from relay.core import block as blocks
from relay.core.block import (
    CLASS_MASK,
    CLASS_OF_KIND,
    DISPLACED,
    FORGOTTEN,
    HELD,
    LEFT,
    PENDING,
    PURGE_FLAG,
    Block,
    EntryState,
    Snapshot,
    squeezed,
)
from relay.core.envelope import (
    HEADER,
    ID_BYTES,
    SIZES,
    EnvelopeType,
    Header,
)
from relay.core.identities import Identities
from relay.core.loaded import AdmittedRow, loaded_block
from relay.core.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from relay.core.block import Row
    from relay.core.envelope import Messages

#: Entries that are moved into the columns at once, at most.
FRESH_ENTRIES: Final = 256

__all__ = ["AdmittedLog", "Due", "Entry", "EntryState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Sequence numbers whose bodies leave, and those to be forgotten; the former may be among the latter.

    ``is_all``: whether that is all there is.
    """

    drop: list[int]
    forget: list[int]
    is_all: bool


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
        #: Those that came last, on their way into the last block and among the identities: many at once cost half.
        self._fresh: list[Row] = []
        self._fresh_seqs: dict[bytes, int] = {}
        #: In order; the last one grows. None is without an entry. Read through :attr:`_blocks`.
        self._settled: list[Block] = []
        #: Of each block its first sequence number, and when its first entry arrived.
        self._starts = array("Q")
        self._arrivals = array("d")
        self._by_id = Identities(self._identity)
        #: Up to here entries were loaded: of those that came again it is not known when.
        self._loaded_seq = 0
        #: Tag to the expiry hour of its purge, and to all of them, ascending, where it has several: the latest is
        #: at the end, and one of many leaves without a walk. A store may be full of them, each with a tag of its own.
        self._purges: dict[bytes, int | array[int]] = {}
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
        return len(self._by_id) + len(self._fresh)

    def __contains__(self, identity: bytes) -> bool:
        return self._seq(identity) > 0

    # -- changes ----------------------------------------------------------

    def append(
        self,
        identity: bytes,
        header: Header,
        price: int,
        interface: int,
        arrived_s: float,
        state: EntryState,
        first_arrived_s: float | None = None,
    ) -> int:
        """Add an entry, PENDING or GONE, and return its sequence number.

        ``first_arrived_s``: of one that was here before, and was displaced.
        """
        seq = self.next_seq
        self.next_seq = seq + 1
        is_purge, size_class, expiry_hour, tag = header
        kind = size_class | PURGE_FLAG if is_purge else size_class
        first_s = arrived_s if first_arrived_s is None else first_arrived_s
        fresh = self._fresh
        fresh.append((seq, identity, tag, expiry_hour, kind, price, interface, arrived_s, first_s, state))
        self._fresh_seqs[identity] = seq
        if state == PENDING:
            self.pending[size_class] += 1
            self._account(interface, expiry_hour, size_class, 1)
            if is_purge:
                self._note_purge(tag, expiry_hour)
        if len(fresh) >= FRESH_ENTRIES:
            self._settle()
        return seq

    def append_messages(
        self, identities: Sequence[bytes], messages: Messages, prices: Sequence[int], interface: int, arrived_s: float
    ) -> int:
        """Add PENDING entries of an interface that is known here; return the first's sequence number."""
        first_seq = self.next_seq
        self.next_seq += len(identities)
        seqs = range(first_seq, self.next_seq)
        classes, hours, tags = messages
        same = repeat(interface), repeat(arrived_s), repeat(arrived_s), repeat(PENDING)
        self._fresh.extend(zip(seqs, identities, tags, hours, classes, prices, *same, strict=False))
        self._fresh_seqs.update(zip(identities, seqs, strict=True))
        held, held_there, in_hours = self.held, self.held_by_interface[interface], self.hours[interface]
        for size_class in set(classes):
            count = classes.count(size_class)
            held[size_class] += count
            held_there[size_class] += count
            self.pending[size_class] += count
        for hour in hours:
            in_hours[hour] = in_hours.get(hour, 0) + 1
        self.balance += len(identities)
        if len(self._fresh) >= FRESH_ENTRIES:
            self._settle()
        return first_seq

    @property
    def _blocks(self) -> list[Block]:
        """All blocks, with all that was appended."""
        if self._fresh:
            self._settle()
        return self._settled

    def _settle(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._by_id.add_all(self._fresh_seqs.items())
        self._fresh_seqs = {}
        while fresh:
            if not self._settled or len(self._settled[-1]) >= blocks.BLOCK_ENTRIES:
                seq, *_, arrived_s, _, _ = fresh[0]
                self._begin_block(Block(seq), arrived_s)
            room = blocks.BLOCK_ENTRIES - len(self._settled[-1])
            self._settled[-1].extend(fresh[:room])
            fresh = fresh[room:]

    def _begin_block(self, block: Block, arrived_s: float) -> None:
        if self._settled:
            self._settled[-1].shrink()
        self._settled.append(block)
        self._starts.append(block.first_seq)
        self._arrivals.append(arrived_s)

    def _rank(self, interface: int, block: Block, some: slice, mine: bytes | bytearray) -> None:
        """From now on those of ``some`` that ``mine`` has a 1 for, of one interface, may have to leave for others."""
        hours = list(compress(block.expiry[some], mine))
        numbers = list(compress(block.numbers(some.start, some.stop), mine))
        self._ranks(interface).add_all(compress(block.price[some], mine), hours, numbers)

    def _ranks(self, interface: int) -> Ranks:
        ranks = self.ranks.get(interface)
        if ranks is None:
            ranks = self.ranks[interface] = Ranks()
        return ranks

    def reload(self, rows: Iterable[AdmittedRow]) -> None:
        """Forget everything and :meth:`load`; sequence numbers are not used again.

        Nothing changes when ``rows`` raises.
        """
        fresh = AdmittedLog()
        fresh.load(rows)
        fresh.reserve(self.next_seq - 1)
        fresh.version = self.version + 1
        fresh.departures = self.departures + 1
        self.__dict__.update(fresh.__dict__)
        self._by_id.identity_of = self._identity

    def load(self, rows: Iterable[AdmittedRow]) -> None:
        """Take what the store holds: (seq, id, header, interface, first arrived_s, has_body, displaced).

        What arrived before the row above it came again since, some time after that one.
        """
        rows = iter(rows)
        latest_s = 0.0
        while some := list(islice(rows, blocks.BLOCK_ENTRIES)):
            block = loaded_block(some, latest_s)
            latest_s = block.arrived[-1]
            self._begin_block(block, block.arrived[0])
            self.next_seq = block.seq(len(block) - 1) + 1
            self._account_block(block)
        self._by_id = self._index()
        self.committed_seq = self._loaded_seq = self.next_seq - 1

    def _index(self) -> Identities:
        index = Identities(self._identity)
        index.fill((block.ids, block.numbers()) for block in self._blocks)
        return index

    def _account_block(self, block: Block) -> None:
        """Count what a block that was loaded holds."""
        all_of_it = slice(0, len(block))
        for number, mine in block.by_interface(all_of_it, block.state.translate(blocks.IS_HELD)):
            self._rank(number, block, all_of_it, mine)
            kinds = zip(compress(block.expiry, mine), compress(block.kind, mine), strict=True)
            for (hour, kind), count in Counter(kinds).items():
                self._account(number, hour, kind & CLASS_MASK, count)
        if max(block.kind) >= PURGE_FLAG:
            for position, (kind, state) in enumerate(zip(block.kind, block.state, strict=True)):
                if kind & PURGE_FLAG and state == HELD:
                    self._note_purge(block.tag(position), block.expiry[position])

    def reserve(self, last_seq: int) -> None:
        """Do not use sequence numbers up to ``last_seq`` again."""
        self.next_seq = max(self.next_seq, last_seq + 1)
        self.committed_seq = self.next_seq - 1

    def _account(self, interface: int, expiry_hour: int, size_class: int, change: int) -> None:
        self.balance += 1
        self.held[size_class] += change
        held = self.held_by_interface.get(interface)
        if held is None:
            held = self.held_by_interface[interface] = [0] * len(SIZES)
            self.hours[interface] = {}
        held[size_class] += change
        hours = self.hours[interface]
        count = hours.get(expiry_hour, 0) + change
        if count:
            hours[expiry_hour] = count
        else:
            del hours[expiry_hour]

    def _note_purge(self, tag: bytes, expiry_hour: int) -> None:
        hours = self._purges.get(tag)
        if hours is None:
            self._purges[tag] = expiry_hour
        elif isinstance(hours, int):
            self._purges[tag] = array("I", sorted((hours, expiry_hour)))
        else:
            insort(hours, expiry_hour)

    def _forget_purge(self, tag: bytes, expiry_hour: int) -> None:
        hours = self._purges[tag]
        if isinstance(hours, int):
            del self._purges[tag]
            return
        del hours[bisect_right(hours, expiry_hour) - 1]
        if len(hours) == 1:
            self._purges[tag] = hours[0]

    def commit(self, first_seq: int, last_seq: int) -> None:
        """Turn the PENDING entries of a committed batch into HELD ones."""
        for block, positions in self._between(first_seq, last_seq):
            some = slice(positions.start, positions.stop)
            committed = block.commit(some)
            for kind in compress(block.kind[some], committed):
                self.pending[kind & CLASS_MASK] -= 1
            for number, mine in block.by_interface(some, committed):
                self._rank(number, block, some, mine)
        self.committed_seq = max(self.committed_seq, last_seq)
        self.version += 1

    def drop_body(self, seq: int) -> None:
        """The body left the store: remember the identity only."""
        self._leave(*self._known(seq), EntryState.GONE)

    def displace(self, seq: int) -> None:
        """The body left the store to make room for others."""
        self._leave(*self._known(seq), EntryState.DISPLACED)

    def forget(self, seq: int) -> None:
        """The identity may be admitted again."""
        number = self._block_number(seq)
        block = self._blocks[number]
        position = block.lower(seq)
        if block.state[position] in LEFT:
            block.set_state(position, FORGOTTEN)
        else:
            self._leave(block, position, EntryState.FORGOTTEN)
        self.version += 1
        self._by_id.remove(block.identity(position), seq)
        if block.forgotten * 2 > len(block):
            self._squeeze(number)

    def _leave(self, block: Block, position: int, state: EntryState) -> None:
        self.departures += 1
        before, kind = block.state[position], block.kind[position]
        interface, expiry_hour = block.interface[position], block.expiry[position]
        self._account(interface, expiry_hour, kind & CLASS_MASK, -1)
        if before == HELD:
            self.ranks[interface].remove(block.price[position], expiry_hour, block.seq(position))
        elif before == PENDING:
            self.pending[kind & CLASS_MASK] -= 1
        if kind & PURGE_FLAG:
            self._forget_purge(block.tag(position), expiry_hour)
        block.set_state(position, state)

    def _squeeze(self, number: int) -> None:
        """Keep of a block what is known, together with those beside it that are small as well."""
        if number == len(self._blocks) - 1 and len(self._blocks[number]) < blocks.BLOCK_ENTRIES:
            return  # it grows
        first, end = number, number + 1
        for neighbour in (number - 1, number + 1):
            if 0 <= neighbour < len(self._blocks) - 1:
                wider = min(first, neighbour), max(end, neighbour + 1)
                if sum(each.known for each in self._blocks[slice(*wider)]) <= blocks.BLOCK_ENTRIES // 2:
                    first, end = wider
        block = squeezed(self._blocks[first:end])
        del self._blocks[first:end], self._starts[first:end], self._arrivals[first:end]
        if len(block):
            self._blocks.insert(first, block)
            self._starts.insert(first, block.first_seq)
            self._arrivals.insert(first, block.arrived[0])

    # -- places -----------------------------------------------------------

    def _block_number(self, seq: int) -> int:
        self._settle()
        return max(bisect_right(self._starts, seq) - 1, 0)

    def _known(self, seq: int) -> tuple[Block, int]:
        """Return block and position of a known sequence number."""
        block = self._blocks[bisect_right(self._starts, seq) - 1]
        return block, seq - block.first_seq if block.seqs is None else bisect_left(block.seqs, seq)

    def _place(self, seq: int) -> tuple[Block, int] | None:
        """Return block and position of a sequence number unless it is forgotten."""
        if not self._blocks:
            return None
        block = self._blocks[self._block_number(seq)]
        position = block.lower(seq)
        return (block, position) if block.knows(seq, position) else None

    def _between(self, first_seq: int, last_seq: int) -> Iterator[tuple[Block, range]]:
        """Yield the positions from one sequence number to another, both included, block by block."""
        number = self._block_number(first_seq)
        while number < len(self._blocks) and self._starts[number] <= last_seq:
            block = self._blocks[number]
            yield block, range(block.lower(first_seq), block.lower(last_seq + 1))
            number += 1

    def _runs(self, seqs: Sequence[int]) -> Iterator[tuple[Block, Sequence[int]]]:
        """Yield the positions of known sequence numbers, block by block, in their order."""
        at = 0
        while at < len(seqs):
            block = self._blocks[self._block_number(seqs[at])]
            last = len(block) - 1
            position = min(block.lower(seqs[at]), last)
            # What arrived together is usually asked for together.
            some = seqs[at : at + last + 1 - position]
            numbers = block.numbers(position, position + len(some))
            if some[-1] == numbers[-1] and list(some) == list(numbers):
                yield block, range(position, position + len(some))
                at += len(some)
                continue
            positions = [position]
            for seq in some[1:]:
                if not block.first_seq <= seq <= numbers[-1]:
                    break
                positions.append(min(block.lower(seq), last))
            yield block, positions
            at += len(positions)

    def _seq(self, identity: bytes) -> int:
        """Return the sequence number of an identity, 0 if there is none."""
        # Asked at each put, before anything else is: those that are fresh must stay many.
        return self._fresh_seqs.get(identity) or self._by_id.find(identity)

    def _identity(self, seq: int) -> bytes:
        block = self._settled[bisect_right(self._starts, seq) - 1]
        start = ID_BYTES * (seq - block.first_seq if block.seqs is None else bisect_left(block.seqs, seq))
        return bytes(block.ids[start : start + ID_BYTES])

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
        block = next((block for block in self._blocks if block.held), None)
        return None if block is None else block.arrived[block.state.find(HELD)]

    def oldest_untaken_arrived_s(self) -> float | None:
        """Return when the oldest of what is held arrived that nobody took since the start, None if there is none."""
        for block in self._blocks:
            if (position := block.first_untaken()) >= 0:
                return block.arrived[position]
        return None

    def note_taken(self, seqs: Sequence[int]) -> None:
        """Remember that somebody took these."""
        for block, positions in self._runs(seqs):
            if isinstance(positions, range):
                block.taken[positions.start : positions.stop] = b"\1" * len(positions)
            else:
                for position in positions:
                    block.taken[position] = 1

    def _entry(self, block: Block, position: int) -> Entry:
        kind = block.kind[position]
        return Entry(
            seq=block.seq(position),
            identity=block.identity(position),
            header=Header(
                type=EnvelopeType.PURGE if kind & PURGE_FLAG else EnvelopeType.MESSAGE,
                size_class=kind & CLASS_MASK,
                expiry_hour=block.expiry[position],
                tag=block.tag(position),
            ),
            price=block.price[position],
            interface=block.interface[position],
            arrived_s=block.arrived[position],
            state=EntryState(block.state[position]),
        )

    def entry(self, seq: int) -> Entry | None:
        """Return the entry of a sequence number unless it is forgotten."""
        place = self._place(seq)
        return None if place is None else self._entry(*place)

    def find(self, identity: bytes) -> Entry | None:
        """Return the entry of an identity."""
        seq = self._seq(identity)
        return self._entry(*self._known(seq)) if seq else None

    def held_seq(self, identity: bytes) -> int | None:
        """Return the sequence number of an identity whose body is committed and here."""
        seq = self._seq(identity)
        return seq if seq and self.is_held(seq) else None

    def size_class(self, identity: bytes) -> int:
        """Return the size class of an identity, the smallest if it is not known."""
        seq = self._seq(identity)
        return self.terms(seq)[0] if seq else 0

    def is_held(self, seq: int) -> bool:
        """Tell whether the body of ``seq`` is committed and here."""
        place = self._place(seq)
        return place is not None and place[0].state[place[1]] == HELD

    def largest_bytes(self, first_seq: int, last_seq: int) -> int:
        """Return the length of the largest envelope between two known sequence numbers, both included."""
        kinds = (b.kind[p.start : p.stop].translate(CLASS_OF_KIND) for b, p in self._between(first_seq, last_seq))
        return SIZES[max(map(max, filter(None, kinds)))]

    def held_identity(self, seq: int) -> bytes | None:
        """Return the identity of ``seq`` if its body is committed and here."""
        place = self._place(seq)
        if place is None or place[0].state[place[1]] != HELD:
            return None
        return place[0].identity(place[1])

    def identities(self, seqs: Sequence[int]) -> list[bytes]:
        """Return the identities of known sequence numbers."""
        return [block.identity(position) for block, positions in self._runs(seqs) for position in positions]

    def are_headers_of(self, seqs: Sequence[int], envelopes: Sequence[bytes]) -> bool:
        """Tell whether what is known of these is what their envelopes say: headers are stored beside them."""
        known = [(b.expiry[p], b.kind[p], b.tag(p)) for b, positions in self._runs(seqs) for p in positions]
        said = map(HEADER.unpack_from, envelopes)
        return known == [
            (expiry, size_class | (PURGE_FLAG if kind else 0), tag) for _, kind, size_class, _, expiry, tag in said
        ]

    def were_checked(self, seqs: Sequence[int], period: int) -> bool:
        """Tell whether the bodies of all these were found sound in a period."""
        for block, positions in self._runs(seqs):
            if isinstance(positions, range):
                if block.checked.count(period, positions.start, positions.stop) < len(positions):
                    return False
            elif any(block.checked[position] != period for position in positions):
                return False
        return True

    def note_checked(self, seqs: Sequence[int], period: int) -> None:
        """Remember that the bodies of these were found sound in a period."""
        for block, positions in self._runs(seqs):
            for position in positions:
                block.checked[position] = period

    def terms(self, seq: int) -> tuple[int, int, int]:
        """Return size class, expiry hour and price of a known ``seq``."""
        block, position = self._known(seq)
        return block.kind[position] & CLASS_MASK, block.expiry[position], block.price[position]

    def arrived_s(self, seq: int) -> float:
        """Return the residence time at which a known ``seq`` arrived."""
        block, position = self._known(seq)
        return block.arrived[position]

    def first_arrived_s(self, seq: int) -> float:
        """Return the residence time at which a known ``seq`` arrived first, had it been displaced in between."""
        block, position = self._known(seq)
        return block.first_arrived_s(position)

    def displaced_below(self, seq: int) -> Iterator[int]:
        """Yield what was displaced, the latest first, from below a sequence number on."""
        for number in range(self._block_number(seq), -1, -1):
            block = self._blocks[number] if self._blocks else None
            if block is None or not block.left:
                continue
            position = block.lower(seq)
            while (position := block.state.rfind(DISPLACED, 0, position)) >= 0:
                yield block.seq(position)

    def seq_arrived_since(self, arrived_s: float) -> int:
        """Return the sequence number from which entries arrived at or after ``arrived_s``."""
        number, position = self._arrived_since(arrived_s)
        if not self._blocks or (number, position) == (0, 0):
            return self._blocks[0].seq(0) if self._blocks else self.next_seq
        before, at = (self._blocks[number], position - 1) if position else (self._blocks[number - 1], -1)
        at %= len(before)
        if before.seq(at) <= self._loaded_seq and before.first_arrived_s(at) < before.arrived[at]:
            # It came again later than is known, and so did all of the same time.
            number, position = self._arrived_since(before.arrived[at])
        return self._blocks[number].seq(position) if number < len(self._blocks) else self.next_seq

    def _arrived_since(self, arrived_s: float) -> tuple[int, int]:
        """Return number of the block and position of the first entry that arrived at or after ``arrived_s``."""
        self._settle()
        number = bisect_left(self._arrivals, arrived_s)
        if number:
            block = self._blocks[number - 1]
            position = bisect_left(block.arrived, arrived_s)
            if position < len(block):
                return number - 1, position
        return number, 0

    def held_in_prefix(
        self, *, first_seq: int, last_seq: int, prefix_bits: int, prefix: int, after_hour: int, classes: int
    ) -> array[int]:
        """Return the held ones under a prefix between two sequence numbers, both included, in order of arrival.

        ``classes`` has a bit for each size class that is wanted. Those that expire at ``after_hour`` or before
        are left out.
        """
        found = array("Q")
        for block, positions in self._between(first_seq, last_seq):
            found.extend(
                block.held_in_prefix(
                    positions.start,
                    positions.stop,
                    prefix_bits=prefix_bits,
                    prefix=prefix,
                    after_hour=after_hour,
                    classes=classes,
                )
            )
        return found

    def seq_off(self, seq: int, entries: int) -> int:
        """Return the sequence number so many entries after ``seq``, or before it if negative: 1 to ``next_seq``."""
        if not self._blocks:
            return self.next_seq if entries >= 0 else 1
        number = self._block_number(seq)
        position = self._blocks[number].lower(seq) + entries
        while position < 0:
            if not number:
                return 1
            number -= 1
            position += len(self._blocks[number])
        while position >= len(self._blocks[number]):
            position -= len(self._blocks[number])
            number += 1
            if number == len(self._blocks):
                return self.next_seq
        return self._blocks[number].seq(position)

    def entries(self, *states: EntryState) -> Iterator[Entry]:
        """Yield the entries in any of ``states``, oldest first."""
        wanted = bytes(states)
        for block in self._blocks:
            for position, state in enumerate(block.state):
                if state in wanted:
                    yield self._entry(block, position)

    def due(
        self, *, hour: int | None, by_hour_from_s: float, drop_before_s: float, forget_before_s: float, most: int
    ) -> Due:
        """Return what has to leave, of up to so many.

        By the trusted wall ``hour``, for what arrived from ``by_hour_from_s`` on;
        by residence, for bodies that arrived before ``drop_before_s`` and
        identities that arrived before ``forget_before_s``.
        """
        found = chain.from_iterable(
            block.due(
                hour=hour,
                by_hour_from_s=by_hour_from_s,
                drop_before_s=drop_before_s,
                forget_before_s=forget_before_s,
            )
            for block in self._blocks
        )
        some = list(islice(found, most))
        return Due(
            drop=[seq for seq, drop, _ in some if drop],
            forget=[seq for seq, _, forget in some if forget],
            is_all=len(some) < most,
        )

    def oldest_gone(self, count: int) -> list[int]:
        """Return up to ``count`` identities whose body has left, oldest first."""
        found = (
            seq
            for block in self._blocks
            if block.left
            for seq, state in zip(block.numbers(), block.state, strict=True)
            if state in LEFT
        )
        return list(islice(found, count))

    def by_rank(self, interface: int) -> Iterator[tuple[int, int]]:
        """Yield (price, seq) of what ``interface`` holds, in the order in which it would have to leave."""
        return iter(self.ranks.get(interface, ()))

    @property
    def has_purges(self) -> bool:
        """Whether any purge envelope is here."""
        return bool(self._purges)

    def knows_any(self, identities: Iterable[bytes]) -> bool:
        """Tell whether any of these was admitted, and is not forgotten."""
        return any(map(self._seq, identities))

    def purged(self, header: Header) -> bool:
        """Tell whether a purge envelope that is here removes this one."""
        hours = self._purges.get(header.tag)
        if hours is None or header.type is EnvelopeType.PURGE:
            return False
        return header.expiry_hour <= (hours if isinstance(hours, int) else hours[-1])

    def purged_by(self, purges: dict[bytes, int]) -> list[int]:
        """Return held messages that purges (tag to expiry hour) remove, in one pass.

        A lone purge is found at the speed of a memory search, a batch by one
        walk over the tags, so a flood of purges costs one pass for each commit.
        """
        tags = list(purges)
        return [
            block.seq(p)
            for block in self._blocks
            for p in block.tagged(tags)
            if block.state[p] in (HELD, PENDING)
            and not block.kind[p] & PURGE_FLAG
            and block.expiry[p] <= purges[block.tag(p)]
        ]

    def columns(self) -> Snapshot:
        """Return a snapshot of everything admitted and committed, for a reconciliation."""
        return Snapshot(self._blocks, self.committed_seq)
