# SPDX-License-Identifier: GPL-2.0-or-later
"""Panic: nothing of the store and of the configuration shall be found.

What can be done with a card: small secrets first; then the store's bytes are written
over, its files removed, and the card is told that their blocks hold nothing any more
(TRIM), upon which most cards no longer return them. What no program can reach is what
the card's own controller moved elsewhere before. Against a laboratory helps only
``storage = "volatile"``, where there is nothing on the card in the first place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

#: Whoever takes the box pulls the plug soon. A gibibyte takes most of a minute on a
#: slow card; after that what is left is removed without writing over it.
OVERWRITE_S: Final = 40.0
#: And of what was offered to everybody, the last there is: 512 MiB take longer.
SHELF_OVERWRITE_S: Final = 20.0
_BLOCK_BYTES: Final = 4 << 20
#: FITRIM (linux/fs.h): _IOWR('X', 121, struct fstrim_range).
_FITRIM: Final = 3 << 30 | 24 << 16 | ord("X") << 8 | 121
_WHOLE: Final = struct.pack("@QQQ", 0, (1 << 64) - 1, 0)
#: Keys before the store; within it the newest first (the write-ahead log).
_FIRST: Final = (".key", ".toml", "-wal", "-shm")


def erase_folders(folders: Sequence[Path], clock: Callable[[], float]) -> int:
    """Destroy every file below ``folders``; return how many could not be removed. ``clock``: monotonic seconds."""
    # One folder may be known by two names.
    places = {folder.resolve() for folder in folders}
    left = erase_files([path for folder in places for path in _files(folder)], clock)
    # What is not committed is not free yet, and what is not free is not discarded.
    os.sync()
    for folder in places:
        _trim(folder)
    return left


def erase_secrets(folders: Sequence[Path], clock: Callable[[], float]) -> int:
    """Destroy the keys and settings below ``folders``, which are small, and nothing else; as erase_files."""
    places = {folder.resolve() for folder in folders}
    return erase_files([path for folder in places for path in _files(folder) if _order(path)[0] < len(_FIRST)], clock)


def erase_files(paths: Iterable[Path], clock: Callable[[], float], overwrite_s: float = OVERWRITE_S) -> int:
    """Destroy these files, writing over them for ``overwrite_s`` at most; return how many could not be removed.

    Never raises for what it finds: one file that resists must not save the others.
    """
    until = clock() + overwrite_s
    noise = os.urandom(_BLOCK_BYTES)
    left = 0
    for path in sorted(paths, key=_order):
        with contextlib.suppress(OSError):
            _overwrite(path, noise, clock, until)
        try:
            path.unlink(missing_ok=True)
        except OSError:
            left += 1
    return left


def _files(folder: Path) -> Iterator[Path]:
    """Regular files; links are removed and not followed."""
    for base, folders, names in os.walk(folder):
        here = folder / base
        yield from (here / name for name in names)
        yield from (here / name for name in folders if (here / name).is_symlink())


def _order(path: Path) -> tuple[int, str]:
    kind = next((number for number, end in enumerate(_FIRST) if path.name.endswith(end)), len(_FIRST))
    return kind, str(path)


def _overwrite(path: Path, noise: bytes, clock: Callable[[], float], until: float) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        left = os.fstat(descriptor).st_size
        while left > 0 and clock() < until:
            left -= os.write(descriptor, noise[: min(left, _BLOCK_BYTES)])
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
