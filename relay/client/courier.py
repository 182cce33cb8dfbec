# SPDX-License-Identifier: GPL-2.0-or-later
"""The way to one relay and back: delivers to it, collects from it, stays with it; connects again when it breaks.

What a relay learns is kept small here: messages, purges and reading go in sessions of their own, each with
fresh keys, and one session never asks for two prefixes of buckets (docs/protocol.md section 6).
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from relay.client.collection import Collected, Collection, prefixes_of
from relay.client.delivery import Delivered, Delivery
from relay.client.finding import RelayFinder
from relay.client.identity import Identity
from relay.client.inbox import Inbox
from relay.client.met import DAY_S, RelaysMet
from relay.client.outbox import Outbox
from relay.client.posts import PostStore
from relay.client.seal import buckets_to_read
from relay.client.worker import Worker
from relay.core.envelope import BUCKET_BITS
from relay.core.messages import Window
from relay.links.address import RelayAddress
from relay.links.client_session import Connection, Failure, RelayConnectionError
from relay.process.supervisor import Backoff
from relay.process.tasks import TaskGroup

FIRST_RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 10.0
CYCLE_S: Final = 240.0
"""How often the buckets of other days are read while following today's; give or take a quarter."""
HANDOVER_SPREAD_S: Final = 600.0
"""After midnight, in which clients go over to the new day's bucket: at once, it would tell their clocks apart."""
_HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class _Read:
    """When a prefix was read from a relay last, by the clock: with window ALL, and at all."""

    all_s: float
    last_s: float | None = None


@dataclass(slots=True)
class _Reading:
    """The prefixes of `bits` bits that are still to be read, in random order; `today` is the likeliest."""

    bits: int
    today: int
    prefixes: list[int]


class Retry:
    """When to try a relay again: for as long as there is progress now and then."""

    def __init__(
        self, address: RelayAddress, patience_s: float, draw: random.Random, answering: set[RelayAddress]
    ) -> None:
        """Give up `patience_s` after the last progress; `answering`, kept here, are the relays that are there."""
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._patience_s = patience_s
        self._answering = answering
        self._progressed_at = self._loop.time()
        self._backoff = retry_delays(draw)

    def connected(self) -> None:
        """Note that the relay is there at all: from now on a failure may pass."""
        self._answering.add(self._address)

    def progressed(self) -> None:
        """Note that something got through."""
        self._progressed_at = self._loop.time()
        self._backoff.reset()

    async def wait_after(self, error: RelayConnectionError) -> None:
        """Wait a little, longer each time, or raise the error again when there is no point."""
        is_over = self._loop.time() - self._progressed_at >= self._patience_s
        is_there = self._address in self._answering
        may_pass = error.is_retryable and is_there
        if self._address.is_bluetooth:
            # The next one may be another relay, and a radio's hiccup looks like anything.
            may_pass = error.failure is not Failure.UNREACHABLE or is_there
        if is_over or not may_pass:
            self._answering.discard(self._address)
            raise error
        await asyncio.sleep(self._backoff.next())


def retry_delays(draw: random.Random) -> Backoff:
    """Return how long a client waits between its tries."""
    return Backoff(draw.random, first_s=FIRST_RETRY_S, max_s=MAX_RETRY_S)


