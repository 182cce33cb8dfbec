# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP server for metrics and pages; bounded, without a log of who asks.

It changes one thing, the clock, for who knows the token.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import secrets
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs

from aiohttp import web

from relay.control.coarse import coarse
from relay.control.status import ClockRefusedError
from relay.core.errors import RelayError
from relay.core.stats import HttpRefused
from relay.links import interfaces
from relay.pages.language import choose
from relay.pages.participant import Place, Works, render
from relay.pages.render import Pages
from relay.process import shelf
from relay.process.crowd import Places
from relay.process.http_hosts import host_name, is_called_rightly
from relay.process.pacer import Pacer
from relay.process.ports import why_not
from relay.run.access import Access, Gate
from relay.run.metrics import Metrics
from relay.run.page import OFFSETS, SAID, operator_page
from relay.run.shelf_routes import ShelfRoutes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container

    from relay.config.run import HttpConfig
    from relay.control.status import Engine, Status
    from relay.pages.language import Language
    from relay.run.history import History, Sample

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Connections at once; one more closes the oldest of the address that has most, so that
#: those who only hold connections lock nobody out. At 2 x 64 KiB of buffers each: 4 MiB.
MAX_CONNECTIONS: Final = 32
#: Accepted in one turn of the loop, so that a flood of them leaves turns to the relay.
BACKLOG: Final = 32
KEEPALIVE_S: Final = 75.0
SHUTDOWN_S: Final = 1.0
#: Answers a second, of all who ask: more would take the processor from the relay. Prometheus and a dozen browsers
#: need one or two. Whoever comes in a flood waits for those before him, MAX_CONNECTIONS at most.
ANSWERS_PER_S: Final = 100
#: An answer is given again to whoever asks so soon after, so that floods make no work.
ANSWER_AGE_S: Final = 0.2
#: A page is made in a thread, which takes turns with the loop. Then others rest for as long as Pacer says, but no
#: longer than this: the first page takes a Raspberry Pi a second, and is not held against those who ask next.
MAX_REST_S: Final = 0.1
#: What the kernel takes in of a connection, and the server of it at a time: some hundred questions, 10 ms of
#: reading them. Linux doubles it.
RECEIVE_BYTES: Final = 8 << 10
#: A form has a time, an offset and a token; and comes in one piece.
MAX_FORM_BYTES: Final = 1024
FORM_TIMEOUT_S: Final = 5.0
_MAX_REQUEST_LINE: Final = 2048
#: Of the value by which two addresses are known to be one relay until it starts again.
_RUN_BYTES: Final = 8
_MAX_HEADERS: Final = 64
_MAX_FORM_FIELDS: Final = 8
_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#17694d"/>'
    '<path d="M8 22V10l8 7 8-7v12" fill="none" stroke="#fff" stroke-width="3"/></svg>\n'
)
#: Also for whoever is on a segment of strangers.
_FOR_ALL: Final = frozenset({"/about", "/favicon.ico"})


logger = logging.getLogger(__name__)


class HttpError(RelayError):
    """The address cannot be listened on; the message has the remedy."""


class _Connection(web.RequestHandler):
    """A connection that has a place; its bad requests are counted, and not answered in the framework's words."""

    def __init__(self, server: StatusServer, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **settings)
        self._places = server.places
        self._engine = server.engine
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else "gone"
        super().connection_made(transport)
        self._places.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._places.leave(self)
        super().connection_lost(exc)

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
            self._engine.stats.add(HttpRefused.BAD_REQUEST)
        answer = web.Response(status=status, text="Bad Request\n" if status < 500 else "Internal Server Error\n")
        answer.headers["Server"] = "mesh-relay"
        answer.force_close()
        return answer


