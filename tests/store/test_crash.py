# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything acknowledged survives kill -9 at any instant, and a log torn at any byte."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

from relay.core.batch import Batch
from relay.store.check import check
from relay.store.database import Store
from relay.store.salvage import salvage
from tests.store.helpers import contents, insert, insert_batch, make_envelope

CYCLES = 20
#: Longest life of a child after its first acknowledgement.
LIFE_S = 0.12


def test_what_was_acknowledged_survives_kill_9_at_any_instant(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    path = tmp_path / "store.sqlite3"
    envelopes = {number: make_envelope(number, number % 3) for number in range(40)}
    held, newest, killed_in_flight = {}, 0, 0
    for cycle in range(CYCLES):
        submitted, stored = _run_until_killed(path, cycle, rng.uniform(0, LIFE_S))
        assert submitted[0]["first"] > newest, "a seq was used twice"
        store = Store.open(path)
        # Batches are stored in order, so what was stored and not yet told follows what was told.
        survived = [batch for batch in submitted if batch["first"] <= store.last_seq]
        assert [batch["first"] for batch in survived][: len(stored)] == stored
        killed_in_flight += len(survived) > len(stored)
        for batch in survived:
            for seq in range(batch["first"], batch["last"] + 1):
                held[seq] = (*insert(seq, envelopes[seq % 40], interface=cycle)[:5], envelopes[seq % 40])
            for seq in batch["drop"]:
                held[seq] = (*held[seq][:5], None)
            for seq in batch["forget"]:
                del held[seq]
            newest = batch["last"]
        assert {seq: (*row[:5], body) for seq, (row, body) in contents(store).items()} == held
        assert store.state().get("newest", 0) == newest
        store.close()
        assert check(path).ok, check(path)
    print(len(held), "held;", killed_in_flight, "of", CYCLES, "killed between commit and telling")
    assert len(held) > 1000


def _run_until_killed(path, seed, life_s):
    """Return what the child submitted, and the first seqs of what it was told is stored."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.store.crash_child", str(path), str(seed)], stdout=subprocess.PIPE
    )
    lines = [child.stdout.readline(), child.stdout.readline()]
    time.sleep(life_s)
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.read().splitlines(keepends=True)
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    told = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [one for one in told if isinstance(one, dict)], [one for one in told if isinstance(one, int)]


def test_a_log_torn_at_any_byte_leaves_whole_batches_up_to_there(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    store = Store.open(tmp_path / "whole" / "store")
    seq, ends = 0, [0]
    while seq < 300:
        seqs = range(seq + 1, seq + 1 + rng.choice((1, 2, 40)))
        store.commit(insert_batch(seqs, size_class=rng.randrange(3), state={"newest": seqs[-1]}))
        seq = seqs[-1]
        ends.append(seq)
    store.commit(Batch(drop_bodies=[1, 2]))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    store.close()
    log = (tmp_path / "cut" / "store-wal").read_bytes()
    for _ in range(40):
        torn = tmp_path / "torn"
        shutil.rmtree(torn, ignore_errors=True)
        shutil.copytree(tmp_path / "cut", torn)
        (torn / "store-shm").unlink()
        cut = rng.randrange(len(log))
        # A sector that was never written holds whatever was there before.
        (torn / "store-wal").write_bytes(log[:cut] + rng.randbytes(rng.choice((0, 512, 5000))))
        report = salvage(torn / "store", torn / "salvaged" / "store")
        store = Store.open(torn / "store")
        assert (report.admitted, report.lost) == (len(contents(store)), 0)
        held = list(contents(store))
        assert held == list(range(1, len(held) + 1))
        assert len(held) in ends
        assert store.state().get("newest", 0) == len(held)
        store.close()
        assert check(torn / "store").ok
