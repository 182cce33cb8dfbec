# SPDX-License-Identifier: GPL-2.0-or-later
"""Which program has a port that this one wanted, as far as it may be seen (proc(5))."""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.process.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of multicast DNS (RFC 6762).
MDNS_PORT: Final = 5353
_PROC: Final = Path("/proc")
#: The state of a socket that others cannot have as well: TCP listens, UDP is bound (net/tcp_states.h).
_TAKEN: Final = {"tcp": "0A", "udp": "07"}
#: Several may share a port of UDP, and one more name helps nobody.
_MAX_NAMED: Final = 3
#: Read of the kernel's table of sockets (150 bytes each), of which one flooded with connections has many.
_MAX_LINES: Final = 65_536


def why_not(error: OSError, port: int, protocol: str) -> str:
    """Why a port cannot be had, without the address that an OSError's own text has: "...: Address already in use by X".

    ``protocol`` is tcp or udp. Reads what all processes have open: not for the event loop.
    """
    cause = os.strerror(error.errno or 0)
    if error.errno != errno.EADDRINUSE:
        return cause
    return f"{cause} by {holders(port, protocol) or 'a program not to be seen from here (`ss -lnp` as root names it)'}"


def holders(port: int, protocol: str) -> str:
    """Name the other programs that have a port, or whose they are; "" where nothing can be seen."""
    found = dict(_sockets(port, protocol))
    named = [f"{name} (process {pid})" for pid, name, inodes in _processes() if found.keys() & inodes]
    # Those of processes that only their user and root may look into.
    named = named or sorted({f"a program of {_user(uid)}" for inode, uid in found.items() if inode})
    return " and ".join(named[:_MAX_NAMED])


def _sockets(port: int, protocol: str) -> Iterator[tuple[int, int]]:
    """Inode and user of each socket that has the port."""
    for table in (protocol, f"{protocol}6"):
        try:
            with (_PROC / "self" / "net" / table).open(encoding="ascii") as lines:
                for _, line in zip(range(_MAX_LINES), lines, strict=False):
                    words = line.split()
                    if len(words) > 9 and words[1].endswith(f":{port:04X}") and words[3] == _TAKEN[protocol]:
                        yield int(words[9]), int(words[7])
        except OSError:
            continue  # without IPv6, or closed off by a sandbox


def _processes() -> Iterator[tuple[int, str, set[int]]]:
    """Number, name and sockets' inodes of every other process that may be looked into."""
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            # Whoever names a process chooses the bytes.
            name = (folder / "comm").read_text(errors="replace").strip()
            links = [os.readlink(link) for link in (folder / "fd").iterdir()]  # noqa: PTH115 - "socket:[1]" is no path
        except OSError:
            continue
        inodes = {int(link[8:-1]) for link in links if link.startswith("socket:[")}
        yield int(folder.name), printable(name), inodes


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
