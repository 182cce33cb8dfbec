# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sides learn exactly what the other lacks, in bounded bytes and slices, whatever the envelopes are."""

import itertools
import subprocess
import sys
import tracemalloc
from array import array
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_shorthash_siphash24

from relay.core.envelope import leading_zero_bits
from relay.core.reconcile import Reconciler, Scope
from relay.core.reconcile_set import VECTOR_SLICE, ScalarEntries, VectorEntries
from relay.core.reconcile_wire import MAX_HOURS, Kind
from relay.core.riblt import SHORT_ID_MASK, SLICE
from tests.property.reconciling import (
    HOUR,
    KEY,
    SCALAR,
    SCENARIOS,
    VECTOR,
    WHOLE,
    Entry,
    check,
    columns,
    converse,
    entries,
    initiator,
    offers,
    responder,
    result,
    scenario,
    seqs,
    work,
)

paths = pytest.mark.parametrize("paths", [(SCALAR, SCALAR), (VECTOR, VECTOR), (SCALAR, VECTOR)])


# What both sides get


@paths
@pytest.mark.parametrize("name", SCENARIOS)
def test_each_turn_of_the_protocol_ends_with_what_the_peer_lacks(name, paths):
    check(*scenario(name), paths)


def test_the_scenarios_use_every_kind_of_message():
    used = set()
    for name in SCENARIOS:
        used |= set(check(*scenario(name)).kinds)
    assert used == set(Kind)


@st.composite
def two_sets(draw):
    """Planted sets: shared, left and right entries in a few hours, sizes from nothing to hundreds."""
    source = Random(draw(st.integers(0, 2**32)))
    sizes = [draw(st.sampled_from([0, 0, 1, 2, 10, 100, 700])) for _ in range(3)]
    hours = draw(st.integers(1, 12))
    rows = [
        Entry(seq, source.randbytes(32), HOUR + source.randrange(hours))
        for seq in source.sample(range(2**63, 2**63 + 10**6), sum(sizes))
    ]
    shared, left, right = (
        rows[: sizes[0]],
        rows[sizes[0] : sizes[0] + sizes[1]],
        rows[sizes[0] + sizes[1] :],
    )
    return source.sample(shared + left, len(shared + left)), source.sample(shared + right, len(shared + right))


@settings(max_examples=150, deadline=None)
@given(
    sets=two_sets(), key=st.binary(min_size=16, max_size=16), paths=st.tuples(*[st.sampled_from([SCALAR, VECTOR])] * 2)
)
def test_the_planted_difference_is_the_one_found(sets, key, paths):
    check(*sets, paths, key=key)


@paths
def test_an_unchanged_pair_costs_a_few_dozen_bytes(paths):
    rows = entries(range(5000), hours=168)
    talk = check(rows, rows[::-1], paths)
    assert talk.size <= 36
    assert talk.flights == 2


def test_a_hundred_differences_keep_the_budget_of_bytes_and_round_trips():
    """The full size is measured by bench/reconcile.py; a tenth of it needs the same bytes."""
    for seed, recent in itertools.product(range(10), (True, False)):
        source = Random(seed)
        shared = entries(range(10_000), hours=168)
        alone = [
            replace(row, hour=HOUR + (165 + source.randrange(3) if recent else source.randrange(168)))
            for row in entries(range(100_000 + 1000 * seed, 100_100 + 1000 * seed))
        ]
        talk = check(shared + alone[:50], shared + alone[50:], (VECTOR, VECTOR), key=source.randbytes(16))
        print(f"seed {seed} recent {recent}: {talk.size} bytes, {talk.flights} flights")
        assert talk.flights <= 6
        assert talk.size <= (4096 if recent else 6144)


