# SPDX-License-Identifier: GPL-2.0-or-later
"""Unix sockets of a service: made with their permissions, taken over only from the dead."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from relay.core.errors import RelayError

if TYPE_CHECKING:
    from pathlib import Path

#: A live owner's socket accepts at once; the connection is local.
_PROBE_TIMEOUT_S = 1.0


class SocketInUseError(RelayError):
    """The path belongs to a running process or to something that is no socket; the message has the remedy."""


class UnixListener:
    """A listening socket at ``path``; close() removes the path only while it is still this socket's."""

    __slots__ = ("_inode", "path", "sock")

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self.sock = sock
        self._inode = path.stat().st_ino

    def close(self) -> None:
        """Stop listening."""
        self.sock.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()


def listen_unix(path: Path, mode: int, backlog: int) -> UnixListener:
    """Listen at ``path`` with permission bits ``mode``; raise SocketInUseError or OSError.

    The socket appears under its name only when it has its permissions and listens,
    so nobody connects to it earlier and no restart leaves a gap.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_taken(path)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(str(fresh))
        fresh.chmod(mode)
        sock.listen(backlog)
        fresh.rename(path)
    except OSError:
        sock.close()
        fresh.unlink(missing_ok=True)
        raise
    return UnixListener(path, sock)


def _refuse_taken(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise SocketInUseError(f"{path} is there and no socket; remove it or name another path in the configuration")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        found = probe.connect_ex(str(path))
    # Busy (EAGAIN: its backlog is full) is alive as well; a socket without a listener refuses.
    if found not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise SocketInUseError(f"a relay that is running owns {path}; stop it or name another path")
