# SPDX-License-Identifier: GPL-2.0-or-later
"""The store against a model of it, over whatever sequence of changes, restarts and crashes."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.core.batch import Batch
from relay.store.check import check
from relay.store.database import Store
from relay.store.salvage import salvage
from tests.store.helpers import contents, insert, make_envelope

ENVELOPES = [make_envelope(number, number % 4) for number in range(8)]
some_seqs = st.lists(st.integers(min_value=1, max_value=150), max_size=70)


class StoreModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="relay-model-"))
        self.path = self.folder / "0" / "store"
        self.store = Store.open(self.path, durable=False)
        self.rows = {}
        self.bodies = {}
        self.state = {}
        self.names = {}
        self.last_seq = 0

    @rule(
        count=st.integers(min_value=0, max_value=70),
        gap=st.integers(min_value=1, max_value=3),
        bodiless=st.booleans(),
        drop=some_seqs,
        forget=some_seqs,
        state=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1)),
        names=st.dictionaries(st.integers(min_value=0, max_value=255), st.text(max_size=15), max_size=2),
    )
    def commit(self, count, gap, bodiless, drop, forget, state, names):
        inserts = []
        for _ in range(count):
            self.last_seq += gap
            envelope = ENVELOPES[self.last_seq % len(ENVELOPES)]
            inserts.append(insert(self.last_seq, envelope, arrived_s=self.last_seq * 10, keep=not bodiless))
            self.rows[self.last_seq] = inserts[-1][:5]
            if not bodiless:
                self.bodies[self.last_seq] = envelope
        # The core names each once, and only what it knows.
        forget = sorted(set(forget) & self.rows.keys())
        drop = sorted(set(drop) & self.bodies.keys())
        for seq in drop:
            del self.bodies[seq]
        for seq in forget:
            del self.rows[seq]
            self.bodies.pop(seq, None)
        self.state |= state
        self.names |= names
        self.store.commit(Batch(inserts=inserts, drop_bodies=drop, forget=forget, state=state, interfaces=names))

    @rule()
    def restart(self):
        self.store.close()
        self.store = Store.open(self.path, durable=False)

    @rule()
    def crash(self):
        """Go on with the files as they are while the store is open."""
        after = self.folder / str(int(self.path.parent.name) + 1)
        shutil.copytree(self.path.parent, after)
        self.store.close()
        shutil.rmtree(self.path.parent)
        self.path = after / "store"
        self.store = Store.open(self.path, durable=False)

    @rule(crashed=st.booleans())
    def salvage(self, crashed):
        """Go on with what was salvaged, from a store at rest or from one that crashed."""
        after = self.folder / str(int(self.path.parent.name) + 1)
        copy = self.folder / "copy"
        if not crashed:
            self.store.close()
        shutil.copytree(self.path.parent, copy)
        self.store.close()
        report = salvage(copy / "store", after / "store")
        assert (report.altered, report.lost, report.without_row, report.unreadable_pages) == (0, 0, 0, 0)
        assert (report.admitted, report.bodies) == (len(self.rows), len(self.bodies))
        shutil.rmtree(copy)
        shutil.rmtree(self.path.parent)
        self.path = after / "store"
        self.store = Store.open(self.path, durable=False)

    @invariant()
    def holds_what_the_model_holds(self):
        held = contents(self.store)
        assert {seq: tuple(row)[:5] for seq, (row, _) in held.items()} == self.rows
        assert {seq: body for seq, (_, body) in held.items() if body is not None} == self.bodies
        assert {seq for seq, (row, _) in held.items() if row.has_body} == self.bodies.keys()
        assert self.store.state() == self.state
        assert self.store.interfaces() == self.names
        assert self.store.last_seq == self.last_seq

    def teardown(self):
        self.store.close()
        assert check(self.path).ok
        shutil.rmtree(self.folder)


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
