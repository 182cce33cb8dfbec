# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay run` asks rtnetlink: lists of links and addresses, and whether they change (linux/rtnetlink.h).

By hand, as pyroute2 costs a process 7 MiB and, on a small board, a second of its start;
`relay net`, which changes what is there, has it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
#: RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
_GROUPS: Final = 0x1 | 0x10 | 0x100
_CHANGES: Final = frozenset({RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR})

# linux/netlink.h
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLM_F_DUMP_INTR: Final = 0x10
#: struct nlmsghdr: length, type, flags, sequence number, port; of an error, its negative number.
_HEADER: Final = struct.Struct("=IHHII")
_ERRNO: Final = struct.Struct("=i")
#: The family alone, in the shape of the longest request's struct, ifinfomsg.
_REQUEST: Final = struct.Struct("=B15x")
#: A datagram of a list is at most so long (NLMSG_GOODSIZE, and what libnl and iproute2 read).
_DATAGRAM_BYTES: Final = 1 << 16
#: Lists that changed while they were read, in a row.
_ATTEMPTS: Final = 8


def _socket(groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        sock.bind((0, groups))
    except OSError:
        sock.close()
        raise
    return sock


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and body of each message."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, flags, _, _ = _HEADER.unpack_from(datagram, at)
        if length < _HEADER.size or at + length > len(datagram):
            raise ConnectionError("a netlink message longer than what it came in")
        yield kind, flags, datagram[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


async def dump(kind: int) -> list[bytes]:
    """Return the bodies of the kernel's answers to RTM_GETLINK or RTM_GETADDR; raises OSError."""
    for _ in range(_ATTEMPTS):
        # A socket of its own: answers must not mix with notifications, nor with those to another question.
        with _socket(0) as sock:
            answers = await _dump(sock, kind)
        if answers is not None:
            return answers
    raise OSError(errno.EINTR, "interfaces change faster than they can be read")


async def _dump(sock: socket.socket, kind: int) -> list[bytes] | None:
    """Return None for a list that changed while it was made."""
    loop = asyncio.get_running_loop()
    length = _HEADER.size + _REQUEST.size
    header = _HEADER.pack(length, kind, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    await loop.sock_sendall(sock, header + _REQUEST.pack(socket.AF_UNSPEC))
    bodies: list[bytes] = []
    was_interrupted = False
    while True:
        for answer, flags, body in _messages(await loop.sock_recv(sock, _DATAGRAM_BYTES)):
            was_interrupted |= bool(flags & _NLM_F_DUMP_INTR)
            if answer == _NLMSG_ERROR:
                (number,) = _ERRNO.unpack_from(body)
                raise OSError(-number, os.strerror(-number))
            if answer == _NLMSG_DONE:
                return None if was_interrupted else bodies
            bodies.append(body)


class Changes:
    """Hears of links and addresses that come, go or change, from when it was made."""

    def __init__(self) -> None:
        """Open a socket; raises OSError."""
        self._socket = _socket(_GROUPS)

    async def wait(self) -> None:
        """Return when something changed since this was called last, or may have."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                datagram = await loop.sock_recv(self._socket, _DATAGRAM_BYTES)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return  # more than the socket holds: whatever it was
            if any(kind in _CHANGES for kind, _, _ in _messages(datagram)):
                return

    def clear(self) -> None:
        """Forget what is waiting: the caller is about to look anyway."""
        try:
            while self._socket.recv(_DATAGRAM_BYTES):
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()
