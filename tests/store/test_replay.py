# SPDX-License-Identifier: GPL-2.0-or-later
"""A store whose log is damaged when the relay starts: what stands behind the damage is not overwritten."""

import random
import shutil
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from relay.core.batch import Batch
from relay.store.check import check
from relay.store.database import Store, aside_file
from relay.store.replay import LogRows
from relay.store.salvage import salvage
from tests.store.helpers import contents, files, insert, insert_batch, make_envelope

FRAME_BYTES = 24 + 4096
COMMITS = 30
PER_COMMIT = 4


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What is left of a store whose process was killed, with some gone and some forgotten; its log has all of it."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.store.test_replay import fill\n"
        "fill(Path(sys.argv[1]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path_factory.mktemp("left") / "store"
    child = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert child.returncode == -signal.SIGKILL
    return path.parent


@pytest.fixture
def killed(left, tmp_path):
    """A folder with what is left, twice: as it is, and for a test to damage."""
    shutil.copytree(left, tmp_path / "made")
    shutil.copytree(left, tmp_path / "source")
    return tmp_path


def fill(path):
    """Commit as a relay does, some sizes, evictions, purges and forgetting on the way."""
    store = Store.open(path)
    for first in range(1, COMMITS * PER_COMMIT, PER_COMMIT):
        seqs = range(first, first + PER_COMMIT)
        old = [first - PER_COMMIT] if first > PER_COMMIT else []
        store.commit(
            Batch(
                inserts=[insert(seq, make_envelope(seq, seq % 3), arrived_s=seq, interface=7) for seq in seqs],
                drop_bodies=old if first % 8 == 1 else [],
                displace=old if first % 8 == 5 else [],
                state={"residence_s": first},
                interfaces={7: "eth0"},
            )
        )
    store.commit(Batch(forget=[2, 3]))


def opened(path):
    return closing(Store.open(path))


def frames(data):
    """Where frames of the log's present use begin, and those of them that end a commit."""
    ours = [at for at in range(32, len(data), FRAME_BYTES) if data[at + 8 : at + 16] == data[16:24]]
    return ours, [at for at in ours if any(data[at + 4 : at + 8])]


def whole(folder):
    shutil.copytree(folder / "made", folder / "whole")
    with opened(folder / "whole" / "store") as store:
        return contents(store)


