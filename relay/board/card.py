# SPDX-License-Identifier: GPL-2.0-or-later
"""The card that this machine started from, found by the disk of its root; and the marks on it outside of partitions.

They stand between the partition table and the first partition, where nothing else is: each is one write, needs no
file system, and the next start finds it before it has mounted anything. Whoever writes the card anew has written
over them. One says that an erase has begun, in two places; one that the last relay.toml that could be read closed
the mesh, and it says no more.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.board.device import Device, Part

#: As image/layout.py makes it; tests/unit/board/test_erase.py compares the two.
DISK_ID: Final = 0x6D657368
BOOT_PARTITION, DATA_PARTITION = 1, 7
SECTOR_BYTES: Final = 512
#: Before the first partition, which starts at 2048.
MARK_SECTORS: Final = (1024, 1536)
CLOSED_SECTOR: Final = 1280
MARK: Final = b"MESH-RELAY: an erase has begun".ljust(SECTOR_BYTES, b"\0")
#: Where an erase of the partition for data is over: the next start makes it anew, and mends nothing of it.
BLANK: Final = b"MESH-RELAY: erased".ljust(SECTOR_BYTES, b"\0")
#: Of a partition whose key is in memory only: behind this sector is what nobody can read after the start that wrote it.
AMNESIC: Final = b"MESH-RELAY: what follows is encrypted, and its key is nowhere".ljust(SECTOR_BYTES, b"\0")
CLOSED: Final = b"MESH-RELAY: closed".ljust(SECTOR_BYTES, b"\0")

_SYS: Final = Path("/sys")
_DEV: Final = Path("/dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """``boot``: the drive MESH-RELAY; ``data``: the partition for data, if there is one yet."""

    disk: Path
    boot: Part
    data: Part | None

    def is_marked(self) -> bool:
        """Whether an erase began here and did not end; also where only one of the two places can be read."""
        return any(self._at(sector) == MARK for sector in MARK_SECTORS)

    def mark(self) -> bool:
        """Note that an erase begins; return whether that is on the card."""
        return self._put(MARK, *MARK_SECTORS) > 0

    def clear(self) -> bool:
        """Note that it ended, and that this is a new relay; return whether that is on the card."""
        return self._put(bytes(SECTOR_BYTES), CLOSED_SECTOR, *MARK_SECTORS) == 1 + len(MARK_SECTORS)

    def was_closed(self) -> bool:
        """Whether the last relay.toml that could be read closed the mesh."""
        return self._at(CLOSED_SECTOR) == CLOSED

    def remember_closed(self, *, closed: bool) -> None:
        """Keep that for later starts, in which the file may be damaged; writes only what changes."""
        if closed != self.was_closed():
            self._put(CLOSED if closed else bytes(SECTOR_BYTES), CLOSED_SECTOR)

    def _at(self, sector: int) -> bytes:
        try:
            with Device(Part(path=self.disk)) as device:
                return device.read(sector * SECTOR_BYTES, SECTOR_BYTES)
        except OSError:
            return b""

    def _put(self, content: bytes, *sectors: int) -> int:
        done = 0
        for sector in sectors:
            try:
                with Device(Part(path=self.disk)) as device:
                    device.write(sector * SECTOR_BYTES, content)
                    device.sync()
                done += 1
            except OSError:
                continue
        return done


def find_card(boot_device: Path | None = None, *, sys: Path = _SYS, dev: Path = _DEV) -> Card | None:
    """The card that the root is on, else the one that ``boot_device`` is on; None if that is no relay's."""
    for path in (Path("/"), boot_device):
        disk = None if path is None else _whole_disk(path, sys)
        card = None if disk is None else _card(disk, dev)
        if card is not None:
            return card
    return None


def _whole_disk(path: Path, sys: Path) -> Path | None:
    """The folder in sysfs of the disk with that device or file system; between them may be device mapper."""
    try:
        found = path.stat()
        number = found.st_rdev if path.is_block_device() else found.st_dev
        node = (sys / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
    except OSError:
        return None
    while below := sorted(node.glob("slaves/*")):
        node = below[0].resolve()
    return node.parent if (node / "partition").exists() else None


def _card(disk: Path, dev: Path) -> Card | None:
    device = dev / disk.name
    try:
        with Device(Part(path=device)) as opened:
            table = opened.read(0, SECTOR_BYTES)
        parts = {
            int((entry / "partition").read_text()): Part(
                path=device, start=_bytes(entry / "start"), size=_bytes(entry / "size")
            )
            for entry in (file.parent for file in disk.glob("*/partition"))
        }
    except (OSError, ValueError):
        return None
    (number,) = struct.unpack_from("<I", table, 440)
    # Elsewhere a boot loader may lie where our mark goes.
    if number != DISK_ID or BOOT_PARTITION not in parts:
        return None
    if parts[BOOT_PARTITION].start <= max(MARK_SECTORS) * SECTOR_BYTES:
        return None
    return Card(disk=device, boot=parts[BOOT_PARTITION], data=parts.get(DATA_PARTITION))


def _bytes(file: Path) -> int:
    """Sysfs counts sectors."""
    return int(file.read_text()) * SECTOR_BYTES
