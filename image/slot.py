# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies in a slot, described piece by piece at its end, and made into an update (relay/board/manifest.py)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from image.disk import BLOCK_BYTES
from image.layout import SECTOR_BYTES
from image.minisign import sign_bytes
from image.run import BuildError
from relay.board.manifest import HEAD_BYTES, PIECE_BYTES, Head, Manifest, Part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from image.layout import Partition
    from image.minisign import SecretKey

#: Beside the image; on a stick it has to lie at mesh-relay/update.relay.
SUFFIX = ".update"


def describe(boot: Path, root: Path, *, board: str, version: str, built: int) -> Head:
    """The head of a slot with such partitions, not signed: an image is the same whoever builds it.

    :param boot: its file system, with its free end
    :param built: seconds since 1970
    """
    manifest = Manifest(
        board=board, version=version, built=built, boot=Part.of(_pieces(boot)), root=Part.of(_pieces(root))
    )
    return Head(manifest=manifest)


def signed(head: Head, key: SecretKey) -> Head:
    """The head of an update that holds the same."""
    found = head.manifest
    comment = f"mesh-relay update {found.version} {found.board} {found.built}"
    return replace(head, signature=sign_bytes(found.encode(), key, "update", comment))


def finish_root(root: Path, head: Head, partition: Partition) -> None:
    """Make the file as large as its partition, with the head at the end."""
    end = partition.size * SECTOR_BYTES - HEAD_BYTES
    if root.stat().st_size > end:
        raise BuildError(f"{root.name} does not fit into {partition.label}: enlarge that in image/layout.py")
    with root.open("r+b") as file:
        file.seek(end)
        file.write(head.encode())


def write_update(head: Head, boot: Path, root: Path, target: Path) -> Path:
    """The update that makes a slot like that one."""
    with target.open("wb") as file:
        file.write(head.encode())
        for path, part in ((boot, head.manifest.boot), (root, head.manifest.root)):
            for piece in _pieces(path, part.size):
                file.write(piece)
    return target


def _pieces(path: Path, size: int | None = None) -> Iterator[bytes]:
    """Without the zeros at the end, but for a block's; or of the first ``size`` bytes."""
    left = _used(path) if size is None else size
    with path.open("rb") as file:
        while left:
            piece = file.read(min(PIECE_BYTES, left))
            yield piece
            left -= len(piece)


def _used(path: Path) -> int:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK_BYTES)
            file.seek(start)
            if any(file.read(end - start)):
                return end
            end = start
    return 0
