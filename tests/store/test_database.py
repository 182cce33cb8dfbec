# SPDX-License-Identifier: GPL-2.0-or-later
"""What is committed is there after a restart, and nothing else."""

import contextlib
import resource
import sqlite3
import stat
import tracemalloc
from pathlib import Path

import pytest

from relay.core.batch import Batch
from relay.core.bodies import UNREAD
from relay.store import schema
from relay.store.check import check
from relay.store.database import Store
from relay.store.errors import StoreFullError, StoreIoError
from tests.store.helpers import contents, insert, insert_batch, make_envelope, rows_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "relay" / "store.sqlite3"


@pytest.fixture
def store(path):
    opened = Store.open(path)
    yield opened
    opened.close()


def test_what_was_committed_is_there_after_a_restart(path):
    store = Store.open(path)
    envelopes = {seq: make_envelope(seq, seq % 4) for seq in range(1, 201)}
    rows = [insert(seq, envelope, interface=seq % 3, arrived_s=seq) for seq, envelope in envelopes.items()]
    store.commit(Batch(inserts=rows[:70], state={"clock": 5, "name": 1}, interfaces={0: "eth0", 1: "wlan0"}))
    store.commit(Batch(inserts=rows[70:], state={"clock": 6}, interfaces={1: "wlan1"}))
    store.close()

    store = Store.open(path)
    assert [tuple(row) for row in rows_of(store)] == [(*row[:5], True, False) for row in rows]
    assert store.read_bodies(list(envelopes)) == list(envelopes.values())
    assert store.state() == {"clock": 6, "name": 1}
    assert store.interfaces() == {0: "eth0", 1: "wlan1"}
    assert store.last_seq == 200
    store.close()


def test_a_store_of_the_first_version_keeps_all_it_has_and_takes_more(path):
    store = Store.open(path)
    store.commit(insert_batch(range(1, 11)))
    store.commit(Batch(drop_bodies=[3]))
    store.close()
    with contextlib.closing(schema.connect(path, "mode=rw")) as old:
        old.executescript("ALTER TABLE gone DROP COLUMN displaced; PRAGMA user_version = 1")
    before = check(path)
    assert before.ok, before

    for _ in range(2):
        store = Store.open(path)
        assert [row.seq for row in rows_of(store) if not row.has_body] == [3]
        assert not any(row.displaced for row in rows_of(store))
        store.close()
    store = Store.open(path)
    store.commit(Batch(displace=[4]))
    assert [row.seq for row in rows_of(store) if row.displaced] == [4]
    store.close()


def test_a_dropped_body_is_gone_and_its_id_is_known(store):
    store.commit(insert_batch(range(1, 131)))
    store.commit(Batch(drop_bodies=[3, 130, 70]))
    held = contents(store)
    assert {seq for seq, (row, _) in held.items() if not row.has_body} == {3, 70, 130}
    assert {seq for seq, (_, body) in held.items() if body is None} == {3, 70, 130}


def test_an_id_without_a_body_can_be_stored(store):
    store.commit(Batch(inserts=[insert(1, make_envelope(1), keep=False)]))
    assert [row.has_body for row in rows_of(store)] == [False]


def test_a_forgotten_id_is_gone_whether_its_body_left_before_with_it_or_not_at_all(store):
    store.commit(insert_batch(range(1, 7)))
    store.commit(Batch(drop_bodies=[1, 2]))
    store.commit(Batch(drop_bodies=[3], forget=[1, 3, 4]))
    assert list(contents(store)) == [2, 5, 6]
    assert store.read_bodies([1, 2, 3, 4, 5]) == [None, None, None, None, make_envelope(5)]
    for table, rows in (("admitted", 3), ("body", 2), ("gone", 1)):
        counted = store._reader.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        assert counted == (rows,), table


def test_batches_of_one_commit_may_build_on_each_other(store):
    store.commit(insert_batch(range(1, 4)), Batch(drop_bodies=[1, 2]), Batch(forget=[2]), insert_batch([4]))
    assert [(row.seq, row.has_body) for row in rows_of(store)] == [(1, False), (3, True), (4, True)]


def test_a_seq_is_never_used_twice_not_even_a_forgotten_one(path):
    store = Store.open(path)
    store.commit(insert_batch(range(1, 11)))
    store.commit(Batch(forget=list(range(1, 11))))
    store.close()
    store = Store.open(path)
    assert store.last_seq == 10
    assert store.state() == {}
    with pytest.raises(ValueError, match="seq 10"):
        store.commit(insert_batch([10]))
    with pytest.raises(ValueError, match="seq 12"):
        store.commit(insert_batch([13, 12]))
    assert contents(store) == {}
    store.commit(insert_batch([11]))
    assert list(contents(store)) == [11]
    store.close()


def test_bodies_come_in_the_order_asked_for_across_any_number(store):
    store.commit(insert_batch(range(1, 201), size_class=0))
    asked = [*range(200, 0, -1), 7, 7, 999]
    assert store.read_bodies(asked) == [*[make_envelope(seq, 0) for seq in asked[:-1]], None]
    assert store.read_bodies([]) == []
    assert store.read_bodies([5]) == [make_envelope(5, 0)]


