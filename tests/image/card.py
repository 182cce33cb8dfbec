# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that stands for a card: a copy of an image, of any size, and what lies on its first partitions."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

from image.layout import SECTOR_BYTES, layout
from relay.board import slots
from relay.board.manifest import HEAD_BYTES, Head

#: Types of partitions that hold others.
_EXTENDED = (0x05, 0x0F)


class Card:
    """A copy of ``image`` on a card ``times`` its size; holes stay holes.

    :param tools: a Debian tree with mtools (.ci/debian), entered by chroot
    """

    def __init__(self, image, path, *, tools, times=1):
        self.path = path
        self._tools = tools
        subprocess.run(["cp", "--sparse=always", image, path], check=True)
        os.truncate(path, times * path.stat().st_size)

    def read(self, label, name):
        """A file of a FAT partition."""
        return self._mtools(label, "mtype", f"::{name}")

    def write(self, label, name, data):
        """Write a file as a person's computer would, but by name only."""
        self._mtools(label, "mcopy", "-o", "-", f"::{name}", data=data)

    def remove(self, label, name):
        self._mtools(label, "mdel", f"::{name}")

    def make_folder(self, label, name):
        self._mtools(label, "mmd", f"::{name}")

    def names(self, label):
        """All files, with their folders."""
        return sorted(self._mtools(label, "mdir", "-/", "-b", "::").decode().split())

    def is_loaded(self, slot):
        """Whether there is something in a slot that U-Boot could load."""
        return "::/root.env" in self.names(f"BOOT_{slot}")

    def boot_settings(self, slot="A"):
        """What the slot says about its root."""
        lines = self.read(f"BOOT_{slot}", "root.env").decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def record(self):
        """What U-Boot and the relay remember of the slots."""
        with self.path.open("rb") as file:
            return slots.newest([_at(file, sector * SECTOR_BYTES, SECTOR_BYTES) for sector in slots.RECORD_SECTORS])[0]

    def remember(self, record):
        """Have them remember ``record``."""
        with self.path.open("r+b") as file:
            for sector in slots.RECORD_SECTORS:
                file.seek(sector * SECTOR_BYTES)
                file.write(slots.next_record(record).encode())

    def start(self):
        """What U-Boot does before it starts a slot; return what it would start."""
        chosen = slots.choose(self.record())
        self.remember(chosen.record)
        return chosen

    def content(self, slot, head=None):
        """All that a slot holds as its own head says, or ``head``, and that head."""
        boot, root = layout()[f"BOOT_{slot}"], layout()[f"ROOT_{slot}"]
        with self.path.open("rb") as file:
            end = (root.start + root.size) * SECTOR_BYTES - HEAD_BYTES
            head = head or Head.decode(_at(file, end, HEAD_BYTES))
            return (
                _at(file, boot.start * SECTOR_BYTES, head.manifest.boot.size),
                _at(file, root.start * SECTOR_BYTES, head.manifest.root.size),
                head,
            )

    def partition(self, number):
        """First sector and number of sectors of a partition, also of one that was made at the first start."""
        with self.path.open("rb") as file:
            return partitions(file)[number]

    def flip(self, label, offset):
        """Change one bit, ``offset`` bytes into a partition."""
        at = layout()[label].start * SECTOR_BYTES + offset
        with self.path.open("r+b") as file:
            file.seek(at)
            value = file.read(1)[0]
            file.seek(at)
            file.write(bytes([value ^ 1]))

    def _mtools(self, label, command, *arguments, data=b""):
        # mtools finds a file system inside of a file by its offset. The tree sees the file by its descriptor.
        offset = layout()[label].start * SECTOR_BYTES
        descriptor = os.open(self.path, os.O_RDWR)
        script = 'mount -t proc proc "$1/proc"; exec chroot "$@"'
        try:
            done = subprocess.run(
                ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", self._tools,
                 command, "-i", f"/proc/self/fd/{descriptor}@@{offset}", *arguments],
                input=data, stdout=subprocess.PIPE, check=True, pass_fds=[descriptor],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        finally:
            os.close(descriptor)
        return done.stdout


def partitions(file):
    """First sector and number of sectors of each partition, those in the extended one with theirs (MBR)."""
    found, extended, at, number = {}, None, 0, 5
    while True:
        table = _at(file, at * SECTOR_BYTES, SECTOR_BYTES)
        following = None
        for entry in range(4):
            kind, start, size = table[450 + 16 * entry], *struct.unpack_from("<II", table, 454 + 16 * entry)
            if kind in _EXTENDED:
                following = start + (extended or 0)
            elif kind and extended is None:
                found[entry + 1] = (start, size)
            elif kind:
                found[number] = (at + start, size)
                number += 1
        if following is None:
            return found
        extended, at = extended or following, following


def _at(file, offset, size):
    file.seek(offset)
    return file.read(size)


def tools_tree():
    """The tree of tools that the build uses, too."""
    root = Path(__file__).parents[2]
    shown = subprocess.run([root / ".ci/image-tools"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(shown.stdout.strip())
