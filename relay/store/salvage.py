# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay store salvage`: a new store from what is readable of a damaged one."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.core.envelope import HEADER_BYTES, SIZES
from relay.store import schema
from relay.store.check import held
from relay.store.database import aside_file, create, log_files
from relay.store.errors import StoreError, store_errors
from relay.store.pages import Pages
from relay.store.rows import MAX_SEQ, admit_alone, is_admitted_shape, is_envelope, is_header

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

#: Rows to a transaction of the new store: at most 16 MiB of dirty pages at once.
_GROUP_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvageReport:
    """What was rescued and what was not.

    ``admitted`` IDs and ``bodies`` are in the new store. Among the bodies
    ``without_row`` had lost what was known of them: arrival and interface are a
    neighbour's, and that they are unaltered nobody can tell. ``altered`` bodies did
    not hash to their ID, ``lost`` ones should be there and are not; of both the
    new store remembers the ID only, so that a relay takes them from whoever has them.
    ``unreadable_pages`` failed on the medium.
    """

    admitted: int
    bodies: int
    without_row: int
    altered: int
    lost: int
    unreadable_pages: int


def salvage(source: Path, destination: Path) -> SalvageReport:
    """Write what is readable in ``source`` to a new store at ``destination``.

    ``source`` (with its log) is only read. ``destination`` must not exist, and
    appears when it is complete; its seqs are those of ``source``. Raises StoreError.
    """
    with contextlib.ExitStack() as undo:
        with store_errors(source):
            undo.enter_context(held(source))
            file_fd = os.open(source, os.O_RDONLY)
            undo.callback(os.close, file_fd)
            log_fd = None
            with contextlib.suppress(FileNotFoundError):
                aside = aside_file(source)
                log_fd = os.open(aside if aside.exists() else log_files(source)[0], os.O_RDONLY)
                undo.callback(os.close, log_fd)
        with store_errors(destination):
            if destination.exists():
                raise StoreError(destination, "exists already")
            destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = destination.with_name(destination.name + ".partial")
            partial.unlink(missing_ok=True)
            create(partial)
            with contextlib.closing(schema.connect(partial, "mode=rw")) as connection:
                schema.tune_writer(connection, durable=False)
                report = _Salvage(Pages(file_fd, log_fd), connection).run()
            _sync(partial)
            partial.rename(destination)
            _sync(destination.parent)
            return report


class _Salvage:
    """Two passes over the pages: what is known of envelopes, then the envelopes."""

    def __init__(self, pages: Pages, connection: sqlite3.Connection) -> None:
        self._pages = pages
        self._connection = connection
        self._altered = 0
        self._without_row = 0

    def run(self) -> SalvageReport:
        self._in_groups(self._small_rows())
        unreadable = self._pages.unreadable
        self._in_groups(self._bodies())
        execute = self._connection.execute
        self._drop_headerless()
        marked = "SELECT count(*) FROM gone JOIN admitted USING (seq)"
        (gone,) = execute(marked).fetchone()
        # Whatever has no body now is gone, and may return; what was only said to be is forgotten.
        execute("BEGIN")
        execute("DELETE FROM gone WHERE seq NOT IN (SELECT seq FROM admitted) OR seq IN (SELECT seq FROM body)")
        execute("INSERT OR IGNORE INTO gone SELECT seq, 1 FROM admitted WHERE seq NOT IN (SELECT seq FROM body)")
        execute("COMMIT")
        (bodiless,) = execute(marked).fetchone()
        (admitted,) = execute("SELECT count(*) FROM admitted").fetchone()
        return SalvageReport(
            admitted=admitted,
            bodies=admitted - bodiless,
            without_row=self._without_row,
            altered=self._altered,
            lost=max(0, bodiless - gone - self._altered),
            unreadable_pages=unreadable,
        )

    def _drop_headerless(self) -> None:
        """Leave out rows whose header is none and has no body that it could be taken from, as the store does."""
        execute = self._connection.execute
        rows = execute("SELECT seq, header FROM admitted WHERE seq NOT IN (SELECT seq FROM body)").fetchall()
        execute("BEGIN")
        for seq, header in rows:
            if not is_header(header):
                execute("DELETE FROM admitted WHERE seq = ?", (seq,))
        execute("COMMIT")

    def _in_groups(self, steps: Iterator[None]) -> None:
        execute = self._connection.execute
        execute("BEGIN")
        for index, _ in enumerate(steps, 1):
            if index % _GROUP_ROWS == 0:
                execute("COMMIT")
                execute("BEGIN")
        execute("COMMIT")

    def _small_rows(self) -> Iterator[None]:
        """Copy every table but ``body``; tell rows apart by their shape."""
        execute = self._connection.execute
        for seq, values in self._pages.rows():
            match values:
                case (str(key), int(value)) if seq is None:
                    execute(schema.PUT_META, (key, value))
                case (None, str(name)) if seq is not None:
                    execute(schema.PUT_INTERFACE, (seq, name))
                case (None, int(displaced)) if seq is not None:
                    execute("INSERT OR IGNORE INTO gone VALUES (?,?)", (seq, displaced))
                case (None, *rest) if seq is not None and 0 < seq < MAX_SEQ and is_admitted_shape(rest):
                    execute("INSERT OR REPLACE INTO admitted VALUES (?,?,?,?,?)", (seq, *rest))
                case _:
                    continue
            yield

    def _bodies(self) -> Iterator[None]:
        execute = self._connection.execute
        for seq, values in self._pages.rows():
            match values:
                case (None, bytes(envelope)) if seq is not None and 0 < seq < MAX_SEQ and len(envelope) in SIZES:
                    pass
                case _:
                    continue
            if execute("SELECT 1 FROM gone WHERE seq = ?", (seq,)).fetchone():
                continue
            known = execute("SELECT id, header FROM admitted WHERE seq = ?", (seq,)).fetchone()
            if known is None:
                if not admit_alone(self._connection, seq, envelope):
                    continue
                self._without_row += 1
            elif not is_envelope(envelope, known[0]):
                self._altered += 1
                continue
            elif envelope[:HEADER_BYTES] != known[1]:
                # The hash covers the header in the envelope: the other one is wrong.
                execute("UPDATE admitted SET header = ? WHERE seq = ?", (envelope[:HEADER_BYTES], seq))
            execute("INSERT OR REPLACE INTO body VALUES (?,?)", (seq, envelope))
            yield


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
