# SPDX-License-Identifier: GPL-2.0-or-later
"""The card that this machine started from, found by the disk of its root; and the marks on it outside of partitions.

They stand between the partition table and the first partition, where nothing else is: each is one write, needs no
file system, and the next start finds it before it has mounted anything. Whoever writes the card anew has written
over them. One says that an erase has begun, in two places; one that the last relay.toml that could be read closed
the mesh, and it says no more. Which slot starts is between them, too (relay/board/slots.py), and behind them what of
the drive MESH-RELAY is the image's: that is written with the card, and no update of the software changes it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from relay.board.device import Device, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

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
#: A sector with length and SHA-256 of a list (relay/board/panic.py), and the list, up to the first partition.
OWN_SECTOR: Final = 1600
MAX_OWN_BYTES: Final = (2048 - OWN_SECTOR - 1) * SECTOR_BYTES
_OWN: Final = struct.Struct("<16sI32s")
_OWN_MAGIC: Final = b"MESH-RELAY: own"
CLOSED: Final = b"MESH-RELAY: closed".ljust(SECTOR_BYTES, b"\0")

_SYS: Final = Path("/sys")
_DEV: Final = Path("/dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """``boot``: the drive MESH-RELAY; ``data``: the partition for data, if there is one yet; ``parts``: all, by number.

    ``root``: the number of the partition that the root is on.
    """

    disk: Path
    boot: Part
    data: Part | None
    parts: Mapping[int, Part] = field(default_factory=lambda: MappingProxyType({}))
    root: int | None = None

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

    def own_files(self) -> str | None:
        """The list that was written with the card; None where there is none, or a damaged one."""
        try:
            with Device(Part(path=self.disk)) as device:
                magic, length, digest = _OWN.unpack_from(device.read(OWN_SECTOR * SECTOR_BYTES, SECTOR_BYTES))
                if magic.rstrip(b"\0") != _OWN_MAGIC or length > MAX_OWN_BYTES:
                    return None
                listed = device.read((OWN_SECTOR + 1) * SECTOR_BYTES, length)
        except OSError:
            return None
        return listed.decode(errors="replace") if hashlib.sha256(listed).digest() == digest else None

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


def pack_own(listed: str) -> bytes:
    """What is written from OWN_SECTOR on; raise ValueError if there is no room for it."""
    raw = listed.encode()
    if len(raw) > MAX_OWN_BYTES:
        raise ValueError("the list of the drive's own files is too long")
    return _OWN.pack(_OWN_MAGIC, len(raw), hashlib.sha256(raw).digest()).ljust(SECTOR_BYTES, b"\0") + raw


def find_card(boot_device: Path | None = None, *, sys: Path = _SYS, dev: Path = _DEV) -> Card | None:
    """The card that the root is on, else the one that ``boot_device`` is on; None if that is no relay's."""
    for path in (Path("/"), boot_device):
        partition = None if path is None else _partition(path, sys)
        card = None if partition is None else _card(partition, dev)
        if card is not None:
            return card
    return None


def _partition(path: Path, sys: Path) -> Path | None:
    """The folder in sysfs of the partition with that device or file system; between them may be device mapper."""
    try:
        found = path.stat()
        number = found.st_rdev if path.is_block_device() else found.st_dev
        node = (sys / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
    except OSError:
        return None
    while below := sorted(node.glob("slaves/*")):
        node = below[0].resolve()
    return node if (node / "partition").exists() else None


def _card(partition: Path, dev: Path) -> Card | None:
    """``partition``: one of its."""
    disk = partition.parent
    device = dev / disk.name
    try:
        # Whoever may only read the card finds it, too.
        with Device(Part(path=device), writable=False) as opened:
            table = opened.read(0, SECTOR_BYTES)
        parts = {
            int((entry / "partition").read_text()): Part(
                path=device, start=_bytes(entry / "start"), size=_bytes(entry / "size")
            )
            for entry in (file.parent for file in disk.glob("*/partition"))
        }
        root = int((partition / "partition").read_text())
    except (OSError, ValueError):
        return None
    (number,) = struct.unpack_from("<I", table, 440)
    # Elsewhere a boot loader may lie where our mark goes.
    if number != DISK_ID or BOOT_PARTITION not in parts:
        return None
    if parts[BOOT_PARTITION].start <= max(MARK_SECTORS) * SECTOR_BYTES:
        return None
    return Card(
        disk=device,
        boot=parts[BOOT_PARTITION],
        data=parts.get(DATA_PARTITION),
        parts=MappingProxyType(parts),
        root=root,
    )


def _bytes(file: Path) -> int:
    """Sysfs counts sectors."""
    return int(file.read_text()) * SECTOR_BYTES
