# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables, statements and pragmas of the store, and why they are as they are.

Every table is keyed by ``seq``, which only grows, so each insert appends to the
last page of its tree. An index on a random key (ID, tag) would dirty one page
an envelope and wear out the card; such maps are rebuilt in memory at start.

``admitted`` holds what must be known of each ID at start-up, small, so that a
start reads megabytes and not the bodies. ``gone`` lists admitted rows without a
body: whether ``body`` has a row cannot be asked without reading its leaves, and
a flag in ``admitted`` would dirty ten times as many pages at evictions. ``displaced``
is 1 for those that had to leave for others, and may return.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

#: "MRly", in the database header, so that the store is told from any other SQLite file.
APPLICATION_ID = 0x4D526C79
SCHEMA_VERSION = 2

#: The flash page of SD cards and the block of ext4. With 8 KiB a third less of the
#: file is wasted between bodies of 1 KiB, but a lone put writes half as much again.
PAGE_BYTES = 4096

TABLES = ("admitted", "body", "gone", "interface", "meta")
CREATE = """
CREATE TABLE admitted(
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    header BLOB NOT NULL,
    interface INTEGER NOT NULL,
    arrived_s INTEGER NOT NULL
) STRICT;
CREATE TABLE body(seq INTEGER PRIMARY KEY, envelope BLOB NOT NULL) STRICT;
CREATE TABLE gone(seq INTEGER PRIMARY KEY, displaced INTEGER NOT NULL) STRICT;
CREATE TABLE interface(number INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

#: Page cache of the connection that writes. A group's dirty pages (1.4 MiB at most,
#: unless one batch is larger) stay in memory until its commit.
WRITER_CACHE_KIB = 4096
#: Page cache of the connection that reads bodies: inner pages of ``body`` for a million
#: rows and a few leaves. Bodies themselves are cached by the kernel.
READER_CACHE_KIB = 1024
#: Pages in the write-ahead log before they are moved into the database: 4 MiB. Measured:
#: four times as much saves under 1 % of the bytes written, and takes longer at a stretch.
CHECKPOINT_PAGES = 1000
#: What is kept of the log's file after a burst made it longer; up to here it is
#: overwritten in place, which spares the file system's own journal.
LOG_KEPT_BYTES = 8 * 1024 * 1024
#: How long to wait for someone else's lock (an operator's sqlite3, a backup).
BUSY_TIMEOUT_S = 5.0

#: Rows to a statement. Each statement releases and retakes the interpreter's lock
#: once, however many rows it has; measured as fast as single rows for one thread,
#: and it does not fight with the event loop's thread for every envelope.
ROWS = 64

#: From version 1 to 2: what left before is not known to have been displaced, so it stays gone.
UPGRADE_FROM_1 = "ALTER TABLE gone ADD COLUMN displaced INTEGER NOT NULL DEFAULT 0"


class RowStatement:
    """An SQL statement over up to ROWS rows at once, in the fewest steps."""

    __slots__ = ("_many", "_one", "_width")

    def __init__(self, prefix: str, row: str, suffix: str = "") -> None:
        """Build ``prefix row, row, ... suffix``; ``row`` holds one ``?`` per column."""
        self._one = prefix + row + suffix
        self._many = prefix + ",".join([row] * ROWS) + suffix
        self._width = row.count("?")

    def run(self, connection: sqlite3.Connection, values: Sequence[object]) -> None:
        """Execute over ``values``, the columns of all rows one after the other."""
        step = ROWS * self._width
        whole = len(values) - len(values) % step
        for start in range(0, whole, step):
            connection.execute(self._many, values[start : start + step])
        for start in range(whole, len(values), self._width):
            connection.execute(self._one, values[start : start + self._width])


INSERT_ADMITTED = RowStatement("INSERT INTO admitted VALUES ", "(?,?,?,?,?)")
INSERT_BODY = RowStatement("INSERT INTO body VALUES ", "(?,?)")
INSERT_GONE = RowStatement("INSERT OR IGNORE INTO gone VALUES ", "(?,?)")
DELETE_ADMITTED = RowStatement("DELETE FROM admitted WHERE seq IN (", "?", ")")
DELETE_BODY = RowStatement("DELETE FROM body WHERE seq IN (", "?", ")")
# Asking ``gone`` first spares reading a page of ``body`` for each body that left long ago.
DELETE_BODY_IF_ANY = RowStatement(
    "DELETE FROM body WHERE seq IN (SELECT column1 FROM (VALUES ",
    "(?)",
    ") WHERE column1 NOT IN (SELECT seq FROM gone))",
)
DELETE_GONE = RowStatement("DELETE FROM gone WHERE seq IN (", "?", ")")
PUT_META = "INSERT INTO meta VALUES (?,?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
PUT_INTERFACE = "INSERT INTO interface VALUES (?,?) ON CONFLICT(number) DO UPDATE SET name = excluded.name"
SELECT_BODY = "SELECT envelope FROM body WHERE seq = ?"
SELECT_RANGE = "SELECT envelope FROM body WHERE seq BETWEEN ? AND ? ORDER BY seq"
SELECT_BODIES = f"SELECT seq, envelope FROM body WHERE seq IN ({','.join(['?'] * ROWS)})"  # noqa: S608 - only marks
SELECT_ADMITTED = """
SELECT a.seq, a.id, a.header, a.interface, a.arrived_s, gone.seq IS NULL, ifnull(gone.displaced, 0)
FROM admitted AS a LEFT JOIN gone ON gone.seq = a.seq ORDER BY a.seq
"""
#: The highest seq that this store has ever seen, kept only from the moment when the
#: row that had it is forgotten: a value in ``meta`` at each commit is one more page.
LAST_SEQ_KEY = "store.last_seq"


def connect(path: Path, query: str) -> sqlite3.Connection:
    """Open ``path`` with SQLite's URI ``query`` (``mode=ro``...), without transactions of Python's."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{query}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_S,
    )


def tune_writer(connection: sqlite3.Connection, *, durable: bool) -> None:
    """Set what the connection that writes needs.

    ``durable`` syncs at every commit. Without it (memory file systems) nothing is
    ever synced; a killed process still loses nothing.
    """
    for pragma in (
        f"synchronous = {'FULL' if durable else 'OFF'}",
        f"cache_size = -{WRITER_CACHE_KIB}",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {LOG_KEPT_BYTES}",
        # Mapped pages count as resident memory, and an unreadable sector under a
        # map is a SIGBUS instead of an error.
        "mmap_size = 0",
        # Debian's SQLite overwrites every freed page by default. FAST blanks what
        # lies in pages that are written anyway; flash keeps old copies regardless.
        "secure_delete = FAST",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


def tune_reader(connection: sqlite3.Connection) -> None:
    """Set what a connection that only reads needs."""
    connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    connection.execute("PRAGMA mmap_size = 0")


def create_tables(connection: sqlite3.Connection) -> None:
    """Make an empty database a store, in one transaction."""
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(
        f"BEGIN IMMEDIATE; {CREATE}"
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def batched(values: Iterable[int], size: int) -> Iterator[list[int]]:
    """Yield ``values`` in lists of at most ``size``."""
    rows: list[int] = []
    for value in values:
        rows.append(value)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows
