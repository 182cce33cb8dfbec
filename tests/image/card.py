# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that stands for a card: a copy of an image, of any size, and what lies on its first partitions."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from image.layout import SECTOR_BYTES, layout


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

    def names(self, label):
        """All files, with their folders."""
        return sorted(self._mtools(label, "mdir", "-/", "-b", "::").decode().split())

    def boot_settings(self, slot="A"):
        """What the slot says about its root."""
        lines = self.read(f"BOOT_{slot}", "root.env").decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

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


def tools_tree():
    """The tree of tools that the build uses, too."""
    root = Path(__file__).parents[2]
    shown = subprocess.run([root / ".ci/image-tools"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(shown.stdout.strip())
