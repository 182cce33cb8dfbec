# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay run`: puts the parts together and takes them apart again."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import os
import random
import secrets
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import relay
from relay.config.credentials import HTTP_TOKEN, MESH_SECRET, resolve
from relay.config.run import AUTOMATIC
from relay.control.text import program_name, startup_summary
from relay.core.admission import Policy
from relay.core.clock import Clock
from relay.core.envelope import CLASS_OF_SIZE
from relay.core.node import Node, NodeConfig
from relay.core.secret import mesh_secret
from relay.core.stats import Histogram, LinkKind, Stats, Trouble
from relay.links.foreign import ForeignLink
from relay.links.targets import Target
from relay.links.tcp import TcpLink
from relay.process import logs
from relay.process.memory import give_back
from relay.process.notify import Notifier, run_watchdog
from relay.process.progress import Progress
from relay.process.stopping import stop_signals, until_stopped
from relay.process.supervisor import supervise
from relay.run.capacity import capacity
from relay.run.control_server import ControlServer
from relay.run.engine import Engine
from relay.run.history import History
from relay.run.kept import open_kept
from relay.run.keyfile import load_or_make_key
from relay.run.spreading import Spreading
from relay.run.storing import FELL_BACK, GIVEN_UP_S, begin
from relay.store.committer import Committer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from relay.config.file import Config
    from relay.config.run import StoreConfig
    from relay.links import LinkPlugin
    from relay.run.web import StatusServer
    from relay.store.database import Store

logger = logging.getLogger(__name__)

#: What has to be there before a relay says that it is ready.
_LISTENING: Final = "listening"
_PAGES: Final = "pages"
#: From SIGTERM to exit; systemd and users expect 5 s at most.
SHUTDOWN_S: Final = 4.0
#: The store's thread waits so long for the interpreter between two statements, at
#: most. Measured: 3 ms takes in more than the default of 5 ms, by which a busy loop
#: holds every commit up, and than 0.2 ms, by which the two threads interrupt each other.
SWITCH_INTERVAL_S: Final = 0.003
#: For a damaged store to be mended: 4 GiB on a card that reads and writes 5 MB/s.
MENDING_S: Final = 1800
#: Time for the last bytes to leave after the goodbyes.
FLUSH_S: Final = 0.2


def build_hour() -> int:
    """Return the hour before which no expiry and no clock is believed."""
    released = dt.datetime.fromisoformat(relay.__released__).replace(tzinfo=dt.UTC)
    return int(released.timestamp()) // 3600


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    logs.setup(config.log.level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    asyncio.run(_serve(config, os.environ))
    return 0


async def _serve(config: Config, environ: Mapping[str, str]) -> None:
    loop = asyncio.get_running_loop()
    stopping = stop_signals()
    notifier = Notifier(environ)
    async with contextlib.AsyncExitStack() as stack:
        stats = Stats()
        begun = begin(
            config.store,
            lambda store_config, store: _make_node(config, store_config, store, stats, loop.time()),
            lambda: notifier.extend(MENDING_S),
        )
        config = replace(config, store=begun.config)
        if begun.fell_back and config.updates.restart == "quiet":
            # What is in memory goes with a restart, unless a neighbour holds it.
            config = replace(config, updates=replace(config.updates, restart="held"))
        store = stack.enter_context(contextlib.closing(begun.store))
        committer = Committer(store, loop=loop, on_commit=lambda took_s: stats.observe(Histogram.COMMIT_S, took_s))
        stack.push_async_callback(committer.close)
        progress = Progress(loop.time)
        engine = Engine(
            node=begun.node,
            store=store,
            committer=committer,
            progress=progress,
            trust_system_clock=config.clock.trust == "system",
            max_connections=config.limits.max_connections,
            max_connections_per_address=config.limits.max_connections_per_address,
            card_trouble=FELL_BACK if begun.fell_back else "",
        )
        engine.tick()
        history = History(loop.time, open_kept(environ, notifier, config.control.path))
        announced: set[str] = set()
        await stack.enter_async_context(ControlServer(engine, config.control.path, config.control.mode))
        token = resolve(config.http.token, HTTP_TOKEN, environ) if config.http.enabled else ""

        def on_tick() -> None:
            engine.tick()
            if config.store.fallback != AUTOMATIC and not begun.fell_back:
                engine.require_store(GIVEN_UP_S)
            history.note(engine.status())

        missing = {_LISTENING, _PAGES} if config.http.enabled else {_LISTENING}
        ports: list[int] = []

        def on_ready(part: str) -> None:
            missing.discard(part)
            if not missing and not engine.ready:
                engine.ready = True
                notifier.ready("running")
                summary = startup_summary(engine.status(), config, program_name(sys.argv[0]), ports[0])
                print(summary, flush=True)  # noqa: T201 - a person reads it

        def on_listening(port: int) -> None:
            ports.append(port)
            on_ready(_LISTENING)

        async def serve_pages() -> None:
            # A third of all that is imported is for pages alone: whoever has an envelope does not wait for that.
            make_server = await asyncio.to_thread(_import_pages)
            async with make_server(engine, config.http, history, announced, token=token):
                on_ready(_PAGES)
                await asyncio.Event().wait()

        links = _make_links(config, on_listening, announced)
        if not config.tcp.enabled:
            on_listening(config.tcp.port)

        async def say_goodbye() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHUTDOWN_S):
                    await engine.shutdown()
                    await asyncio.sleep(FLUSH_S)

        work = [_supervised(link, kind, engine) for link, kind in links]
        work.append(run_watchdog(notifier, progress, on_tick))
        if config.http.enabled:
            work.append(serve_pages())
        if config.updates.relays:
            work.append(_spread(config, engine))
        await until_stopped(stopping, work, notifier, say_goodbye)


