# SPDX-License-Identifier: GPL-2.0-or-later
"""What storage does on a small disk: ``python -m tests.store.disk_child PART FOLDER ELSEWHERE``.

Runs in a mount namespace of its own, with 12 MiB mounted on FOLDER. A failed
assertion is the result.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relay.core.batch import Batch
from relay.store.check import check
from relay.store.committer import Committer
from relay.store.database import Store
from relay.store.errors import StoreFullError, StoreReadOnlyError
from relay.store.salvage import salvage
from relay.store.space import look
from tests.store.helpers import contents, insert, insert_batch, make_envelope

BALLAST = b"\1" * 6 * 1024 * 1024


def full(folder, _):
    """Fill the disk, see each put told the truth, make space, and go on."""
    asyncio.run(_fill(folder))


async def _fill(folder):
    path, ballast = folder / "store", folder / "ballast"
    ballast.write_bytes(BALLAST)
    store = Store.open(path)
    committer = Committer(store, loop=asyncio.get_running_loop())
    envelopes = [make_envelope(number, number % 3) for number in range(40)]
    outcome = {}

    async def put(seqs):
        for seq in seqs:
            batch = Batch(inserts=[insert(seq, envelopes[seq % 40])])
            committer.submit(batch, lambda error, seq=seq: outcome.update({seq: error}))
        await committer.drain()
        return {type(outcome[seq]) for seq in seqs}

    first = 1
    while StoreFullError not in await put(range(first, first + 50)):
        first += 50
    for _ in range(4):
        first += 50
        assert await put(range(first, first + 50)) == {StoreFullError}
    assert {type(error) for error in outcome.values()} == {type(None), StoreFullError}
    stored = {seq for seq, error in outcome.items() if error is None}
    assert {seq: body for seq, (_, body) in contents(store).items()} == {seq: envelopes[seq % 40] for seq in stored}

    ballast.unlink()
    assert await put(range(10_000, 10_500)) == {type(None)}
    await committer.close()
    store.close()
    assert check(path).ok
    store = Store.open(path)
    assert set(contents(store)) == stored | set(range(10_000, 10_500))
    store.close()


def killed(folder, _):
    """A store that was killed with the disk full opens, and has everything that it said it had."""
    path, ballast = folder / "store", folder / "ballast"

    def fill():
        ballast.write_bytes(BALLAST)
        store = Store.open(path)
        last = 0
        while True:
            try:
                store.commit(insert_batch([last + 1], size_class=3))
            except StoreFullError:
                return last
            last += 1

    last = _in_a_killed_process(fill)
    assert last > 100
    store = Store.open(path)
    assert list(contents(store)) == list(range(1, last + 1))
    ballast.unlink()
    store.commit(insert_batch([last + 2]))
    store.close()
    assert check(path).ok


def read_only(folder, elsewhere):
    """A read-only disk is named as such; check and salvage work on it all the same."""
    path = folder / "store"

    def leave_a_log():
        Store.open(path).commit(insert_batch(range(1, 100)))
        return 99

    assert _in_a_killed_process(leave_a_log) == 99
    assert path.with_name("store-wal").stat().st_size > 100_000
    assert not look(path).read_only
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    assert look(path).read_only
    with pytest.raises(StoreReadOnlyError, match="mount it writable"):
        Store.open(path)
    report = check(path)
    assert report.ok, report
    assert report.bodies == 99, report
    assert salvage(path, elsewhere / "new").bodies == 99


def _in_a_killed_process(work):
    """Return the number that ``work`` returns in a process that then dies of SIGKILL."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.write(writer, str(work()).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    with os.fdopen(reader) as pipe:
        return int(pipe.read())


if __name__ == "__main__":
    mount_point = Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mount_point)], check=True)
    part = {"full": full, "killed": killed, "read_only": read_only}[sys.argv[1]]
    part(mount_point, Path(sys.argv[3]))