class StatusServer:
    """Serves ``engine`` at ``config.listen``; `async with` listens and stops."""

    def __init__(
        self,
        engine: Engine,
        config: HttpConfig,
        history: History,
        announced: Container[str] = frozenset(),
        *,
        token: str = "",
    ) -> None:
        """``announced``: the names by which the relay announces itself now, without `.local`; ``token``: resolved."""
        self.engine = engine
        self._announced = announced
        #: What `relay targets` reads (docs/watching.md).
        self._target = {"run": secrets.token_hex(_RUN_BYTES)} | ({"label": config.label} if config.label else {})
        self.places = Places(most=MAX_CONNECTIONS, per_address=MAX_CONNECTIONS, on_dropped=self._dropped)
        self._config = config
        self._history = history
        self._metrics = Metrics(engine)
        self._pages = Pages()
        self._clock = asyncio.get_running_loop().time
        self._gate = Gate(token=token, strangers=config.strangers, interfaces=interfaces.read, clock=self._clock)
        self._making = asyncio.Lock()
        self._pacer = Pacer(self._clock)
        self._answers: dict[tuple[str, ...], tuple[float, Any]] = {}
        self._next_answer_s = 0.0
        own = socket.gethostname().lower().partition(".")[0]
        self._hosts = {"localhost", *config.hosts}
        for name in filter(None, (own, config.label)):
            self._hosts |= {name, f"{name}.local"}
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_FORM_BYTES)
        app.on_response_prepare.append(self._add_headers)
        app.add_routes(
            [
                web.get("/", self._get_page),
                web.get("/about", self._get_about),
                web.get("/favicon.ico", self._get_icon),
                web.post("/clock", self._post_clock),
                web.get("/status.json", self._get_status),
                web.get("/metrics", self._get_metrics),
                web.get("/healthz", self._get_health),
                web.get("/target.json", self._get_target),
                *ShelfRoutes(self._pages, engine.stats).routes(),
            ]
        )
        # Who has gone does not keep his turn.
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
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
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._accept, host, listen.port, backlog=BACKLOG)
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
        manager = self._runner.server
        if manager is None:
            raise RuntimeError("not set up")
        return _Connection(
            self,
            manager,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=_MAX_REQUEST_LINE,
            max_headers=_MAX_HEADERS,
            lingering_time=0,
        )

    def _dropped(self) -> None:
        self.engine.stats.add(HttpRefused.PLACE)

    # -- what every request goes through ------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse names that are not ours (DNS rebinding) and strangers."""
        await self._take_turn()
        if not self._ours(request.host):
            self.engine.stats.add(HttpRefused.HOST)
            response: web.StreamResponse = _text(421, "Call this relay by its address, or add the name to http.hosts.")
        else:
            try:
                response = await self._admitted(request, handler)
            except web.HTTPException as error:
                # No detail: the framework's text names its version.
                response = _text(error.status, error.reason)
        return response

    async def _add_headers(self, _: web.Request, response: web.StreamResponse) -> None:
        """Add those that every answer has; at the last moment, as a file of the shelf is sent before it is returned."""
        # The framework has put its name and version there.
        response.headers["Server"] = "mesh-relay"
        always = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": self._pages.content_security_policy,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            # With no-referrer a browser would keep back the origin of our own form.
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in always.items():
            # Files of the shelf have policies of their own, which are as strict.
            response.headers.setdefault(name, value)

    async def _take_turn(self) -> None:
        now = self._clock()
        self._next_answer_s = max(self._next_answer_s, now) + 1 / ANSWERS_PER_S
        if self._next_answer_s - now > 2 / ANSWERS_PER_S:
            await asyncio.sleep(self._next_answer_s - now)

    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # The form brings the token itself.
        if request.path in _FOR_ALL or request.method == "POST":
            return await handler(request)
        address, scope = _peer(request)
        access = await self._gate.admits(address, scope, request.headers.get("Authorization", ""))
        if access is Access.ADMITTED:
            return await handler(request)
        self._count(access)
        if access is Access.TOO_MANY:
            return _text(429, "Too many wrong tokens. Wait some minutes.")
        if not self._gate.has_token:
            return _text(
                403, "This page is for whoever is on the relay's own segment. From elsewhere: set token in [http]."
            )
        asked = _text(401, "The password is the token of [http] in relay.toml; any user name will do.")
        asked.headers["WWW-Authenticate"] = 'Basic realm="mesh relay", charset="UTF-8"'
        return asked

    def _count(self, access: Access) -> None:
        reasons = {
            Access.STRANGER: HttpRefused.STRANGER,
            Access.WRONG: HttpRefused.TOKEN,
            Access.TOO_MANY: HttpRefused.GUESSES,
        }
        self.engine.stats.add(reasons[access])

    def _ours(self, host: str) -> bool:
        return is_called_rightly(host, self._hosts) or host_name(host).removesuffix(".local") in self._announced

    async def _answer(
        self, key: tuple[str, ...], look: Callable[[], Any], draw: Callable[[Any], Any] | None = None
    ) -> Any:
        """Return what ``look`` returns, or returned just now; ``draw`` makes the answer of that, in a thread."""
        async with self._making:
            now = self._clock()
            self._answers = {known: row for known, row in self._answers.items() if now - row[0] < ANSWER_AGE_S}
            if key not in self._answers:
                # Others have been answered, and the loop has had its time, however much is asked.
                rest_s = self._pacer.delay_s
                await asyncio.sleep(min(rest_s, MAX_REST_S))
                self._pacer.begin()
                try:
                    made = look()
                    if draw is not None:
                        made = await asyncio.to_thread(draw, made)
                finally:
                    self._pacer.end()
                self._answers[key] = (self._clock(), made)
            return self._answers[key][1]

    # -- pages --------------------------------------------------------------

    async def _get_page(self, request: web.Request) -> web.Response:
        language = _language(request)
        said = request.query.get("said", "")

        def look() -> tuple[Status, list[Sample]]:
            status = coarse(self.engine.status())
            return status, self._history.until_now(status)

        def draw(seen: tuple[Status, list[Sample]]) -> str:
            status, samples = seen
            return operator_page(self._pages, language, status, samples, can_set_clock=self._gate.has_token, said=said)

        # In a thread: the first one imports the engine of the templates, which takes a Raspberry Pi a second.
        page = await self._answer(("/", language.code, said if said in SAID else ""), look, draw)
        return _html(page, language)

    async def _get_about(self, request: web.Request) -> web.Response:
        language = _language(request)

        def look() -> Works:
            status = self.engine.status()
            return Works.of(ready=status.ready, well=not status.problems())

        def draw(works: Works) -> str:
            files = shelf.PATH if shelf.read_list() else ""
            place = Place(page=f"http://{request.host}/about", operator="/", shelf=files)
            return render(self._pages, language, works, place)

        page = await self._answer(("/about", language.code, request.host), look, draw)
        return _html(page, language)

    async def _get_icon(self, _: web.Request) -> web.Response:
        return web.Response(text=_ICON, content_type="image/svg+xml")

    async def _post_clock(self, request: web.Request) -> web.Response:
        """Take the operator's word for the time; the browser is sent to the page, which says what came of it."""
        if not _is_same_origin(request):
            self.engine.stats.add(HttpRefused.ORIGIN)
            return _text(403, "Only this relay's own page may ask for that.")
        if request.content_type != "application/x-www-form-urlencoded":
            raise web.HTTPUnsupportedMediaType
        try:
            async with asyncio.timeout(FORM_TIMEOUT_S):
                form = parse_qs(await request.text(), max_num_fields=_MAX_FORM_FIELDS)
        except (ValueError, LookupError) as error:
            raise web.HTTPBadRequest from error
        except TimeoutError as error:
            raise web.HTTPRequestTimeout from error
        said = self._set_clock(_peer(request)[0], {name: values[0] for name, values in form.items()})
        self._answers.clear()
        # A word of SAID and a code of LANGUAGES: nothing of what was sent comes back.
        return web.Response(status=303, headers={"Location": f"/?lang={_language(request).code}&said={said}"})

    def _set_clock(self, address: str, form: dict[str, str]) -> str:
        access = self._gate.check(address, form.get("token", ""))
        if access is not Access.ADMITTED:
            self._count(access)
            return "guesses" if access is Access.TOO_MANY else "token"
        try:
            self.engine.set_clock(_unix_s(form.get("time", ""), form.get("offset", "")))
        except ValueError:
            return "time"
        except ClockRefusedError:
            return "early"
        return "clock"

    # -- for machines --------------------------------------------------------

    async def _get_status(self, _: web.Request) -> web.Response:
        text = await self._answer(("/status.json",), lambda: json.dumps(coarse(self.engine.status()).as_dict()))
        return web.Response(text=text, content_type="application/json")

    async def _get_metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        body, content_type = await self._answer(("/metrics", accept), lambda: self._metrics.render(accept))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _get_health(self, _: web.Request) -> web.Response:
        problems = [f"{one.name}: {one.text}" for one in self.engine.status().conditions if one.is_problem]
        return _text(503 if problems else 200, "\n".join(problems) or "ok")

    async def _get_target(self, _: web.Request) -> web.Response:
        return web.json_response(self._target)


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")


