# SPDX-License-Identifier: GPL-2.0-or-later
"""Serves the targets as Prometheus' http_sd_configs read them."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Final

from aiohttp import web

from relay.core.errors import RelayError
from relay.process.http_hosts import is_called_rightly
from relay.process.ports import why_not
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
SHUTDOWN_S: Final = 1.0
_MAX_REQUEST_LINE: Final = 2048


class ServeError(RelayError):
    """The address cannot be listened on; the message has the remedy."""


class TargetServer:
    """Looks around for ever, and answers with what was found last."""

    def __init__(self, port: int, *, warn: Callable[[str], None]) -> None:
        """``port``: of the relays' status servers. ``warn`` is told what the operator should know: labels are in it."""
        self._port = port
        self._warn_operator = warn
        self._targets: list[ScrapeTarget] | None = None
        self._warned: tuple[object, ...] = ()

    async def serve(self, listen: Address, on_listening: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; raise ServeError or FindingError."""
        app = web.Application()
        app.add_routes([web.get("/", self._get)])
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
            max_line_size=_MAX_REQUEST_LINE,
        )
        async with Finder(self._port) as finder:
            await runner.setup()
            try:
                await web.TCPSite(runner, listen.host, listen.port).start()
            except OSError as error:
                await runner.cleanup()
                cause = await asyncio.to_thread(why_not, error, listen.port, "tcp")
                stop = "stop what has it, or " if error.errno == errno.EADDRINUSE else ""
                raise ServeError(f"cannot listen on {listen}: {cause}; {stop}name another with --serve") from error
            on_listening()
            try:
                await asyncio.sleep(FIRST_LOOK_S)
                while True:
                    self._targets = await finder.look(asyncio.get_running_loop().time())
                    self._warn(finder)
                    await asyncio.sleep(LOOK_INTERVAL_S)
            finally:
                await runner.cleanup()

    def _warn(self, finder: Finder) -> None:
        """Say what an operator should know, once for each change."""
        state = (finder.unanswered, finder.unlisted, *finder.same_label)
        if state != self._warned:
            self._warned = state
            for line in warnings(finder, self._port):
                self._warn_operator(line)

    async def _get(self, request: web.Request) -> web.Response:
        if not is_called_rightly(request.host, {"localhost"}):
            return web.Response(status=421, text="Call this by its address, or as localhost.\n")
        if self._targets is None:
            # Prometheus keeps what it had; an empty list would have it forget all relays.
            return web.Response(status=503, text="The first look around is not over.\n")
        return web.json_response(service_discovery(self._targets), headers={"Cache-Control": "no-store"})


def warnings(finder: Finder, port: int) -> list[str]:
    """What an operator should know after a look around."""
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
    return found
