# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay libp2p`: puts the parts together."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from relay.config.libp2p import NO_GATEWAY
from relay.config.settings import CREDENTIAL
from relay.core.secret import mesh_secret
from relay.libp2p.bitswap import Bitswap, UnavailableError
from relay.libp2p.dht import DhtServer
from relay.libp2p.envelopes import Envelopes
from relay.libp2p.gossipsub import Gossipsub
from relay.libp2p.host import Host
from relay.libp2p.identity import Identity, base58
from relay.libp2p.members import Members
from relay.libp2p.pubsub import Pubsub
from relay.libp2p.segments import Segments
from relay.process import logs
from relay.process.notify import Notifier, run_watchdog
from relay.process.progress import Progress
from relay.process.report_connection import report_forever
from relay.process.reports import Component, Reporter
from relay.process.stopping import stop_signals, until_stopped

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from relay.config.file import Config
    from relay.libp2p.cid import Cid
    from relay.libp2p.gossipsub import Event

_MEASURE_S: Final = 5.0


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT; return the exit code. Raise relay.process.http_server.HttpError."""
    logs.setup(config.log.level)
    if not config.libp2p.enabled:
        # A service that ends before it was ready has failed, and would be started again.
        Notifier(os.environ).ready("disabled in the configuration")
        return 0
    asyncio.run(_serve(config, os.environ))
    return 0


class Blocks:
    """What peers are served: envelopes, where that is switched on, and Berty's blocks to who shares a topic."""

    def __init__(self, envelopes: Envelopes | None, members: Members | None) -> None:
        self._envelopes = envelopes
        self._members = members

    async def read(self, cids: Sequence[Cid], peer: bytes) -> dict[bytes, bytes]:
        """Return those that are here, by digest; raise UnavailableError."""
        digests = [cid.digest for cid in cids if not cid.inline]
        found = await self._members.blocks(digests, peer) if self._members is not None else {}
        if self._envelopes is not None and (left := [digest for digest in digests if digest not in found]):
            found |= await self._envelopes.read(left)
        return found

    def wanted(self, cid: Cid, peer: bytes) -> None:
        """A peer wants what is not here."""
        if self._members is not None and not cid.inline:
            self._members.wanted(cid.digest, peer)

    async def has(self, digest: bytes, peer: bytes) -> bool:
        """Whether it is here."""
        if self._members is not None and self._members.has(digest, peer):
            return True
        if self._envelopes is None:
            return False
        try:
            return bool(await self._envelopes.read([digest]))
        except UnavailableError:
            return False

    def provided(self, digest: bytes, peer: bytes) -> None:
        """A peer has something."""
        if self._members is not None:
            self._members.provided(digest, peer)


async def _serve(config: Config, environ: Mapping[str, str]) -> None:
    loop = asyncio.get_running_loop()
    stopping = stop_signals()
    notifier = Notifier(environ)
    reporter = Reporter(Component.LIBP2P)
    progress = Progress(loop.time)
    random = secrets.SystemRandom().random
    settings = config.libp2p
    async with AsyncExitStack() as stack:
        # Another one at each start: nothing joins a relay to what it was.
        host = Host(Identity.generate(secrets.token_bytes), count=reporter.count)
        stack.push_async_callback(host.close)
        work: list[Coroutine[Any, Any, object]] = [report_forever(config.unix.path, reporter, random=random)]
        # Where `relay run` alone has the secret we are a client without it, as any phone is.
        secret = None if config.mesh.secret == CREDENTIAL else mesh_secret(config.mesh.secret)
        is_gateway = settings.gateway != NO_GATEWAY
        envelopes = None
        if settings.envelopes or is_gateway or settings.berty:
            envelopes = Envelopes(config.unix.path, secret=secret, random=random, count=reporter.count)
            work.append(envelopes.run())
        members = None
        if envelopes is not None and settings.berty:
            members = Members(
                host, envelopes, path=config.unix.path, secret=secret, random=random, count=reporter.count
            )
            work.append(members.run())
        blocks = Blocks(envelopes if settings.envelopes else None, members)
        bitswap = Bitswap(host, blocks, count=reporter.count)
        dht = DhtServer(host, blocks, count=reporter.count)
        # Above what any clock has given a host of this name before: it has a new one.
        router = Gossipsub(host.identity, draw=random, count=reporter.count, seqno=secrets.randbits(62))
        pubsub = Pubsub(host, router, on_event=members.on_event if members is not None else _ignore)
        if members is not None:
            members.attach(bitswap, router, pubsub, dht.records)
        segments = Segments(
            host,
            port=settings.port,
            names=settings.interfaces,
            random_bytes=secrets.token_bytes,
            random=random,
            reporter=reporter,
        )
        if envelopes is not None and is_gateway:
            # A third of all memory, which only who serves pages needs.
            from relay.libp2p.gateway import GatewayServer  # noqa: PLC0415

            listen = (settings.gateway.host, settings.gateway.port)
            server = GatewayServer(listen, envelopes, base58(host.identity.peer), count=reporter.count)
            await stack.enter_async_context(server.http)

        async def measure() -> None:
            while True:
                reporter.gauge("peers", len(host.peers))
                reporter.gauge("topics", router.topic_count)
                reporter.gauge("blocks", members.keeper.block_count if members is not None else 0)
                await asyncio.sleep(_MEASURE_S)

        work += [pubsub.run(), segments.run(), measure(), run_watchdog(notifier, progress, lambda: None)]
        notifier.ready("running")
        await until_stopped(stopping, work, notifier, reporter.stopped)


def _ignore(_: Event) -> None:
    """Nobody listens."""
