# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay portal`: answers on the socket that systemd hands over, and ends when nobody has asked for a while."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

from relay.appliance.checks import read_checks
from relay.appliance.portal import MAX_REQUEST_BYTES, answer, shelf_request
from relay.appliance.portal_shelf import ShelfServer
from relay.core.errors import RelayError
from relay.process import shelf
from relay.process.downloads import BLOCK_BYTES, SEND_BUFFER_BYTES, Downloads

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from relay.appliance.checks import Checks
    from relay.appliance.portal_shelf import ShelfRequest

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

    def __init__(self, checks: Checks, shelf_server: ShelfServer, visitors: Visitors, asked: asyncio.Event) -> None:
        self._checks = checks
        self._shelf = shelf_server
        #: An answer of the shelf on its way.
        self._sending: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
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
        if self._sending is not None:
            # It finds out by itself, and counts it.
            self._room.set()

    def data_received(self, data: bytes) -> None:
        if self._sending is not None:
            return
        self._received += data
        head, end, _ = self._received.partition(_END_OF_HEAD)
        if end and len(head) <= MAX_REQUEST_BYTES and self._transport is not None:
            if (wanted := shelf_request(head + end)) is not None:
                self._start(wanted)
                return
            # A few hundred bytes, which the kernel takes at once; if not, the timer ends it.
            self._transport.write(answer(head + end, self._checks))
            self._transport.close()
        elif end or len(self._received) > MAX_REQUEST_BYTES:
            self.drop()

    def _start(self, wanted: ShelfRequest) -> None:
        """Answer for the shelf, which takes its time; places there are its own, so that it keeps none from checks."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=BLOCK_BYTES)
            own = self._transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._sending = asyncio.create_task(self._send(wanted))

    async def _send(self, wanted: ShelfRequest) -> None:
        await self._shelf.answer(wanted, self)
        self._asked.set()
        if self._transport is not None:
            # What is still with the kernel goes out; who does not take it is dropped.
            self._transport.close()
            self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT_S, self.drop)

    def write(self, data: bytes) -> None:
        """Send to the phone."""
        if self._transport is not None:
            self._transport.write(data)

    async def drained(self) -> None:
        """Return once the phone took most of what was sent; raise ConnectionError when it is gone."""
        await self._room.wait()
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def drop(self) -> None:
        """Close at once."""
        self._visitors.leave(self)
        if self._transport is not None:
            self._transport.abort()


async def serve(
    listening: socket.socket, *, idle_s: float, folder: Path = shelf.FOLDER, listing: Path = shelf.LIST
) -> None:
    """Answer on ``listening`` until nobody has asked for ``idle_s`` seconds; ``listing``: of the shelf's ``folder``."""
    asked = asyncio.Event()
    visitors = Visitors()
    checks = read_checks()
    downloads = Downloads(folder)
    shelf_server = ShelfServer(downloads, listing)
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    async with await loop.create_server(
        lambda: _Connection(checks, shelf_server, visitors, asked), sock=listening, backlog=BACKLOG
    ):
        while True:
            asked.clear()
            try:
                async with asyncio.timeout(idle_s):
                    await asked.wait()
            except TimeoutError:
                if not len(downloads):
                    _log(downloads)
                    return


def _log(downloads: Downloads) -> None:
    """Say how downloads ended; of numbers alone."""
    if downloads.ended:
        counts = ", ".join(f"{number} {reason}" for reason, number in sorted(downloads.ended.items()))
        sys.stderr.write(f"downloads: {counts}\n")
