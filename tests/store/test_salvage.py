# SPDX-License-Identifier: GPL-2.0-or-later
"""Check finds what is wrong; salvage rescues what is readable, and never touches the source."""

import contextlib
import random
import shutil
import sqlite3
import tracemalloc

import pytest

from relay.core.batch import Batch
from relay.core.bodies import UNREAD
from relay.core.envelope import envelope_id
from relay.store.check import check
from relay.store.database import Store
from relay.store.errors import StoreError
from relay.store.salvage import SalvageReport, salvage
from tests.store.helpers import contents, files, insert, insert_batch, make_envelope

ROWS = 400
#: By size class: pages of 4 KiB hold 12, 3, or one and part of another envelope.
LOST_PER_PAGE = 15
#: Leaf pages of ``admitted`` hold this many rows.
ROWS_PER_PAGE = 60


@pytest.fixture
def folder(tmp_path):
    """A store as a killed relay leaves it, with envelopes of every size, some gone, some forgotten."""
    rng = random.Random(1)
    store = Store.open(tmp_path / "made" / "store")
    for first in range(1, ROWS, 50):
        seqs = range(first, first + 50)
        store.commit(
            Batch(
                inserts=[insert(seq, make_envelope(seq, rng.randrange(4)), arrived_s=seq, interface=7) for seq in seqs],
                drop_bodies=rng.sample(seqs, 5),
                state={"clock": first},
                interfaces={7: "eth0"},
            )
        )
    forget = rng.sample(range(1, ROWS), 30)
    store.commit(Batch(forget=forget))
    shutil.copytree(tmp_path / "made", tmp_path / "source")
    store.close()
    return tmp_path


@contextlib.contextmanager
def opened(path):
    store = Store.open(path)
    try:
        yield store
    finally:
        store.close()


def whole(folder):
    with opened(folder / "made" / "store") as store:
        return contents(store)


def salvaged(folder):
    """Salvage source to new; return the report and the contents, having seen that source is untouched."""
    before = files(folder / "source")
    report = salvage(folder / "source" / "store", folder / "new" / "store")
    assert files(folder / "source") == before
    assert check(folder / "new" / "store").ok
    with opened(folder / "new" / "store") as store:
        held = contents(store)
    assert (report.admitted, report.bodies) == (len(held), sum(body is not None for _, body in held.values()))
    return report, held


def sql(folder, statement, *parameters):
    with contextlib.closing(sqlite3.connect(folder / "source" / "store", isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()


def merge_log(folder):
    sql(folder, "PRAGMA wal_checkpoint(TRUNCATE)")


def overwrite(folder, page, data):
    with (folder / "source" / "store").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(data.ljust(4096, b"\xff"))


@pytest.mark.parametrize("log", [True, False], ids=["log", "merged"])
def test_a_sound_store_passes_and_is_salvaged_whole(folder, log):
    if not log:
        merge_log(folder)
    before = files(folder / "source")
    report = check(folder / "source" / "store")
    assert files(folder / "source") == before
    expected = whole(folder)
    bodies = sum(body is not None for _, body in expected.values())
    assert report.ok
    assert (report.admitted, report.bodies) == (len(expected), bodies)
    report, held = salvaged(folder)
    assert held == expected
    assert report == SalvageReport(
        admitted=len(expected), bodies=bodies, without_row=0, altered=0, lost=0, unreadable_pages=0
    )
    with opened(folder / "new" / "store") as store, opened(folder / "made" / "store") as original:
        assert store.state() == original.state()
        assert store.interfaces() == original.interfaces()
        assert store.last_seq == original.last_seq


def test_check_and_salvage_tell_an_altered_envelope(folder):
    merge_log(folder)
    expected = whole(folder)
    seq = next(seq for seq, (_, body) in expected.items() if body is not None and len(body) == 1024)
    envelope = bytearray(expected[seq][1])
    envelope[500] ^= 1
    sql(folder, "UPDATE body SET envelope = ? WHERE seq = ?", bytes(envelope), seq)
    report = check(folder / "source" / "store")
    assert (report.altered, report.ok, report.structure) == (1, False, ())
    report, held = salvaged(folder)
    assert (report.altered, report.lost) == (1, 0)
    assert held[seq] == (expected[seq][0]._replace(has_body=False, displaced=True), None)
    assert {**held, seq: None} == {**expected, seq: None}


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("DELETE FROM admitted WHERE seq = {held}", "orphans"),
        ("DELETE FROM body WHERE seq = {held}", "missing"),
        ("INSERT INTO gone VALUES ({held}, 0)", "contradictory"),
        ("INSERT INTO gone VALUES (100000, 0)", "stray"),
        ("UPDATE admitted SET header = zeroblob(24) WHERE seq = {held}", "header_differs"),
        ("UPDATE admitted SET id = zeroblob(31) WHERE seq = {held}", "malformed"),
    ],
)
def test_check_names_each_fault_and_salvage_mends_it(folder, statement, fault):
    merge_log(folder)
    held = next(seq for seq, (_, body) in whole(folder).items() if body is not None)
    sql(folder, statement.format(held=held))
    report = check(folder / "source" / "store")
    assert getattr(report, fault) == 1
    assert not report.ok
    report, rescued = salvaged(folder)
    assert rescued.keys() == whole(folder).keys()
    # What was said to be gone stays so.
    assert rescued[held][1] == (None if fault in {"missing", "contradictory"} else make_body(folder, held))


