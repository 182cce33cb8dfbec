# SPDX-License-Identifier: GPL-2.0-or-later
"""A control group for the programs that are measured: a part of a processor, so much memory, a slow device.

Of both kinds that Linux has (cgroups(7)): version 2, and version 1 where its controllers are mounted.
Only groups of our own names are made, and they go when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The default of 100 ms would measure the throttling: whoever used his part waits for up to 90 ms.
PERIOD_US: Final = 20_000
_MOUNTS: Final = Path("/proc/mounts")
_NEEDED: Final = ("cpu", "memory", "io")
#: Version 1 has one of its own for what version 2 counts in each group.
_NEEDED_1: Final = ("cpu", "cpuacct", "memory", "blkio")
#: A group can be removed once the kernel has reaped what was in it.
_REMOVE_S: Final = 5.0
_REMEDY: Final = (
    "run `make bench-board` as root, on a machine (not in a container) whose kernel has the controllers cpu, memory "
    "and io (version 1: cpu, cpuacct, memory, blkio)"
)


class CgroupError(Exception):
    """Control groups cannot be had here; the message has the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``quota_us`` of processor time in each PERIOD_US; ``memory_bytes`` at most."""

    quota_us: int
    memory_bytes: int

    @property
    def share(self) -> float:
        """The part of one processor."""
        return self.quota_us / PERIOD_US


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDevice:
    """Writes to the block device ``number`` (as in "7:0"), by operations and by bytes a second."""

    number: str
    writes_per_s: int
    write_bytes_per_s: int


class Cage:
    """A group that is there. Where a controller of version 1 has it elsewhere, it is one in each place."""

    def __init__(self, folders: dict[str, Path], *, is_v2: bool) -> None:
        """``folders``: by controller, all the same in version 2."""
        self._folders = folders
        self._is_v2 = is_v2

    def command(self, *command: str) -> list[str]:
        """Return a command that runs ``command`` in here, from its first instruction on."""
        joins = "".join(f"echo $$ > {folder}/cgroup.procs && " for folder in dict.fromkeys(self._folders.values()))
        return ["/bin/sh", "-c", f'{joins}exec "$@"', "sh", *command]

    def cpu_s(self) -> float:
        """Return the processor time that all in here took, in seconds."""
        if self._is_v2:
            return self._stat("usage_usec") / 1e6
        return int((self._folders["cpuacct"] / "cpuacct.usage").read_text()) / 1e9

    def throttled_s(self) -> float:
        """Return how long all in here waited for the next period, in seconds."""
        return self._stat("throttled_usec") / 1e6 if self._is_v2 else self._stat("throttled_time") / 1e9

    def peak_mib(self) -> float:
        """Return the most memory that was in use in here, caches of files included, in MiB."""
        name = "memory.peak" if self._is_v2 else "memory.max_usage_in_bytes"
        return int((self._folders["memory"] / name).read_text()) / (1 << 20)

    def _stat(self, name: str) -> int:
        lines = (self._folders["cpu"] / "cpu.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == name)


@contextlib.contextmanager
def cage(name: str, limits: Limits, slow: SlowDevice | None = None) -> Iterator[Cage]:
    """Make a group of this name and our process number for the length of a block; raise CgroupError with a remedy."""
    name = f"mesh-relay-{name}-{os.getpid()}"
    with contextlib.ExitStack() as undo:
        try:
            found = _make_v1(name, undo) if _v1_folders() else _make_v2(name, undo)
            for controller, file, value in _settings(limits, slow, is_v2=found[1]):
                (found[0][controller] / file).write_text(value)
        except OSError as error:
            raise CgroupError(f"no control group can be made here ({error}): {_REMEDY}") from error
        yield Cage(found[0], is_v2=found[1])


def _settings(limits: Limits, slow: SlowDevice | None, *, is_v2: bool) -> list[tuple[str, str, str]]:
    """Return what to write: controller, file, text."""
    if is_v2:
        some = [
            ("cpu", "cpu.max", f"{limits.quota_us} {PERIOD_US}"),
            ("memory", "memory.max", str(limits.memory_bytes)),
        ]
        if slow is not None:
            text = f"{slow.number} wiops={slow.writes_per_s} wbps={slow.write_bytes_per_s}"
            some.append(("io", "io.max", text))
        return some
    some = [
        ("cpu", "cpu.cfs_period_us", str(PERIOD_US)),
        ("cpu", "cpu.cfs_quota_us", str(limits.quota_us)),
        ("memory", "memory.limit_in_bytes", str(limits.memory_bytes)),
    ]
    if slow is not None:
        some += [
            ("blkio", "blkio.throttle.write_iops_device", f"{slow.number} {slow.writes_per_s}"),
            ("blkio", "blkio.throttle.write_bps_device", f"{slow.number} {slow.write_bytes_per_s}"),
        ]
    return some


def _mounts(kind: str) -> list[tuple[Path, list[str]]]:
    """Return where file systems of a kind are mounted, with their options."""
    fields = [line.split() for line in _MOUNTS.read_text().splitlines()]
    return [(Path(each[1]), each[3].split(",")) for each in fields if each[2] == kind]


def _v1_folders() -> dict[str, Path]:
    """Return where this process is for each controller that is needed; empty unless all are of version 1."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    found = {
        each: mount / own.get(each, "/").lstrip("/")
        for mount, options in _mounts("cgroup")
        for each in _NEEDED_1
        if each in options
    }
    return found if len(found) == len(_NEEDED_1) else {}


def _make_v1(name: str, undo: contextlib.ExitStack) -> tuple[dict[str, Path], bool]:
    folders = {controller: folder / name for controller, folder in _v1_folders().items()}
    # Those that are mounted together are one.
    for folder in dict.fromkeys(folders.values()):
        folder.mkdir()
        undo.callback(_remove, folder)
    return folders, False


def _make_v2(name: str, undo: contextlib.ExitStack) -> tuple[dict[str, Path], bool]:
    mounts = _mounts("cgroup2")
    if not mounts:
        raise CgroupError(f"no control groups are mounted here: {_REMEDY}")
    # At the top: below our own, which has processes, no group may have controllers.
    [(top, _), *_] = mounts
    missing = set(_NEEDED) - set((top / "cgroup.controllers").read_text().split())
    if missing:
        raise CgroupError(f"control groups here are without {', '.join(sorted(missing))}: {_REMEDY}")
    handed_down = (top / "cgroup.subtree_control").read_text().split()
    for controller in _NEEDED:
        if controller not in handed_down:
            (top / "cgroup.subtree_control").write_text(f"+{controller}")
            undo.callback((top / "cgroup.subtree_control").write_text, f"-{controller}")
    folder = top / name
    folder.mkdir()
    undo.callback(_remove, folder)
    return dict.fromkeys(_NEEDED, folder), True


def _remove(folder: Path) -> None:
    """Remove a group, as soon as it is empty."""
    until = time.monotonic() + _REMOVE_S
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
