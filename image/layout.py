# SPDX-License-Identifier: GPL-2.0-or-later
"""Where everything lies on the card.

    1 MESH-RELAY  FAT  boot selector, relay.toml: the one drive that a desktop shows
    2 BOOT_A      FAT  kernel of slot A, root hash
    3 BOOT_B      FAT  the same of slot B
    4             extended, up to the end of the card
    5 ROOT_A      squashfs, then its dm-verity hash tree
    6 ROOT_B
    7 (data)      ext4, made at the first boot to fill the card

MBR and not GPT: the boot ROM of the Pi 3 and Zero 2 reads no other.
"""

from __future__ import annotations

from dataclasses import dataclass

SECTOR_BYTES = 512
#: Cards erase in blocks of a few MiB at most; a partition that starts inside of one costs rewrites.
ALIGN_SECTORS = 2048
MIB_SECTORS = 2048

#: The same on every card: /etc/fstab and the kernel's command line name partitions by it.
DISK_ID = 0x6D657368
#: Windows, macOS and desktops with udisks leave alone what has these "hidden" types;
#: U-Boot and Linux look at the content.
TYPE_FAT = 0x0C
TYPE_HIDDEN_FAT = 0x1C
TYPE_HIDDEN_LINUX = 0x93
TYPE_EXTENDED = 0x0F

#: Firmware, device trees and papers take 20 MiB; the rest is for what an operator offers to participants.
SELECTOR_MIB = 512
#: Kernel and initrd of arm64 take 56 MiB; an update may be larger.
BOOT_MIB = 128
#: Twice what the root takes today.
ROOT_MIB = 512
#: Left free at the end, so that a card of exactly the image's size has room for data.
SPARE_MIB = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """``start`` and ``size`` in sectors of 512 bytes; ``label`` of its file system, if it has one."""

    number: int
    label: str
    start: int
    size: int
    type: int

    @property
    def partuuid(self) -> str:
        """By which the kernel and udev know it."""
        return f"{DISK_ID:08x}-{self.number:02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """``partitions`` without the one for data; ``sectors`` of the whole image."""

    partitions: tuple[Partition, ...]
    sectors: int

    def __getitem__(self, label: str) -> Partition:
        """The partition with this label."""
        return next(partition for partition in self.partitions if partition.label == label)

    def script(self) -> str:
        """What sfdisk reads."""
        lines = [f"label: dos\nlabel-id: 0x{DISK_ID:08x}\nunit: sectors\n"]
        lines += [
            f"{item.number}: start={item.start}, size={item.size}, type={item.type:x}"
            f"{', bootable' if item.number == 1 else ''}"
            for item in self.partitions
        ]
        return "\n".join(lines) + "\n"


def layout() -> Layout:
    """The table of the image as it is published."""
    partitions = []
    at = ALIGN_SECTORS
    for number, label, size_mib, kind in (
        (1, "MESH-RELAY", SELECTOR_MIB, TYPE_FAT),
        (2, "BOOT_A", BOOT_MIB, TYPE_HIDDEN_FAT),
        (3, "BOOT_B", BOOT_MIB, TYPE_HIDDEN_FAT),
    ):
        partitions.append(Partition(number=number, label=label, start=at, size=size_mib * MIB_SECTORS, type=kind))
        at += size_mib * MIB_SECTORS
    extended = at
    logical = []
    for number, label in ((5, "ROOT_A"), (6, "ROOT_B")):
        # A logical partition is preceded by the sector that describes it.
        at += ALIGN_SECTORS
        size = ROOT_MIB * MIB_SECTORS
        logical.append(Partition(number=number, label=label, start=at, size=size, type=TYPE_HIDDEN_LINUX))
        at += size
    end = at + SPARE_MIB * MIB_SECTORS
    partitions.append(Partition(number=4, label="", start=extended, size=end - extended, type=TYPE_EXTENDED))
    return Layout(partitions=(*partitions, *logical), sectors=end)
