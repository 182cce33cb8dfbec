# SPDX-License-Identifier: GPL-2.0-or-later
"""Rateless symbols: what two sets differ in comes back, whatever was done to the symbols on the way."""

import random
from array import array
from itertools import pairwise

import numpy as np
import pytest

from relay.core.errors import DecodeError
from relay.core.riblt import (
    SHORT_ID_MASK,
    SLICE,
    SYMBOL_BYTES,
    Decoder,
    ScalarEncoder,
    Symbols,
    VectorEncoder,
    indices,
    mix,
    symbols_for,
)


def short_ids(source, count):
    return array("Q", [source.getrandbits(48) for _ in range(count)])


def row(ids, length):
    encoder = ScalarEncoder(array("Q", ids))
    drain(encoder.extend(length))
    return encoder.symbols


def drain(work):
    return sum(1 for _ in work)


def columns(symbols):
    return symbols.ids.tolist(), symbols.checks.tolist(), symbols.counts.tolist()


def decoded(theirs, ours, length):
    decoder = Decoder()
    drain(decoder.add(row(theirs, length), row(ours, length)))
    drain(decoder.peel())
    return decoder


def test_every_entry_is_in_symbol_zero_and_its_indices_ascend():
    source = random.Random(1)
    for short_id in [0, 1, SHORT_ID_MASK, *short_ids(source, 200)]:
        found = indices(short_id, 5000)
        assert found[0] == 0
        assert all(a < b for a, b in pairwise(found))
        assert found[: len(indices(short_id, 100))] == indices(short_id, 100)


def test_entries_are_in_a_symbol_as_often_as_the_paper_asks():
    """Probability 1 / (1 + i/2), to the 5 % of its approximate inverse plus five standard deviations."""
    source = random.Random(2)
    entries = 20_000
    hits = [0] * 200
    for short_id in short_ids(source, entries):
        for i in indices(short_id, len(hits)):
            hits[i] += 1
    for i, count in enumerate(hits):
        p = 1 / (1 + i / 2)
        assert abs(count - entries * p) <= 0.05 * entries * p + 5 * (entries * p * (1 - p)) ** 0.5, i


def test_a_symbol_is_the_xor_and_count_of_the_entries_that_map_to_it():
    ids = short_ids(random.Random(3), 700)
    symbols = row(ids, 90)
    for i in range(90):
        members = [x for x in ids if i in indices(x, 90)]
        xor_ids = xor_checks = 0
        for x in members:
            xor_ids ^= x
            xor_checks ^= mix(x) >> 40
        assert (symbols.ids[i], symbols.checks[i], symbols.counts[i]) == (xor_ids, xor_checks, len(members) % 256)


@pytest.mark.parametrize("count", [0, 1, 500, 4 * SLICE + 1])
def test_both_encoders_agree_however_the_row_is_cut(count):
    ids = array("Q", [0, SHORT_ID_MASK, *short_ids(random.Random(count), count)][:count])
    scalar, vector = ScalarEncoder(ids), VectorEncoder([np.array(ids, np.uint64)])
    for length in (1, 2, 40, 41, 300):
        drain(scalar.extend(length))
        drain(vector.extend(length))
        assert columns(scalar.symbols) == columns(vector.symbols), length
    assert columns(scalar.symbols) == columns(row(ids, 300))


@pytest.mark.parametrize("differences", [0, 1, 2, 7, 40, 100, 1000])
def test_the_difference_comes_back_from_as_many_symbols_as_symbols_for_says(differences):
    for seed in range(20):
        source = random.Random(differences << 8 | seed)
        shared, alone = short_ids(source, 300), short_ids(source, differences)
        cut = source.randint(0, differences)
        decoder = decoded(shared + alone[:cut], shared + alone[cut:], 2 * symbols_for(differences) + 40)
        assert decoder.complete, seed
        assert (decoder.theirs, decoder.ours) == (set(alone[:cut]), set(alone[cut:])), seed


