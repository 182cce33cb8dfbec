# SPDX-License-Identifier: GPL-2.0-or-later
"""A FAT32 file system in a file, with files as editors and desktops leave them, deleted ones too.

Written after Microsoft, "FAT: General Overview of On-Disk Format"; no more of it than tests need.
"""

from __future__ import annotations

import struct

SECTOR, PER_CLUSTER, RESERVED = 512, 2, 32
CLUSTER = SECTOR * PER_CLUSTER
END = 0x0FFFFFFF


class Fat32:
    """Of ``clusters`` clusters of 1 KiB, in ``file``, a path, ``offset`` bytes into it; ``opened``: there already."""

    def __init__(self, file, clusters, *, offset=0, label=b"MESH-RELAY", opened=False):
        self.file = file
        self.offset = offset
        self.clusters = clusters
        self.fat_sectors = -(-4 * (clusters + 2) // SECTOR)
        self.table = [0x0FFFFFF8, END, END, *[0] * (clusters - 1)]
        self.data = (RESERVED + 2 * self.fat_sectors) * SECTOR
        self.size = self.data + clusters * CLUSTER
        if not opened:
            self._format(label)

    def _format(self, label):
        boot = bytearray(SECTOR)
        struct.pack_into(
            "<3s8sHBHBHHBHHHIIIHHIHH12sBBBI11s8s", boot, 0,
            b"\xeb\x58\x90", b"mkfs.fat", SECTOR, PER_CLUSTER, RESERVED, 2, 0, 0, 0xF8, 0, 32, 64, 0,
            self.size // SECTOR, self.fat_sectors, 0, 0, 2, 1, 6, b"", 0x80, 0, 0x29, 0x1234, label.ljust(11),
            b"FAT32   ",
        )  # fmt: skip
        boot[510:512] = b"\x55\xaa"
        info = bytearray(SECTOR)
        struct.pack_into("<I", info, 0, 0x41615252)
        struct.pack_into("<III", info, 484, 0x61417272, self.clusters - 1, 3)
        info[510:512] = b"\x55\xaa"
        for at in (0, 6):
            self.put(at * SECTOR, bytes(boot))
            self.put((at + 1) * SECTOR, bytes(info))
        self.put(self.at(2), bytes(CLUSTER))
        self._add(2, label.ljust(11), 0x08, 0, 0)
        self._flush()

    def put(self, at, data):
        with self.file.open("r+b") as file:
            file.seek(self.offset + at)
            file.write(data)

    def get(self, at, length):
        with self.file.open("rb") as file:
            file.seek(self.offset + at)
            return file.read(length)

    def at(self, cluster):
        return self.data + (cluster - 2) * CLUSTER

    def write(self, path, data):
        """A new file; folders are made. Return its first cluster."""
        *folders, name = path.split("/")
        folder = 2
        for part in folders:
            folder = self._folder(folder, part)
        chain = self._store(data)
        self._name(folder, name, 0x20, chain[0] if chain else 0, len(data))
        self._flush()
        return chain[0] if chain else 0

    def delete(self, path):
        """As all systems do: the name is marked, the clusters are free, and all of it stays where it is."""
        *folders, name = path.split("/")
        folder = 2
        for part in folders:
            folder = self._find(folder, part)[1]
        slots, first, _ = self._find(folder, name)
        for slot in slots:
            self.put(slot, b"\xe5")
        for cluster in self._chain(first):
            self.table[cluster] = 0
        self._flush()

    def shorten(self, path, data):
        """The same file, shorter now: what stood behind its end is in its last cluster, and in those it had."""
        slots, first, size = self._find(2, path)
        assert len(data) < size
        self.put(self.at(first), data)
        self.put(slots[-1] + 28, struct.pack("<I", len(data)))

    def files(self):
        """Content by path, as the file system has it now."""
        raw = self.get(RESERVED * SECTOR, 4 * (self.clusters + 2))
        self.table = list(struct.unpack(f"<{self.clusters + 2}I", raw))
        assert raw == self.get((RESERVED + self.fat_sectors) * SECTOR, len(raw)), "both tables are the same"
        return dict(self._read(2, ""))

    def label(self):
        return next(slot[:11] for _, slot in self._slots(2) if slot[11] == 0x08 and slot[0] not in b"\xe5\0")

    def _read(self, folder, above):
        for _, name, kind, first, size in self._entries(folder):
            if kind & 0x10:
                yield from self._read(first, f"{above}{name}/")
            else:
                data = b"".join(self.get(self.at(cluster), CLUSTER) for cluster in self._chain(first))
                assert len(data) >= size, name
                yield above + name, data[:size]

    def _chain(self, first):
        found = []
        while 2 <= first < END - 7:
            found.append(first)
            first = self.table[first]
        return found

    def _slots(self, folder):
        for cluster in self._chain(folder):
            for at in range(0, CLUSTER, 32):
                yield self.at(cluster) + at, self.get(self.at(cluster) + at, 32)

    def _entries(self, folder):
        slots, name = [], ""
        for at, slot in self._slots(folder):
            if slot[0] == 0:
                return
            if slot[0] == 0xE5 or (slot[11] & 0x08 and slot[11] != 0x0F):
                slots, name = [], ""
                continue
            slots.append(at)
            if slot[11] == 0x0F:
                part = (slot[1:11] + slot[14:26] + slot[28:32]).decode("utf-16-le").partition("\0")[0]
                name = part + name
                continue
            high, low, size = *struct.unpack_from("<H", slot, 20), *struct.unpack_from("<HI", slot, 26)
            short = slot[:8].decode().rstrip() + ("." + slot[8:11].decode().rstrip()).rstrip(".")
            if short not in {".", "..", ""}:
                yield slots, name or short, slot[11], high << 16 | low, size
            slots, name = [], ""

    def _find(self, folder, name):
        return next((slots, first, size) for slots, found, _, first, size in self._entries(folder) if found == name)

    def _folder(self, above, name):
        for _, found, _, first, _ in self._entries(above):
            if found == name:
                return first
        (made,) = self._store(bytes(CLUSTER))
        self._add(made, b".".ljust(11), 0x10, made, 0)
        self._add(made, b"..".ljust(11), 0x10, above, 0)
        self._name(above, name, 0x10, made, 0)
        return made

    def _name(self, folder, name, kind, first, size):
        """With its long name; the short one is only a number."""
        short = f"F{sum(1 for _ in self._entries(folder)):07}".encode().ljust(11)
        check = 0
        for value in short:
            check = ((check & 1) << 7 | check >> 1) + value & 0xFF
        text = (name + "\0").encode("utf-16-le")
        text += b"\xff" * (-len(text) % 26)
        pieces = [text[at : at + 26] for at in range(0, len(text), 26)]
        for number in range(len(pieces), 0, -1):
            piece = pieces[number - 1]
            flag = 0x40 if number == len(pieces) else 0
            self._slot(
                folder,
                struct.pack("<B10sBBB12sH4s", number | flag, piece[:10], 0x0F, 0, check, piece[10:22], 0, piece[22:]),
            )
        self._add(folder, short, kind, first, size)

    def _add(self, folder, short, kind, first, size):
        self._slot(folder, struct.pack("<11sB8xHHHHI", short, kind, first >> 16, 0, 0, first & 0xFFFF, size))

    def _slot(self, folder, data):
        for at, slot in self._slots(folder):
            if slot[0] == 0:
                self.put(at, data)
                return
        (more,) = self._store(bytes(CLUSTER))
        self.table[self._chain(folder)[-1]] = more
        self.put(self.at(more), data)

    def _store(self, data):
        chain = []
        for at in range(0, len(data), CLUSTER):
            cluster = self.table.index(0)
            self.table[cluster] = END
            if chain:
                self.table[chain[-1]] = cluster
            chain.append(cluster)
            # What was there before stays behind its end, as on a real one.
            self.put(self.at(cluster), data[at : at + CLUSTER])
        return chain

    def _flush(self):
        raw = struct.pack(f"<{len(self.table)}I", *self.table)
        for copy in range(2):
            self.put((RESERVED + copy * self.fat_sectors) * SECTOR, raw)
