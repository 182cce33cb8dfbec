# SPDX-License-Identifier: GPL-2.0-or-later
"""What storing costs the card: bytes written for each byte stored, and the start after it.

``python -m bench.disk FOLDER`` prints it. Bytes written are the kernel's
``write_bytes`` of this process: what it made dirty, the log and all checkpoints included.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.store_input import make_envelopes
from relay.core.batch import Batch
from relay.store.database import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVELOPES = 100_000
LONE_PUTS = 2_000
GROUP = 64
#: Envelopes that differ; the rest repeats them, to keep the bench's own memory small.
DIFFERENT = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFigures:
    """Bytes written per byte stored in groups and one by one, of the file itself, and the start."""

    bytes_per_byte: float
    lone_bytes_per_byte: float
    file_bytes_per_byte: float
    start_s: float


def measure_disk(folder: Path, *, count: int = ENVELOPES, group: int = GROUP) -> DiskFigures:
    """Store ``count`` envelopes of 1 KiB below ``folder``, which must not be in memory."""
    envelopes = make_envelopes(min(count, DIFFERENT))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "grouped"
        bytes_per_byte = _store(path, envelopes, count, group)
        stored_bytes = count * len(envelopes[0])
        file_bytes = path.stat().st_size
        start_s = _start(path, count)
        lone = _store(Path(place) / "lone", envelopes, LONE_PUTS, 1)
    return DiskFigures(
        bytes_per_byte=bytes_per_byte,
        lone_bytes_per_byte=lone,
        file_bytes_per_byte=file_bytes / stored_bytes,
        start_s=start_s,
    )


def _store(path: Path, envelopes: Sequence[bytes], count: int, group: int) -> float:
    """Return bytes written per byte stored, the last checkpoint included."""
    before = _bytes_written()
    store = Store.open(path)
    stored_bytes = 0
    for first in range(1, count + 1, group):
        batch = Batch()
        for seq in range(first, min(first + group, count + 1)):
            envelope = envelopes[seq % len(envelopes)]
            batch.inserts.append((seq, hashlib.sha256(envelope).digest(), envelope[:24], 1, seq, envelope))
            stored_bytes += len(envelope)
        store.commit(batch)
    store.close()
    return (_bytes_written() - before) / stored_bytes


def _start(path: Path, count: int) -> float:
    """Return the seconds to open the store and read all that a start reads, from the medium."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    started = time.perf_counter()
    store = Store.open(path)
    assert sum(1 for _ in store.load()) == count
    took_s = time.perf_counter() - started
    store.close()
    return took_s


def _bytes_written() -> int:
    counters = Path("/proc/self/io").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in counters.splitlines() if line.startswith("write_bytes"))


def measure(folder: Path) -> dict[str, float]:
    """Bytes the kernel writes for each byte stored, in groups of 64 and one by one, checkpoints included."""
    figures = measure_disk(folder)
    return {
        "disk_bytes_per_byte": figures.bytes_per_byte,
        "disk_lone_bytes_per_byte": figures.lone_bytes_per_byte,
        "disk_file_bytes_per_byte": figures.file_bytes_per_byte,
        "disk_start_s": figures.start_s,
    }


def main(folder: Path) -> None:
    """Print the figures."""
    figures = measure_disk(folder)
    print(f"{ENVELOPES:,} envelopes of 1 KiB in groups of {GROUP}, checkpoints included:")
    print(f"  {figures.bytes_per_byte:.2f} bytes written per byte stored; one by one {figures.lone_bytes_per_byte:.1f}")
    print(f"  {figures.file_bytes_per_byte:.2f} bytes of file per byte stored")
    print(f"  start with all of them: {figures.start_s:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