def test_a_difference_that_came_back_partly_is_finished_by_further_symbols():
    source = random.Random(5)
    theirs, ours = short_ids(source, 60), short_ids(source, 60)
    a, b, decoder = ScalarEncoder(theirs), ScalarEncoder(ours), Decoder()
    partly = 0
    for length in range(10, 400, 10):
        drain(a.extend(length))
        drain(b.extend(length))
        drain(decoder.add(a.symbols, b.symbols))
        drain(decoder.peel())
        if decoder.complete:
            break
        partly = max(partly, len(decoder.theirs) + len(decoder.ours))
    assert 0 < partly < 120
    assert (decoder.theirs, decoder.ours) == (set(theirs), set(ours))


def test_symbols_survive_their_bytes():
    symbols = row(short_ids(random.Random(6), 1000), 120)
    data = symbols.encode(0, 120)
    assert len(data) == 120 * SYMBOL_BYTES
    again = Symbols()
    again.decode(data[:500])
    again.decode(data[500:])
    assert columns(again) == columns(symbols)
    with pytest.raises(DecodeError):
        again.decode(data[:-1])


def bomb(length, fill):
    symbols = Symbols()
    symbols.grow(length)
    for i in range(length):
        fill(symbols, i)
    return symbols


def pure(symbols, i, short_id, count):
    symbols.ids[i], symbols.checks[i], symbols.counts[i] = short_id, mix(short_id) >> 40, count


def test_symbol_bombs_end_and_never_count_as_decoded():
    """Symbols that always show another single entry: peeling stops after as many as there are symbols."""
    source = random.Random(7)
    length = 2000
    bombs = {
        "one entry everywhere": lambda s, i: pure(s, i, 77, 1),
        "signs that take turns": lambda s, i: pure(s, i, 77, 1 if i % 2 else 255),
        "another entry each": lambda s, i: pure(s, i, source.getrandbits(48), 1),
        "no structure": lambda s, i: s.ids.__setitem__(i, source.getrandbits(48)),
        "counts alone": lambda s, i: s.counts.__setitem__(i, 1),
    }
    own = row(short_ids(source, 500), length)
    for name, fill in bombs.items():
        for minus in (own, bomb(length, lambda _s, _i: None)):
            decoder = Decoder()
            drain(decoder.add(bomb(length, fill), minus))
            slices = drain(decoder.peel())
            print(name, slices, len(decoder.theirs), len(decoder.ours), decoder.broken)
            assert not decoder.complete, name
            assert len(decoder.theirs) + len(decoder.ours) <= length, name
            assert slices <= 20 * length // SLICE, name


def test_a_single_entry_in_a_symbol_that_it_does_not_map_to_is_not_believed():
    away = next(i for i in range(2, 60) if i not in indices(77, 60))
    decoder = Decoder()
    drain(decoder.add(bomb(60, lambda s, i: pure(s, i, 77, 1) if i == away else None), row([], 60)))
    drain(decoder.peel())
    assert decoder.theirs | decoder.ours == set()
    assert not decoder.complete


def test_an_entry_that_cancels_and_returns_breaks_the_decoder():
    """Twice the same entry on one side is no set; what it cancels must not pass for an answer."""
    once, thrice = row([5, 9], 60), row([9], 60)
    for i in indices(5, 60):
        thrice.counts[i] = (thrice.counts[i] + 3) % 256
        thrice.ids[i] ^= 5
        thrice.checks[i] ^= mix(5) >> 40
    decoder = Decoder()
    drain(decoder.add(thrice, once))
    drain(decoder.peel())
    assert not decoder.complete


@pytest.mark.parametrize(("differences", "length"), [(100, 64), (1000, 64), (20_000, 64), (100, 208), (10_000, 208)])
def test_counts_tell_how_large_a_difference_is_long_before_it_decodes(differences, length):
    for seed, share in ((1, 2), (2, 3), (3, 1)):
        source = random.Random(seed)
        alone = short_ids(source, differences)
        cut = differences // share
        encoders = [VectorEncoder([np.array(part, np.uint64)]) for part in (alone[:cut], alone[cut:])]
        for encoder in encoders:
            drain(encoder.extend(length))
        decoder = Decoder()
        drain(decoder.add(*(encoder.symbols for encoder in encoders)))
        guess = decoder.estimate(2 * cut - differences)
        assert differences / 2 <= guess <= differences * 2, (seed, guess)
