# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay portal`: answers on the socket that systemd hands over, and ends when nobody has asked for a while."""

from __future__ import annotations

import asyncio
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from relay.appliance.checks import Answer, read_checks
from relay.appliance.portal import MAX_REQUEST_BYTES, PageRequest, answer, respond, shelf_request
from relay.appliance.portal_page import read_portal_page
from relay.appliance.portal_shelf import ShelfServer
from relay.core.errors import RelayError
from relay.core.stats import Download
from relay.pages.shelf import ShelfPage
from relay.process import shelf
from relay.process.crowd import Places
from relay.process.downloads import BLOCK_BYTES, SEND_BUFFER_BYTES, Downloads
from relay.process.notify import FIRST_GIVEN_FD, is_given_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from relay.appliance.checks import Checks
    from relay.appliance.portal_page import PortalPage
    from relay.appliance.portal_shelf import ShelfRequest

#: From connecting to having the answer. A phone's request comes in one piece, right after it has connected.
REQUEST_TIMEOUT_S: Final = 5.0
#: From the answer to its end: a page has 40 kB, and a phone at the edge of the network's reach takes seconds for that.
REPLY_TIMEOUT_S: Final = 20.0
#: Pages that wait to be made. The first of a language takes a second on a Raspberry Pi, all others none.
MAX_WAITING: Final = 32
#: Phones ask when they join and now and then; systemd starts us again.
IDLE_S: Final = 120.0
#: A phone asks for two or three pages at once.
MAX_CONNECTIONS_PER_ADDRESS: Final = 8
#: All phones of an access point at once (128, relay.config.appliance) with two pages each, 256 x 8 KiB = 2 MiB. More
#: than are accepted in one turn of the loop, so that newcomers take the place of the silent and not of each other.
MAX_CONNECTIONS: Final = 256
BACKLOG: Final = 128
#: For looks at the shelf's list. asyncio takes four more than there are processors, which on a Pi, with ours for pages
#: and the card, are more than TasksMax of the unit: then none starts, and who asked waits for ever.
LOOKING_THREADS: Final = 2
_BUSY: Final = Answer(status=503, body=b"Try again in a moment.\n")
_END_OF_HEAD: Final = b"\r\n\r\n"


class NoSocketError(RelayError):
    """Not started by systemd; the message has the remedy."""


def run(environ: Mapping[str, str]) -> int:
    """Answer until idle; return the exit status. Raise NoSocketError."""
    if not is_given_files(environ) or environ.get("LISTEN_FDS") != "1":
        raise NoSocketError("there is no socket to answer on; systemd starts this, through relay-portal.socket")
    asyncio.run(serve(socket.socket(fileno=FIRST_GIVEN_FD), read_portal_page(environ), idle_s=IDLE_S))
    return 0


class PageMaker:
    """Makes pages in a thread, one after the other, so that no phone's check waits for one."""

    def __init__(self, page: PortalPage, thread: ThreadPoolExecutor) -> None:
        self._page = page
        self._thread = thread
        self._waiting = 0

    def make(self, request: PageRequest, reply: Callable[[bytes], None]) -> asyncio.Future[bytes] | None:
        """Call ``reply`` with the answer, later; what is returned is cancelled for who has gone."""
        if self._waiting >= MAX_WAITING:
            reply(respond(_BUSY))
            return None
        self._waiting += 1
        made = asyncio.get_running_loop().run_in_executor(self._thread, self._page.answer, request)
        made.add_done_callback(lambda _: self._done(made, reply))
        return made

    def _done(self, made: asyncio.Future[bytes], reply: Callable[[bytes], None]) -> None:
        self._waiting -= 1
        if made.cancelled():
            return
        if (error := made.exception()) is not None:
            # Whoever asked is answered, and not left to wait for the end.
            sys.stderr.write(f"a page could not be made ({type(error).__name__})\n")
            reply(respond(_BUSY))
            return
        reply(made.result())


class _Connection(asyncio.Protocol):
    """One request and its answer. ``asked``: set by each, so that the process knows that it is needed."""

    def __init__(
        self, checks: Checks, maker: PageMaker, shelf_server: ShelfServer, places: Places, asked: asyncio.Event
    ) -> None:
        self._checks = checks
        self._maker = maker
        self._shelf = shelf_server
        #: An answer of the shelf on its way.
        self._sending: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._places = places
        self._asked = asked
        self._received = b""
        self._is_asked = False
        #: A page that is being made, of which there are MAX_WAITING at most.
        self._making: asyncio.Future[bytes] | None = None
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
        self._places.enter(self)
        self._asked.set()
        self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT_S, self.drop)

    def connection_lost(self, _: Exception | None) -> None:
        self._places.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        # Who asks and goes has nothing made, and nobody behind him waits for it.
        for work in (self._sending, self._making):
            if work is not None:
                work.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_asked:
            return
        self._received += data
        head, end, _ = self._received.partition(_END_OF_HEAD)
        if end and len(head) <= MAX_REQUEST_BYTES and self._transport is not None:
            self._is_asked = True
            if (wanted := shelf_request(head + end)) is not None:
                self._start(wanted)
                return
            found = answer(head + end, self._checks)
            if isinstance(found, PageRequest):
                self._making = self._maker.make(found, self._reply)
            else:
                self._reply(found)
        elif end or len(self._received) > MAX_REQUEST_BYTES:
            self.drop()

    def _reply(self, found: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        # A check's few hundred bytes the kernel takes at once, and of a page the most; if not, the timer ends it.
        self._transport.write(found)
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(REPLY_TIMEOUT_S, self.drop)

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
        try:
            await self._shelf.answer(wanted, self)
        finally:
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

    @property
    def is_waiting(self) -> bool:
        """Whether its page is being made."""
        return self._making is not None and not self._making.done()

    def drop(self) -> None:
        """Close at once."""
        self._places.leave(self)
        if self._transport is not None:
            self._transport.abort()


async def serve(
    listening: socket.socket,
    page: PortalPage,
    *,
    idle_s: float,
    folder: Path = shelf.FOLDER,
    lists: Sequence[Path] = shelf.LISTS,
) -> None:
    """Answer on ``listening`` until nobody has asked for ``idle_s`` seconds; ``lists``: of what the shelf offers."""
    asked = asyncio.Event()
    places = Places(most=MAX_CONNECTIONS, per_address=MAX_CONNECTIONS_PER_ADDRESS)
    checks = read_checks()
    downloads = Downloads(folder)
    shelf_server = ShelfServer(downloads, ShelfPage(page.pages, lists), lists)
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=LOOKING_THREADS))
    with ThreadPoolExecutor(max_workers=1) as thread:
        maker = PageMaker(page, thread)
        async with await loop.create_server(
            lambda: _Connection(checks, maker, shelf_server, places, asked), sock=listening, backlog=BACKLOG
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
    counts = {how: count for how, count in downloads.stats.by_label(Download).items() if count}
    if counts:
        sys.stderr.write(f"downloads: {', '.join(f'{count} {how}' for how, count in counts.items())}\n")