def make_body(folder, seq):
    return whole(folder)[seq][1]


def test_a_body_without_its_row_gets_a_neighbours(folder):
    merge_log(folder)
    expected = whole(folder)
    seqs = [seq for seq, (_, body) in expected.items() if body is not None]
    sql(folder, "DELETE FROM admitted WHERE seq = ?", seqs[50])
    report, held = salvaged(folder)
    assert report.without_row == 1
    row, body = held[seqs[50]]
    assert body == expected[seqs[50]][1]
    assert (row.id, row.header, row.interface) == (envelope_id(body), body[:24], 7)
    assert abs(row.arrived_s - seqs[50]) < 10


@pytest.mark.parametrize("table", ["admitted", "body", "gone", "meta", "interface"])
def test_a_damaged_root_costs_only_what_lay_in_it(folder, table):
    merge_log(folder)
    expected = whole(folder)
    (((root,),), ((pages,),)) = (
        sql(folder, "SELECT rootpage FROM sqlite_schema WHERE name = ?", table),
        sql(folder, "PRAGMA page_count"),
    )
    assert pages > 100
    overwrite(folder, root, b"")
    assert not check(folder / "source" / "store").ok
    _, held = salvaged(folder)
    assert {seq: body for seq, (_, body) in held.items() if body is not None} == {
        seq: body for seq, (_, body) in expected.items() if body is not None
    }
    if table in {"admitted", "body"}:
        assert held == expected


def test_without_its_first_page_a_store_is_refused_and_still_salvaged(folder):
    merge_log(folder)
    expected = whole(folder)
    overwrite(folder, 1, b"")
    with pytest.raises(StoreError, match="salvage"):
        Store.open(folder / "source" / "store")
    assert check(folder / "source" / "store").refused
    _, held = salvaged(folder)
    bodies = {seq: body for seq, (_, body) in expected.items() if body is not None}
    assert bodies.items() <= {seq: body for seq, (_, body) in held.items()}.items()


def test_bodies_beside_a_damaged_page_are_still_served(folder):
    merge_log(folder)
    expected = whole(folder)
    page = _page_of(folder, make_body(folder, next(s for s, (_, b) in expected.items() if b and len(b) == 256)))
    overwrite(folder, page, b"")
    with opened(folder / "source" / "store") as store:
        seqs = list(expected)
        read = store.read_bodies(seqs)
        wrong = [seq for seq, body in zip(seqs, read, strict=True) if body != expected[seq][1]]
        assert 0 < len(wrong) <= LOST_PER_PAGE
        assert all(store.read_bodies([seq]) == [UNREAD] for seq in wrong)


def _page_of(folder, body):
    return (folder / "source" / "store").read_bytes().index(body[:100]) // 4096 + 1


