# SPDX-License-Identifier: GPL-2.0-or-later
"""Panic, file by file: what lies in file systems that are in use, and what of all of it goes first.

What no program can reach is what the card's own controller moved elsewhere before. Against a laboratory helps only
``storage = "volatile"``, where there is nothing on the card in the first place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

from relay.board.device import NOISE_BYTES, noise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

#: FITRIM (linux/fs.h): _IOWR('X', 121, struct fstrim_range).
_FITRIM: Final = 3 << 30 | 24 << 16 | ord("X") << 8 | 121
_WHOLE: Final = struct.pack("@QQQ", 0, (1 << 64) - 1, 0)
#: FS_IOC_SHUTDOWN: _IOR('X', 125, __u32), and EXT4_GOING_FLAGS_NOLOGFLUSH (linux/fs/ext4/ext4.h).
_SHUTDOWN: Final = 2 << 30 | 4 << 16 | ord("X") << 8 | 125
_WITHOUT_JOURNAL: Final = struct.pack("@I", 2)
#: Keys and secrets before the store; within it the newest first (the write-ahead log).
_FIRST: Final = (".key", "_key", "-secret", ".toml", "-token", "-wal", "-shm")


def erase_folders(folders: Sequence[Path]) -> int:
    """Destroy every file below ``folders``; return how many could not be written over or removed."""
    # One folder may be known by two names.
    places = {folder.resolve() for folder in folders}
    left = erase_files(path for folder in places for path in _files(folder))
    # What is not committed is not free yet, and what is not free is not discarded.
    os.sync()
    for folder in places:
        _trim(folder)
    return left


def erase_secrets(folders: Sequence[Path]) -> int:
    """Destroy the keys and settings below ``folders``, which are small, and nothing else; as erase_files."""
    places = {folder.resolve() for folder in folders}
    return erase_files(path for folder in places for path in _files(folder) if _order(path)[0] < len(_FIRST))


def erase_files(paths: Iterable[Path]) -> int:
    """Destroy these files; return how many could not be written over or removed.

    Never raises for what it finds: one file that resists must not save the others.
    """
    left = 0
    for path in sorted(paths, key=_order):
        try:
            if path.is_file() and not path.is_symlink():
                _overwrite(path)
            path.unlink(missing_ok=True)
        except OSError:
            left += 1
            # Its name at least.
            with contextlib.suppress(OSError):
                path.unlink()
    return left


def shut_down(folder: Path) -> bool:
    """End the file system at ``folder`` for all who use it: nothing of what it still had to write is written.

    What is below it can then be written over without its writing into that. Return whether it did.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_JOURNAL)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def _files(folder: Path) -> Iterator[Path]:
    """Regular files; links are removed and not followed."""
    for base, folders, names in os.walk(folder):
        here = folder / base
        yield from (here / name for name in names)
        yield from (here / name for name in folders if (here / name).is_symlink())


def _order(path: Path) -> tuple[int, str]:
    kind = next((number for number, end in enumerate(_FIRST) if path.name.endswith(end)), len(_FIRST))
    return kind, str(path)


def _overwrite(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        left = os.fstat(descriptor).st_size
        while left > 0:
            left -= os.write(descriptor, noise(min(left, NOISE_BYTES)))
            # Else it is memory that is written over.
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _trim(folder: Path) -> None:
    """Discard the free blocks of the file system; not every one can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _FITRIM, _WHOLE)
        finally:
            os.close(descriptor)