def _html(page: str, language: Language) -> web.Response:
    return web.Response(
        text=page, content_type="text/html", headers={"Content-Language": language.code, "Vary": "Accept-Language"}
    )


def _language(request: web.Request) -> Language:
    return choose(request.query.get("lang", ""), request.headers.get("Accept-Language", ""))


def _peer(request: web.Request) -> tuple[str, int]:
    """Address and scope of who asks; whoever has gone already is nowhere near."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not peer:
        return "0.0.0.0", 0  # noqa: S104 - an address that nobody has
    return str(peer[0]), int(peer[3]) if len(peer) > 3 else 0


def _is_same_origin(request: web.Request) -> bool:
    """Whether our own page asks; browsers say so with each form (Fetch standard), and nothing else may."""
    origin = request.headers.get("Origin", "")
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    return origin in {f"http://{request.host}", f"https://{request.host}"} and site == "same-origin"


def _unix_s(text: str, offset: str) -> int:
    """Seconds since 1970 of a local time as forms have it, and its minutes from UTC; raise ValueError."""
    moment = datetime.fromisoformat(text)
    minutes = int(offset)
    if moment.tzinfo is not None or not OFFSETS[0] <= minutes <= OFFSETS[-1]:
        raise ValueError("not a local time, or no such zone")
    try:
        return int((moment.replace(tzinfo=UTC) - timedelta(minutes=minutes)).timestamp())
    except OverflowError as error:
        raise ValueError("beyond the calendar") from error
