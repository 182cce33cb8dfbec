# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay targets`: the relays near here, as Prometheus reads them."""

# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import asyncio
import json
import os
import sys
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

    from relay.config.settings import Address

#: Relays answer within a second; Wi-Fi loses multicast, so the question is repeated meanwhile.
DEFAULT_S: Final = 5.0
#: Beside the port of status pages; on this machine only, since the list says where relays are.
SERVE_PORT: Final = 9471
DEFAULT_SERVE: Final = f"127.0.0.1:{SERVE_PORT}"
DEFAULT_PORT: Final = 9470


def add_parser(sub: _SubParsersAction[ArgumentParser]) -> None:
    """Add the command; its `func` returns the exit status."""
    from relay.cli.messages import seconds

    targets = sub.add_parser(
        "targets",
        help="list the relays near here as Prometheus reads them",
        description="Looks for relays by DNS-SD and prints those whose metrics can be read from this machine, each "
        "once, as JSON for Prometheus' file_sd_configs. With --serve it goes on looking and serves them for "
        "http_sd_configs.",
    )
    targets.add_argument(
        "--seconds", type=seconds, default=DEFAULT_S, metavar="S", help="how long (default: %(default)g)"
    )
    targets.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help="where relays have their metrics (default: %(default)s)"
    )
    targets.add_argument(
        "--serve",
        type=_listen,
        nargs="?",
        const=DEFAULT_SERVE,
        metavar="ADDRESS:PORT",
        help=f"serve them over HTTP until interrupted (default: {DEFAULT_SERVE})",
    )
    targets.set_defaults(func=_targets)


def _listen(text: str) -> Address:
    from relay.config.settings import BadValueError, listen

    try:
        return listen(text, SERVE_PORT)
    except BadValueError as error:
        raise ArgumentTypeError(str(error)) from error


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise ArgumentTypeError("write a port from 1 to 65535")
    return int(text)


def _targets(arguments: Namespace) -> int:
    from relay.process import logs

    logs.setup("warning")
    if arguments.serve is not None:
        return asyncio.run(_serve(arguments.serve, arguments.port))
    return asyncio.run(_print(arguments.seconds, arguments.port))


async def _serve(listen: Address, port: int) -> int:
    from relay.process.notify import Notifier
    from relay.process.stopping import stop_signals, until_stopped
    from relay.watch.target_server import TargetServer

    def say() -> None:
        print(
            f"Prometheus reads the relays near here from http://{listen}/ (http_sd_configs); Ctrl-C ends this.",
            flush=True,
        )

    stopping = stop_signals()
    server = TargetServer(port, warn=lambda line: print(line, file=sys.stderr, flush=True))
    await until_stopped(stopping, [server.serve(listen, say)], Notifier(os.environ))
    return 0


async def _print(timeout_s: float, port: int) -> int:
    from relay.watch.scrape_targets import service_discovery
    from relay.watch.target_finder import Finder
    from relay.watch.target_server import warnings

    async with Finder(port) as finder:
        await asyncio.sleep(timeout_s)
        targets = await finder.look(asyncio.get_running_loop().time())
    for line in warnings(finder, port):
        print(line, file=sys.stderr)
    if not targets:
        # An empty list would have Prometheus forget all that it knows.
        print("No relay whose metrics can be read was found.", file=sys.stderr)
        return 1
    print(json.dumps(service_discovery(targets), indent=2))
    return 0