@paths
@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 9),
    length=st.integers(0, 9),
    classes=st.integers(0, 15),
    min_price=st.integers(-3, 6),
    seed=st.integers(0, 1000),
)
def test_nothing_outside_the_scope_is_offered_or_counted(paths, first, length, classes, min_price, seed):
    source = Random(seed)
    scope = Scope(first_hour=HOUR + first, last_hour=HOUR + first + length, classes=classes, min_price=min_price)

    def row(seq):
        identity = source.randbytes(32)
        size_class = source.randrange(4)
        price = leading_zero_bits(identity) - 2 * size_class
        return Entry(seq, identity, HOUR + source.randrange(20), size_class, price)

    left, right = [row(seq) for seq in range(150)], [row(seq) for seq in range(200, 350)]
    shared = [row(seq) for seq in range(400, 600)]
    a = initiator(left + shared, scope=scope, scalar_entries=paths[0])
    b = responder(shared + right, scope=scope, scalar_entries=paths[1])
    converse(a, b)
    for side, own in ((a, left), (b, right)):
        assert offers(side) == {
            r.seq
            for r in own
            if scope.first_hour <= r.hour <= scope.last_hour and classes >> r.size_class & 1 and r.price >= min_price
        }


@pytest.mark.parametrize("last_hour", [HOUR + 9, HOUR + 1, 0])
def test_of_windows_that_do_not_meet_nothing_is_offered(last_hour):
    scope = Scope(first_hour=HOUR + 10, last_hour=last_hour, classes=0b1111, min_price=-128)
    a = initiator(entries(range(50), hours=40), scope=scope)
    b = responder(entries(range(20, 90), hours=40), scope=scope)
    assert converse(a, b).kinds == [Kind.ROOT, Kind.COMPLETE]
    assert offers(a) == offers(b) == set()


def test_more_hours_than_a_responder_lists_cost_offers_but_lose_nothing():
    scope = replace(WHOLE, last_hour=HOUR + 10**6)
    hours = MAX_HOURS + 200
    left = [replace(row, hour=HOUR + 3 * row.seq) for row in entries(range(0, hours, 2))]
    right = [replace(row, hour=HOUR + 3 * row.seq) for row in entries(range(hours))]
    a, b = initiator(left, scope=scope), responder(right, scope=scope)
    converse(a, b)
    assert offers(b) >= seqs(right) - seqs(left)
    assert offers(a) == {row.seq for row in left if row.seq < 200}


# Crafted envelopes


def xor(*identities):
    return bytes(a ^ b ^ c ^ d for a, b, c, d in zip(*identities, strict=True))


@paths
def test_ids_crafted_to_cancel_do_not_hide_anything(paths):
    """Four IDs whose XOR is nothing, pairs whose sum is nothing: unseen by such fingerprints, seen by ours."""
    source = Random(1)
    a, b, c = (source.randbytes(32) for _ in range(3))
    quadruple = [a, b, c, bytes(x ^ y ^ z for x, y, z in zip(a, b, c, strict=True))]
    assert xor(*quadruple) == bytes(32)
    pair = [a, ((1 << 256) - int.from_bytes(a, "big")).to_bytes(32, "big")]
    assert sum(int.from_bytes(identity, "big") for identity in pair) % (1 << 64) == 0
    shared = entries(range(500))
    for crafted in (quadruple, pair):
        planted = [Entry(1000 + i, identity) for i, identity in enumerate(crafted)]
        check(shared + planted, shared, paths)
        check(shared, shared + planted, paths)


@paths
@pytest.mark.parametrize("common", [slice(0, 31), slice(1, 32), slice(0, 24), slice(8, 32)])
def test_ids_crafted_to_look_alike_stay_apart(common, paths):
    def craft(i):
        identity = bytearray(b"\x5a" * 32)
        free = [at for at in range(32) if at not in range(*common.indices(32))]
        for at, byte in zip(free, i.to_bytes(2, "little"), strict=False):
            identity[at] = byte
        return bytes(identity)

    rows = [Entry(i, craft(i)) for i in range(200)]
    check(rows[:150], rows[50:], paths)


def test_what_one_session_could_be_fooled_by_another_one_is_not():
    """An ID that collides with another under one key is told apart under the next."""
    rows = entries(range(3))
    roots = {initiator(rows, key=bytes([k]) * 16).messages_to_send()[0] for k in range(50)}
    assert len(roots) == 50


# Both ways of hashing


def published_vector():
    """Key, message and output of SipHash-2-4 for 32 bytes, from its authors' vectors_sip64."""
    return bytes(range(16)), bytes(range(32)), bytes.fromhex("ce7cf2722f512771")


@pytest.mark.parametrize("kind", [ScalarEntries, VectorEntries])
def test_the_prf_is_siphash_2_4(kind):
    key, message, output = published_vector()
    held = kind(columns([Entry(1, message)]), WHOLE, key)
    list(held.scan())
    value = int.from_bytes(output, "little")
    assert held.hours == {HOUR: (value, 1)}
    held.keep({HOUR})
    assert result(held.listing()).tolist() == [value & SHORT_ID_MASK]


