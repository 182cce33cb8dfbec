# SPDX-License-Identifier: GPL-2.0-or-later
"""The way to one relay and back: delivers to it, collects from it, stays with it; connects again when it breaks.

What a relay learns is kept small here: messages, purges and reading go in sessions of their own, each with
fresh keys, and one session never asks for two prefixes of buckets (docs/protocol.md section 6).
"""

import asyncio
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relay.client.collection import Collected, Collection, prefix_bits, prefixes_of
from relay.client.delivery import Delivered, Delivery, Part
from relay.client.finding import RelayFinder
from relay.client.identity import Identity
from relay.client.inbox import Inbox
from relay.client.met import Given, RelaysMet
from relay.client.outbox import Acknowledged, Outbox
from relay.client.seal import buckets_to_read
from relay.client.worker import Worker
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
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Plan:
    """What to offer a relay, each part in a session of its own."""

    parts: tuple[Part, ...]
    has_everything: bool


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
        self._met = met
        self._worker = worker
        self._finder = finder
        self._clock = clock
        self._patience_s = patience_s
        self._on_change = on_change
        self._draw = random.SystemRandom()
        self._answering: set[RelayAddress] = set()

    # -- out --------------------------------------------------------------

    def plan(self, address: RelayAddress, *, again: bool) -> Plan:
        """Return what to offer a relay: everything when it was not today already. Runs in the worker.

        `again` offers a relay that was today also what relays have only in memory.
        """
        now_s = self._clock()
        given = self._met.given(address, now_s)
        parts = (self._part(given, now_s, purges=purges, again=again) for purges in (False, True))
        return Plan(
            parts=tuple(part for part in parts if part.ids or part.elsewhere),
            has_everything=given is not Given.TODAY,
        )

    def _part(self, given: Given, now_s: float, *, purges: bool, again: bool) -> Part:
        pending = functools.partial(self._outbox.pending_ids, now_s, purges=purges)
        match given:
            case Given.TODAY:
                return Part(ids=pending(at_most=Acknowledged.VOLATILE if again else Acknowledged.NO))
            case Given.BEFORE:
                return Part(ids=pending())
            case Given.NEVER:
                # A visit here may have broken off, or the last one was at a relay that has met this one.
                return Part(
                    ids=pending(at_most=Acknowledged.VOLATILE), elsewhere=pending(at_least=Acknowledged.DURABLE)
                )

    async def deliver(self, address: RelayAddress, plan: Plan, on_progress: Callable[[Delivered], None]) -> Delivered:
        """Offer all of a plan; RelayConnectionError when the relay is gone for longer than patience."""
        began_s = self._clock()
        result = Delivered()
        retry = Retry(address, self._patience_s, self._draw, self._answering)
        is_one_relay = True

        def progressed() -> None:
            retry.progressed()
            on_progress(result)

        deliveries = [
            Delivery(
                part,
                self._outbox,
                self._inbox,
                self._worker,
                result=result,
                patience_s=self._patience_s,
                on_progress=progressed,
            )
            for part in plan.parts
        ]
        for delivery in deliveries:
            while not delivery.is_done:
                try:
                    async with await self._finder.connect(address) as connection:
                        retry.connected()
                        await delivery.run(connection)
                except RelayConnectionError as error:
                    # By Bluetooth the next connection may be with another relay.
                    is_one_relay = not address.is_bluetooth
                    await retry.wait_after(error)
        if plan.has_everything and is_one_relay:
            await self._worker.run(self._met.note_given, address, began_s)
        return result

    # -- in ---------------------------------------------------------------

    async def collect(self, address: RelayAddress) -> Collected:
        """Read what is there for us; RelayConnectionError when the relay is gone for longer than patience.

        Nothing, without a connection, when a relay advertises that nothing came since we were there.
        """
        began_s = self._clock()
        if not await self._finder.has_news(address, await self._worker.run(self._met.news, began_s)):
            return Collected()
        hours = await self._worker.run(self._met.hours_to_read, address, began_s)
        retry = Retry(address, self._patience_s, self._draw, self._answering)
        collection = self._collection(retry.progressed)
        reading: _Reading | None = None
        news: bytes | None = None
        is_whole = True
        while reading is None or reading.prefixes:
            try:
                async with await self._finder.connect(address) as connection:
                    retry.connected()
                    reading = reading or self._reading(connection)
                    prefix = reading.prefixes[-1]
                    await collection.run(connection, bits=reading.bits, prefix=prefix, within_hours=hours)
                    reading.prefixes.pop()
                    # Of several sessions that of the first: what came since, that one has not seen.
                    news = news or connection.first_news
            except RelayConnectionError as error:
                # The next connection may be with another relay.
                is_whole = False
                await retry.wait_after(error)
        if not collection.result.full:
            await self._worker.run(self._met.note_read, address, began_s)
            if news is not None and is_whole:
                await self._worker.run(self._met.note_news, news, began_s)
        return collection.result

    async def follow(
        self, address: RelayAddress, on_open: Callable[[], None], on_trouble: Callable[[RelayConnectionError], None]
    ) -> None:
        """Stay subscribed to today's bucket until the day is over, reading those of other days now and then.

        RelayConnectionError when the session breaks; `on_trouble` hears of other sessions that did.
        """
        began_s = self._clock()
        hours = await self._worker.run(self._met.hours_to_read, address, began_s)
        loop = asyncio.get_running_loop()
        failed: RelayConnectionError | None = None
        async with await self._finder.connect(address) as connection, TaskGroup() as tasks:
            on_open()
            reading = self._reading(connection)
            others = [prefix for prefix in reading.prefixes if prefix != reading.today]
            until = loop.time() + _DAY_S - began_s % _DAY_S + self._draw.uniform(0, HANDOVER_SPREAD_S)
            cycling = tasks.create_task(self._cycle(address, reading.bits, others, hours, on_trouble))
            try:
                await self._collection().run(
                    connection, bits=reading.bits, prefix=reading.today, within_hours=hours, follow_until=until
                )
            except RelayConnectionError as error:
                # Told apart from the group, which is for what nobody expects.
                failed = error
            cycling.cancel()
        if failed is not None:
            raise failed

    async def _cycle(
        self,
        address: RelayAddress,
        bits: int,
        prefixes: list[int],
        within_hours: int,
        on_trouble: Callable[[RelayConnectionError], None],
    ) -> None:
        while prefixes:
            self._draw.shuffle(prefixes)
            for prefix in prefixes:
                try:
                    async with await self._finder.connect(address) as connection:
                        await self._collection().run(connection, bits=bits, prefix=prefix, within_hours=within_hours)
                except RelayConnectionError as error:
                    on_trouble(error)
            await asyncio.sleep(CYCLE_S * self._draw.uniform(0.75, 1.25))

    def _collection(self, on_progress: Callable[[], None] = lambda: None) -> Collection:
        return Collection(
            self._inbox,
            self._worker,
            clock=self._clock,
            patience_s=self._patience_s,
            on_progress=on_progress,
            on_change=self._on_change,
        )

    def _reading(self, connection: Connection) -> _Reading:
        bits = prefix_bits(connection.hello.stored_log2)
        buckets = buckets_to_read(self._identity.rendezvous, int(self._clock() // 3600))
        prefixes = prefixes_of(buckets, bits)
        today = prefixes[0]
        # In any fixed order, days could be told from sessions.
        self._draw.shuffle(prefixes)
        return _Reading(bits=bits, today=today, prefixes=prefixes)
