# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters of couriers in the store of this machine's relay, of which we are a client like others.

New envelopes are followed as a whole while somebody is near for whom there may be a letter; what was there before is
read once for each of his buckets, of a few people at a time. No relay learns from that more than that this one has
phones with bitchat.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn

from relay.bitchat.couriers import to_envelopes
from relay.core import session as s
from relay.core.envelope import BUCKET_BITS
from relay.core.messages import Ack, Refused, Subscribe, Window
from relay.links.address import RelayAddress
from relay.links.client_session import Connection, RelayConnectionError
from relay.process.supervisor import keep_trying
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from relay.bitchat.courier import Letter
    from relay.bitchat_gateway.gateway import Gateway
    from relay.core.named import Name
    from relay.process.reports import Reporter

logger = logging.getLogger(__name__)

#: Letters that wait to be wrapped or put, 16 KiB each; phones give a few in an hour.
MAX_WAITING: Final = 32
#: A fifth of a full store is read in a second or two for those who came. The next few wait so long.
READ_REST_S: Final = 10.0
#: The relay of this machine answers within a second; so long it takes on a full card.
ANSWER_S: Final = 60.0
MAX_DELAY_S: Final = 60.0


class Letters:
    """See the module; a :class:`relay.bitchat_gateway.gateway.Letters`."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        path: Path,
        secret: bytes | None,
        reporter: Reporter,
        random: Callable[[], float],
    ) -> None:
        """``path``: link.sock. ``secret`` (32 bytes): the mesh's, where it is known here."""
        self._gateway = gateway
        self._address = RelayAddress(path=path)
        self._secret = secret
        self._reporter = reporter
        self._random = random
        self._waiting: asyncio.Queue[Letter] = asyncio.Queue(MAX_WAITING)
        #: Somebody is looked for whose buckets were not read yet; anybody is looked for at all.
        self._is_news = asyncio.Event()
        self._reading: frozenset[Name] = frozenset()
        self._is_wanted = asyncio.Event()

    def keep(self, letter: Letter) -> None:
        """Keep a letter."""
        try:
            self._waiting.put_nowait(letter)
        except asyncio.QueueFull:
            self._reporter.count("letters_lost")

    def look(self) -> None:
        """Look for envelopes of the names that are looked for now."""
        self._is_news.set()
        self._is_wanted.set()

    async def run(self) -> None:
        """Keep and look until cancelled."""
        async with TaskGroup() as tasks:
            tasks.create_task(self._keep_trying(self._keep_letters))
            tasks.create_task(self._keep_trying(self._follow))
            tasks.create_task(self._keep_trying(self._look_back))

    async def _keep_trying(self, work: Callable[[], Awaitable[None]]) -> NoReturn:
        def failed(error: Exception) -> None:
            if not isinstance(error, RelayConnectionError):
                raise error
            self._reporter.count("letters_relay_lost")

        await keep_trying(work, random=self._random, on_failure=failed, max_s=MAX_DELAY_S)

    async def _open(self) -> Connection:
        return await Connection.open(self._address, secret=self._secret)

    # -- kept -------------------------------------------------------------------------

    async def _keep_letters(self) -> None:
        letter = await self._waiting.get()
        try:
            envelopes = await asyncio.to_thread(to_envelopes, letter)
            async with await self._open() as connection:
                for envelope in envelopes:
                    await self._put(connection, envelope)
        except RelayConnectionError:
            # Wrapped again it is the same envelopes.
            self.keep(letter)
            raise

    async def _put(self, connection: Connection, envelope: bytes) -> None:
        number = connection.put(envelope)
        while True:
            for event in await connection.events(ANSWER_S):
                match event:
                    case Ack() if number in event.numbers():
                        self._reporter.count("letters_kept")
                        return
                    case Refused() if number in [refused for refused, _ in event.refusals]:
                        self._reporter.count("letters_refused")
                        return

    # -- looked for -------------------------------------------------------------------

    async def _follow(self) -> None:
        """Follow what is new while anybody is looked for."""
        await self._is_wanted.wait()
        async with await self._open() as connection:
            connection.subscribe(Subscribe(prefix_bits=0, prefix=0, window=Window.HOUR))
            while self._gateway.mesh.couriers.is_anybody_wanted():
                await self._take(connection)
        self._is_wanted.clear()

    async def _look_back(self) -> None:
        """Read what was there before, for those who came."""
        await self._is_news.wait()
        # What a connection that broke kept from being read goes first.
        self._reading = self._reading or self._gateway.mesh.couriers.take_unread()
        if not self._reading:
            self._is_news.clear()
            return
        buckets = {name.bucket for name in self._reading}
        while buckets:
            async with await self._open() as connection:
                bits = min(connection.hello.prefix_bits, BUCKET_BITS)
                prefix = buckets.pop() >> BUCKET_BITS - bits
                buckets = {bucket for bucket in buckets if bucket >> BUCKET_BITS - bits != prefix}
                connection.subscribe(Subscribe(prefix_bits=bits, prefix=prefix, follow=False))
                while not await self._take(connection):
                    pass
        self._reading = frozenset()
        await asyncio.sleep(READ_REST_S)

    async def _take(self, connection: Connection) -> bool:
        """Give the mesh what came; whether it was all."""
        is_all = False
        for event in await connection.events():
            match event:
                case s.Envelopes(items=items):
                    for envelope in items:
                        self._gateway.found(envelope)
                case s.CaughtUp():
                    is_all = True
        # Much of it comes at once, and phones do not wait for it.
        await asyncio.sleep(0)
        return is_all
