# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP server for metrics and the status page; read-only, bounded, without a log of who asks."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from typing import TYPE_CHECKING, Self, cast

from aiohttp import web

from relay.control.coarse import coarse
from relay.core.errors import RelayError
from relay.process.http_hosts import host_name, is_called_rightly
from relay.process.pacer import Pacer
from relay.process.ports import why_not
from relay.run.metrics import Metrics
from relay.run.page import Page
from relay.run.shelf_routes import ShelfPages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container

    from relay.config.run import HttpConfig
    from relay.control.status import Engine
    from relay.run.history import History

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Connections at once; one more closes the oldest, so that those who only hold
#: connections lock nobody out. At 2 x 64 KiB of buffers each: 4 MiB.
MAX_CONNECTIONS = 32
KEEPALIVE_S = 75.0
SHUTDOWN_S = 1.0
#: What the kernel takes in of a connection, and the server of it at a time: some hundred questions, 10 ms of
#: reading them. Linux doubles it.
RECEIVE_BYTES = 8 << 10
_MAX_REQUEST_LINE = 2048
#: Of the value by which two addresses are known to be one relay until it starts again.
_RUN_BYTES = 8


class HttpError(RelayError):
    """The address cannot be listened on; the message has the remedy."""


class StatusServer:
    """Serves ``engine`` at ``config.listen``; `async with` listens and stops."""

    def __init__(
        self, engine: Engine, config: HttpConfig, history: History, announced: Container[str] = frozenset()
    ) -> None:
        """``announced``: the names under which the relay announces itself at this moment, without `.local`."""
        self._engine = engine
        self._announced = announced
        #: What `relay targets` reads (docs/watching.md).
        self._target = {"run": secrets.token_hex(_RUN_BYTES)} | ({"label": config.label} if config.label else {})
        self._config = config
        self._history = history
        self._metrics = Metrics(engine)
        self._page = Page()
        self._pacer = Pacer(asyncio.get_running_loop().time)
        own = socket.gethostname().lower().partition(".")[0]
        self._hosts = {"localhost", *config.hosts}
        for name in filter(None, (own, config.label)):
            self._hosts |= {name, f"{name}.local"}
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/", self._get_page),
                web.get("/status.json", self._get_status),
                web.get("/metrics", self._get_metrics),
                web.get("/healthz", self._get_health),
                web.get("/target.json", self._get_target),
                *ShelfPages().routes(),
            ]
        )
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=SHUTDOWN_S,
            # Who has gone does not keep its turn.
            handler_cancellation=True,
            max_line_size=_MAX_REQUEST_LINE,
        )
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        """Listen; raise HttpError."""
        await self._runner.setup()
        listen = self._config.listen
        try:
            # Of the two addresses that mean "every one", the one that has room for both families means both.
            host = None if listen.host == "::" else listen.host
            self._server = await asyncio.get_running_loop().create_server(self._accept, host, listen.port)
        except OSError as error:
            await self._runner.cleanup()
            cause = await asyncio.to_thread(why_not, error, listen.port, "tcp")
            stop = "stop what has it, or " if error.errno == errno.EADDRINUSE else ""
            raise HttpError(f"cannot listen on {listen}: {cause}; {stop}set another listen in [http]") from error
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
        server = self._runner.server
        if server is None:
            raise RuntimeError("not set up")
        # One that is only closed waits until its peer has read, perhaps for ever; and many come at once.
        held = [one for one in server.connections if one.transport is not None]
        for oldest in held[: len(held) + 1 - MAX_CONNECTIONS] if len(held) >= MAX_CONNECTIONS else ():
            transport = cast("asyncio.Transport", oldest.transport)
            oldest.force_close()
            transport.abort()
        return server()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse names that are not ours (DNS rebinding) and add the headers that every answer has."""
        if not self._ours(request.host):
            return web.Response(status=421, text="Call this relay by its address, or add the name to http.hosts.\n")
        try:
            response = await self._in_turn(handler, request)
        except web.HTTPException as error:
            # No detail: the framework's text names its version.
            response = web.Response(status=error.status, text=f"{error.reason}\n")
        always = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": self._page.content_security_policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Server": "mesh-relay",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in always.items():
            # The shelf has policies of its own, which are as strict.
            response.headers.setdefault(name, value)
        return response

    async def _in_turn(self, handler: Handler, request: web.Request) -> web.StreamResponse:
        """Answer when others have been answered and the loop has had its time, however much is asked."""
        while (delay_s := self._pacer.delay_s) > 0:  # noqa: ASYNC110 - whoever comes first moves it on for all
            await asyncio.sleep(delay_s)
        self._pacer.begin()
        try:
            # Handlers do not wait for anything.
            return await handler(request)
        finally:
            self._pacer.end()

    def _ours(self, host: str) -> bool:
        return is_called_rightly(host, self._hosts) or host_name(host).removesuffix(".local") in self._announced

    async def _get_page(self, _: web.Request) -> web.Response:
        status = coarse(self._engine.status())
        page = self._page.render(status, self._history.until_now(status))
        return web.Response(text=page, content_type="text/html")

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.json_response(coarse(self._engine.status()).as_dict())

    async def _get_metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _get_health(self, _: web.Request) -> web.Response:
        lines = [f"{one.name}: {one.text}" for one in self._engine.status().conditions if one.is_problem]
        return web.Response(status=503 if lines else 200, text="\n".join(lines or ["ok"]) + "\n")

    async def _get_target(self, _: web.Request) -> web.Response:
        return web.json_response(self._target)
