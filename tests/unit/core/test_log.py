# SPDX-License-Identifier: GPL-2.0-or-later
"""The log of admitted envelopes against a plain list that does the same."""

import random
from collections import Counter
from itertools import islice

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.core import block as block_module
from relay.core import identities as identities_module
from relay.core.envelope import BUCKET_BITS, SIZES, EnvelopeType, Header, price_paid
from relay.core.errors import DecodeError
from relay.core.log import AdmittedLog, EntryState
from relay.core.reconcile_set import NO_CLASS
from tests.unit.core.test_refusals import steps_of, stored

TAGS = [bytes([n // 2, n]) + bytes(14) for n in range(4)]
headers = st.builds(
    Header,
    type=st.just(EnvelopeType.MESSAGE),
    size_class=st.integers(0, 3),
    expiry_hour=st.integers(0, 5),
    tag=st.sampled_from(TAGS),
) | st.builds(
    Header,
    type=st.just(EnvelopeType.PURGE),
    size_class=st.just(0),
    expiry_hour=st.integers(0, 5),
    tag=st.sampled_from(TAGS),
)


class LogMachine(RuleBasedStateMachine):
    """Rows are [seq, identity, header, interface, arrived_s, state, first arrival, last arrival].

    What is forgotten is not there; ``arrived_s`` is what the log may know of the last arrival.
    """

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed):
        self.rng = random.Random(seed)
        self.log = AdmittedLog()
        self.rows = []
        self.snapshots = []
        self.now = 0.0
        self.first_pending = 1
        self.committed = 0

    def in_state(self, *states):
        return [row for row in self.rows if row[5] in states]

    @rule(header=headers, interface=st.integers(0, 2), gone=st.booleans(), wait=st.integers(0, 3))
    def append(self, header, interface, gone, wait):
        self.now += wait
        state = EntryState.GONE if gone else EntryState.PENDING
        identity = (self.rng.getrandbits(256) >> self.rng.choice([0, 0, 5, 20])).to_bytes(32, "big")
        price = price_paid(identity, header.size_class)
        seq = self.log.append(
            identity=identity, header=header, price=price, interface=interface, arrived_s=self.now, state=state
        )
        assert seq == self.log.next_seq - 1
        assert not self.rows or seq > self.rows[-1][0]
        self.rows.append([seq, identity, header, interface, self.now, state, self.now, self.now])

    @rule()
    def commit(self):
        last = self.log.next_seq - 1
        if last < self.first_pending:
            return
        self.log.commit(self.first_pending, last)
        for row in self.in_state(EntryState.PENDING):
            row[5] = EntryState.HELD
        self.first_pending, self.committed = last + 1, last

    @precondition(lambda self: self.in_state(EntryState.HELD, EntryState.PENDING))
    @rule(data=st.data())
    def drop_body(self, data):
        row = data.draw(st.sampled_from(self.in_state(EntryState.HELD, EntryState.PENDING)))
        self.log.drop_body(row[0])
        row[5] = EntryState.GONE

    @precondition(lambda self: self.in_state(EntryState.HELD))
    @rule(data=st.data())
    def displace(self, data):
        row = data.draw(st.sampled_from(self.in_state(EntryState.HELD)))
        self.log.displace(row[0])
        row[5] = EntryState.DISPLACED

    @precondition(lambda self: self.in_state(EntryState.DISPLACED))
    @rule(data=st.data(), wait=st.integers(0, 3))
    def come_back(self, data, wait):
        self.now += wait
        row = data.draw(st.sampled_from(self.in_state(EntryState.DISPLACED)))
        _, identity, header, interface, _, _, first, _ = row
        assert self.log.first_arrived_s(row[0]) == first
        self.log.forget(row[0])
        self.rows.remove(row)
        seq = self.log.append(
            identity=identity,
            header=header,
            price=price_paid(identity, header.size_class),
            interface=interface,
            arrived_s=self.now,
            state=EntryState.PENDING,
            first_arrived_s=first,
        )
        self.rows.append([seq, identity, header, interface, self.now, EntryState.PENDING, first, self.now])

    @rule(below=st.integers(0, 30))
    def look_for_displaced(self, below):
        found = [row[0] for row in self.in_state(EntryState.DISPLACED) if row[0] < below]
        assert list(self.log.displaced_below(below)) == found[::-1]

    @precondition(lambda self: self.in_state(EntryState.HELD, EntryState.GONE, EntryState.DISPLACED))
    @rule(data=st.data(), number=st.integers(1, 6))
    def forget(self, data, number):
        for _ in range(number):
            rows = self.in_state(EntryState.HELD, EntryState.GONE, EntryState.DISPLACED)
            if rows:
                row = data.draw(st.sampled_from(rows))
                self.log.forget(row[0])
                self.rows.remove(row)

    @rule()
    def power_cut(self):
        kept = [row for row in self.rows if row[0] <= self.committed]
        next_seq = self.log.next_seq
        self.log.reload(
            [
                (r[0], r[1], r[2].encode(), r[3], int(r[6]), r[5] == EntryState.HELD, r[5] == EntryState.DISPLACED)
                for r in kept
            ]
        )
        latest = 0.0
        for row in kept:
            row[4] = latest = max(latest, row[6])
        self.rows = kept
        assert self.log.next_seq == next_seq
        self.first_pending, self.committed = next_seq, next_seq - 1

    @rule(
        hour=st.none() | st.integers(0, 5),
        era=st.integers(0, 20),
        drop=st.integers(0, 20),
        forget=st.integers(0, 20),
        most=st.integers(1, 6) | st.just(1000),
    )
    def due(self, hour, era, drop, forget, most):
        due = self.log.due(hour=hour, by_hour_from_s=era, drop_before_s=drop, forget_before_s=forget, most=most)
        over = {r[0] for r in self.rows if hour is not None and r[2].expiry_hour <= hour and r[6] >= era}
        dropped = [r[0] for r in self.in_state(EntryState.HELD) if r[0] in over or r[6] <= drop]
        settled = self.in_state(EntryState.HELD, EntryState.GONE, EntryState.DISPLACED)
        forgotten = [r[0] for r in settled if r[0] in over or r[6] <= forget]
        some = sorted({*dropped, *forgotten})[:most]
        assert due.drop == [seq for seq in dropped if seq in some]
        assert due.forget == [seq for seq in forgotten if seq in some]
        assert due.is_all or len(some) == most

    @rule(
        bits=st.integers(0, BUCKET_BITS),
        bucket=st.integers(0, 2**BUCKET_BITS - 1),
        after=st.integers(0, 5),
        entries=st.integers(1, 4),
        classes=st.integers(0, 15),
        is_backwards=st.booleans(),
    )
    def read_by_prefix(self, bits, bucket, after, entries, classes, is_backwards):
        prefix = bucket >> BUCKET_BITS - bits
        first, end, found, turns = 1, self.log.committed_seq + 1, [], 0
        while first < end:
            middle = self.log.seq_off(end, -entries) if is_backwards else min(end, self.log.seq_off(first, entries))
            part = self.log.held_in_prefix(
                first_seq=middle if is_backwards else first,
                last_seq=(end if is_backwards else middle) - 1,
                prefix_bits=bits,
                prefix=prefix,
                after_hour=after,
                classes=classes,
            )
            found = list(part) + found if is_backwards else found + list(part)
            first, end = (1, middle) if is_backwards else (middle, end)
            turns += 1
            assert turns <= self.log.next_seq, "the cursor does not move"
        assert found == [
            r[0]
            for r in self.in_state(EntryState.HELD)
            if r[2].bucket >> BUCKET_BITS - bits == prefix
            and r[2].expiry_hour > after
            and classes >> r[2].size_class & 1
        ]

    @rule(interface=st.integers(0, 2), count=st.integers(0, 5))
    def cheapest(self, interface, count):
        keys = sorted(
            (price_paid(r[1], r[2].size_class), r[2].expiry_hour, r[0])
            for r in self.in_state(EntryState.HELD)
            if r[3] == interface
        )
        assert list(islice(self.log.by_rank(interface), count)) == [(price, seq) for price, _, seq in keys[:count]]
        best = {hour: max(price for price, its, _ in keys if its == hour) for _, hour, _ in keys}
        ranks = self.log.ranks.get(interface)
        weakest = sorted((price, -hour) for hour, price in best.items())
        assert (ranks and ranks.weakest_price) == (weakest[0][0] if weakest else None)
        weak = [-negative for price, negative in weakest if price < count]
        assert [*(ranks.weak_hours(count) if ranks else ())] == weak
        for hour in best:
            assert sorted(ranks.in_hour(hour)) == sorted(seq for _, its, seq in keys if its == hour)
            assert ranks.count_in_hour(hour) == sum(its == hour for _, its, _ in keys)

    @rule(purges=st.dictionaries(st.sampled_from(TAGS), st.integers(0, 5), min_size=1))
    def find_what_purges_remove(self, purges):
        assert self.log.purged_by(purges) == [
            r[0]
            for r in self.in_state(EntryState.HELD, EntryState.PENDING)
            if r[2].type is EnvelopeType.MESSAGE and r[2].expiry_hour <= purges.get(r[2].tag, -1)
        ]

    @rule(header=headers)
    def ask_whether_purged(self, header):
        purges = [r[2] for r in self.in_state(EntryState.HELD, EntryState.PENDING) if r[2].type is EnvelopeType.PURGE]
        assert self.log.purged(header) == (
            header.type is EnvelopeType.MESSAGE
            and any(p.tag == header.tag and p.expiry_hour >= header.expiry_hour for p in purges)
        )

    @rule(count=st.integers(0, 4))
    def oldest_gone(self, count):
        assert (
            self.log.oldest_gone(count) == [r[0] for r in self.in_state(EntryState.GONE, EntryState.DISPLACED)][:count]
        )

    @rule(arrived_s=st.integers(0, 30))
    def seek_by_arrival(self, arrived_s):
        seq = self.log.seq_arrived_since(arrived_s)
        later = [r[0] for r in self.rows if r[7] >= arrived_s]
        assert all(s >= seq for s in later)
        # Of what came at the time of one that came again, it is not known whether that was before.
        latest = max((r[7] for r in self.rows if r[7] < arrived_s), default=0)
        assert all(r[0] < seq for r in self.rows if r[7] < arrived_s and r[6] == r[7] != latest)

    @invariant()
    def every_count_adds_up(self):
        if not hasattr(self, "log"):
            return
        here = self.in_state(EntryState.HELD, EntryState.PENDING)
        assert len(self.log) == len(self.rows)
        assert self.log.held == [sum(r[2].size_class == c for r in here) for c in range(4)]
        assert self.log.held_count == len(here)
        assert self.log.held_bytes == sum(SIZES[r[2].size_class] for r in here)
        for interface, held in self.log.held_by_interface.items():
            mine = [r for r in here if r[3] == interface]
            assert held == [sum(r[2].size_class == c for r in mine) for c in range(4)]
            assert self.log.hours[interface] == Counter(r[2].expiry_hour for r in mine)

    @invariant()
    def every_entry_is_found_as_it_was(self):
        if not hasattr(self, "log"):
            return
        for seq, identity, header, interface, arrived_s, state, *_ in self.rows:
            entry = self.log.find(identity)
            assert identity in self.log
            assert entry == self.log.entry(seq)
            assert (entry.seq, entry.identity, entry.header, entry.interface) == (seq, identity, header, interface)
            assert entry.state is state
            assert int(entry.arrived_s) == int(arrived_s)
            assert self.log.is_held(seq) == (state is EntryState.HELD)
        # Forgotten entries may linger, nothing else.
        states = (state for state in EntryState if state is not EntryState.FORGOTTEN)
        assert [e.seq for e in self.log.entries(*states)] == [r[0] for r in self.rows]
        known = {r[0] for r in self.rows}
        assert all(self.log.entry(seq) is None for seq in range(1, self.log.next_seq + 1) if seq not in known)

    @invariant()
    def reconciliation_sees_what_is_committed(self):
        if not hasattr(self, "log"):
            return
        rows = [r for r in self.rows if r[0] <= self.log.committed_seq]
        expected = [(r[0], r[1], r[2].expiry_hour, r[2].size_class, price_paid(r[1], r[2].size_class)) for r in rows]
        assert seen(self.log.columns()) == expected
        # What was looked at before is as it was, whatever happened since.
        for snapshot, rows in self.snapshots:
            assert seen(snapshot) == rows
        self.snapshots = [*self.snapshots[-3:], (self.log.columns(), expected)]


def seen(snapshot):
    """What a reconciliation sees of a snapshot: seq, identity, expiry hour, class and price of each."""
    return [
        (part.seq[row], bytes(part.ids[32 * row : 32 * row + 32]), part.expiry_hour[row], size_class, part.price[row])
        for part in snapshot.parts()
        for row, size_class in enumerate(part.size_class)
        if size_class != NO_CLASS
    ]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks are of thousands; here of a few."""
    monkeypatch.setattr(block_module, "BLOCK_ENTRIES", 5)
    monkeypatch.setattr(identities_module, "BUCKET_ENTRIES", 2)


LogMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.usefixtures("_small_blocks")
class TestLog(LogMachine.TestCase):
    pass


@pytest.mark.parametrize("first", [1, (1 << 32) - 3])
def test_what_was_loaded_is_what_was_there_also_after_four_thousand_million_envelopes(first):
    rng = random.Random(first)
    log = AdmittedLog()
    log.reserve(first - 1)
    for n in range(6000):
        purge = n % 50 == 0
        header = Header(
            type=EnvelopeType.PURGE if purge else EnvelopeType.MESSAGE,
            size_class=0 if purge else rng.randrange(4),
            expiry_hour=rng.randrange(1 << 20),
            tag=rng.randbytes(16),
        )
        identity = (rng.getrandbits(256) >> rng.choice([0, 0, 9, 20])).to_bytes(32)
        log.append(
            identity=identity,
            header=header,
            price=price_paid(identity, header.size_class),
            interface=n % 3,
            arrived_s=n // 7,
            state=EntryState.PENDING,
        )
    log.commit(first, log.next_seq - 1)
    for seq in rng.sample(range(first, log.next_seq), 3000):
        rng.choice([log.drop_body, log.displace, log.forget])(seq)
    before = list(log.entries(EntryState.HELD, EntryState.GONE, EntryState.DISPLACED))
    by_rank = [list(log.by_rank(interface)) for interface in range(3)]
    counts = [log.held, log.held_by_interface, log.hours, log._purges]
    log.reload(
        [
            (
                each.seq,
                each.identity,
                each.header.encode(),
                each.interface,
                each.arrived_s,
                each.state is EntryState.HELD,
                each.state is EntryState.DISPLACED,
            )
            for each in before
        ]
    )
    assert list(log.entries(*EntryState)) == before
    assert [list(log.by_rank(interface)) for interface in range(3)] == by_rank
    assert [log.held, log.held_by_interface, log.hours, log._purges] == counts
    assert all(log.find(each.identity) == each for each in before)


@pytest.mark.parametrize("header", [b"\2", b"\1\2", b"\1\0\4", b"\1\0\0\1", b"\1\1\1"])
def test_a_header_that_is_none_is_not_loaded(header):
    good = Header(type=EnvelopeType.PURGE, size_class=0, expiry_hour=9, tag=bytes(16)).encode()
    rows = [(seq, bytes([seq]) * 32, good, 1, 0, True, False) for seq in (1, 2, 3)]
    for bad in (header + good[len(header) :], good[:-1], good + b"\0"):
        with pytest.raises(DecodeError):
            AdmittedLog().load([*rows, (4, bytes(32), bad, 1, 0, True, False)])


def test_no_envelope_pays_for_all_that_are_there():
    """Neither a table that is built anew nor columns that are: a put, a commit and a departure are a few steps."""

    def longest(number):
        log = AdmittedLog()
        log.load(stored(number))
        rng = random.Random(5)
        spent = [0]
        for n in range(300):
            header = Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=9, tag=rng.randbytes(16))
            identity = rng.randbytes(32)

            def put(identity=identity, header=header):
                seq = log.append(
                    identity=identity, header=header, price=0, interface=1, arrived_s=0.0, state=EntryState.PENDING
                )
                log.commit(seq, seq)

            spent.append(steps_of(put))
            spent.append(steps_of(lambda seq=2 * n + 1: log.forget(seq)))
        return max(spent)

    assert longest(100_000) <= 1.5 * longest(4000)


def test_a_hundred_thousand_purges_leave_without_a_walk_for_each(monkeypatch):
    """A store filled with purges of one expiry hour would stand still in that hour."""
    log = AdmittedLog()
    rng = random.Random(1)
    for _ in range(20_000):
        header = Header(type=EnvelopeType.PURGE, size_class=0, expiry_hour=9, tag=rng.randbytes(16))
        log.append(
            identity=rng.randbytes(32), header=header, price=0, interface=1, arrived_s=0.0, state=EntryState.PENDING
        )
    log.commit(1, 20_000)
    walks = []
    monkeypatch.setattr(block_module.Block, "tagged", walks.append)
    for seq in range(1, 20_001):
        log.drop_body(seq)
    assert walks == []
    assert log._purges == {}
