# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems and the image of a whole card, without loop devices."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from image.layout import SECTOR_BYTES, Layout, Partition
from image.run import BuildError, Tools

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES = 4096
#: Level 15 is 2 % larger than 19 and three times as fast; reading costs the same.
SQUASHFS_OPTIONS = ("-comp", "zstd", "-Xcompression-level", "15", "-b", "128K")
#: What is in there is compressed already. In blocks, so that the output is the same for any number of processors.
XZ_OPTIONS = ("--threads=2", "--block-size=16MiB", "-0")
_COPY_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VerityRoot:
    """A root file system followed by its hash tree; counts are blocks of 4096 bytes."""

    file: Path
    root_hash: str
    salt: str
    data_blocks: int

    def boot_settings(self) -> str:
        """What the boot partition says about its root, for whatever starts the kernel."""
        return (
            f"roothash={self.root_hash}\n"
            f"rootsalt={self.salt}\n"
            f"rootblocks={self.data_blocks}\n"
            f"rootsectors={self.data_blocks * BLOCK_BYTES // SECTOR_BYTES}\n"
            # One block further: the first one describes the tree.
            f"roothashstart={self.data_blocks + 1}\n"
        )


def make_root(tools: Tools, root: Path, *, epoch: int) -> VerityRoot:
    """Pack the folder ``root`` and append the tree by which the kernel checks every block it reads."""
    file = tools.work / "root.squashfs"
    tools(
        *("mksquashfs", root, file, "-noappend", "-quiet", "-no-progress", "-processors", "2"),
        *("-all-time", str(epoch), "-mkfs-time", str(epoch), "-xattrs", *SQUASHFS_OPTIONS),
    )
    size = -(-file.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES
    os.truncate(file, size)
    # The salt keeps nobody's prepared collisions from mattering; it need not be secret, but the same each time.
    with file.open("rb") as opened:
        salt = hashlib.file_digest(opened, "sha256").hexdigest()
    uuid = f"{salt[:8]}-{salt[8:12]}-4{salt[13:16]}-8{salt[17:20]}-{salt[20:32]}"
    output = tools(
        *("veritysetup", "format", f"--hash-offset={size}", f"--salt={salt}", f"--uuid={uuid}", "--hash=sha256"),
        *(
            f"--data-block-size={BLOCK_BYTES}",
            f"--hash-block-size={BLOCK_BYTES}",
            f"--data-blocks={size // BLOCK_BYTES}",
        ),
        *(file, file),
    )
    found = re.search(r"^Root hash:\s+([0-9a-f]{64})$", output, re.MULTILINE)
    if not found:
        raise BuildError(f"veritysetup printed no root hash:\n{output}")
    return VerityRoot(file=file, root_hash=found[1], salt=salt, data_blocks=size // BLOCK_BYTES)


def make_fat(tools: Tools, partition: Partition, content: Path | None, *, epoch: int) -> Path:
    """A FAT file system with what lies in the folder ``content``."""
    file = tools.work / f"{partition.label}.fat"
    with file.open("wb") as opened:
        opened.truncate(partition.size * SECTOR_BYTES)
    volume = hashlib.sha256(partition.label.encode()).hexdigest()[:8]
    tools("mkfs.vfat", "--invariant", "-F", "32", "-n", partition.label, "-i", volume, file)
    if content:
        for path in (*content.rglob("*"), content):
            os.utime(path, (epoch, epoch))
        for path in sorted(content.iterdir()):
            tools(
                *("mcopy", "-s", "-p", "-m", "-i", file, path, "::"),
                environ={"SOURCE_DATE_EPOCH": str(epoch), "MTOOLS_SKIP_CHECK": "1"},
            )
    return file


def assemble(tools: Tools, table: Layout, contents: dict[str, Path], image: Path) -> None:
    """Write the partition table and ``contents``, by label, into the file ``image``; holes stay holes."""
    with image.open("wb") as opened:
        opened.truncate(table.sectors * SECTOR_BYTES)
    tools("sfdisk", "--quiet", image, text=table.script())
    with image.open("r+b") as target:
        for label, path in contents.items():
            partition = table[label]
            if path.stat().st_size > partition.size * SECTOR_BYTES:
                raise BuildError(f"{path.name} does not fit into {label}: enlarge that in image/layout.py")
            target.seek(partition.start * SECTOR_BYTES)
            with path.open("rb") as source:
                while block := source.read(_COPY_BYTES):
                    if block.count(0) == len(block):
                        target.seek(len(block), os.SEEK_CUR)
                    else:
                        target.write(block)


def compress(tools: Tools, image: Path) -> Path:
    """Make IMAGE.xz and keep the image."""
    tools("xz", "--keep", "--force", *XZ_OPTIONS, image)
    return image.with_name(f"{image.name}.xz")