def _import_pages() -> type[StatusServer]:
    from relay.run.web import StatusServer  # noqa: PLC0415 - see its caller

    return StatusServer


async def _supervised(link: LinkPlugin, kind: LinkKind, engine: Engine) -> None:
    def on_state(up: bool, fault: str) -> None:  # noqa: FBT001 - a callback
        engine.link_state(kind, up=up, fault=fault)
        if not up:
            engine.link_failed(kind)

    await supervise(link.name, lambda: link.run(engine), random=random.random, on_state=on_state)


async def _spread(config: Config, engine: Engine) -> None:
    async def run() -> None:
        await Spreading(
            engine.node,
            config.updates.path,
            restart=config.updates.restart,
            wake=engine.wake,
            random=random.random,
        ).run()

    await supervise("updates", run, random=random.random, on_state=lambda _up, _fault: None)


def _make_node(config: Config, store_config: StoreConfig, store: Store, stats: Stats, now: float) -> Node:
    """``store_config``: as it holds for ``store``. Raise StoreError where that cannot be read."""
    bounds = capacity(store_config)
    state = store.state()
    interfaces = store.interfaces()
    node = Node(
        config=NodeConfig(
            durable=store_config.durable,
            secret=mesh_secret(resolve(config.mesh.secret, MESH_SECRET, os.environ)),
            static=load_or_make_key(store_config.key_file, secrets.token_bytes) if config.mesh.static_key else None,
            open_to_clients=config.mesh.open_to_clients,
            handshake_timeout_s=config.limits.handshake_timeout_s,
            bytes_per_s=config.limits.bytes_per_s,
            shares=config.store.shares,
        ),
        policy=Policy(
            max_bytes=bounds.max_bytes,
            max_envelopes=bounds.max_envelopes,
            min_price=config.mesh.min_price,
            classes=sum(1 << CLASS_OF_SIZE[size] for size in config.mesh.classes),
            residence_s=config.store.residence_hours * 3600.0,
        ),
        clock=Clock(
            now=now,
            build_hour=build_hour(),
            residence_s=float(state.get("residence_s", 0)),
        ),
        stats=stats,
        random_bytes=secrets.token_bytes,
        read_bodies=store.read_bodies,
        interfaces=interfaces,
    )
    node.admission.policy.shares.update(
        {node.interface_number(name): fraction for name, fraction in config.store.shares.items()}
    )
    node.log.load(store.load())
    give_back()
    stats.add(Trouble.HEADER_DAMAGED, store.left_out)
    node.log.reserve(store.last_seq)
    return node


def _make_links(
    config: Config, on_listening: Callable[[int], None], announced: set[str]
) -> Sequence[tuple[LinkPlugin, LinkKind]]:
    links: list[tuple[LinkPlugin, LinkKind]] = []
    if config.tcp.enabled:
        links.append(
            (
                TcpLink(
                    port=config.tcp.port,
                    interfaces=config.tcp.interfaces,
                    peers=[
                        Target(addresses=((peer.address.host, peer.address.port),), pinned=peer.key)
                        for peer in config.tcp.peers
                    ],
                    discovery=config.tcp.discovery,
                    random=random.random,
                    random_bytes=secrets.token_bytes,
                    on_listening=on_listening,
                    announced=announced,
                ),
                LinkKind.TCP,
            )
        )
    if config.unix.enabled:
        foreign = ForeignLink(path=config.unix.path, mode=config.unix.mode, own_interfaces=config.tcp.interfaces)
        links.append((foreign, LinkKind.UNIX))
    return links