@pytest.mark.parametrize("count", [0, 1, 1000, 2 * VECTOR_SLICE + 1])
def test_both_ways_of_holding_entries_say_the_same(count):
    rows = entries(range(count), hours=7)
    snapshot = columns(rows)
    scalar, vector = (kind(snapshot, WHOLE, KEY) for kind in (ScalarEntries, VectorEntries))
    for held in (scalar, vector):
        list(held.scan())
    expected = {}
    for row in rows:
        total, number = expected.get(row.hour, (0, 0))
        value = int.from_bytes(crypto_shorthash_siphash24(row.identity, KEY), "little")
        expected[row.hour] = ((total + value) % 2**64, number + 1)
    assert scalar.hours == vector.hours == expected
    for hours in ([], [HOUR], [HOUR + 1, HOUR + 6, HOUR + 99]):
        results = []
        for held in (scalar, vector):
            held.keep(set(hours))
            some = result(held.listing())[::3] + array("Q", [1, 2, 3])
            results.append(
                (
                    result(held.listing()).tolist(),
                    result(held.missing(some)),
                    result(held.missing(array("Q"))),
                    sorted(result(held.select(some))),
                    sorted(result(held.select(some, others=True))),
                    sorted(result(held.select(array("Q")))),
                    sorted(result(held.in_hours(hours))),
                )
            )
        assert results[0] == results[1]


def test_a_small_set_does_not_load_numpy():
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.property.reconciling import *\n"
        "left, right = scenario('more symbols')\n"
        "a, b = (initiator(left, scalar_entries=16384), responder(right, scalar_entries=16384))\n"
        "converse(a, b)\n"
        "assert a.done and b.done\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_columns_of_another_shape_are_refused():
    good = columns(entries(range(3)))
    with pytest.raises(ValueError, match="lengths"):
        replace(good, ids=good.ids[:-1])
    with pytest.raises(ValueError, match="lengths"):
        replace(good, seq=good.seq[:2])
    with pytest.raises(ValueError, match="types"):
        replace(good, price=array("B", [0, 0, 0]))
    with pytest.raises(ValueError, match="key"):
        Reconciler(initiator=True, key=b"short", columns=good, scope=WHOLE)


@paths
def test_columns_may_grow_while_a_reconciliation_goes_on(paths):
    """The store appends to its arrays; a view that lives on would make that raise BufferError."""
    snapshot = columns(entries(range(900), hours=2))
    a = Reconciler(initiator=True, key=KEY, columns=snapshot, scope=WHOLE, scalar_entries=paths[0])
    a.start()
    while a.step():
        snapshot.seq.append(1)
        snapshot.seq.pop()
    assert a.messages_to_send()


# Bounds of work and memory


def test_work_comes_in_bounded_slices():
    rows = entries(range(5 * VECTOR_SLICE))
    for limit, entries_a_slice in ((SCALAR, SLICE), (VECTOR, VECTOR_SLICE)):
        a = Reconciler(initiator=True, key=KEY, columns=columns(rows), scope=WHOLE, scalar_entries=limit)
        a.start()
        assert not a.messages_to_send()
        assert work(a) >= len(rows) // entries_a_slice


def test_of_many_entries_nothing_is_kept_but_the_difference():
    """A hundred bytes an entry for each of eight neighbours would be more than a board has."""
    rows = entries(range(12 * VECTOR_SLICE), hours=24)
    sides = [side(rows[n:], scalar_entries=VECTOR) for n, side in ((3, initiator), (0, responder))]
    tracemalloc.start()
    converse(*sides)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(sides[1].to_offer) == [0, 1, 2]
    # Some columns of a part for each side.
    assert peak < 60 * 8 * VECTOR_SLICE < 48 * len(rows)


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_kept_when_it_is_done(name):
    a, b = (side(rows) for side, rows in zip((initiator, responder), scenario(name), strict=True))
    converse(a, b)
    for side in (a, b):
        assert side._entries is None
        assert side._encoder is None
        kept = [side._sent_list, side._partial, side._hours, side._theirs, side._decoder]
        assert not any(len(one) for one in kept)
