# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of identities against a dictionary."""

import random
from functools import partial

import pytest

from relay.core.identities import BUCKET_ENTRIES, Identities
from relay.core.reconcile_set import SCALAR_ENTRIES
from tests.unit.core.test_refusals import steps_of


class Table:
    """A table, and a dictionary that says the same."""

    def __init__(self):
        self.by_seq = {}
        self.index = Identities(self.by_seq.__getitem__)
        self.rng = random.Random(1)

    def add(self, seq):
        identity = self.by_seq[seq] = self.rng.randbytes(32)
        self.index.add_all([(identity, seq)])

    def remove(self, seq):
        self.index.remove(self.by_seq[seq], seq)
        del self.by_seq[seq]

    def check(self):
        assert len(self.index) == len(self.by_seq)
        assert all(self.index.find(identity) == seq for seq, identity in self.by_seq.items())
        assert not any(self.index.find(self.rng.randbytes(32)) for _ in range(1000))


@pytest.mark.parametrize("first", [1, (1 << 32) - 2000])
def test_what_was_put_in_is_found_and_what_was_taken_out_is_not(first):
    table = Table()
    for seq in range(first, first + 5000):
        table.add(seq)
        if seq % 3 == 0:
            table.remove(table.rng.choice([*table.by_seq][-50:]))
        if seq % 500 == 0:
            table.check()
    for seq in list(table.by_seq):
        table.remove(seq)
    table.check()


@pytest.mark.parametrize("count", [0, 1, BUCKET_ENTRIES, 3000, SCALAR_ENTRIES + 5000])
@pytest.mark.parametrize("first", [1, (1 << 32) - 2000])
def test_many_put_in_at_once_are_as_if_one_by_one(first, count):
    table = Table()
    table.by_seq.update((seq, table.rng.randbytes(32)) for seq in range(first, first + count))
    seqs = list(table.by_seq)
    parts = [seqs[start : start + 777] for start in range(0, count, 777)]
    table.index.fill((b"".join(map(table.by_seq.get, part)), part) for part in parts)
    table.check()
    for seq in range(first + count, first + count + 300):
        table.add(seq)
    for seq in seqs[::2]:
        table.remove(seq)
    table.check()


def test_a_split_moves_one_bucket():
    """However many are there, a put looks at no more than what is in one bucket, and asks for no identity."""
    table = Table()
    for seq in range(1, 50_000):
        table.by_seq[seq] = table.rng.randbytes(32)
    table.index.fill([(b"".join(table.by_seq.values()), range(1, 50_000))])
    table.index.identity_of = None
    spent = sorted(steps_of(partial(table.add, seq)) for seq in range(50_000, 51_000))
    assert spent[len(spent) // 2] < 100
    assert 10 * BUCKET_ENTRIES < spent[-1] < 100 * BUCKET_ENTRIES
