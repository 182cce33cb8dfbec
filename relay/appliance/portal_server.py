# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay portal`: answers on the socket that systemd hands over, and ends when nobody has asked for a while."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from typing import TYPE_CHECKING, Final

from relay.appliance.checks import read_checks
from relay.appliance.portal import MAX_REQUEST_BYTES, answer
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.appliance.checks import Checks

#: SD_LISTEN_FDS_START of sd_listen_fds(3).
_FIRST_FD: Final = 3
#: From connecting to having the answer. A phone's request comes in one piece, right after it has connected.
REQUEST_TIMEOUT_S: Final = 5.0
#: Phones ask when they join and now and then; systemd starts us again.
IDLE_S: Final = 120.0
#: A phone asks for two or three pages at once.
MAX_CONNECTIONS_PER_ADDRESS: Final = 8
#: All phones of an access point at once (128, relay.config.appliance) with two pages each, 256 x 8 KiB = 2 MiB. More
#: than are accepted in one turn of the loop, so that newcomers take the place of the silent and not of each other.
MAX_CONNECTIONS: Final = 256
BACKLOG: Final = 128
_END_OF_HEAD: Final = b"\r\n\r\n"


class NoSocketError(RelayError):
    """Not started by systemd; the message has the remedy."""


def run(environ: Mapping[str, str]) -> int:
    """Answer until idle; return the exit status. Raise NoSocketError."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS") != "1":
        raise NoSocketError("there is no socket to answer on; systemd starts this, through relay-portal.socket")
    asyncio.run(serve(socket.socket(fileno=_FIRST_FD), idle_s=IDLE_S))
    return 0


class Visitors:
    """Who is connected. Nobody waits for a place: the newest gets that of the oldest who has said nothing whole yet.

    A probe's request is there as soon as its connection is, so it has its answer before
    anybody can take its place; who connects and is silent has it taken.
    """

    def __init__(self) -> None:
        #: In order of arrival; a dict for its order.
        self._connections: dict[_Connection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def enter(self, newcomer: _Connection) -> None:
        """Give a place: at the expense of its own address, if that has too many, else of the one with the most."""
        counts = Counter(connection.address for connection in self._connections)
        address = newcomer.address
        if counts[address] < MAX_CONNECTIONS_PER_ADDRESS:
            address = max(counts, key=counts.__getitem__) if len(self) >= MAX_CONNECTIONS else ""
        if address:
            next(connection for connection in self._connections if connection.address == address).drop()
        self._connections[newcomer] = None

    def leave(self, connection: _Connection) -> None:
        """Give the place back, if it still has it."""
        self._connections.pop(connection, None)


class _Connection(asyncio.Protocol):
    """One request and its answer. ``asked``: set by each, so that the process knows that it is needed."""

    def __init__(self, checks: Checks, visitors: Visitors, asked: asyncio.Event) -> None:
        self._checks = checks
        self._visitors = visitors
        self._asked = asked
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):  # pragma: no cover - a server's are
            return
        self._transport = transport
        peer = transport.get_extra_info("peername")
        # Who has gone already has none.
        self.address = str(peer[0]) if peer else "gone"
        self._visitors.enter(self)
        self._asked.set()
        self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT_S, self.drop)

    def connection_lost(self, _: Exception | None) -> None:
        self._visitors.leave(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, _ = self._received.partition(_END_OF_HEAD)
        if end and len(head) <= MAX_REQUEST_BYTES and self._transport is not None:
            # A few hundred bytes, which the kernel takes at once; if not, the timer ends it.
            self._transport.write(answer(head + end, self._checks))
            self._transport.close()
        elif end or len(self._received) > MAX_REQUEST_BYTES:
            self.drop()

    def drop(self) -> None:
        """Close at once."""
        self._visitors.leave(self)
        if self._transport is not None:
            self._transport.abort()


async def serve(listening: socket.socket, *, idle_s: float) -> None:
    """Answer on ``listening`` until nobody has asked for ``idle_s`` seconds."""
    asked = asyncio.Event()
    visitors = Visitors()
    checks = read_checks()
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: _Connection(checks, visitors, asked), sock=listening, backlog=BACKLOG):
        while True:
            asked.clear()
            try:
                async with asyncio.timeout(idle_s):
                    await asked.wait()
            except TimeoutError:
                return