@pytest.mark.parametrize("place", ["header", "salts", "page", "sum", "salt", "mark"])
def test_a_flipped_bit_in_the_middle_costs_what_lay_there_and_is_told(killed, place):
    log = killed / "source" / "store-wal"
    data = bytearray(log.read_bytes())
    _, commits = frames(data)
    frame = commits[COMMITS // 2]
    at = {
        "header": 24, "salts": 17, "page": frame + 24 + 4000, "sum": frame + 17, "salt": frame + 9, "mark": frame + 7,
    }[place]  # fmt: skip
    data[at] ^= 4
    log.write_bytes(data)
    expected = whole(killed)
    with opened(killed / "source" / "store") as store:
        held = contents(store)
        assert store.log_damage is not None
        print(store.log_damage)
        lost = expected.keys() - held.keys()
        assert len(lost) <= store.log_damage.lost <= PER_COMMIT
        assert store.log_damage.saved >= len(expected) / 3
        assert {seq: entry for seq, entry in held.items() if seq in expected} == {
            seq: entry for seq, entry in expected.items() if seq in held
        }, "a body that left came back, or another one is held"
        assert held.keys() - expected.keys() <= {2, 3}, "forgotten behind the damage"
        assert store.interfaces() == {7: "eth0"}
        assert store.state()["residence_s"] == COMMITS * PER_COMMIT - PER_COMMIT + 1
        newest = store.last_seq
        assert newest == COMMITS * PER_COMMIT
        store.commit(insert_batch([newest + 1]))
    assert check(killed / "source" / "store").ok
    assert not aside_file(killed / "source" / "store").exists()
    with opened(killed / "source" / "store") as store:
        assert store.log_damage is None
        assert contents(store).keys() == held.keys() | {newest + 1}


def test_the_last_two_commits_are_told_apart_from_one_that_was_broken_off(killed):
    """The frame that ends the last but one: somebody was told of that, and nobody was of one behind it, perhaps."""
    log = killed / "source" / "store-wal"
    data = bytearray(log.read_bytes())
    _, commits = frames(data)
    data[commits[-2] + 24 + 4000] ^= 4
    log.write_bytes(data)
    with opened(killed / "source" / "store") as store:
        assert store.log_damage is not None
        assert store.last_seq == COMMITS * PER_COMMIT


@pytest.mark.parametrize("torn", ["short", "zeros", "without its first frame", "without its last frame", "whole"])
def test_a_log_that_a_power_cut_ended_is_silent_and_leaves_nothing_to_be_taken_for_damage(killed, torn):
    log = killed / "source" / "store-wal"
    data = bytearray(log.read_bytes())
    ours, commits = frames(data)
    first = next(at for at in ours if at > commits[-2])
    if torn == "short":
        data = data[: commits[-1] + 1000]
    elif torn == "zeros":
        data[commits[-1] + 512 : commits[-1] + FRAME_BYTES] = bytes(FRAME_BYTES - 512)
    elif torn == "without its first frame":
        data[first : first + FRAME_BYTES] = bytes(FRAME_BYTES)
    elif torn == "without its last frame":
        data[commits[-1] : commits[-1] + FRAME_BYTES] = bytes(FRAME_BYTES)
    log.write_bytes(data)
    expected = whole(killed)
    with opened(killed / "source" / "store") as store:
        assert store.log_damage is None
        held = contents(store)
        assert held.keys() - {2, 3} == expected.keys()
        newest = store.last_seq
        store.commit(insert_batch([newest + 1]))
        shutil.copytree(killed / "source", killed / "again")
    with opened(killed / "again" / "store") as store:
        assert store.log_damage is None
        assert contents(store).keys() == held.keys() | {newest + 1}


def test_killed_again_while_it_mends_it_mends_at_the_next_start(killed, monkeypatch):
    """The first transaction goes over what SQLite does not see: a copy has it until that is committed."""
    log = killed / "source" / "store-wal"
    data = bytearray(log.read_bytes())
    _, commits = frames(data)
    data[commits[COMMITS // 2] + 24 + 4000] ^= 4
    log.write_bytes(data)

    def cut(_, connection, __):
        connection.execute("INSERT INTO meta VALUES ('x', 1)")
        connection.execute("COMMIT")
        raise KeyboardInterrupt

    monkeypatch.setattr(LogRows, "write", cut)
    with pytest.raises(KeyboardInterrupt):
        Store.open(killed / "source" / "store")
    monkeypatch.undo()
    report = salvage(killed / "source" / "store", killed / "salvaged")
    assert report.admitted >= COMMITS * PER_COMMIT - PER_COMMIT
    expected = whole(killed)
    with opened(killed / "source" / "store") as store:
        assert store.log_damage is not None
        assert len(expected.keys() - contents(store).keys()) <= PER_COMMIT


def test_any_bit_of_a_log_costs_little_and_makes_nothing_up(killed):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    log = (killed / "source" / "store-wal").read_bytes()
    expected = whole(killed)
    _, commits = frames(log)
    for number in range(12):
        folder = killed / f"flipped{number}"
        shutil.copytree(killed / "source", folder)
        data = bytearray(log)
        for _ in range(rng.choice((1, 1, 1, 3))):
            # Before the last commit but one: of the last nobody can tell what it was.
            data[rng.randrange(commits[-2])] ^= 1 << rng.randrange(8)
        (folder / "store-wal").write_bytes(data)
        with opened(folder / "store") as store:
            held = contents(store)
            lost = expected.keys() - held.keys()
            assert len(lost) <= (store.log_damage.lost if store.log_damage else 0)
            for seq, (row, body) in held.items():
                assert body is None or body == make_envelope(seq, seq % 3)
                assert seq in {2, 3} or row.id == expected[seq][0].id
        assert check(folder / "store").ok
        shutil.rmtree(folder)


def test_looking_at_a_sound_log_reads_nothing_of_its_frames(killed):
    before = files(killed / "source")["store-wal"]
    with opened(killed / "source" / "store") as store:
        assert store.log_damage is None
        assert (killed / "source" / "store-wal").read_bytes() == before, "a sound log is not moved at start"
