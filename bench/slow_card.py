# SPDX-License-Identifier: GPL-2.0-or-later
"""A cheap card: an ext4 of its own in a file, of which the control group lets few writes through.

Published figures (pidramble.com/wiki/benchmarks/microsd-cards, read on 2026-11-30), of a Kingston of class 10 with
16 GB in a Raspberry Pi 2: 9.0 MB/s at a stretch, 0.21 MB/s in random writes of 4 KiB, that is 51 a second. The same
page has a Toshiba of class 10, U1, in a Raspberry Pi 4 at 0.22 MB/s; cards of class A1 promise 500 writes a second.
Reads are not slowed: what is served has just been written, and is in memory.

Slowed is whoever writes: what a call to fdatasync sends to the device waits in that call, which is what a relay's
commits feel. With control groups of version 1 what the kernel writes in its own threads (ext4's journal, old pages) is
nobody's, and passes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.cgroups import CgroupError, SlowDevice

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITES_PER_S: Final = 51
WRITE_BYTES_PER_S: Final = 9_000_000
#: What the parts below write, several times over; the file has holes.
IMAGE_BYTES: Final = 1 << 30


@contextlib.contextmanager
def slow_card(folder: Path) -> Iterator[tuple[Path, SlowDevice]]:
    """Mount the card below ``folder`` for the length of a block; CgroupError where that is not allowed."""
    image, place = folder / "card.img", folder / "card"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    place.mkdir()
    with contextlib.ExitStack() as undo:
        try:
            # Without lazy work, which the kernel would do while something is measured.
            _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
            device = _run("losetup", "--find", "--show", str(image))
            undo.callback(_run, "losetup", "--detach", device)
            _run("mount", device, str(place))
            undo.callback(_run, "umount", str(place))
        except (OSError, subprocess.CalledProcessError) as error:
            raise CgroupError(f"no file system in a file can be mounted here ({error}): run this as root") from error
        number = Path(device).stat().st_rdev
        yield (
            place,
            SlowDevice(
                number=f"{os.major(number)}:{os.minor(number)}",
                writes_per_s=WRITES_PER_S,
                write_bytes_per_s=WRITE_BYTES_PER_S,
            ),
        )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
