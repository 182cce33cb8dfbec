# SPDX-License-Identifier: GPL-2.0-or-later
"""At start: what was committed behind a damaged place in SQLite's log, and would be overwritten.

SQLite takes the log for ended at the first frame that is damaged, and writes its next
transaction over what stands there. So what it does not see is looked at before it writes.
The end of a commit that a power cut broke off is no damage: nobody was told that it was there.
"""

from __future__ import annotations

import os
import shutil
import struct
from typing import TYPE_CHECKING, NamedTuple

from relay.core.envelope import HEADER_BYTES, SIZES
from relay.store import schema
from relay.store.pages import FRAME_BYTES, FRAME_SALTS, LOG_HEADER_BYTES, LOG_SALTS, Pages
from relay.store.rows import MAX_SEQ, admit_alone, is_admitted_shape, is_envelope, is_header

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from relay.store.pages import Value

#: In the log's index, in the machine's byte order: the number of frames that SQLite takes for the log
#: (https://www.sqlite.org/walformat.html, section 2.2.1).
_FRAMES_SEEN = struct.Struct("=16xI")
#: Later values of these are larger; what is missing in the log never sets one back.
_PUT_LATER = (
    "INSERT INTO meta VALUES (?,?) ON CONFLICT(key) DO UPDATE SET value = excluded.value WHERE excluded.value > value"
)


class LogDamage(NamedTuple):
    """Envelopes that were committed behind the damage: ``saved`` are in the store again, ``lost`` are not."""

    saved: int
    lost: int


def has_unseen(log: Path, index: Path) -> bool:
    """Tell whether the log has frames of its present use that SQLite, which has made ``index`` of it, does not see.

    Reads 24 bytes of each frame behind, and no more; what stands there from an earlier use has other salts.
    """
    try:
        with log.open("rb") as file:
            header = file.read(LOG_HEADER_BYTES)
            (seen,) = _FRAMES_SEEN.unpack(index.read_bytes()[: _FRAMES_SEEN.size])
            end = os.fstat(file.fileno()).st_size
            if not seen:
                return end > LOG_HEADER_BYTES
            for at in range(LOG_HEADER_BYTES + seen * FRAME_BYTES, end, FRAME_BYTES):
                if os.pread(file.fileno(), FRAME_SALTS.stop, at)[FRAME_SALTS] == header[LOG_SALTS]:
                    return True
    except (FileNotFoundError, struct.error):
        pass  # no log, or one of no length
    return False


def set_aside(path: Path, log: Path, aside: Path) -> None:
    """Copy the log of ``path`` to ``aside`` if it is damaged; from there it is read, however often that is cut off."""
    with path.open("rb") as file, log.open("rb") as log_file:
        if not Pages(file.fileno(), log_file.fileno()).log_is_damaged:
            return
        partial = aside.with_name(aside.name + ".partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
            shutil.copyfileobj(log_file, copy)
            copy.flush()
            os.fsync(copy.fileno())
        partial.replace(aside)


def read(path: Path, aside: Path) -> LogRows:
    """Return the rows that a log set aside has, all in memory: it is as long as a few MiB and one transaction.

    No connection to ``path`` may be open in this process: SQLite's locks would be gone.
    """
    rows = LogRows()
    with path.open("rb") as file, aside.open("rb") as log_file:
        for number, values in Pages(file.fileno(), log_file.fileno()).rows_in_log():
            rows.take(number, values)
    return rows


class LogRows:
    """Rows of a log by their shape, as salvage tells them apart."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._state: list[tuple[str, int]] = []
        self._interfaces: list[tuple[int, str]] = []
        self._admitted: dict[int, tuple[bytes, bytes, Value, Value]] = {}
        self._bodies: dict[int, bytes] = {}
        self._gone: dict[int, int] = {}

    def take(self, number: int | None, values: tuple[Value, ...]) -> None:
        """Note a row of any table, or what is none."""
        match values:
            case (str(key), int(value)) if number is None:
                self._state.append((key, value))
            case _ if number is None or not 0 < number < MAX_SEQ:
                pass
            case (None, str(name)):
                self._interfaces.append((number, name))
            case (None, int(displaced)):
                self._gone[number] = displaced
            case (None, bytes(envelope)) if len(envelope) in SIZES:
                self._bodies[number] = envelope
            case (None, bytes(identity), bytes(header), interface, arrived_s) if is_admitted_shape(values[1:]):
                if is_header(header):
                    self._admitted[number] = (identity, header, interface, arrived_s)

    def write(self, connection: sqlite3.Connection, last_seq: int) -> LogDamage:
        """Store, in the caller's transaction, what arrived after ``last_seq``; what left is made to leave."""
        execute = connection.execute
        for key, value in self._state:
            execute(_PUT_LATER, (key, value))
        for entry in self._interfaces:
            execute("INSERT OR IGNORE INTO interface VALUES (?,?)", entry)
        # What left behind the damage stays away, also what stood before it.
        for seq, displaced in self._gone.items():
            if seq in self._admitted or execute("SELECT 1 FROM admitted WHERE seq = ?", (seq,)).fetchone():
                execute("DELETE FROM body WHERE seq = ?", (seq,))
                execute("INSERT OR IGNORE INTO gone VALUES (?,?)", (seq, displaced))
        unseen = sorted(seq for seq in {*self._admitted, *self._bodies} if seq > last_seq)
        saved = sum([self._save(connection, seq) for seq in unseen])
        newest = max((*unseen, last_seq))
        execute(_PUT_LATER, (schema.LAST_SEQ_KEY, newest))
        return LogDamage(saved=saved, lost=newest - last_seq - saved)

    def _save(self, connection: sqlite3.Connection, seq: int) -> bool:
        """Store one envelope, or what is known of one that is gone; False where that cannot be: it is taken anew."""
        row, body = self._admitted.get(seq), self._bodies.get(seq)
        if seq in self._gone and row is not None:
            body = None
        elif body is None:
            return False
        elif row is None:
            if not admit_alone(connection, seq, body):
                return False
        elif not is_envelope(body, row[0]):
            return False
        if row is not None:
            header = row[1] if body is None else body[:HEADER_BYTES]
            connection.execute("INSERT INTO admitted VALUES (?,?,?,?,?)", (seq, row[0], header, *row[2:]))
        if body is not None:
            connection.execute("INSERT INTO body VALUES (?,?)", (seq, body))
        return True
