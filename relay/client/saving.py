# SPDX-License-Identifier: GPL-2.0-or-later
"""A received file on the user's disk: under a name that was free, whole or not at all."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from relay.client.errors import ClientError
from relay.client.files import FILE_MODE

MAX_COPIES: Final = 10_000
"""Files of one name in one folder; each further one costs a look at all before it."""


class SaveError(ClientError):
    """A file that could not be written; the message stays where it is."""


def save(content: Iterable[bytes], folder: Path, name: str) -> Path:
    """Write `content` into `folder` as `name`, or `name (2)` and so on, never over another file; return its path.

    `name` must be safe already. Readable by the user alone, on disk when this returns; SaveError otherwise.
    """
    temporary = folder / f".{secrets.token_hex(8)}.part"
    try:
        path = _reserve(folder, name)
        try:
            # Not a link, which the file systems of memory sticks do not have.
            _write(temporary, content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        _sync(folder)
    except OSError as error:
        raise SaveError(
            f"cannot save {name!r} in {folder}: {error.strerror}; choose another folder with --dir. The message is kept"
        ) from error
    return path


def _reserve(folder: Path, name: str) -> Path:
    """Create an empty file under the first name that is free."""
    stem, dot, ending = name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    for copy in range(1, MAX_COPIES):
        path = folder / (name if copy == 1 else f"{stem} ({copy}){dot}{ending}")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
        except FileExistsError:
            continue
        return path
    raise SaveError(f"{folder} has {MAX_COPIES} files named like {name!r}; choose another folder with --dir")


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
