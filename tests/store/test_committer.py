# SPDX-License-Identifier: GPL-2.0-or-later
"""A lone put commits at once, a burst shares a sync, and nobody is told "stored" too early."""

import asyncio
import itertools
import threading
import time

import pytest

from relay.core.batch import Batch
from relay.store.committer import Committer
from relay.store.database import Store
from relay.store.errors import StoreFullError
from tests.store.helpers import contents, insert, insert_batch, make_envelope


@pytest.fixture
def store(tmp_path):
    opened = Store.open(tmp_path / "store.sqlite3")
    yield opened
    opened.close()


def run(store, scenario, **bounds):
    async def main():
        committer = Committer(store, loop=asyncio.get_running_loop(), **bounds)
        try:
            await scenario(committer)
        finally:
            await committer.close()

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "relay-store"]


def rows_of(count, first=1):
    envelope = make_envelope(0)
    return [Batch(inserts=[insert(seq, envelope)]) for seq in range(first, first + count)]


def test_a_lone_batch_is_committed_before_anything_else_arrives(store):
    async def scenario(committer):
        for seq in (1, 2, 3):
            stored = asyncio.get_running_loop().create_future()
            committer.submit(insert_batch([seq]), stored.set_result)
            assert await stored is None
            assert store.read_bodies([seq]) == [make_envelope(seq)]
            assert committer.groups == seq

    run(store, scenario)


def test_a_burst_shares_transactions_and_is_called_back_in_order(store):
    called = []

    async def scenario(committer):
        for index, batch in enumerate(rows_of(3000)):
            committer.submit(batch, lambda error, index=index: called.append((index, error)))
        assert committer.pending_rows == 3000
        assert committer.pending_bytes == 3000 * 1024
        await committer.drain()
        assert (committer.pending_rows, committer.pending_bytes) == (0, 0)
        assert committer.groups <= 100

    run(store, scenario)
    assert called == [(index, None) for index in range(3000)]
    assert store.last_seq == 3000


def test_a_loop_that_is_busy_can_call_back_before_its_next_turn(store):
    called = []

    async def scenario(committer):
        committer.deliver(wait_s=10)  # nothing is pending, so nothing is waited for
        committer.submit(insert_batch([1]), called.append)
        committer.deliver(wait_s=10)
        assert (called, committer.pending_rows) == ([None], 0)
        await asyncio.sleep(0.01)  # the loop's own call finds nothing left to do
        assert called == [None]

    began = time.monotonic()
    run(store, scenario)
    assert time.monotonic() - began < 10


def test_bounds_of_a_transaction_hold_and_a_larger_batch_still_passes(store):
    sizes = []
    commit = store.commit
    # Counts what reaches the real commit.
    store.commit = lambda *batches: (sizes.append([len(batch.inserts) for batch in batches]), commit(*batches))
    large = insert_batch(range(31, 81))

    async def scenario(committer):
        for batch in (*rows_of(30), large, *rows_of(30, first=81)):
            committer.submit(batch, lambda error: sizes.append(error) if error else None)
        await committer.drain()

    run(store, scenario, max_group_rows=8)
    assert [50] in sizes
    assert all(sum(size) <= 8 for size in sizes if size != [50])
    assert list(contents(store)) == list(range(1, 111))

    sizes.clear()
    run(store, lambda committer: _submit_all(committer, rows_of(40, first=200)), max_group_bytes=4096)
    assert all(sum(size) <= 4 for size in sizes)


async def _submit_all(committer, batches):
    for batch in batches:
        committer.submit(batch, lambda _: None)
    await committer.drain()


def test_a_failed_transaction_is_told_to_each_of_its_batches_and_the_next_ones_pass(store):
    outcome = {}

    async def scenario(committer):
        committer.submit(insert_batch(range(1, 65)), lambda error: outcome.update({0: error}))
        await committer.drain()
        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
        for batch in rows_of(400, first=65):
            committer.submit(batch, lambda error, seq=batch.inserts[0][0]: outcome.update({seq: error}))
        await committer.drain()
        store._writer.execute("PRAGMA max_page_count = 1000000")
        committer.submit(insert_batch([1000]), lambda error: outcome.update({1000: error}))
        await committer.drain()

    run(store, scenario)
    told = {seq for seq in range(65, 465) if outcome[seq] is None}
    failed = {seq for seq in range(65, 465) if isinstance(outcome[seq], StoreFullError)}
    assert failed
    assert told | failed == set(range(65, 465))
    assert outcome[0] is None
    assert outcome[1000] is None
    assert set(contents(store)) == {*range(1, 65), *told, 1000}


def test_a_mistaken_batch_is_reported_and_does_not_stop_the_thread(store):
    outcome = []

    async def scenario(committer):
        committer.submit(insert_batch([5]), outcome.append)
        await committer.drain()
        committer.submit(insert_batch([5]), outcome.append)
        await committer.drain()
        committer.submit(insert_batch([6]), outcome.append)

    run(store, scenario)
    assert [type(error) for error in outcome] == [type(None), ValueError, type(None)]


def test_a_callback_that_raises_does_not_keep_others_from_being_called(store):
    outcome, reported = [], []

    def fail(_):
        raise RuntimeError("the caller's mistake")

    async def scenario(committer):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        committer.submit(insert_batch([1]), fail)
        committer.submit(insert_batch([2]), outcome.append)

    run(store, scenario)
    assert outcome == [None]
    assert [str(error) for error in reported] == ["the caller's mistake"]


def test_close_commits_what_was_submitted_and_takes_no_more(store):
    outcome = []

    async def scenario(committer):
        for batch in rows_of(2000):
            committer.submit(batch, outcome.append)
        await committer.close()
        assert outcome == [None] * 2000
        with pytest.raises(RuntimeError):
            committer.submit(insert_batch([5000]), outcome.append)

    run(store, scenario)
    assert store.last_seq == 2000


def test_the_loop_runs_on_while_a_commit_is_under_way(store):
    started, finish = threading.Event(), threading.Event()
    commit = store.commit

    def slow(*batches):
        started.set()
        assert finish.wait(10)
        commit(*batches)

    store.commit = slow

    async def scenario(committer):
        stored = asyncio.get_running_loop().create_future()
        committer.submit(insert_batch([1]), stored.set_result)
        for turn in itertools.count():
            await asyncio.sleep(0)
            if started.is_set() and turn > 100:
                break
        assert not stored.done()
        committer.submit(insert_batch([2]), lambda _: None)
        assert committer.pending_rows == 2
        finish.set()
        assert await stored is None

    run(store, scenario)
    assert list(contents(store)) == [1, 2]
