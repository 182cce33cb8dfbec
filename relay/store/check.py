# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay store check` does: verify every page, row and envelope of a store."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.core.envelope import HEADER_BYTES
from relay.store import schema
from relay.store.database import lock_file, log_files, require_readable
from relay.store.errors import StoreError, StoreRunningError, from_sqlite, store_errors
from relay.store.pages import Pages
from relay.store.rows import is_admitted_shape, is_envelope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Lines of SQLite's own check that are reported; one damaged page can give thousands.
MAX_STRUCTURE_LINES = 20

_BODIES = """
SELECT body.envelope, a.id, a.header, gone.seq IS NOT NULL
FROM body LEFT JOIN admitted AS a ON a.seq = body.seq LEFT JOIN gone ON gone.seq = body.seq
"""
_ADMITTED = "SELECT id, header, interface, arrived_s FROM admitted"
# Answered from rowids alone, but through every leaf of body.
_BODILESS = (
    "SELECT count(*) FROM admitted AS a"
    " WHERE NOT EXISTS (SELECT 1 FROM body WHERE body.seq = a.seq)"
    " AND NOT EXISTS (SELECT 1 FROM gone WHERE gone.seq = a.seq)"
)
_STRAY_GONE = "SELECT count(*) FROM gone WHERE NOT EXISTS (SELECT 1 FROM admitted AS a WHERE a.seq = gone.seq)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found; every count but the first two is of faults.

    ``refused`` says why the store would not be opened at all, ``structure`` is
    what SQLite finds wrong with its pages. Faults of rows: ``malformed`` admitted
    rows, ``altered`` envelopes that do not hash to their ID or are none,
    ``header_differs`` from the admitted one, ``orphans`` bodies without an admitted
    row, ``contradictory`` ones with a body that should be gone, ``missing`` bodies
    that should be there, ``stray`` marks of a body gone without an admitted row.
    """

    admitted: int = 0
    bodies: int = 0
    malformed: int = 0
    altered: int = 0
    header_differs: int = 0
    orphans: int = 0
    contradictory: int = 0
    missing: int = 0
    stray: int = 0
    refused: str | None = None
    structure: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        faults = (
            self.malformed,
            self.altered,
            self.header_differs,
            self.orphans,
            self.contradictory,
            self.missing,
            self.stray,
        )
        return self.refused is None and not self.structure and not any(faults)


def check(path: Path) -> CheckReport:
    """Read the whole store at ``path`` and verify every envelope; changes nothing.

    Raises a StoreError only where there is nothing to look at: no file, no
    permission, or a relay that is using it.
    """
    with store_errors(path), untouched(path) as (connection, pages):
        try:
            schema.tune_reader(connection)
            require_readable(path, connection)
            structure = [
                line for (line,) in connection.execute(f"PRAGMA quick_check({MAX_STRUCTURE_LINES})") if line != "ok"
            ]
        except StoreError as error:
            return CheckReport(refused=str(error))
        except sqlite3.DatabaseError as error:
            return CheckReport(refused=str(from_sqlite(path, error)))
        structure += _check_log(pages)
        counts: Counter[str] = Counter()
        try:
            for part in (_check_admitted, _check_bodies, _check_gone):
                part(connection, counts)
        except sqlite3.DatabaseError as error:
            structure.append(str(error))
        return CheckReport(
            admitted=counts["admitted"],
            bodies=counts["bodies"],
            malformed=counts["malformed"],
            altered=counts["altered"],
            header_differs=counts["header_differs"],
            orphans=counts["orphans"],
            contradictory=counts["contradictory"],
            missing=counts["missing"],
            stray=counts["stray"],
            structure=tuple(structure),
        )


@contextlib.contextmanager
def untouched(path: Path) -> Iterator[tuple[sqlite3.Connection, Pages | None]]:
    """Open the store at ``path`` so that no byte in its folder changes, not even SQLite's own; with what its log has.

    Raises StoreRunningError while a relay uses it.
    """
    path.stat()
    with held(path):
        pages = _pages(path)
        if pages is not None and pages.commits_seen:
            # Without locks SQLite keeps the log's index in memory instead of a file.
            connection = schema.connect(path, "mode=ro&vfs=unix-none")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        else:
            # Also where there is a log in which SQLite sees nothing: it would delete that when it closes.
            connection = schema.connect(path, "mode=ro&immutable=1")
        with contextlib.closing(connection):
            yield connection, pages


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep relays from the store at ``path`` meanwhile; StoreRunningError if one has it."""
    try:
        fd = os.open(lock_file(path), os.O_RDONLY)
    except FileNotFoundError:
        # A copy, or made by hand: no relay has it open.
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StoreRunningError(path, "is in use by a relay that runs") from error
    finally:
        os.close(fd)


def _pages(path: Path) -> Pages | None:
    """Return what is known of the pages of a store under its log, not to be read any more; None without a log."""
    log, _ = log_files(path)
    try:
        with path.open("rb") as file, log.open("rb") as log_file:
            return Pages(file.fileno(), log_file.fileno())
    except FileNotFoundError:
        return None


def _check_log(pages: Pages | None) -> list[str]:
    """Say so if the log is damaged in the middle: SQLite takes it for ended there, and drops what follows."""
    if pages is None or not pages.log_is_damaged:
        return []
    return [f"the log is damaged: {pages.commits_after_damage} commits after that are not seen"]


def _check_admitted(connection: sqlite3.Connection, counts: Counter[str]) -> None:
    for row in connection.execute(_ADMITTED):
        counts["admitted"] += 1
        counts["malformed"] += not is_admitted_shape(row)


def _check_bodies(connection: sqlite3.Connection, counts: Counter[str]) -> None:
    for envelope, identity, header, gone in connection.execute(_BODIES):
        counts["bodies"] += 1
        counts["contradictory"] += gone
        if identity is None:
            counts["orphans"] += 1
        elif not is_envelope(envelope, identity):
            counts["altered"] += 1
        elif envelope[:HEADER_BYTES] != header:
            counts["header_differs"] += 1


def _check_gone(connection: sqlite3.Connection, counts: Counter[str]) -> None:
    (counts["missing"],) = connection.execute(_BODILESS).fetchone()
    (counts["stray"],) = connection.execute(_STRAY_GONE).fetchone()