@pytest.mark.parametrize("kind", ["ones", "zeros", "noise", "bits", "swapped"])
def test_whatever_happens_to_pages_the_rest_is_rescued_and_nothing_is_made_up(folder, kind):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    merge_log(folder)
    expected = whole(folder)
    path = folder / "source" / "store"
    original = path.read_bytes()
    for _ in range(12):
        data = bytearray(original)
        damaged = rng.sample(range(2, len(data) // 4096 + 1), rng.choice((1, 3, 10)))
        for page in damaged:
            start = 4096 * (page - 1)
            old = data[start : start + 4096]
            if kind == "bits":
                for _ in range(20):
                    old[rng.randrange(4096)] ^= 1 << rng.randrange(8)
            elif kind == "swapped":
                at = 4096 * rng.randrange(1, len(data) // 4096)
                old = data[at : at + 4096]
            else:
                old = {"ones": b"\xff" * 4096, "zeros": bytes(4096), "noise": rng.randbytes(4096)}[kind]
            data[start : start + 4096] = old
        path.write_bytes(data)
        shutil.rmtree(folder / "new", ignore_errors=True)
        report, held = salvaged(folder)
        # What came without its row cannot be verified; everything else can.
        unknown = {seq: body for seq, (_, body) in held.items() if body is not None and body != _body(expected, seq)}
        assert len(unknown) <= report.without_row
        rescued = sum(body is not None for _, body in held.values()) - len(unknown)
        bodies = sum(body is not None for _, body in expected.values())
        assert rescued >= bodies - len(damaged) * max(LOST_PER_PAGE, ROWS_PER_PAGE if unknown else 0)


def _body(expected, seq):
    return expected[seq][1] if seq in expected else None


def test_salvage_does_not_bring_back_what_was_deleted(folder):
    """Pages of the list of free pages still hold old envelopes."""
    expected = whole(folder)
    forget = [seq for seq in expected if seq > 150]
    with opened(folder / "source" / "store") as store:
        store.commit(Batch(forget=forget))
    assert sql(folder, "PRAGMA freelist_count")[0][0] > 50
    file = (folder / "source" / "store").read_bytes()
    assert any(expected[seq][1][-200:] in file for seq in forget if expected[seq][1])
    _, held = salvaged(folder)
    assert held == {seq: entry for seq, entry in expected.items() if seq <= 150}


@pytest.mark.parametrize("place", ["header", "page", "sum", "salt"])
def test_a_damaged_place_in_the_log_costs_what_lay_there_and_not_all_that_follows(folder, place):
    """SQLite reads the log up to there, calls the rest of it a crash, and finds nothing wrong."""
    log = folder / "source" / "store-wal"
    data = bytearray(log.read_bytes())
    frame = 32 + 2 * (24 + 4096)
    data[{"header": 20, "page": frame + 24 + 2000, "sum": frame + 17, "salt": frame + 9}[place]] ^= 4
    log.write_bytes(data)
    before = files(folder / "source")
    report = check(folder / "source" / "store")
    assert files(folder / "source") == before, "SQLite deletes a log in which it sees nothing"
    assert not report.ok
    assert any("log is damaged" in line for line in report.structure)
    _, rescued = salvaged(folder)
    expected = whole(folder)
    bodies = {seq for seq, (_, body) in rescued.items() if body is not None}
    assert all(rescued[seq] == expected[seq] for seq in bodies & expected.keys())
    assert len(bodies) > 0.8 * sum(body is not None for _, body in expected.values())


def test_a_log_that_a_power_cut_ended_is_no_damage(folder):
    """Of the last commit any frames may be missing: nobody was told that it was there."""
    log = folder / "source" / "store-wal"
    data = bytearray(log.read_bytes())
    frames = [at for at in range(32, len(data), 24 + 4096) if data[at + 8 : at + 16] == data[16:24]]
    commits = [at for at in frames if any(data[at + 4 : at + 8])]
    torn = commits[-2] + 24 + 4096
    data[torn : torn + 24 + 4096] = bytes(24 + 4096)
    log.write_bytes(data)
    assert check(folder / "source" / "store").ok


def test_salvage_never_overwrites(folder):
    (folder / "new").mkdir()
    (folder / "new" / "store").write_bytes(b"precious")
    with pytest.raises(StoreError, match="exists already"):
        salvage(folder / "source" / "store", folder / "new" / "store")
    assert files(folder / "new") == {"store": b"precious"}
    with pytest.raises(StoreError):
        salvage(folder / "nothing", folder / "new" / "other")
    assert files(folder / "new") == {"store": b"precious"}


def test_any_file_gives_a_store_or_a_reason(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    for number in range(30):
        source = tmp_path / f"noise{number}"
        # Leaf pages full of garbage, on purpose: the first byte says "leaf".
        pages = [rng.choice((b"\x0d", b"\x0a", b"\x05")) + rng.randbytes(4095) for _ in range(rng.randrange(20))]
        source.write_bytes(b"".join(pages) + rng.randbytes(rng.randrange(4096)))
        assert salvage(source, tmp_path / f"new{number}").bodies == 0
        assert check(tmp_path / f"new{number}").ok


def test_a_large_store_is_checked_and_salvaged_in_little_memory(tmp_path):
    store = Store.open(tmp_path / "store", durable=False)
    for first in range(1, 5001, 500):
        store.commit(insert_batch(range(first, first + 500), size_class=1))
    store.close()
    tracemalloc.start()
    assert check(tmp_path / "store").bodies == 5000
    assert salvage(tmp_path / "store", tmp_path / "new").bodies == 5000
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1024 * 1024
