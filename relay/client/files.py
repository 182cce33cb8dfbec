# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that nobody else may read, replaced or created in one step so that a crash leaves old or new, never half."""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from relay.client.errors import PrivateFileError
from relay.config.paths import home

FOLDER_NAME: Final = "mesh-relay"
FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
OTHERS: Final = 0o077
_FULL: Final = "free some space and try again; nothing was changed"
_FORBIDDEN: Final = "give it to the user that you run this as"
_REMEDIES: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "mount the disk writable, or name another folder in XDG_CONFIG_HOME and XDG_DATA_HOME",
    errno.EIO: "the disk fails: copy what is on it while it can be read",
    errno.ELOOP: "it is a link; put the file itself there",
    errno.ENOTDIR: "a file is in its way; move that away",
    errno.EEXIST: "a file is in its way; move that away",
}


def config_folder(environ: Mapping[str, str]) -> Path:
    """Return where identity and contacts live: `$XDG_CONFIG_HOME/mesh-relay` (XDG Base Directory, 0.8)."""
    return _xdg(environ, "XDG_CONFIG_HOME", ".config")


def data_folder(environ: Mapping[str, str]) -> Path:
    """Return where messages live: `$XDG_DATA_HOME/mesh-relay`."""
    return _xdg(environ, "XDG_DATA_HOME", ".local/share")


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    # The specification has relative values ignored.
    if (value := environ.get(variable, "")) and Path(value).is_absolute():
        return Path(value) / FOLDER_NAME
    return home(environ) / default / FOLDER_NAME


def ensure_private_folder(folder: Path) -> None:
    """Create `folder` (and what is above it) with mode 0700, or check that it is the user's alone.

    PrivateFileError when others have any access to it.
    """
    with _said(f"use the folder {folder}"):
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        status = folder.stat()
    _require_ours(folder, status, FOLDER_MODE)


def read_private(path: Path, max_bytes: int) -> bytes | None:
    """Return the content of `path`, or None when there is no such file.

    PrivateFileError when it is not a plain file of the user's alone, or holds more than `max_bytes`.
    """
    try:
        with _said(f"read {path}", unless=FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file, _said(f"read {path}"):
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PrivateFileError(f"{path} is not a plain file; move it away")
        _require_ours(path, status, FILE_MODE)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise PrivateFileError(f"{path} has more than {max_bytes} bytes, so it is not ours; move it away")
    return content


def create_private(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600, on disk when this returns; FileExistsError when there is one already."""
    temporary = _write_temporary(path, content)
    try:
        # A link, unlike a rename, fails when the name is taken, and appears with its whole content.
        with _said(f"write {path}", unless=FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    _sync_folder(path)


def replace_private(path: Path, content: bytes) -> None:
    """Write `path` with mode 0600, on disk when this returns; readers see the old content or the new."""
    temporary = _write_temporary(path, content)
    try:
        with _said(f"write {path}"):
            temporary.replace(path)
    except PrivateFileError:
        temporary.unlink()
        raise
    _sync_folder(path)


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs; it falls when the process dies, however it dies."""
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock file exclusively and yield True, or yield False when anyone else holds it."""
    descriptor = _open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def claim(path: Path, number: int) -> int | None:
    """Lock byte `number` of a lock file and return the descriptor that holds it until closed, or None.

    None: somebody holds it, in whatever process. Of an open file, not of a process as other byte locks are, so
    that two users in one process keep each other out too.
    """
    descriptor = _open_lock(path)
    # struct flock of 64-bit Linux: type, whence, start, length, process.
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_lock(path: Path) -> int:
    with _said(f"write {path}"):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with _said(f"write {path}"):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except PrivateFileError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(path: Path) -> None:
    """Have the folder of `path` on disk."""
    with _said(f"write {path}"):
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _said(what: str, *, unless: type[OSError] = BlockingIOError) -> Iterator[None]:
    """Turn what the system refuses inside the block into a PrivateFileError, but for what is an answer."""
    try:
        yield
    except unless:
        raise
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "look at the disk")
        raise PrivateFileError(f"cannot {what}: {error.strerror}; {remedy}") from error


def _require_ours(path: Path, status: os.stat_result, mode: int) -> None:
    if status.st_uid != os.geteuid():
        raise PrivateFileError(f"{path} belongs to another user; move it away or run as that user")
    if status.st_mode & OTHERS:
        raise PrivateFileError(
            f"{path} is open to other users, who may know its secrets by now; close it with: chmod {mode:o} {path}"
        )
