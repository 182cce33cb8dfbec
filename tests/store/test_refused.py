# SPDX-License-Identifier: GPL-2.0-or-later
"""A store that cannot be used is refused with what to do about it, and left as it is."""

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from relay.core.envelope import envelope_id
from relay.core.errors import RelayError
from relay.store.check import check
from relay.store.database import Store
from relay.store.errors import (
    StoreDamagedError,
    StoreError,
    StoreForeignError,
    StoreLockedError,
    StoreNewerError,
    StorePermissionError,
    StoreRunningError,
)
from relay.store.salvage import salvage
from relay.store.schema import SCHEMA_VERSION, TABLES
from tests.store.helpers import contents, files, insert_batch, make_envelope


@pytest.fixture
def path(tmp_path):
    """A store with 600 envelopes, as a killed relay leaves it: the newer half in its log."""
    made = tmp_path / "made" / "store"
    for half in (0, 300):
        store = Store.open(made)
        for first in range(half + 1, half + 301, 60):
            store.commit(insert_batch(range(first, first + 60), size_class=first % 4))
        if half:
            shutil.copytree(made.parent, tmp_path / "store")
        store.close()
    return tmp_path / "store" / "store"


def refusal(path):
    """Open and read what a start reads; return the error, having seen that no byte changed."""
    before = files(path.parent)
    with pytest.raises(StoreError) as caught:
        _start(path)
    after = files(path.parent)
    # Made by every attempt, and empty or derived from the log.
    for name in (f"{path.name}.lock", f"{path.name}-shm"):
        before.pop(name, None)
        after.pop(name, None)
    assert {name: data for name, data in after.items() if data} == {name: data for name, data in before.items() if data}
    return caught.value


def _start(path):
    store = Store.open(path)
    try:
        for _ in store.load():
            pass
        store.state()
        store.interfaces()
    finally:
        store.close()


def test_a_later_version_names_the_remedy(path):
    _pragma(path, f"user_version = {SCHEMA_VERSION + 1}")
    error = refusal(path)
    assert isinstance(error, StoreNewerError)
    assert isinstance(error, RelayError)
    assert f"version {SCHEMA_VERSION + 1}; this relay reads up to {SCHEMA_VERSION}" in str(error)
    assert "install the version" in str(error)
    assert str(path) in str(error)
    assert f"version {SCHEMA_VERSION + 1}" in check(path).refused


def test_what_no_relay_wrote_is_not_taken_for_a_store(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    noise = tmp_path / "noise" / "store"
    noise.parent.mkdir()
    noise.write_bytes(random.Random(seed).randbytes(20_000))
    other = tmp_path / "other" / "store"
    other.parent.mkdir()
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE photos(name)")
    for path in (noise, other):
        assert isinstance(refusal(path), StoreForeignError)
        assert check(path).refused
        assert not check(path).ok


def _pragma(path, assignment):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA {assignment}")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("log", [True, False], ids=["log", "merged"])
def test_damage_to_what_a_start_reads_is_found_at_start(path, table, log):
    page = _root(path, table)
    if not log:
        _pragma(path, "wal_checkpoint(TRUNCATE)")
    _overwrite(path, page)
    error = refusal(path)
    assert isinstance(error, StoreDamagedError)
    assert "relay store check" in str(error)
    assert "relay store salvage" in str(error)
    assert not check(path).ok


def test_damage_found_late_leaves_the_log_as_it_is_too(path):
    # An ID stands in `admitted` alone.
    start = path.read_bytes().index(envelope_id(make_envelope(2, 1)))
    _damage_in(path, start // 4096 * 4096)
    assert path.with_name("store-wal").stat().st_size > 100_000
    assert isinstance(refusal(path), StoreDamagedError)
    assert salvage(path, path.parent / "new" / "store").bodies > 500


def test_a_file_cut_short_is_damaged(path):
    _pragma(path, "wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert isinstance(refusal(path), StoreDamagedError)
    assert not check(path).ok


def _root(path, table):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[0]


def _overwrite(path, page):
    """Damage ``page`` wherever its newest copy may lie: in the database and in the log."""
    _damage_in(path, (page - 1) * 4096)
    log = path.with_name("store-wal")
    data = log.read_bytes() if log.exists() else b""
    for frame in range(32, len(data), 4120):
        if int.from_bytes(data[frame : frame + 4], "big") == page:
            _damage_in(log, frame + 24)


def _damage_in(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 4096)


def test_two_relays_cannot_share_a_store(path):
    first = Store.open(path)
    before = contents(first)
    with pytest.raises(StoreLockedError, match="store of its own"):
        Store.open(path)
    with pytest.raises(StoreRunningError, match=r"stop it meanwhile.*systemctl stop mesh-relay"):
        check(path)
    with pytest.raises(StoreRunningError, match=r"stop it meanwhile.*systemctl stop mesh-relay"):
        salvage(path, path.parent / "new")
    assert contents(first) == before
    first.close()
    Store.open(path).close()


def test_a_relay_that_was_killed_leaves_no_lock_behind(path):
    script = (
        "import os, pathlib, sys; from relay.store.database import Store;"
        "Store.open(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    Store.open(path).close()


@contextlib.contextmanager
def _ordinary_user():
    """Root may write anywhere; so that a test can be refused, it steps down for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("existing", [True, False])
def test_no_permission_names_the_remedy(existing):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        if existing:
            Store.open(path).close()
        Path(folder).chmod(0o500)
        if existing:
            path.chmod(0)
            path.with_name("store.lock").chmod(0)
        with _ordinary_user(), pytest.raises(StorePermissionError, match="give the file and its folder"):
            Store.open(path)
        Path(folder).chmod(0o700)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="name another path"):
        Store.open(tmp_path / "file" / "store")
    with pytest.raises(StoreError):
        check(tmp_path / "nothing")
