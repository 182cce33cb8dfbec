# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's SQLite file: what is under way in both directions, on disk before anyone is told so.

Contents of envelopes and pieces stand in tables of their own, keyed by `message << 20 | index`: the rowid
is the only index over them, and changing a state does not rewrite a kilobyte.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, Self

from relay.client.errors import DatabaseError
from relay.client.files import FILE_MODE, OTHERS, ensure_private_folder

FILE_NAME: Final = "client.db"
SCHEMA_VERSION: Final = 3
_OLDEST_VERSION: Final = 2
"""To which the rest is added; what is older is from before there was anything to keep."""
APPLICATION_ID: Final = 0x6D72636C
"""'mrcl' in the file's header, so that another program's database is told from ours."""

INDEX_BITS: Final = 20
"""Over a million pieces a message; 4 GiB have 265,597."""
SWEEP_ROWS: Final = 64
"""Contents removed in one transaction: a megabyte; 4 GiB at once would fill the log and lock others out."""
BUSY_TIMEOUT_S: Final = 30
"""Another command's transaction takes milliseconds, on a worn card seconds."""
MAX_LOG_BYTES: Final = 4 * 1024 * 1024
"""What is left of the write-ahead log after a checkpoint."""

SENT_PREPARING: Final = 0
"""Still being sealed: not offered, and removed when the process that seals it is gone."""
SENT_QUEUED: Final = 1
SENT_CLOSED: Final = 2
"""From here on the contents are not needed; the row and the purge keys stay until the expiry."""
SENT_RECEIVED: Final = 2
SENT_EXPIRED: Final = 3
SENT_PURGED: Final = 4
SENT_NEVER: Final = 5
"""Expired before relays had taken all of it. The row stays until the user has it forgotten."""
SENT_REPLACED: Final = 6
"""A post in whose slot there is another one now."""

RECEIVED_PARTIAL: Final = 0
RECEIVED_COMPLETE: Final = 1
RECEIPT_DUE: Final = 1
"""The receipt of a message is due and has no time yet: beyond this it is that time in Unix seconds, 0 when there is
none to send."""
RECEIVED_CLOSED: Final = 2
"""Taken or rejected: the row stays until the expiry, so that it does not come again."""

_SCHEMA: Final = """
-- One row a message and recipient. Not unique by ID: senders choose the IDs that our receipts name.
CREATE TABLE sent (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id BLOB NOT NULL,
    kind INTEGER NOT NULL,
    recipient BLOB NOT NULL,
    state INTEGER NOT NULL,
    size INTEGER NOT NULL,
    pieces INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    sent_hour INTEGER NOT NULL,
    expiry_hour INTEGER NOT NULL,
    has_bodies INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX sent_by_message ON sent (message_id, kind);
CREATE TABLE envelope (
    id INTEGER PRIMARY KEY,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    not_before_s INTEGER NOT NULL,
    tag BLOB NOT NULL,
    purge_key BLOB NOT NULL
);
CREATE TABLE body (id INTEGER PRIMARY KEY, data BLOB NOT NULL);

-- One row a message and sender, also of those taken already, so that none comes twice.
CREATE TABLE received (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sender BLOB NOT NULL,
    message_id BLOB NOT NULL,
    pool BLOB NOT NULL,
    kind INTEGER NOT NULL,
    state INTEGER NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL,
    missing INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL DEFAULT 0,
    reply_rendezvous BLOB NOT NULL,
    sent_minute INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    expiry_hour INTEGER NOT NULL,
    receipt_due INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sender, message_id)
);
CREATE TABLE piece (id INTEGER PRIMARY KEY, data BLOB NOT NULL);

-- What each pool holds, kept by triggers because counting it anew for every piece would not scale.
CREATE TABLE pool (name BLOB PRIMARY KEY, messages INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER received_insert AFTER INSERT ON received BEGIN
    INSERT INTO pool VALUES (new.pool, 1, new.stored_bytes)
    ON CONFLICT DO UPDATE SET messages = messages + 1, bytes = bytes + new.stored_bytes;
END;
CREATE TRIGGER received_update AFTER UPDATE OF stored_bytes ON received BEGIN
    UPDATE pool SET bytes = bytes + new.stored_bytes - old.stored_bytes WHERE name = new.pool;
END;
CREATE TRIGGER received_delete AFTER DELETE ON received BEGIN
    UPDATE pool SET messages = messages - 1, bytes = bytes - old.stored_bytes WHERE name = old.pool;
    DELETE FROM pool WHERE name = old.pool AND messages = 0;
END;

-- Envelopes that were looked at already, ours or not, by the first 16 bytes of their identity.
CREATE TABLE seen (id BLOB PRIMARY KEY, expiry_hour INTEGER NOT NULL) WITHOUT ROWID;
"""

_SCHEMA_OF_3: Final = """
-- What holds in each slot of each bulletin; withdrawn or expired, without its body, until nothing older can come.
CREATE TABLE post (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    bulletin BLOB NOT NULL,
    slot TEXT NOT NULL,
    counter INTEGER NOT NULL,
    rank BLOB NOT NULL,
    post_id BLOB NOT NULL,
    kind INTEGER NOT NULL,
    posted_minute INTEGER NOT NULL,
    expiry_hour INTEGER NOT NULL,
    is_new INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (bulletin, slot)
);
"""


