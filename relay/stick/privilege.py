# SPDX-License-Identifier: GPL-2.0-or-later
"""What takes a privilege: mount(2), umount(2) and leaving a group; and giving all of it up for good."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

from relay.core.errors import RelayError

#: The file systems that sticks come with, and no others: each is code of the kernel's that a stranger's bytes reach.
KINDS: Final = ("vfat", "exfat")
#: linux/mount.h: read-only; what makes files act; writing when they are read; links, of which these have none.
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOSYMFOLLOW, _NOATIME = 1, 2, 4, 8, 256, 1024
_ALWAYS: Final = _NOSUID | _NODEV | _NOEXEC | _NOSYMFOLLOW | _NOATIME
_MNT_DETACH: Final = 2
#: linux/capability.h: version 3, of which each set has two words; and linux/prctl.h.
_CAPABILITY_VERSION: Final = 0x20080522
_PR_SET_NO_NEW_PRIVS: Final = 38
_THREADS: Final = Path("/proc/self/task")


class PrivilegeError(RelayError):
    """A privilege is left that should be gone; nothing may be read then."""


def mount(device: Path, where: Path, *, writable: bool = False) -> None:
    """Mount a file system of one of KINDS, for this process; raise OSError."""
    flags = _ALWAYS if writable else _ALWAYS | _RDONLY
    options = f"uid={os.geteuid()},gid={os.getegid()},fmask=0177,dmask=0077,errors=remount-ro"
    failed: OSError | None = None
    for kind in KINDS:
        try:
            _call("mount", bytes(device), bytes(where), kind.encode(), ctypes.c_ulong(flags), options.encode())
            return
        except OSError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def unmount(where: Path) -> None:
    """Write what is to be written, and let go; also of what was pulled out. Raise OSError."""
    try:
        _call("umount2", bytes(where), 0)
    except OSError:
        _call("umount2", bytes(where), _MNT_DETACH)


def give_up() -> None:
    """Have no privilege any more, and no way to get one; raise PrivilegeError."""
    if len(list(_THREADS.iterdir())) != 1:
        # It is each thread's own.
        raise PrivilegeError("there are threads already; this is a mistake of ours")
    header = struct.pack("@Ii", _CAPABILITY_VERSION, 0)
    try:
        _call("prctl", _PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0)))
        # Effective, permitted, inheritable, each in two words; what is ambient goes with them (capabilities(7)).
        _call("capset", header, bytes(24))
    except OSError as error:
        raise PrivilegeError(f"privileges cannot be given up: {error.strerror}") from error
    if left := privileges():
        raise PrivilegeError(f"privileges are left: {left:x}")


def leave_groups() -> None:
    """Belong to no group any more but this user's own; raise PrivilegeError."""
    try:
        os.setgroups([])
    except OSError as error:
        raise PrivilegeError(f"groups cannot be left: {error.strerror}") from error


def privileges() -> int:
    """The bits of all that this thread may do, or could come to."""
    lines = (line.split(":") for line in Path("/proc/thread-self/status").read_text().splitlines())
    return sum(int(value, 16) for name, value in lines if name in {"CapInh", "CapPrm", "CapEff", "CapAmb"})


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
