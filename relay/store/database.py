# SPDX-License-Identifier: GPL-2.0-or-later
"""The store: batches in, one durable transaction each; rows and bodies out."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from relay.core.bodies import UNREAD, is_body
from relay.core.envelope import HEADER_BYTES
from relay.store import replay, schema
from relay.store.errors import (
    StoreDamagedError,
    StoreForeignError,
    StoreLockedError,
    StoreNewerError,
    store_errors,
)
from relay.store.rows import are_admitted, is_admitted_shape, is_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from relay.core.batch import Batch
    from relay.core.bodies import Unread
    from relay.core.loaded import AdmittedRow
    from relay.store.replay import LogDamage

logger = logging.getLogger(__name__)

#: What reading raises; SQLite's lack of memory is Python's.
_READ_ERRORS = (sqlite3.DatabaseError, MemoryError)
#: Rows fetched at a time by load(): 1,024 of about 300 bytes.
_LOAD_ROWS = 1024


class Store:
    """An open store. One thread commits, one reads; they may differ.

    Holds a lock file for as long as it is open, so no second process uses it.
    """

    @classmethod
    def open(cls, path: Path, *, durable: bool = True) -> Store:
        """Open the store at ``path``, or create it (folder 0700, file 0600).

        ``durable=False`` never syncs: for stores in memory. Raises a StoreError with
        the remedy, and has then changed nothing in a store that it cannot read.
        """
        with contextlib.ExitStack() as undo, store_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_fd = _lock(path)
            undo.callback(os.close, lock_fd)
            if not path.exists() or not path.stat().st_size:
                create(path)
            unseen = _set_aside_unseen(path)
            rows = replay.read(path, aside_file(path)) if aside_file(path).exists() else None
            # The reader comes first and goes last: a connection that may write would
            # move the log into the database when it is closed, damaged or not.
            reader = _connect_reader(path)
            undo.callback(reader.close)
            writer = schema.connect(path, "mode=rw")
            undo.callback(writer.close)
            schema.tune_writer(writer, durable=durable)
            # Says now, and not at the first envelope, that writing is not possible.
            with _transaction(writer):
                _upgrade(writer)
                damage = rows.write(writer, _last_seq(writer)) if rows else None
            if unseen:
                # What a commit that was broken off left is not to be taken for damage one day. A full disk may wait.
                with contextlib.suppress(sqlite3.OperationalError):
                    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if damage is not None:
                aside_file(path).unlink()
                logger.warning(
                    "the store's log was damaged: %d envelopes behind that are saved, %d are lost; replace the card",
                    damage.saved,
                    damage.lost,
                )
            last_seq = _last_seq(reader)
            undo.pop_all()
        return cls(path, lock_fd=lock_fd, reader=reader, writer=writer, last_seq=last_seq, log_damage=damage)

    def __init__(
        self,
        path: Path,
        *,
        lock_fd: int,
        reader: sqlite3.Connection,
        writer: sqlite3.Connection,
        last_seq: int,
        log_damage: LogDamage | None = None,
    ) -> None:
        """Take over what open() opened."""
        #: What the damage of a log that was damaged at start cost; None where it was not.
        self.log_damage = log_damage
        self.path = path
        self._lock_fd = lock_fd
        self._reader = reader
        self._writer = writer
        self._last_seq = last_seq
        self._has_written = False
        #: Rows that the last :meth:`load` left out, as their headers are none.
        self.left_out = 0

    @property
    def last_seq(self) -> int:
        """The highest seq ever stored, also of rows forgotten since; 0 for none."""
        return self._last_seq

    def state(self) -> dict[str, int]:
        """Return all that batches put into ``state``."""
        with store_errors(self.path):
            rows = self._reader.execute("SELECT key, value FROM meta").fetchall()
        return {key: value for key, value in rows if key != schema.LAST_SEQ_KEY}

    def interfaces(self) -> dict[int, str]:
        """Return the name of every interface number."""
        with store_errors(self.path):
            return dict(self._reader.execute("SELECT number, name FROM interface").fetchall())

    def load(self) -> Iterator[AdmittedRow]:
        """Yield all admitted rows by ascending seq, a thousand in memory at a time.

        Raises StoreDamagedError where a row cannot be read or has another shape. A header
        that is none is taken from the body, if that is sound; else the row is left out, and
        its envelope taken anew from whoever has it: one bit must not keep all others away.
        """
        self.left_out = 0
        with store_errors(self.path), contextlib.closing(self._reader.cursor()) as cursor:
            cursor.execute(schema.SELECT_ADMITTED)
            while rows := cursor.fetchmany(_LOAD_ROWS):
                if are_admitted(rows):
                    yield from rows
                    continue
                for seq, identity, header, interface, arrived_s, has_body, displaced in rows:
                    if not is_admitted_shape((identity, header, interface, arrived_s)):
                        raise StoreDamagedError(self.path, f"row {seq} of admitted is malformed")
                    sound = header if is_header(header) else self._header_of_body(seq, identity)
                    if sound is not None:
                        yield seq, identity, sound, interface, arrived_s, has_body, displaced

    def _header_of_body(self, seq: int, identity: bytes) -> bytes | None:
        logger.warning("row %d of admitted is damaged; look with `relay store check`", seq)
        body = self._read_body(seq)
        if is_body(body, identity):
            return body[:HEADER_BYTES]
        self.left_out += 1
        return None

    def read_bodies(self, seqs: Sequence[int]) -> list[bytes | Unread | None]:
        """Return the envelopes of ``seqs``, in that order; None where there is none.

        One that the medium or the system fails to read, or that lies in a damaged page, is
        UNREAD: the others are served. Whether bytes are what they were is for
        relay.core.bodies to say.
        """
        if len(seqs) < 2:
            return [self._read_body(seq) for seq in seqs]
        if list(seqs) == list(range(seqs[0], seqs[0] + len(seqs))):
            # What arrived together is usually asked for together: one walk instead of many searches.
            with contextlib.suppress(*_READ_ERRORS):
                rows = self._reader.execute(schema.SELECT_RANGE, (seqs[0], seqs[-1])).fetchall()
                if len(rows) == len(seqs):
                    return [body for (body,) in rows]
        found: dict[int, bytes | Unread | None] = {}
        for some in schema.batched(seqs, schema.ROWS):
            marks = [*some, *[None] * (schema.ROWS - len(some))]
            try:
                found.update(self._reader.execute(schema.SELECT_BODIES, marks).fetchall())
            except _READ_ERRORS:
                found.update((seq, self._read_body(seq)) for seq in some)
        return [found.get(seq) for seq in seqs]

    def _read_body(self, seq: int) -> bytes | Unread | None:
        try:
            row = self._reader.execute(schema.SELECT_BODY, (seq,)).fetchone()
        except MemoryError:
            return UNREAD
        except sqlite3.DatabaseError as error:
            # SQLite calls it CORRUPT when the medium fails to read, too (SQLITE_IOERR_CORRUPTFS). What has no code
            # was read, and is no envelope.
            return UNREAD if hasattr(error, "sqlite_errorcode") else None
        return row[0] if row else None

    def commit(self, *batches: Batch) -> None:
        """Store all of ``batches`` or, raising StoreError, nothing of them; blocks for the sync.

        A body that is dropped leaves what is known of its envelope; ``forget``
        removes both. Raises ValueError for a seq that is not above all before it: one used twice
        would give an old envelope's evictions and deletions to a new one.
        """
        last_seq = self._last_seq
        admitted: list[Any] = []
        bodies: list[Any] = []
        dropped: set[int] = set()
        displaced: set[int] = set()
        forgotten: set[int] = set()
        for batch in batches:
            for row in batch.inserts:
                if row[0] <= last_seq:
                    raise ValueError(f"seq {row[0]} after {last_seq}")
                last_seq = row[0]
                admitted += row[:5]
                if row[5] is None:
                    dropped.add(last_seq)
                else:
                    bodies += (last_seq, row[5])
            dropped.update(batch.drop_bodies)
            displaced.update(batch.displace)
            forgotten.update(batch.forget)
        connection = self._writer
        with store_errors(self.path), _transaction(connection):
            schema.INSERT_ADMITTED.run(connection, admitted)
            schema.INSERT_BODY.run(connection, bodies)
            # In order of seq, so that neighbours are found in pages just touched.
            left = dropped | displaced
            schema.DELETE_BODY.run(connection, sorted(left))
            marks = [(seq, int(seq in displaced)) for seq in sorted(left - forgotten)]
            schema.INSERT_GONE.run(connection, [value for mark in marks for value in mark])
            schema.DELETE_BODY_IF_ANY.run(connection, sorted(forgotten - left))
            schema.DELETE_ADMITTED.run(connection, sorted(forgotten))
            schema.DELETE_GONE.run(connection, sorted(forgotten))
            if last_seq in forgotten:
                connection.execute(schema.PUT_META, (schema.LAST_SEQ_KEY, last_seq))
            for batch in batches:
                for item in batch.state.items():
                    connection.execute(schema.PUT_META, item)
                for entry in batch.interfaces.items():
                    connection.execute(schema.PUT_INTERFACE, entry)
        self._last_seq = last_seq
        self._has_written = True

    def close(self) -> None:
        """Move the log into the database and let go of the lock; safe to call twice.

        A store that was only read, perhaps because it turned out to be damaged,
        stays as it is.
        """
        # SQLite moves the log when the last connection goes, if that one may write.
        connections = [self._writer, self._reader]
        if self._has_written:
            connections.reverse()
        for connection in connections:
            connection.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def create(path: Path) -> None:
    """Write an empty store to ``path``, which appears complete or not at all."""
    new = path.with_name(path.name + ".new")
    for leftover in (new, *log_files(new), *log_files(path), aside_file(path)):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(schema.connect(new, "mode=rw")) as connection:
        schema.create_tables(connection)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def log_files(path: Path) -> tuple[Path, Path]:
    """Return the paths of SQLite's write-ahead log of ``path`` and of the log's index."""
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def aside_file(path: Path) -> Path:
    """Return the path of the copy of a damaged log of ``path``, there until it is replayed."""
    return path.with_name(path.name + "-wal.damaged")


def lock_file(path: Path) -> Path:
    """Return the path of the lock of the store at ``path``.

    A file of its own: closing any descriptor of the database in this process
    would drop the locks that SQLite holds on it.
    """
    return path.with_name(path.name + ".lock")


def require_readable(path: Path, connection: sqlite3.Connection) -> None:
    """Raise the StoreError that says why ``connection`` is not to a store of this version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != schema.APPLICATION_ID:
        raise StoreForeignError(path, "is a database, but not a relay's store")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > schema.SCHEMA_VERSION:
        raise StoreNewerError(path, f"has version {version}; this relay reads up to {schema.SCHEMA_VERSION}")
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if missing := set(schema.TABLES) - names:
        raise StoreDamagedError(path, f"lacks {', '.join(sorted(missing))}")


