# SPDX-License-Identifier: GPL-2.0-or-later
"""With which store a relay begins, where nobody is there to mend one: on an appliance."""

import contextlib
import os
import sqlite3

import pytest

from relay.config.run import StoreConfig
from relay.run import storing
from relay.store.check import check
from relay.store.database import Store
from relay.store.errors import StoreDamagedError, StoreError, StoreLockedError
from relay.store.salvage import salvage
from tests.store.helpers import contents, insert_batch

COUNT = 400


@pytest.fixture
def config(tmp_path):
    """Of a store with envelopes, and a place in memory."""
    made = StoreConfig(path=tmp_path / "card", fallback=tmp_path / "memory")
    store = Store.open(made.database)
    for first in range(1, COUNT, 40):
        store.commit(insert_batch(range(first, first + 40)))
    store.close()
    return made


def read(_, store):
    """As a relay does at its start."""
    return [row[0] for row in store.load()]


def begin(config, mending=None):
    return storing.begin(config, read, lambda: mending.append(1) if mending is not None else None)


def damage(path, *pages):
    with path.open("r+b") as file:
        for page in pages:
            file.seek(4096 * page)
            file.write(os.urandom(4096))


def root_of(path, table):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    return found[0] - 1


def test_a_store_that_is_well_is_used_as_it_is(config):
    begun = begin(config)
    assert not begun.fell_back
    assert begun.config == config
    assert begun.node == list(range(1, COUNT + 1))
    assert begun.store.log_damage is None
    begun.store.close()


@pytest.mark.parametrize("table", ["admitted", "body"])
def test_a_damaged_one_is_mended_once_and_what_can_be_read_is_there(config, table):
    damage(config.database, root_of(config.database, table), 30)
    mending = []
    begun = begin(config, mending)
    if table == "admitted":
        assert mending
        assert begun.store.log_damage.saved > COUNT // 2
    assert not begun.fell_back
    assert len(begun.node) > COUNT // 2
    kept = len(contents(begun.store)) if mending else None
    begun.store.close()
    if mending:
        assert check(config.database).ok
        again = begin(config, mending)
        assert mending == [1]
        assert len(contents(again.store)) == kept
        again.store.close()


@pytest.mark.parametrize("done", ["nothing", "its log is gone"])
def test_cut_off_in_putting_the_mended_one_in_its_place_it_is_gone_on_with(config, done):
    damage(config.database, root_of(config.database, "admitted"))
    salvaged = config.database.with_name("store.sqlite.salvaged")
    report = salvage(config.database, salvaged)
    log = config.database.with_name("store.sqlite-wal")
    if done == "nothing":
        log.write_bytes(os.urandom(4152))
    begun = begin(config)
    assert len(begun.node) == report.admitted
    assert not salvaged.exists()
    begun.store.close()


def test_what_no_relay_wrote_stays_and_messages_are_in_memory(config):
    noise = os.urandom(50_000)
    config.database.write_bytes(noise)
    begun = begin(config)
    assert begun.fell_back
    assert not begun.config.durable
    assert begun.config.max_bytes == storing.FALLBACK_BYTES
    assert begun.node == []
    begun.store.commit(insert_batch([1]))
    begun.store.close()
    assert config.database.read_bytes() == noise
    # The next process of this start goes on with what is in memory.
    again = begin(config)
    assert again.node == [1]
    again.store.close()


def test_a_later_version_s_is_left_as_it_is_and_what_is_older_than_it_relays(config):
    with contextlib.closing(sqlite3.connect(config.database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = config.database.read_bytes()
    begun = begin(config)
    assert begun.fell_back
    begun.store.close()
    assert config.database.read_bytes() == before


def test_one_that_another_relay_has_is_no_reason_to_begin_elsewhere(config):
    other = Store.open(config.database)
    with pytest.raises(StoreLockedError):
        begin(config)
    other.close()


def test_where_nothing_is_named_the_error_ends_it_and_nothing_is_changed(config):
    damage(config.database, root_of(config.database, "admitted"))
    before = config.database.read_bytes()
    with pytest.raises(StoreDamagedError, match="relay store salvage"):
        begin(StoreConfig(path=config.path))
    assert config.database.read_bytes() == before


def test_what_is_too_large_for_memory_stays_where_it_is(config, monkeypatch):
    monkeypatch.setattr(storing, "FALLBACK_BYTES", 1 << 20)
    monkeypatch.setattr(Store, "open", _refusing(Store.open, config.database))
    with config.database.open("ab") as file:
        file.truncate(2 << 20)
    begun = begin(config)
    assert begun.fell_back
    assert begun.node == []
    begun.store.close()


def test_of_one_that_is_only_read_what_fits_is_in_memory(config, monkeypatch):
    monkeypatch.setattr(Store, "open", _refusing(Store.open, config.database))
    begun = begin(config)
    assert begun.fell_back
    assert begun.node == list(range(1, COUNT + 1))
    begun.store.close()


def _refusing(opening, path):
    def opened(wanted, **options):
        if wanted == path:
            raise StoreError(path, "takes no writes")
        return opening(wanted, **options)

    return opened