def test_a_store_that_is_full_takes_nothing_of_the_batch_and_goes_on_when_there_is_space(store):
    store.commit(insert_batch(range(1, 65)))
    before = contents(store)
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreFullError, match="free some space"):
        store.commit(insert_batch(range(65, 129), state={"clock": 1}))
    assert contents(store) == before
    assert store.state() == {}
    assert store.last_seq == 64
    store._writer.execute("PRAGMA max_page_count = 1000000")
    store.commit(insert_batch(range(129, 193)))
    assert list(contents(store)) == [*range(1, 65), *range(129, 193)]


def test_only_the_owner_may_read_folder_and_files(path):
    store = Store.open(path)
    store.commit(insert_batch([1]))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    store.close()


def test_a_durable_store_syncs_and_a_volatile_one_does_not(tmp_path):
    for durable, expected in ((True, 2), (False, 0)):
        store = Store.open(tmp_path / str(durable) / "store", durable=durable)
        assert store._writer.execute("PRAGMA synchronous").fetchone() == (expected,)
        assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        store.commit(insert_batch([1]))
        store.close()


def test_tables_have_no_index_that_a_random_key_could_scatter(store):
    assert (
        store._reader.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        == []
    )
    assert store._reader.execute("PRAGMA page_size").fetchone() == (schema.PAGE_BYTES,)


def test_start_reads_the_ids_and_not_the_bodies_and_holds_few_at_a_time(path):
    rows = 20_000
    store = Store.open(path)
    envelope = make_envelope(0)
    for first in range(1, rows, 1000):
        store.commit(Batch(inserts=[insert(seq, envelope) for seq in range(first, first + 1000)]))
    store.commit(Batch(drop_bodies=list(range(1, rows, 7))))
    store.close()
    read_before = _bytes_read()
    tracemalloc.start()
    store = Store.open(path)
    count = sum(1 for _ in store.load())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    store.close()
    assert count == rows
    assert _bytes_read() - read_before < rows * 150
    assert peak_bytes < 2 * 1024 * 1024


def _bytes_read():
    with Path("/proc/self/io").open() as counters:
        return next(int(line.split()[1]) for line in counters if line.startswith("rchar"))


def test_an_interrupted_creation_is_started_again(path):
    path.parent.mkdir()
    path.with_name("store.sqlite3.new").write_bytes(b"half a store")
    path.with_name("store.sqlite3-wal").write_bytes(b"the log of a store that was deleted")
    path.touch()
    store = Store.open(path)
    store.commit(insert_batch([1]))
    assert list(contents(store)) == [1]
    store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.sqlite3", "store.sqlite3.lock"]


def test_a_failing_medium_is_reported_and_used_again_when_it_works(store):
    store.commit(insert_batch(range(1, 65)))
    before = contents(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.with_name("store.sqlite3-wal").stat().st_size, hard))
    try:
        with pytest.raises((StoreIoError, StoreFullError)):
            store.commit(insert_batch(range(65, 129)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(store) == before
    store.commit(insert_batch(range(129, 193)))
    assert len(contents(store)) == 128


class FailingReader:
    """A connection of which each read of one body fails."""

    def __init__(self, reader, seq, error):
        self._reader, self._seq, self._error = reader, seq, error

    def execute(self, statement, values=()):
        is_range = " BETWEEN " in statement and values[0] <= self._seq <= values[1]
        if self._seq in values or is_range:
            raise self._error
        return self._reader.execute(statement, values)

    def close(self):
        self._reader.close()


def sqlite_error(kind, code):
    error = kind("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_READ), UNREAD),
        (sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_BUSY), UNREAD),
        (MemoryError(), UNREAD),
        # What SQLite makes of EIO.
        (sqlite_error(sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT), UNREAD),
        (sqlite3.OperationalError("Could not decode to UTF-8"), None),
    ],
)
@pytest.mark.parametrize("seqs", [[3], [1, 2, 3, 4], [1, 3, 9]])
def test_a_body_that_the_medium_fails_to_read_is_not_taken_for_none(store, error, expected, seqs):
    store.commit(insert_batch(range(1, 11)))
    sound = dict(zip(seqs, store.read_bodies(seqs), strict=True))
    store._reader = FailingReader(store._reader, 3, error)
    assert store.read_bodies(seqs) == list({**sound, 3: expected}.values())


@pytest.mark.parametrize("flipped", range(4))
def test_a_flipped_bit_in_a_header_keeps_no_envelope_away(path, flipped):
    store = Store.open(path)
    store.commit(insert_batch(range(1, 11)))
    store.commit(Batch(drop_bodies=[5]))
    before = {row.seq: row for row in rows_of(store)}
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for seq in (3, 5):
            header = bytearray(before[seq].header)
            header[flipped] ^= 0x40
            database.execute("UPDATE admitted SET header = ? WHERE seq = ?", (bytes(header), seq))
    store = Store.open(path)
    # Of what has left nothing tells; it may come again.
    assert {row.seq: row for row in rows_of(store)} == {seq: row for seq, row in before.items() if seq != 5}
    store.close()
