# SPDX-License-Identifier: GPL-2.0-or-later
"""The file system that a store is on: what is free, and whether it takes writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

#: What each mount is like (proc_pid_mountinfo(5)).
_MOUNTS: Final = Path("/proc/self/mountinfo")
#: Options of a file system that takes no more writes. ext4 that met an error stops writing and, since Linux 6.15, tells
#: by nothing else: the flag of statvfs stays as it was, and so it was well until somebody put something.
_STOPPED: Final = frozenset({"ro", "emergency_ro", "shutdown"})


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
    return Space(found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY) or _has_stopped(path.parent))


def _has_stopped(folder: Path) -> bool:
    try:
        return has_stopped(_MOUNTS.read_text(), folder.stat().st_dev)
    except (OSError, ValueError):
        return False


def has_stopped(mounts: str, device: int) -> bool:
    """Whether the file system on ``device`` (as of stat) takes no writes; ``mounts``: text of /proc/self/mountinfo."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        mount, _, file_system = line.partition(" - ")
        fields, options = mount.split(), file_system.split()[2:]
        if fields[2:3] == [number] and options and _STOPPED & set(options[-1].split(",")):
            return True
    return False
