# SPDX-License-Identifier: GPL-2.0-or-later
"""How much the store may hold where its operator does not say: what memory and disk have room for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from relay.config.run import GIB, MIB
from relay.core.node import ADMITTED_PER_ENVELOPE
from relay.store import space
from relay.store.database import log_files

if TYPE_CHECKING:
    from relay.config.run import StoreConfig

#: What an identity takes in memory (relay.core.log), with what the allocator adds.
ENTRY_BYTES: Final = 90
#: Of the machine's memory for all identities: a Zero 2 W has 448 MiB, and other processes of the relay.
MEMORY_PART: Final = 1 / 4
#: What this process takes besides, of a bound that its unit sets: the program with numpy, and what all sessions may
#: hold (relay.core.budget).
PROGRAM_BYTES: Final = 160 * MIB
#: More is for operators who know what their machine is for.
MOST_ENVELOPES: Final = 1_000_000
LEAST_ENVELOPES: Final = 10_000
_STEP: Final = 1_000
#: Of what is free on the disk, the store included: the rest is its log, its index, and of whoever else uses it.
DISK_PART: Final = 1 / 2
MOST_BYTES: Final = 4 * GIB
#: Where neither the file system nor the kernel says anything.
_USUAL_BYTES: Final = GIB
_USUAL_ENVELOPES: Final = 100_000

_MEMORY: Final = Path("/proc/meminfo")
_GROUP: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")


class Capacity(NamedTuple):
    """Bounds of the store."""

    max_bytes: int
    max_envelopes: int


def capacity(config: StoreConfig) -> Capacity:
    """Return the operator's bounds, and the machine's for those that he left open."""
    return Capacity(
        config.max_bytes or _bytes_for(config),
        config.max_envelopes or envelopes_for(memory_bytes(), group_limit_bytes()),
    )


def _bytes_for(config: StoreConfig) -> int:
    path = config.database
    stored = sum(file.stat().st_size for file in (path, *log_files(path)) if file.exists())
    return bytes_for(space.look(path).free_bytes, stored)


def bytes_for(free_bytes: int | None, stored_bytes: int) -> int:
    """Return what a store may hold that has ``stored_bytes``; no less than that, whoever filled the disk since."""
    if free_bytes is None:
        return _USUAL_BYTES
    return max(min(int((free_bytes + stored_bytes) * DISK_PART), MOST_BYTES), stored_bytes, MIB)


def envelopes_for(memory: int | None, limit: int | None) -> int:
    """Return for how many envelopes there is memory, on the machine and within the bound of this process's group."""
    if memory is None:
        return _USUAL_ENVELOPES
    room = memory * MEMORY_PART
    if limit is not None:
        room = min(room, limit - PROGRAM_BYTES)
    # Of those that left, as many are remembered.
    count = int(room) // (ADMITTED_PER_ENVELOPE * ENTRY_BYTES) // _STEP * _STEP
    return min(max(count, LEAST_ENVELOPES), MOST_ENVELOPES)


def memory_bytes(path: Path = _MEMORY) -> int | None:
    """Return the machine's memory, None where the kernel does not tell."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def group_limit_bytes(group: Path = _GROUP, groups: Path = _GROUPS) -> int | None:
    """Return the least bound on memory of this process's control group and those above it, None if there is none."""
    try:
        # cgroups(7), version 2: one line, 0::/path.
        own = next(line for line in group.read_text().splitlines() if line.startswith("0::"))[3:]
    except (OSError, StopIteration):
        return None
    limits = []
    folder = groups / own.lstrip("/")
    for above in (folder, *folder.parents):
        for name in ("memory.high", "memory.max"):
            try:
                limits.append(int((above / name).read_text()))
            except (OSError, ValueError):
                continue  # "max", or none here
        if above == groups:
            break
    return min(limits, default=None)
