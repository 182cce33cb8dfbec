# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics and pages of `relay run`: which there are, who may see them, and what each is made of.

It changes one thing, the clock, for who knows the token.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from relay.control.coarse import coarse
from relay.core.stats import HttpRefused
from relay.links import interfaces
from relay.pages.language import choose
from relay.pages.participant import Place, Works, render
from relay.pages.render import Pages
from relay.process import shelf
from relay.process.answers import Answers
from relay.process.http_hosts import host_name, is_called_rightly
from relay.process.http_server import HttpServer, peer, text
from relay.run.access import Access, Gate
from relay.run.clock_form import ClockForm
from relay.run.metrics import CONTENT_TYPE, Metrics
from relay.run.page import SAID, operator_page
from relay.run.recent import Recent
from relay.run.shelf_routes import ShelfRoutes

if TYPE_CHECKING:
    from collections.abc import Container

    from relay.config.run import HttpConfig
    from relay.control.status import Engine, Status
    from relay.pages.language import Language
    from relay.process.http_server import Handler
    from relay.run.history import History, Sample

#: Of the value by which two addresses are known to be one relay until it starts again.
_RUN_BYTES: Final = 8
_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#17694d"/>'
    '<path d="M8 22V10l8 7 8-7v12" fill="none" stroke="#fff" stroke-width="3"/></svg>\n'
)
#: Also for whoever is on a segment of strangers.
_FOR_ALL: Final = frozenset({"/about", "/favicon.ico"})
_READ: Final = frozenset({"GET", "HEAD"})


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
        clock = asyncio.get_running_loop().time
        self._engine = Recent(engine, clock)
        self._announced = announced
        #: What `relay targets` reads (docs/watching.md).
        self._target = {"run": secrets.token_hex(_RUN_BYTES)} | ({"label": config.label} if config.label else {})
        self._history = history
        self._metrics = Metrics(self._engine)
        self._pages = Pages()
        self._gate = Gate(token=token, strangers=config.strangers, interfaces=interfaces.read, clock=clock)
        self._clock_form = ClockForm(self._engine, self._gate)
        #: Three kinds: a page that is slow, or asked for by strangers without end, holds up no scrape.
        self._for_machines, self._for_operators, self._for_all = Answers(clock), Answers(clock), Answers(clock)
        own = socket.gethostname().lower().partition(".")[0]
        self._hosts = {"localhost", *config.hosts}
        for name in filter(None, (own, config.label)):
            self._hosts |= {name, f"{name}.local"}
        self._shelf = ShelfRoutes(self._pages, engine.stats)
        self._routes: dict[str, Handler] = {
            "/": self._get_page,
            "/about": self._get_about,
            "/favicon.ico": self._get_icon,
            "/status.json": self._get_status,
            "/metrics": self._get_metrics,
            "/healthz": self._get_health,
            "/target.json": self._get_target,
        }
        self.http = HttpServer(
            (config.listen.host, config.listen.port),
            self._answer,
            engine.stats,
            policy=lambda: self._pages.content_security_policy,
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.http.port

    async def __aenter__(self) -> Self:
        """Listen; raise HttpError."""
        await self.http.__aenter__()
        return self

    async def __aexit__(self, *of: object) -> None:
        """Stop listening and close what is open."""
        await self.http.__aexit__(*of)

    # -- what every request goes through ------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Refuse names that are not ours (DNS rebinding) and strangers; raise web.HTTPException."""
        if not self._is_ours(request.host):
            self._engine.stats.add(HttpRefused.HOST)
            return text(421, "Call this relay by its address, or add the name to http.hosts.")
        if request.path == "/clock":
            # The form brings the token itself.
            return await self._post_clock(request)
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        if request.path.startswith(shelf.PATH):
            handle: Handler | None = self._shelf.answer
        else:
            handle = self._routes.get(request.path)
        if handle is None:
            raise web.HTTPNotFound
        if request.method not in _READ:
            raise web.HTTPMethodNotAllowed(request.method, _READ)
        return await handle(request)

    async def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to who may not see this; None for who may."""
        if request.path in _FOR_ALL:
            return None
        address, scope = peer(request)
        access = await self._gate.admits(address, scope, request.headers.get("Authorization", ""))
        if access is Access.ADMITTED:
            return None
        self._engine.stats.add(access.refusal)
        if access is Access.TOO_MANY:
            return text(429, "Too many wrong tokens. Wait some minutes.")
        if not self._gate.has_token:
            return text(
                403, "This page is for whoever is on the relay's own segment. From elsewhere: set token in [http]."
            )
        asked = text(401, "The password is the token of [http] in relay.toml; any user name will do.")
        asked.headers["WWW-Authenticate"] = 'Basic realm="mesh relay", charset="UTF-8"'
        return asked

    def _is_ours(self, host: str) -> bool:
        return is_called_rightly(host, self._hosts) or host_name(host).removesuffix(".local") in self._announced

    # -- pages --------------------------------------------------------------

    async def _get_page(self, request: web.BaseRequest) -> web.Response:
        language = _language(request)
        said = request.query.get("said", "")

        def look() -> tuple[Status, list[Sample]]:
            status = coarse(self._engine.status())
            return status, self._history.until_now(status)

        def draw(seen: tuple[Status, list[Sample]]) -> str:
            status, samples = seen
            return operator_page(self._pages, language, status, samples, can_set_clock=self._gate.has_token, said=said)

        # In a thread: the first one imports the engine of the templates, which takes a Raspberry Pi a second.
        page = await self._for_operators.get((language.code, said if said in SAID else ""), look, draw)
        return _html(page, language)

    async def _get_about(self, request: web.BaseRequest) -> web.Response:
        language = _language(request)

        def look() -> tuple[Works, bool]:
            status = self._engine.status()
            bitchat = any(part.name == "bitchat" and part.up for part in status.components)
            return Works.of(ready=status.ready, well=not status.problems()), bitchat

        def draw(seen: tuple[Works, bool]) -> str:
            works, bitchat = seen
            files = shelf.PATH if shelf.read_list() else ""
            place = Place(page=f"http://{request.host}/about", operator="/", shelf=files, bitchat=bitchat)
            return render(self._pages, language, works, place)

        page = await self._for_all.get((language.code, request.host), look, draw)
        return _html(page, language)

    async def _get_icon(self, _: web.BaseRequest) -> web.Response:
        return web.Response(text=_ICON, content_type="image/svg+xml")

    async def _post_clock(self, request: web.BaseRequest) -> web.Response:
        """Set the clock; the browser is sent to the page, which says what came of it."""
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        said = await self._clock_form.take(request, peer(request)[0])
        if isinstance(said, web.Response):
            return said
        for answers in (self._for_machines, self._for_operators, self._for_all):
            answers.clear()
        # A word of SAID and a code of LANGUAGES: nothing of what was sent comes back.
        return web.Response(status=303, headers={"Location": f"/?lang={_language(request).code}&said={said}"})

    # -- for machines --------------------------------------------------------

    async def _get_status(self, _: web.BaseRequest) -> web.Response:
        body = await self._for_machines.get("status", lambda: json.dumps(coarse(self._engine.status()).as_dict()))
        return web.Response(text=body, content_type="application/json")

    async def _get_metrics(self, _: web.BaseRequest) -> web.Response:
        body: str = await self._for_machines.get("metrics", self._metrics.render)
        return web.Response(body=body.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_health(self, _: web.BaseRequest) -> web.Response:
        problems = [f"{one.name}: {one.text}" for one in self._engine.status().conditions if one.is_problem]
        return text(503 if problems else 200, "\n".join(problems) or "ok")

    async def _get_target(self, _: web.BaseRequest) -> web.Response:
        return web.json_response(self._target)


def _html(page: str, language: Language) -> web.Response:
    return web.Response(
        text=page, content_type="text/html", headers={"Content-Language": language.code, "Vary": "Accept-Language"}
    )


def _language(request: web.BaseRequest) -> Language:
    return choose(request.query.get("lang", ""), request.headers.get("Accept-Language", ""))
