# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sticks are plugged in. What is on the card that this machine started from is none, whatever it is called."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

SYS: Final = Path("/sys")
DEV: Final = Path("/dev")
#: Where udev links to what is on USB, by the kernel's name (59-relay-stick.rules); relay-stick.path waits for that.
LINKS: Final = DEV / "relay/stick"
#: Partitions and disks that are looked at: one device can claim to be a hundred.
MAX_STICKS: Final = 16
#: A device on a bus of USB, in the path of what belongs to it.
_ON_USB: Final = re.compile(r"/usb[0-9]+/")
_NAME: Final = re.compile(r"[a-z]{1,16}[0-9]{0,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stick:
    """A partition, or a disk without any. ``number``: of its device, which nothing else gets while it is plugged in."""

    device: Path
    number: str

    def is_there(self, sys: Path = SYS) -> bool:
        """Whether it is still plugged in."""
        return (sys / "dev/block" / self.number).exists()


def find_sticks(*, root: Path = Path("/"), sys: Path = SYS, dev: Path = DEV, links: Path = LINKS) -> list[Stick]:
    """All of them, in the order of their names. ``root``: what is on its disk is the card."""
    card = _disk_of(root, sys)
    try:
        with os.scandir(links) as entries:
            names = sorted(entry.name for entry in islice(entries, MAX_STICKS) if _NAME.fullmatch(entry.name))
    except OSError:
        return []
    found = []
    for name in names:
        try:
            node = (sys / "class/block" / name).resolve(strict=True)
            number = (node / "dev").read_text().strip()
            has_medium = int((node / "size").read_text()) > 0
        except (OSError, ValueError):
            continue
        is_whole = not (node / "partition").exists()
        disk = node if is_whole else node.parent
        if not _ON_USB.search(str(node)) or disk == card or not has_medium:
            continue
        if not (is_whole and any(node.glob("*/partition"))):
            found.append(Stick(device=dev / name, number=number))
    return found


def is_anything_there(links: Path = LINKS) -> bool:
    """Whether systemd would start this process again: it must not end then, but wait for something else."""
    return any(links.glob("*"))


def _disk_of(path: Path, sys: Path) -> Path | None:
    """The disk with that file system; between them may be device mapper."""
    try:
        number = path.stat().st_dev
        node = (sys / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
    except OSError:
        return None
    while below := sorted(node.glob("slaves/*")):
        node = below[0].resolve()
    return node.parent if (node / "partition").exists() else node
