# SPDX-License-Identifier: GPL-2.0-or-later
"""Which parts of an ext4 file system were ever written (Documentation/filesystems/ext4 of Linux).

A card's partition for data is large, and mostly as mke2fs left it: its groups of blocks say by themselves that
nothing was ever put there. To write over all of it would take the better part of an hour.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from relay.board.card import AMNESIC

if TYPE_CHECKING:
    from relay.board.device import Device, Range

_SUPERBLOCK_AT: Final = 1024
_MAGIC: Final = 0xEF53
_MAGIC_AT: Final = 56
_INCOMPAT_META_BG: Final = 0x10
_INCOMPAT_64BIT: Final = 0x80
_RO_COMPAT_CHECKSUMS: Final = 0x10 | 0x400
_BLOCK_UNINIT: Final = 2
#: Of a LUKS volume: keys are in there, and without it the rest is noise (cryptsetup: LUKS2 On-Disk Format, 16 MiB).
LUKS_MAGIC: Final = b"LUKS\xba\xbe"
LUKS_HEADER_BYTES: Final = 16 << 20
#: 512 TiB in groups of 128 MiB; what says that it is larger is damaged.
_MAX_GROUPS: Final = 1 << 22


def is_ext4(device: Device) -> bool:
    """Whether there is such a file system, whatever state it is in. Raise OSError."""
    return device.read(_SUPERBLOCK_AT + _MAGIC_AT, 2) == struct.pack("<H", _MAGIC)


def ever_written(device: Device) -> list[Range]:
    """What may hold something that somebody wrote; everything where that cannot be told. Raise OSError.

    The first range is what this was told by. Of what is encrypted only what its keys are in.
    """
    whole = [(0, device.size)]
    head = device.read(0, min(device.size, 4096))
    if head.startswith(LUKS_MAGIC):
        end = min(device.size, LUKS_HEADER_BYTES)
        return [(0, len(head)), (len(head), end - len(head))]
    if head.startswith(AMNESIC):
        return [(0, len(head))]
    if len(head) < 4096:
        return whole
    block = head[_SUPERBLOCK_AT:]
    (magic,) = struct.unpack_from("<H", block, _MAGIC_AT)
    incompat, ro_compat = struct.unpack_from("<II", block, 96)
    if magic != _MAGIC or incompat & _INCOMPAT_META_BG or not ro_compat & _RO_COMPAT_CHECKSUMS:
        return whole
    blocks, first, log_size, per_group = (struct.unpack_from("<I", block, at)[0] for at in (4, 20, 24, 32))
    descriptor_bytes = 32
    if incompat & _INCOMPAT_64BIT:
        blocks |= struct.unpack_from("<I", block, 336)[0] << 32
        (descriptor_bytes,) = struct.unpack_from("<H", block, 254)
    if log_size > 6 or not per_group or descriptor_bytes < 32 or blocks <= first:
        return whole
    block_bytes = 1024 << log_size
    groups = -(-(blocks - first) // per_group)
    table_at = (first + 1) * block_bytes
    if groups > _MAX_GROUPS or table_at + groups * descriptor_bytes > device.size or blocks * block_bytes > device.size:
        return whole
    table = device.read(table_at, groups * descriptor_bytes)
    told = table_at + len(table)
    found = [(0, told)]
    for group in range(groups):
        (flags,) = struct.unpack_from("<H", table, group * descriptor_bytes + 18)
        start = (first + group * per_group) * block_bytes
        length = min(per_group * block_bytes, device.size - start)
        # Of a group that was never used its first block: some have a copy of the superblock, for e2fsck to mend by.
        if flags & _BLOCK_UNINIT:
            length = min(length, block_bytes)
        skipped = min(length, max(0, told - start))
        found.append((start + skipped, length - skipped))
    end = blocks * block_bytes
    return [*found, (end, device.size - end)]