def _lock(path: Path) -> int:
    fd = os.open(lock_file(path), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreLockedError(path, "is in use by another process") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _last_seq(connection: sqlite3.Connection) -> int:
    (last_seq,) = connection.execute(
        "SELECT max(ifnull((SELECT max(seq) FROM admitted), 0),"
        " ifnull((SELECT max(seq) FROM body), 0),"
        " ifnull((SELECT value FROM meta WHERE key = ?), 0))",
        (schema.LAST_SEQ_KEY,),
    ).fetchone()
    return int(last_seq)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Bring an older store to this version, inside the caller's transaction."""
    if connection.execute("PRAGMA user_version").fetchone() == (1,):
        connection.execute(schema.UPGRADE_FROM_1)
        connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")


def _connect_reader(path: Path) -> sqlite3.Connection:
    reader = schema.connect(path, "mode=ro")
    try:
        schema.tune_reader(reader)
        require_readable(path, reader)
    except BaseException:
        reader.close()
        raise
    return reader


def _set_aside_unseen(path: Path) -> bool:
    """Keep what a damaged log has that SQLite does not see; tell whether it has anything, damaged or not.

    With a connection of its own: whoever closes a file that SQLite has open in this process drops its locks.
    """
    log, index = log_files(path)
    with contextlib.closing(_connect_reader(path)):
        has_unseen = replay.has_unseen(log, index)
    if has_unseen:
        replay.set_aside(path, log, aside_file(path))
    return has_unseen


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors, and an error of the
        # rollback says nothing that the first one does not.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
