# SPDX-License-Identifier: GPL-2.0-or-later
"""What a store can refuse, each with what the operator can do about it."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from typing import TYPE_CHECKING, ClassVar

from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class StoreError(RelayError):
    """Storage failed. ``reason`` is short and fixed, fit for a metric label."""

    reason: ClassVar[str] = "other"
    #: Text for the operator; ``{path}`` is the store.
    remedy: ClassVar[str] = "name another path for the store"

    def __init__(self, path: Path, cause: str) -> None:
        """Say what happened to the store at ``path`` and what to do about it."""
        super().__init__(f"{path}: {cause}; {self.remedy.format(path=path)}")
        self.path = path
        self.cause = cause


class StoreNewerError(StoreError):
    """Written by a later version of the relay."""

    reason = "newer"
    remedy = "install the version of the relay that wrote it, or name another path for the store. Nothing was changed"


class StoreDamagedError(StoreError):
    """SQLite, or the shape of what it read, says that the file is damaged."""

    reason = "damaged"
    remedy = (
        "look with `relay store check {path}`, rescue what is readable with "
        "`relay store salvage {path} NEW` and use NEW as the store"
    )


class StoreForeignError(StoreError):
    """Something that no relay wrote."""

    reason = "foreign"
    remedy = (
        "name another path for the store; if this was one, "
        "`relay store salvage {path} NEW` rescues what is readable. Nothing was changed"
    )


class StoreLockedError(StoreError):
    """In use by another process."""

    reason = "locked"
    remedy = "stop the other relay, or give each relay a store of its own"


class StoreRunningError(StoreLockedError):
    """In use by the relay that it belongs to, while somebody looks into it."""

    remedy = (
        "stop it meanwhile (Ctrl-C where it runs, or `systemctl stop mesh-relay`) and start it again afterwards; "
        "what a running relay finds damaged is in `relay status`"
    )


class StoreReadOnlyError(StoreError):
    """The file system takes no writes."""

    reason = "read_only"
    remedy = (
        "mount it writable (a worn-out SD card turns read-only by itself: replace it), "
        "or name another path for the store"
    )


class StoreFullError(StoreError):
    """No space left."""

    reason = "full"
    remedy = "free some space or lower the store's limit; a relay that runs goes on by itself then"


class StorePermissionError(StoreError):
    """The user that the relay runs as may not read or write here."""

    reason = "permission"
    remedy = "give the file and its folder to the user that the relay runs as"


class StoreIoError(StoreError):
    """The medium failed to read or write."""

    reason = "io"
    remedy = "look at the kernel's messages: the medium or its connection is failing"


_BY_SQLITE_CODE: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_CORRUPT: StoreDamagedError,
    sqlite3.SQLITE_NOTADB: StoreForeignError,
    sqlite3.SQLITE_BUSY: StoreLockedError,
    sqlite3.SQLITE_LOCKED: StoreLockedError,
    sqlite3.SQLITE_READONLY: StoreReadOnlyError,
    sqlite3.SQLITE_FULL: StoreFullError,
    sqlite3.SQLITE_PERM: StorePermissionError,
    sqlite3.SQLITE_CANTOPEN: StorePermissionError,
    sqlite3.SQLITE_IOERR: StoreIoError,
    # The tables that this schema needs are missing: not what a relay wrote.
    sqlite3.SQLITE_ERROR: StoreDamagedError,
}

_BY_ERRNO: dict[int, type[StoreError]] = {
    errno.EROFS: StoreReadOnlyError,
    errno.EACCES: StorePermissionError,
    errno.EPERM: StorePermissionError,
    errno.ENOSPC: StoreFullError,
    errno.EDQUOT: StoreFullError,
    errno.EIO: StoreIoError,
}


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the system inside the block into StoreErrors."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a mistake in this package, and no news of the file
    except sqlite3.Error as error:
        raise from_sqlite(path, error) from error
    except OSError as error:
        kind = _BY_ERRNO.get(error.errno or 0, StoreError)
        raise kind(path, error.strerror or str(error)) from error


def from_sqlite(path: Path, error: sqlite3.Error) -> StoreError:
    """Return the StoreError that says what ``error`` means for the operator."""
    # Extended codes (SQLITE_IOERR_FSYNC, SQLITE_CORRUPT_INDEX) keep the
    # primary one in their low byte. Errors that the module itself raises
    # (text that is not UTF-8, say) have none: bytes no relay wrote.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return _BY_SQLITE_CODE.get(code & 0xFF, StoreError)(path, str(error))
