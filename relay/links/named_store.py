# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes that are found by names (docs/protocol.md section 12.9), in the store of this machine's relay.

We are a client of it like others. New envelopes are followed as a whole while anything is looked for; what was there
before is read once for each bucket of a name, a few at a time. No relay learns from that more than that this one has
such a client.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol

from relay.core import session as s
from relay.core.clock import HOUR_S, LAST_HOUR
from relay.core.envelope import BUCKET_BITS
from relay.core.messages import Ack, Refused, Subscribe, Window
from relay.links.address import RelayAddress
from relay.links.client_session import Connection, RelayConnectionError
from relay.process.supervisor import keep_trying
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from relay.core.named import Name

#: Envelopes that wait to be put or answered, 16 KiB each at most; who has more waits.
MAX_WAITING: Final = 64
#: A session for putting is kept for so long without anything to put.
IDLE_S: Final = 20.0
#: The relay of this machine answers within a second; so long it takes on a full card.
ANSWER_S: Final = 60.0


class Seeker(Protocol):
    """Who looks for envelopes."""

    def is_anybody_wanted(self) -> bool:
        """Whether anything is looked for."""

    def take_unread(self) -> frozenset[Name]:
        """Return the names whose buckets are to be read now, a few buckets' at a time; none: all were."""

    def found(self, envelope: bytes) -> None:
        """Take an envelope, which may be of anybody."""

    def read(self, names: frozenset[Name]) -> None:
        """All that was there of these has been given."""


class _Put(NamedTuple):
    envelope: bytes
    is_held: asyncio.Future[bool]


class NamedStore:
    """See the module; `run` has to run."""

    def __init__(
        self,
        seeker: Seeker,
        *,
        path: Path,
        secret: bytes | None,
        random: Callable[[], float],
        on_lost: Callable[[], None],
        rest_s: float,
        max_delay_s: float,
    ) -> None:
        """``path``: link.sock. ``secret`` (32 bytes): the mesh's, where it is known here.

        ``rest_s``: so long nothing is read after a reading. ``max_delay_s``: before a relay that is away is dialled
        again, which ``on_lost`` hears of.
        """
        self._seeker = seeker
        self._address = RelayAddress(path=path)
        self._secret = secret
        self._random = random
        self._on_lost = on_lost
        self._rest_s = rest_s
        self._max_delay_s = max_delay_s
        self._places = asyncio.Semaphore(MAX_WAITING)
        self._waiting: deque[_Put] = deque()
        self._is_put = asyncio.Event()
        #: Something is looked for that was not read yet; anything is looked for at all.
        self._is_news = asyncio.Event()
        self._reading: frozenset[Name] = frozenset()
        self._is_wanted = asyncio.Event()
        #: The relay's hour, and when it said so.
        self._hour: tuple[int, float] | None = None
        self._is_met = asyncio.Event()

    async def met(self) -> None:
        """Wait until the relay was met once."""
        await self._is_met.wait()

    def hour(self) -> int:
        """Return the hour by which envelopes end: the relay's, once it was met; of one without a clock, our own."""
        if self._hour is None:
            return int(time.time() // HOUR_S)
        hour, said_s = self._hour
        return hour + int((asyncio.get_running_loop().time() - said_s) // HOUR_S)

    def look(self) -> None:
        """Look for envelopes of the names that are looked for now."""
        self._is_news.set()
        self._is_wanted.set()

    async def put(self, envelopes: Iterable[bytes]) -> bool:
        """Put these, however long the relay is away; return whether it holds them all, so that kill -9 loses none."""
        loop = asyncio.get_running_loop()
        puts: list[_Put] = []
        for envelope in envelopes:
            await self._places.acquire()
            puts.append(_Put(envelope, loop.create_future()))
            self._waiting.append(puts[-1])
            self._is_put.set()
        return all([await put.is_held for put in puts])

    async def run(self) -> None:
        """Put and look until cancelled."""
        async with TaskGroup() as tasks:
            tasks.create_task(self._keep_trying(self._put_waiting))
            tasks.create_task(self._keep_trying(self._follow))
            tasks.create_task(self._keep_trying(self._look_back))

    async def _keep_trying(self, work: Callable[[], Awaitable[float | None]]) -> NoReturn:
        def failed(error: Exception) -> None:
            if not isinstance(error, RelayConnectionError):
                raise error
            self._on_lost()

        await keep_trying(work, random=self._random, on_failure=failed, max_s=self._max_delay_s)

    async def _open(self) -> Connection:
        connection = await Connection.open(self._address, secret=self._secret)
        first, last = connection.hello.window
        # The first one that it takes is the next (relay.core.clock).
        self._hour = (first - 1, asyncio.get_running_loop().time()) if last < LAST_HOUR else None
        self._is_met.set()
        return connection

    # -- kept -------------------------------------------------------------------------

    async def _put_waiting(self) -> float:
        await self._is_put.wait()
        sent: dict[int, _Put] = {}
        async with await self._open() as connection:
            try:
                while True:
                    while self._waiting and connection.can_put:
                        put = self._waiting.popleft()
                        sent[connection.put(put.envelope)] = put
                    if sent:
                        for event in await connection.events(ANSWER_S):
                            self._on_answer(event, sent)
                        continue
                    self._is_put.clear()
                    try:
                        async with asyncio.timeout(IDLE_S):
                            await self._is_put.wait()
                    except TimeoutError:
                        return 0.0
            finally:
                # Put again it is the same envelopes.
                self._waiting.extendleft(reversed(sent.values()))

    def _on_answer(self, event: object, sent: dict[int, _Put]) -> None:
        match event:
            case Ack():
                answered = [(number, True) for number in event.numbers()]
            case Refused():
                answered = [(number, False) for number, _ in event.refusals]
            case _:
                return
        for number, is_held in answered:
            if (put := sent.pop(number, None)) is not None:
                self._places.release()
                if not put.is_held.done():
                    put.is_held.set_result(is_held)

    # -- looked for -------------------------------------------------------------------

    async def _follow(self) -> None:
        """Follow what is new while anything is looked for."""
        await self._is_wanted.wait()
        async with await self._open() as connection:
            connection.subscribe(Subscribe(prefix_bits=0, prefix=0, window=Window.HOUR))
            while self._seeker.is_anybody_wanted():
                await self._take(connection)
        self._is_wanted.clear()

    async def _look_back(self) -> float | None:
        """Read what was there before of what is looked for since."""
        await self._is_news.wait()
        # What a connection that broke kept from being read goes first.
        self._reading = self._reading or self._seeker.take_unread()
        if not self._reading:
            self._is_news.clear()
            return 0.0
        buckets = {name.bucket for name in self._reading}
        while buckets:
            async with await self._open() as connection:
                bits = min(connection.hello.prefix_bits, BUCKET_BITS)
                prefix = buckets.pop() >> BUCKET_BITS - bits
                buckets = {bucket for bucket in buckets if bucket >> BUCKET_BITS - bits != prefix}
                connection.subscribe(Subscribe(prefix_bits=bits, prefix=prefix, follow=False))
                while not await self._take(connection):
                    pass
        read, self._reading = self._reading, frozenset()
        self._seeker.read(read)
        await asyncio.sleep(self._rest_s)
        return 0.0

    async def _take(self, connection: Connection) -> bool:
        """Give what came; whether it was all."""
        is_all = False
        for event in await connection.events():
            match event:
                case s.Envelopes(items=items):
                    for envelope in items:
                        self._seeker.found(envelope)
                case s.CaughtUp():
                    is_all = True
        # Much of it comes at once, and others do not wait for it.
        await asyncio.sleep(0)
        return is_all
