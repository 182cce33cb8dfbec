# SPDX-License-Identifier: GPL-2.0-or-later
"""The database is the user's alone, refuses what it cannot read, and says what to do."""

import os
import sqlite3
import stat
import threading

import pytest

from relay.client.database import SCHEMA_VERSION, Database
from relay.client.errors import DatabaseError, PrivateFileError
from tests.client.helpers import Person


def folder_of(tmp_path):
    return tmp_path / "data" / "mesh-relay"


def test_the_database_and_its_log_are_for_the_user_alone(tmp_path):
    old_mask = os.umask(0)
    try:
        with Person(folder_of(tmp_path), 1) as person:
            person.send_text("x", person)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in person.folder.iterdir()}
    finally:
        os.umask(old_mask)
    assert set(modes) == {"client.db", "client.db-wal", "client.db-shm", ".preparing.lock"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder_of(tmp_path).stat().st_mode) == 0o700


def test_what_others_can_read_is_refused_with_the_remedy(tmp_path):
    folder = folder_of(tmp_path)
    Database(folder).close()
    (folder / "client.db").chmod(0o644)
    with pytest.raises(DatabaseError, match="chmod 600"):
        Database(folder)
    (folder / "client.db").chmod(0o600)
    folder.chmod(0o755)
    with pytest.raises(PrivateFileError, match="chmod 700"):
        Database(folder)


def test_a_commit_waits_for_the_disk(tmp_path):
    with Database(folder_of(tmp_path)) as database:
        assert database.row("PRAGMA journal_mode") == ("wal",)
        assert database.row("PRAGMA synchronous") == (2,)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (f"PRAGMA user_version = {SCHEMA_VERSION + 1}", "newer version of this program; update"),
        ("PRAGMA application_id = 7", "another program; move it away"),
    ],
)
def test_a_database_that_is_not_ours_to_read_is_left_as_it_is(tmp_path, change, remedy):
    folder = folder_of(tmp_path)
    Database(folder).close()
    connection = sqlite3.connect(folder / "client.db", isolation_level=None)
    connection.execute(change)
    connection.close()
    before = (folder / "client.db").read_bytes()
    with pytest.raises(DatabaseError, match=remedy):
        Database(folder)
    assert (folder / "client.db").read_bytes() == before


def test_what_an_earlier_version_keeps_is_taken_over(tmp_path):
    folder = folder_of(tmp_path)
    with Person(folder, 1) as person:
        (message_id,) = person.send_text("x", person)
        person.database.execute("DROP TABLE post")
        person.database.execute("PRAGMA user_version = 2")
        person.reopen()
        assert person.outbox.progress(message_id).pieces == 1
        assert person.database.row("SELECT count(*) FROM post") == (0,)
        assert person.database.row("PRAGMA user_version") == (SCHEMA_VERSION,)


def test_a_damaged_database_is_told_and_kept(tmp_path):
    folder = folder_of(tmp_path)
    Database(folder).close()
    (folder / "client.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(DatabaseError, match="damaged: move it away"):
        Database(folder)
    assert (folder / "client.db").read_bytes() == b"rubbish" * 1000


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    with Person(folder_of(tmp_path), 1) as person:
        (kept,) = person.send_text("kept", person)
        pages = person.database.row("PRAGMA page_count")[0]
        person.database.rows(f"PRAGMA max_page_count = {pages + 10}")
        with pytest.raises(DatabaseError, match="free some space"):
            person.send_file(bytes(1_000_000), "large", person)
        assert [one.message_id for one in person.outbox.log()] == [kept]
        person.receive(person.envelopes())
        assert person.inbox_contents() == [("", b"kept")]


def test_commands_that_start_at_the_same_time_make_one_database(tmp_path):
    folder = folder_of(tmp_path)
    errors = []

    def start():
        try:
            Database(folder).close()
        except DatabaseError as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Database(folder) as database:
        assert database.row("PRAGMA user_version") == (SCHEMA_VERSION,)
