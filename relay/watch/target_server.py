# SPDX-License-Identifier: GPL-2.0-or-later
"""Serves the targets as Prometheus' http_sd_configs read them: bounded as the pages are (relay.process.http_server)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from relay.core.stats import HttpRefused, Stats
from relay.process.http_hosts import is_called_rightly
from relay.process.http_server import HttpServer, text
from relay.watch.scrape_targets import MAX_TARGETS, service_discovery
from relay.watch.target_finder import Finder

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.config.settings import Address
    from relay.watch.scrape_targets import ScrapeTarget

#: Prometheus asks once a minute by default.
LOOK_INTERVAL_S: Final = 15.0
#: Until the first answers of multicast DNS are here.
FIRST_LOOK_S: Final = 2.0
#: It is for a program, and has nothing to show.
_POLICY: Final = "default-src 'none'"
_READ: Final = frozenset({"GET", "HEAD"})


class TargetServer:
    """Looks around for ever, and answers with what was found last."""

    def __init__(self, port: int, *, warn: Callable[[str], None]) -> None:
        """``port``: of the relays' status servers. ``warn`` is told what the operator should know: labels are in it."""
        self._port = port
        self._warn_operator = warn
        self._targets: list[ScrapeTarget] | None = None
        self._warned: tuple[object, ...] = ()
        self._stats = Stats()

    async def serve(self, listen: Address, on_listening: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; raise HttpError or FindingError."""
        server = HttpServer(
            (listen.host, listen.port), self._answer, self._stats, lambda: _POLICY, setting="address with --serve"
        )
        async with Finder(self._port) as finder, server:
            on_listening()
            await asyncio.sleep(FIRST_LOOK_S)
            while True:
                self._targets = await finder.look(asyncio.get_running_loop().time())
                self._warn(finder)
                await asyncio.sleep(LOOK_INTERVAL_S)

    def _warn(self, finder: Finder) -> None:
        """Say what an operator should know, once for each change."""
        crowded = bool(self._stats.get(HttpRefused.PLACE))
        state = (finder.unanswered, finder.unlisted, crowded, *finder.same_label)
        if state != self._warned:
            self._warned = state
            for line in warnings(finder, self._port, crowded=crowded):
                self._warn_operator(line)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if not is_called_rightly(request.host, {"localhost"}):
            return text(421, "Call this by its address, or as localhost.")
        if request.path != "/":
            raise web.HTTPNotFound
        if request.method not in _READ:
            raise web.HTTPMethodNotAllowed(request.method, _READ)
        if self._targets is None:
            # Prometheus keeps what it had; an empty list would have it forget all relays.
            return text(503, "The first look around is not over.")
        return web.json_response(service_discovery(self._targets))


def warnings(finder: Finder, port: int, *, crowded: bool = False) -> list[str]:
    """What an operator should know after a look around; ``crowded``: connections were closed as there were too many."""
    found = [
        f'several relays have the label "{label}": only one of them is listed by it; change it in their relay.toml'
        for label in finder.same_label
    ]
    if finder.unlisted:
        found.append(
            f"{finder.unlisted} that answered are not listed, as {MAX_TARGETS} others are: somebody announces false "
            "relays; list yours in prometheus.yml yourself (static_configs)"
        )
    if finder.unanswered:
        found.append(
            f"{finder.unanswered} announced without metrics for this machine on port {port}: to watch them, set listen "
            "in [http] of their relay.toml to an address of your network (it is this machine's own by default)"
        )
    if crowded:
        found.append(
            "more connections came than are kept: somebody holds them open; serve the list on this machine alone "
            "(127.0.0.1), or let your firewall admit Prometheus only"
        )
    return found
