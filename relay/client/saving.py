# SPDX-License-Identifier: GPL-2.0-or-later
"""A received file on the user's disk: under a name that was free, whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from relay.client.errors import ClientError
from relay.client.files import FILE_MODE

MAX_COPIES: Final = 100
"""Files of one name in one folder that get a number; each costs a look at all before it. The next get a random one."""
_PLAIN_NAME: Final = "message"
_PLAIN_ENDING: Final = 8


class SaveError(ClientError):
    """A file that could not be written; the message stays where it is."""


def save(content: Iterable[bytes], folder: Path, name: str) -> Path:
    """Write `content` into `folder` as `name`, or `name (2)` and so on, never over another file; return its path.

    `name` must be safe already; one that the file system there does not take gives way to a plain one. Readable by
    the user alone, on disk when this returns; SaveError otherwise, and what `content` raises.
    """
    temporary = folder / f".{secrets.token_hex(8)}.part"
    try:
        # First, so that an error here is the disk's or the folder's and not the name's.
        _write(temporary, content)
        path = _reserve(folder, name)
        try:
            # Not a link, which the file systems of memory sticks do not have.
            temporary.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        _sync(folder)
    except OSError as error:
        raise SaveError(
            f"cannot save {name!r} in {folder}: {error.strerror}; make room there, or choose another folder with --dir"
        ) from error
    finally:
        # Gone already when all went well. On a disk that has failed this fails too.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _reserve(folder: Path, name: str) -> Path:
    """Create an empty file under the first name that is free and that the file system takes."""
    stem, dot, ending = name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    names = [name, *(f"{stem} ({copy}){dot}{ending}" for copy in range(2, MAX_COPIES))]
    number = secrets.token_hex(8)
    # Too long for an encrypted folder, or not of the characters of a stick.
    plain_ending = f".{ending}" if ending.isascii() and ending.isalnum() and len(ending) <= _PLAIN_ENDING else ""
    for candidate in (*names, f"{stem} ({number}){dot}{ending}"):
        try:
            return _create(folder / candidate)
        except FileExistsError:
            continue
        except OSError:
            break
    return _create(folder / f"{_PLAIN_NAME} {number}{plain_ending}")


def _create(path: Path) -> Path:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    return path


def _write(path: Path, content: Iterable[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        for part in content:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