class Courier:
    """Goes between the outbox and inbox of one identity and one relay at a time."""

    def __init__(
        self,
        *,
        identity: Identity,
        outbox: Outbox,
        inbox: Inbox,
        posts: PostStore,
        met: RelaysMet,
        worker: Worker,
        finder: RelayFinder,
        clock: Callable[[], float],
        patience_s: float,
        on_change: Callable[[], None],
    ) -> None:
        """`clock` gives Unix seconds; `on_change` is told when something came that was for us."""
        self._identity = identity
        self._outbox = outbox
        self._inbox = inbox
        self._posts = posts
        self._met = met
        self._worker = worker
        self._finder = finder
        self._clock = clock
        self._patience_s = patience_s
        self._on_change = on_change
        self._draw = random.SystemRandom()
        self._answering: set[RelayAddress] = set()
        #: Of followed relays: what a session that broke has brought, and which prefixes were read when.
        self._following: dict[RelayAddress, Collection] = {}
        self._read: dict[tuple[RelayAddress, int, int], _Read] = {}
        #: Of the bulletins that were read so.
        self._book_state = posts.book.state

    # -- out --------------------------------------------------------------

    def errands(self, address: RelayAddress, *, again: bool) -> list[Sequence[int]]:
        """Return what to offer a relay, each list in a session of its own; `again` what relays have, too.

        Runs in the worker.
        """
        return self._outbox.errands(self._clock(), again=again, large_again=not address.is_bluetooth)

    async def deliver(
        self, address: RelayAddress, errands: list[Sequence[int]], on_progress: Callable[[Delivered], None]
    ) -> Delivered:
        """Offer all of this; RelayConnectionError when the relay is gone for longer than patience."""
        result = Delivered()
        retry = Retry(address, self._patience_s, self._draw, self._answering)

        def progressed() -> None:
            retry.progressed()
            on_progress(result)

        deliveries = [
            Delivery(
                ids,
                self._outbox,
                self._inbox,
                self._worker,
                result=result,
                clock=self._clock,
                patience_s=self._patience_s,
                on_progress=progressed,
            )
            for ids in errands
        ]
        for delivery in deliveries:
            while not delivery.is_done:
                try:
                    async with await self._finder.connect(address) as connection:
                        retry.connected()
                        await delivery.run(connection)
                except RelayConnectionError as error:
                    await retry.wait_after(error)
        return result

    # -- in ---------------------------------------------------------------

    async def collect(self, address: RelayAddress) -> Collected:
        """Read what is there for us; RelayConnectionError when the relay is gone for longer than patience."""
        await self._refresh_book()
        began_s = self._clock()
        window = await self._worker.run(self._met.window, address, began_s)
        retry = Retry(address, self._patience_s, self._draw, self._answering)
        collection = self._collection(retry.progressed)
        reading: _Reading | None = None
        while reading is None or reading.prefixes:
            try:
                async with await self._finder.connect(address) as connection:
                    retry.connected()
                    reading = reading or self._reading(connection)
                    prefix = reading.prefixes[-1]
                    await collection.run(connection, bits=reading.bits, prefix=prefix, window=window)
                    reading.prefixes.pop()
            except RelayConnectionError as error:
                await retry.wait_after(error)
        if not collection.result.full and window is Window.ALL:
            await self._worker.run(self._note_read_all, address, began_s)
        return collection.result

    async def fetch(self, address: RelayAddress, identities: Sequence[bytes]) -> Collected:
        """Read these envelopes alone; RelayConnectionError when the relay cannot be used."""
        await self._refresh_book()
        collection = self._collection()
        async with await self._finder.connect(address) as connection:
            await collection.fetch(connection, identities)
        return collection.result

    def _note_read_all(self, address: RelayAddress, began_s: float) -> None:
        # Of a bulletin that another command has begun to read meanwhile it was not all.
        if self._posts.book.is_current():
            self._met.note_read_all(address, began_s)

    async def follow(
        self, address: RelayAddress, on_open: Callable[[], None], on_trouble: Callable[[RelayConnectionError], None]
    ) -> None:
        """Stay subscribed to today's bucket until the day is over, reading those of other days now and then.

        RelayConnectionError when the session breaks; `on_trouble` hears of other sessions that did.
        """
        await self._refresh_book()
        began_s = self._clock()
        loop = asyncio.get_running_loop()
        failed: RelayConnectionError | None = None
        collection = self._following.setdefault(address, self._collection())
        async with await self._finder.connect(address) as connection, TaskGroup() as tasks:
            on_open()
            reading = self._reading(connection)
            until = loop.time() + DAY_S - began_s % DAY_S + self._draw.uniform(0, HANDOVER_SPREAD_S)
            cycling = tasks.create_task(
                self._cycle(address, connection.hello.prefix_bits, reading, int(began_s // _HOUR_S), on_trouble)
            )
            window = await self._window(address, reading.bits, reading.today)
            caught_up = asyncio.Event()
            full = collection.result.full
            try:
                await collection.run(
                    connection,
                    bits=reading.bits,
                    prefix=reading.today,
                    window=window,
                    follow_until=until,
                    on_caught_up=caught_up.set,
                )
            except RelayConnectionError as error:
                # Told apart from the group, which is for what nobody expects.
                failed = error
            if caught_up.is_set() and collection.result.full == full:
                await self._note_read(address, reading.bits, reading.today, window, began_s, self._clock())
            cycling.cancel()
        if failed is not None:
            raise failed

    async def _cycle(
        self,
        address: RelayAddress,
        most_bits: int,
        followed: _Reading,
        hour: int,
        on_trouble: Callable[[RelayConnectionError], None],
    ) -> None:
        """Read the prefixes of that hour but the one that is followed, which has no news of what is there already."""
        known = self._book_state
        while True:
            await self._refresh_book()
            bits, prefixes = self._prefixes(most_bits, hour)
            if (known, followed.bits) == (self._book_state, bits):
                prefixes = [prefix for prefix in prefixes if prefix != followed.today]
            self._draw.shuffle(prefixes)
            for prefix in prefixes:
                collection = self._collection()
                began_s = self._clock()
                try:
                    async with await self._finder.connect(address) as connection:
                        window = await self._window(address, bits, prefix)
                        await collection.run(connection, bits=bits, prefix=prefix, window=window)
                except RelayConnectionError as error:
                    on_trouble(error)
                else:
                    if not collection.result.full:
                        await self._note_read(address, bits, prefix, window, began_s, began_s)
            await asyncio.sleep(CYCLE_S * self._draw.uniform(0.75, 1.25))

    async def _window(self, address: RelayAddress, bits: int, prefix: int) -> Window:
        """Return which arrivals a follower asks for: those of an hour only while it stays with a relay."""
        now_s = self._clock()
        read = self._read.get((address, bits, prefix))
        if read is None or not 0 <= now_s - read.all_s < DAY_S:
            return await self._worker.run(self._met.window, address, now_s)
        if read.last_s is not None and 0 <= now_s - read.last_s < _HOUR_S:
            return Window.HOUR
        return Window.DAY

    async def _note_read(
        self, address: RelayAddress, bits: int, prefix: int, window: Window, began_s: float, last_s: float
    ) -> None:
        """Note that a prefix was read, beginning at `began_s`, and that nothing of it was missed until `last_s`."""
        before = self._read.get((address, bits, prefix))
        if window is Window.ALL:
            all_s: float | None = began_s
        elif before is not None:
            all_s = before.all_s
        else:
            all_s = await self._worker.run(self._met.read_all_s, address)
        if all_s is not None:
            self._read[address, bits, prefix] = _Read(all_s=all_s, last_s=last_s)

    def _collection(self, on_progress: Callable[[], None] = lambda: None) -> Collection:
        return Collection(
            self._inbox,
            self._posts,
            self._worker,
            clock=self._clock,
            patience_s=self._patience_s,
            on_progress=on_progress,
            on_change=self._on_change,
        )

    def _reading(self, connection: Connection) -> _Reading:
        bits, prefixes = self._prefixes(connection.hello.prefix_bits, int(self._clock() // _HOUR_S))
        today = prefixes[0]
        # In any fixed order, days could be told from sessions.
        self._draw.shuffle(prefixes)
        return _Reading(bits=bits, today=today, prefixes=prefixes)

    def _prefixes(self, most_bits: int, hour: int) -> tuple[int, list[int]]:
        """Return how many bits to tell, and the prefixes to read, today's first."""
        if self._posts.book:
            # By their buckets, whoever has the card of one would know that it is read here.
            return 0, [0]
        # However many envelopes a relay claims to have, it learns no more of a bucket than stands in each of them.
        bits = min(most_bits, BUCKET_BITS)
        return bits, prefixes_of(buckets_to_read(self._identity.rendezvous, hour), bits)

    async def _refresh_book(self) -> None:
        """Hear of bulletins that the user reads from now on: of these, what was read before is not known."""
        await self._worker.run(self._posts.book.refresh)
        if self._book_state != self._posts.book.state:
            self._book_state = self._posts.book.state
            self._read.clear()
