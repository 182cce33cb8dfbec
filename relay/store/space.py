# SPDX-License-Identifier: GPL-2.0-or-later
"""The file system that a store is on: what is free, and whether it takes writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Space(NamedTuple):
    """``free_bytes``: for a user who is not root; None where the file system does not tell."""

    free_bytes: int | None = None
    read_only: bool = False


def look(path: Path) -> Space:
    """Ask the kernel about the file system of the store at ``path``; one that does not answer is read-only."""
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return Space(read_only=True)
    return Space(found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY))
