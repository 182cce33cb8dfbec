# SPDX-License-Identifier: GPL-2.0-or-later
"""An exFAT file system with some files, as sticks of more than 32 GB come.

Written after Microsoft, "exFAT file system specification" (2019); no more of it than Linux wants to mount it.
"""

from __future__ import annotations

import struct

SECTOR, PER_CLUSTER = 512, 8
CLUSTER = SECTOR * PER_CLUSTER
BOOT_SECTORS, FAT_AT, FAT_SECTORS = 12, 24, 40
HEAP_AT = FAT_AT + FAT_SECTORS
END = 0xFFFFFFFF
FILE, FOLDER = 0x20, 0x10


def make_exfat(files):
    """Return the bytes of one; ``files``: content by path. Folders have one cluster, so a dozen names."""
    clusters: list[bytes] = []

    def store(data):
        """Add data; return its first cluster."""
        first = len(clusters) + 2
        clusters.extend(data[at : at + CLUSTER].ljust(CLUSTER, b"\0") for at in range(0, len(data) or 1, CLUSTER))
        return first

    total = 65 + sum(len(data) // CLUSTER + 3 for data in files.values())
    bitmap = store(bytes(-(-total // 8)))
    # All letters as they are, but for a to z (section 7.2.5: so many as they are, after 0xFFFF).
    letters = struct.pack("<2H26H2H", 0xFFFF, ord("a"), *range(ord("A"), ord("Z") + 1), 0xFFFF, 0x10000 - ord("{"))
    upper = store(letters)
    tree = {}
    for path, data in files.items():
        folder = tree
        *above, name = path.split("/")
        for part in above:
            folder = folder.setdefault(part, {})
        folder[name] = data

    def folder_of(entries):
        made = b""
        for name, content in entries.items():
            if isinstance(content, dict):
                made += _entry(name, FOLDER, store(folder_of(content)), CLUSTER)
            else:
                made += _entry(name, FILE, store(content) if content else 0, len(content))
        assert len(made) <= CLUSTER
        return made

    rows = folder_of(tree)
    tables = struct.pack("<BB18xIQ", 0x81, 0, bitmap, -(-total // 8))
    tables += struct.pack("<B3xI12xIQ", 0x82, _sum32(letters, skip=()), upper, len(letters))
    root = store(tables + rows)
    used = len(clusters)
    assert used <= total <= 8 * CLUSTER
    clusters[bitmap - 2] = ((1 << used) - 1).to_bytes(CLUSTER, "little")
    sectors = HEAP_AT + total * PER_CLUSTER
    boot = bytearray(SECTOR)
    struct.pack_into("<3s8s", boot, 0, b"\xeb\x76\x90", b"EXFAT   ")
    struct.pack_into("<QQIIIIIIHHBBBBB", boot, 64, 0, sectors, FAT_AT, FAT_SECTORS, HEAP_AT, total, root, 0x1234, 0x100,
                     0, 9, 3, 1, 0x80, 0xFF)  # fmt: skip
    boot[510:] = b"\x55\xaa"
    region = bytes(boot) + (bytes(508) + b"\0\0\x55\xaa") * 8 + bytes(2 * SECTOR)
    region += struct.pack("<I", _sum32(region)) * (SECTOR // 4)
    # Files lie in one piece each, and need no chain; the root and the tables have one cluster.
    table = struct.pack("<4I", 0xFFFFFFF8, END, END, END) + bytes(4 * (root - 4)) + struct.pack("<I", END)
    head = (region * 2).ljust(FAT_AT * SECTOR, b"\0") + table.ljust(FAT_SECTORS * SECTOR, b"\0")
    return head + b"".join(clusters).ljust(total * CLUSTER, b"\0")


def _entry(name, kind, cluster, size):
    """The entries of a file or folder (section 7.4 to 7.7), which lies in one piece."""
    raw = name.encode("utf-16-le")
    parts = [raw[at : at + 30].ljust(30, b"\0") for at in range(0, len(raw), 30)]
    # Created, changed and read on 2026-01-01, at midnight.
    made = struct.pack("<BBHHHIII12x", 0x85, 1 + len(parts), 0, kind, 0, *[(46 << 9 | 1 << 5 | 1) << 16] * 3)
    made += struct.pack("<BBBBHHQIIQ", 0xC0, 3 if size else 1, 0, len(name), _sum16(name.upper().encode("utf-16-le")),
                        0, size, 0, cluster, size)  # fmt: skip
    made += b"".join(b"\xc1\0" + part for part in parts)
    return made[:2] + struct.pack("<H", _sum16(made, skip=(2, 3))) + made[4:]


def _sum16(data, skip=()):
    found = 0
    for at, value in enumerate(data):
        if at not in skip:
            found = ((found >> 1 | (found & 1) << 15) + value) & 0xFFFF
    return found


def _sum32(data, skip=(106, 107, 112)):
    found = 0
    for at, value in enumerate(data):
        if at not in skip:
            found = ((found >> 1 | (found & 1) << 31) + value) & 0xFFFFFFFF
    return found
