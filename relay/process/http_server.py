# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP for strangers, below the pages: connections, turns, headers; bounded, and without a log of who asks.

aiohttp's parser and connections, and neither its application nor its routes: what it answers by itself, as to an
`Expect` header, would pass by the bounds that are here.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import math
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from aiohttp import web

from relay.core.errors import RelayError
from relay.core.stats import HttpRefused
from relay.process.addresses import plain
from relay.process.crowd import Places
from relay.process.ports import why_not
from relay.process.rate import Rate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.core.stats import Reason

    Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

#: Connections at once; one more closes the oldest of the address that has most, so that
#: those who only hold connections lock nobody out. At 2 x 64 KiB of buffers each: 4 MiB.
MAX_CONNECTIONS: Final = 32
#: Of this machine itself, beside them: its Prometheus, and a browser by ssh, are served however many come from
#: elsewhere, with as many addresses as they like. 4 MiB more.
MAX_OWN_CONNECTIONS: Final = 32
#: For so long somebody who waits for his answer keeps his place: all that wait at once are answered in half a second.
WAITING_S: Final = 2.0
#: And so soon he does so again, or he would keep it by asking on.
WAITING_AGAIN_S: Final = 10.0
#: Accepted in one turn of the loop, so that a flood of them leaves turns to the relay. Half of the places: those that
#: were accepted in one turn have been read from before those of the next could take them for silent.
BACKLOG: Final = 16
KEEPALIVE_S: Final = 75.0
SHUTDOWN_S: Final = 1.0
#: Answers a second, of all who ask: more would take the processor from the relay. Prometheus and a dozen browsers
#: need one or two. Whoever comes in a flood waits for those before him who are still there: MAX_CONNECTIONS at most.
ANSWERS_PER_S: Final = 100
#: What the kernel takes in of a connection, and the server of it at a time: some hundred questions, 10 ms of
#: reading them. Linux doubles it.
RECEIVE_BYTES: Final = 8 << 10
#: A form has a time, an offset and a token; and comes in one piece.
MAX_FORM_BYTES: Final = 1024
_MAX_REQUEST_LINE: Final = 2048
_MAX_HEADERS: Final = 64
#: No form of ours comes in pieces (RFC 9112 section 7.1), as no browser sends one so. Of pieces of one byte the parser
#: has work for each, before anything here is asked whether it is wanted: 64 connections that sent nothing else delayed
#: envelopes by two seconds.
_IN_PIECES: Final = b"transfer-encoding"
_NO_PIECES: Final = (
    b"HTTP/1.1 411 Length Required\r\nServer: mesh-relay\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)

logger = logging.getLogger(__name__)


class Counts(Protocol):
    """Where requests that are turned away are counted."""

    def add(self, reason: Reason) -> None:
        """Count one."""


class HttpError(RelayError):
    """The address cannot be listened on; the message has the remedy."""


def add_headers(response: web.StreamResponse, policy: str) -> None:
    """Add those that every answer has; ``policy``: of the pages' content."""
    # The framework would put its name and version there.
    response.headers["Server"] = "mesh-relay"
    always = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # With no-referrer a browser would keep back the origin of our own form.
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    for name, value in always.items():
        # Files of the shelf have policies of their own, which are as strict.
        response.headers.setdefault(name, value)


def text(status: int, said: str) -> web.Response:
    """An answer of one line."""
    return web.Response(status=status, text=f"{said}\n")


def peer(request: web.BaseRequest) -> tuple[str, int]:
    """Address and scope of who asks; whoever has gone already is nowhere near."""
    found = request.transport.get_extra_info("peername") if request.transport else None
    if not found:
        return "0.0.0.0", 0  # noqa: S104 - an address that nobody has
    return str(found[0]), int(found[3]) if len(found) > 3 else 0


class _Connection(web.RequestHandler):
    """A connection that has a place; its bad requests are counted, and not answered in the framework's words."""

    def __init__(self, server: HttpServer, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **settings)
        self._server = server
        self._places = server.places
        self._asked_s = -math.inf
        self._is_answered = False
        self._stats = server.stats
        #: The end of what came, as the name of a header may come in two parts.
        self._end = b""
        self._is_refused = False
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        found = transport.get_extra_info("peername")
        self.address = str(found[0]) if found else "gone"
        super().connection_made(transport)
        if found and ipaddress.ip_address(plain(self.address)).is_loopback:
            self._places = self._server.own_places
        self._places.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._places.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        seen = self._end + data.lower()
        if _IN_PIECES not in seen:
            self._end = seen[1 - len(_IN_PIECES) :]
            super().data_received(data)
            return
        self._is_refused = True
        self._stats.add(HttpRefused.BAD_REQUEST)
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.write(_NO_PIECES)
            self.transport.close()

    def begin(self) -> None:
        """Note that a whole request is here."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_s >= WAITING_AGAIN_S:
            self._asked_s, self._is_answered = now, False

    async def finish_response(self, *of: Any, **settings: Any) -> Any:
        """Send an answer; see the framework."""
        try:
            return await super().finish_response(*of, **settings)
        finally:
            self._is_answered = True

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is being made, or on its way to a reader: for WAITING_S, as he may also not read."""
        if asyncio.get_running_loop().time() - self._asked_s >= WAITING_S:
            return False
        transport = self.transport
        is_sending = isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size() > 0
        return is_sending or not self._is_answered

    def drop(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - the framework's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer what is no HTTP: the framework's page has its version, its log has who asks."""
        if status >= 500:
            logger.error("a page could not be made", exc_info=exc)
        else:
            self._stats.add(HttpRefused.BAD_REQUEST)
        answer = text(status, "Bad Request" if status < 500 else "Internal Server Error")
        answer.headers["Server"] = "mesh-relay"
        answer.force_close()
        return answer


class HttpServer:
    """Has ``handle`` answer each request, in its turn; `async with` listens and stops."""

    def __init__(
        self,
        listen: tuple[str, int],
        handle: Handler,
        stats: Counts,
        policy: Callable[[], str],
        *,
        setting: str = "listen in [http]",
    ) -> None:
        """``policy``: see add_headers; asked for with the first answer. ``setting``: by which ``listen`` is changed."""
        self.stats = stats
        self.places, self.own_places = (
            Places(most=most, per_address=most, on_dropped=lambda: stats.add(HttpRefused.PLACE))
            for most in (MAX_CONNECTIONS, MAX_OWN_CONNECTIONS)
        )
        self.port = 0
        self._listen = listen
        self._setting = setting
        self._handle = handle
        self._policy = policy
        self._turns = Rate(ANSWERS_PER_S)
        # Who has gone does not keep his turn.
        self._manager = web.Server(self._answer, request_factory=_request, handler_cancellation=True)
        self._runner = web.ServerRunner(self._manager, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen; raise HttpError."""
        await self._runner.setup()
        host, port = self._listen
        try:
            loop = asyncio.get_running_loop()
            # Of the two addresses that mean "every one", the one that has room for both families means both.
            self._server = await loop.create_server(self._accept, None if host == "::" else host, port, backlog=BACKLOG)
        except OSError as error:
            await self._runner.cleanup()
            cause = await asyncio.to_thread(why_not, error, port, "tcp")
            stop = "stop what has it, or " if error.errno == errno.EADDRINUSE else ""
            at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise HttpError(f"cannot listen on {at}: {cause}; {stop}set another {self._setting}") from error
        for sock in self._server.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and close what is open."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.BaseProtocol:
        return _Connection(
            self,
            self._manager,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=_MAX_REQUEST_LINE,
            max_headers=_MAX_HEADERS,
            lingering_time=0,
            # Nobody packs a form of a hundred bytes, and unpacking is work for whoever sends few bytes.
            auto_decompress=False,
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, _Connection) and request.content.is_eof():
            request.protocol.begin()
        await self._turns.turn()
        if request.headers.get("Expect"):
            # What we take comes in one piece, and browsers and Prometheus announce nothing.
            self.stats.add(HttpRefused.BAD_REQUEST)
            response: web.StreamResponse = text(417, "Send it without asking first.")
        else:
            try:
                response = await self._handle(request)
            except web.HTTPException as error:
                # No detail: the framework's text names its version.
                response = text(error.status, error.reason)
        if not response.prepared:
            add_headers(response, self._policy())
        return response


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_FORM_BYTES)
