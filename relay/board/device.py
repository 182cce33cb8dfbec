# SPDX-License-Identifier: GPL-2.0-or-later
"""A block device, or a file that stands for one, that is written over below any file system. Blocking."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

#: Offset and length in bytes.
Range = tuple[int, int]

#: Written at once, and what a failure is first known of.
NOISE_BYTES: Final = 4 << 20
#: What is tried by itself where a larger piece failed.
_PIECE_BYTES: Final = 64 << 10
#: Only whole ones can be discarded.
_SECTOR_BYTES: Final = 4096
#: A card that fails takes seconds for each piece; after so many it is given up.
_MAX_FAILURES: Final = 32
#: linux/fs.h: _IO(0x12, 119), with two 64-bit numbers, offset and length.
_BLKDISCARD: Final = 0x1277
#: _IO(0x12, 97): forget what is in memory of it.
_BLKFLSBUF: Final = 0x1261


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """So many bytes of a device, from ``start`` on; ``size`` 0: to its end.

    A partition is reached through its disk: kernels can be built to let nobody write to a device that is mounted.
    """

    path: Path
    start: int = 0
    size: int = 0


class Device:
    """Opened for reading and writing; a context manager. What is mounted from it should be written no more.

    udev looks the disk over whenever one that was ``writable`` is closed: what is read only should not be.
    """

    def __init__(self, part: Part, *, writable: bool = True) -> None:
        """Raise OSError."""
        self._descriptor = os.open(part.path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        self._start = part.start
        self.size = part.size or os.lseek(self._descriptor, 0, os.SEEK_END) - part.start
        # What was read before may have been written since by another way, by what is mounted from it.
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._descriptor, _BLKFLSBUF)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes; raise OSError, also where there are not so many."""
        pieces = []
        while length:
            piece = os.pread(self._descriptor, min(length, NOISE_BYTES), self._start + offset)
            if not piece:
                raise OSError(f"nothing to read at {offset}")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """Write; it is on the device after :meth:`sync`. Raise OSError."""
        view = memoryview(data)
        while view:
            wrote = os.pwrite(self._descriptor, view, self._start + offset)
            offset, view = offset + wrote, view[wrote:]

    def sync(self) -> None:
        """Return when all that was written is on the device; raise OSError."""
        os.fdatasync(self._descriptor)

    def forget(self) -> None:
        """Let memory hold nothing of it, so that what is read next comes from the device. It has to be synced."""
        os.posix_fadvise(self._descriptor, self._start, self.size, os.POSIX_FADV_DONTNEED)

    def overwrite(self, ranges: Iterable[Range]) -> int:
        """Write over ``ranges``, in this order; return how many bytes could not be. Raises nothing."""
        left = failures = 0
        for batch in _batches(ranges):
            if self._try(batch):
                continue
            for piece in _pieces(batch):
                if failures < _MAX_FAILURES and self._try([piece]):
                    continue
                failures += 1
                left += piece[1]
        return left

    def discard(self, ranges: Iterable[Range]) -> None:
        """Tell the device that these hold nothing (TRIM); most then return them no more, not every one can."""
        for offset, length in ranges:
            start = -(-(self._start + offset) // _SECTOR_BYTES) * _SECTOR_BYTES
            end = (self._start + offset + length) // _SECTOR_BYTES * _SECTOR_BYTES
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._descriptor, _BLKDISCARD, struct.pack("@QQ", start, max(0, end - start)))

    def _try(self, ranges: list[Range]) -> bool:
        try:
            for offset, length in ranges:
                self.write(offset, noise(length))
            # An error shows only here; else it is memory that is written over.
            self.sync()
        except OSError:
            return False
        return True


def noise(length: int) -> bytes:
    """So many bytes, NOISE_BYTES at most; of long ones all have the same, which takes a while to draw.

    And not zeros: some controllers store none, they only note that there are some.
    """
    return os.urandom(length) if length <= _PIECE_BYTES else _long_noise()[:length]


@cache
def _long_noise() -> bytes:
    return os.urandom(NOISE_BYTES)


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes in as few ranges as possible, in order; what overlaps is there once."""
    found: list[Range] = []
    for offset, length in sorted(ranges):
        if found and offset <= found[-1][0] + found[-1][1]:
            start, before = found[-1]
            found[-1] = (start, max(before, offset + length - start))
        else:
            found.append((offset, length))
    return found


def _batches(ranges: Iterable[Range]) -> Iterator[list[Range]]:
    """Lists of ranges, together as long as one block at most."""
    batch: list[Range] = []
    room = NOISE_BYTES
    for start, size in ranges:
        offset, length = start, size
        while length > 0:
            part = min(length, room)
            batch.append((offset, part))
            offset, length, room = offset + part, length - part, room - part
            if not room:
                yield batch
                batch, room = [], NOISE_BYTES
    if batch:
        yield batch


def _pieces(ranges: list[Range]) -> Iterator[Range]:
    for offset, length in ranges:
        for at in range(0, length, _PIECE_BYTES):
            yield offset + at, min(_PIECE_BYTES, length - at)