class Database:
    """A connection for one thread at a time; several processes may have the file open at once."""

    def __init__(self, folder: Path) -> None:
        """Open or create the database in `folder`; DatabaseError or PrivateFileError when it cannot be used."""
        ensure_private_folder(folder)
        self.folder = folder
        self.path = folder / FILE_NAME
        _create_private(self.path)
        with self._errors():
            # Transactions are ours to begin: the module would begin them late, after the reads they depend on.
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file; everything committed is on disk already."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the database itself, to be closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one transaction that is on disk when the block has ended; DatabaseError when not."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk has rolled back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, *values: Any) -> int:
        """Run a statement and return how many rows it changed."""
        with self._errors():
            return self._connection.execute(statement, values).rowcount

    def insert(self, statement: str, *values: Any) -> int:
        """Run an INSERT and return the new row's ID."""
        with self._errors():
            row_id = self._connection.execute(statement, values).lastrowid
        if row_id is None:
            raise DatabaseError("the insertion made no row")
        return row_id

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self._errors():
            return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row of a query."""
        with self._errors():
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return row

    def sweep(self) -> None:
        """Remove the contents of messages that are closed, a little at a time, and give the space back."""
        sent = self.rows("SELECT id FROM sent WHERE state >= ? AND has_bodies", SENT_CLOSED)
        for (message,) in sent:
            self._clear("body", message)
            self.execute("UPDATE sent SET has_bodies = 0 WHERE id = ?", message)
        received = self.rows("SELECT id FROM received WHERE state >= ? AND stored_bytes", RECEIVED_CLOSED)
        for (message,) in received:
            self._clear("piece", message)
            self.execute("UPDATE received SET stored_bytes = 0 WHERE id = ?", message)
        if not sent and not received:
            return
        # Until then the log holds what was removed from the file.
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def _clear(self, table: Literal["body", "piece"], message: int) -> None:
        rows = f"SELECT id FROM {table} WHERE id >= ? AND id < ? LIMIT {SWEEP_ROWS}"  # noqa: S608 - two literals
        while self.execute(f"DELETE FROM {table} WHERE id IN ({rows})", *piece_range(message)):  # noqa: S608
            with self._errors():
                # Not execute, which makes one step, and this pragma gives back a page a step.
                self._connection.executescript("PRAGMA incremental_vacuum")

    def _prepare(self) -> None:
        connection = self._connection
        # First, because another process may create everything in the next moment, in one commit.
        is_new = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID and not is_new:
            raise DatabaseError(f"{self.path} belongs to another program; move it away")
        if version > SCHEMA_VERSION:
            raise DatabaseError(f"{self.path} was written by a newer version of this program; update it")
        if not is_new and version < _OLDEST_VERSION:
            raise DatabaseError(
                f"{self.path} was written by a version of this program from before the first release; move it away"
            )
        if is_new:
            # Must precede the first table. Incremental: the space of a large file taken out is given back.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        # With NORMAL a power cut takes back what was acknowledged.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # Deleted content is overwritten, as far as the disk below lets it be.
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA journal_size_limit = {MAX_LOG_BYTES}")
        if is_new or version < SCHEMA_VERSION:
            self._create()

    def _create(self) -> None:
        """Make what is missing, unless another process was first."""
        with self.transaction():
            (version,) = self.row("PRAGMA user_version") or (0,)
            if version == SCHEMA_VERSION:
                return
            for statement in _statements(_SCHEMA_OF_3 if version else _SCHEMA + _SCHEMA_OF_3):
                self.execute(statement)
            self.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DatabaseError(f"{self.path}: {error}; {_remedy(error)}") from error


KEEP_AFTER_EXPIRY_HOURS: Final = 24
"""Relays whose clock is behind keep envelopes this much longer; so does what is needed to know them again."""


def piece_id(message: int, index: int) -> int:
    """Return the rowid of a piece's content."""
    return message << INDEX_BITS | index


def message_of(piece: int) -> int:
    """Return the message that a piece's content belongs to."""
    return piece >> INDEX_BITS


def piece_range(message: int) -> tuple[int, int]:
    """Return the first rowid of a message's contents and the one after the last."""
    return message << INDEX_BITS, (message + 1) << INDEX_BITS


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _create_private(path: Path) -> None:
    # SQLite gives its log and shared-memory files the mode of the database.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        mode = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    if mode & OTHERS:
        raise DatabaseError(f"{path} is open to other users; close it with: chmod {FILE_MODE:o} {path}")


def _remedy(error: sqlite3.Error) -> str:
    # Python 3.11 names the code; an error raised by the module itself has none.
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    if primary == sqlite3.SQLITE_FULL:
        return "free some space and try again"
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return "the file is damaged: move it away to start anew; messages under way in it are lost"
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "another command is using it; try again when it has ended"
    if primary in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM}:
        return "check that the disk is mounted for writing, healthy, and that the folder is yours"
    return "please report this"
