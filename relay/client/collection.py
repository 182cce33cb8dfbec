# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes of one prefix of buckets, from one relay into the inbox: offered, asked for if new, checked, kept."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from relay.client.inbox import Inbox, Outcome
from relay.client.patience import Patience
from relay.client.worker import Worker
from relay.core import session as s
from relay.core.envelope import ID_BYTES, MAX_LIFETIME_HOURS, SIZES, decode_envelope, envelope_id
from relay.core.errors import DecodeError
from relay.core.messages import MAX_FETCH_IDS, MAX_PREFIX_BITS, Subscribe
from relay.links.client_session import Connection, Incoming

MATCHES_LOG2: Final = 10
"""About 1,024 envelopes are to match a prefix: enough to hide in, few enough to look at."""
MAX_BITS: Final = 8
"""However many envelopes a relay claims to have, it learns no more of a bucket than this."""
FETCH_BYTES: Final = 1024 * 1024
SLOW_FETCH_BYTES: Final = 48 * 1024
SLOW_FIRST_BYTES: Final = 16 * 1024
"""... until all was offered: relays offer about in order of arrival, and what is asked for first is old."""
MAX_WANTED: Final = 65_536
"""Offers remembered and not asked for yet, 100 bytes each; the rest is found the next time."""
MAX_UNWANTED: Final = 256
"""Envelopes that nobody asked for, before a relay that sends them is left."""
MALFORMED_KEPT_HOURS: Final = 24
"""What has the right identity and is no envelope is not asked for again so soon."""


def prefix_bits(stored_log2: int) -> int:
    """Return how many bits of a bucket to tell a relay that holds about 2^`stored_log2` envelopes."""
    return max(0, min(stored_log2 - MATCHES_LOG2, MAX_BITS))


def prefixes_of(buckets: Iterable[int], bits: int) -> list[int]:
    """Return the distinct prefixes of some buckets, in their order; one, 0, when no bit is told."""
    return list(dict.fromkeys(bucket >> (MAX_PREFIX_BITS - bits) for bucket in buckets))


@dataclass(slots=True)
class Collected:
    """What one or several sessions brought."""

    envelopes: int = 0
    """Looked at, most of them other people's."""
    kept: int = 0
    """Messages and pieces of them that are new."""
    receipts: int = 0
    full: int = 0
    """Messages and pieces that found no room here; relays keep them until they expire."""


class Collection:
    """Reads from one relay into an inbox, over as many sessions as it takes."""

    def __init__(
        self,
        inbox: Inbox,
        worker: Worker,
        *,
        clock: Callable[[], float],
        patience_s: float,
        on_progress: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        """`patience_s`: how long a relay may owe something.

        `on_progress` is told when enough came to go on with this relay, `on_change` when something was for us.
        """
        self._inbox = inbox
        self._worker = worker
        self._clock = clock
        self._patience_s = patience_s
        self._on_progress = on_progress
        self._on_change = on_change
        self.result = Collected()

    async def run(
        self,
        connection: Connection,
        *,
        bits: int,
        prefix: int,
        within_hours: int,
        follow_until: float | None = None,
    ) -> None:
        """Read all that is there of one prefix, and with `follow_until` (loop time) what comes until then.

        RelayConnectionError when the session breaks or the relay does not deliver what it offers. What was
        read until then is kept.
        """
        reading = _Reading(connection)
        follow = follow_until is not None
        # Offers only: nothing is downloaded twice, and an envelope that nobody asked for is known as such.
        connection.subscribe(
            Subscribe(
                prefix_bits=bits, prefix=prefix, arrived_within_hours=within_hours, offers_only=True, follow=follow
            )
        )
        loop = asyncio.get_running_loop()
        patience = Patience(self._patience_s, loop.time())
        while True:
            if reading.is_complete:
                if follow_until is None or loop.time() >= follow_until:
                    return
                events = await self._next(connection, follow_until)
                # From here on the relay owes what it offers next.
                patience.restart(loop.time())
            else:
                if patience.is_endless(loop.time()):
                    raise connection.misbehaved("does not come to an end")
                if not (left_s := patience.left_s(loop.time())):
                    raise connection.stalled()
                events = await connection.events(left_s)
            if patience.brought(await self._take(reading, events), loop.time()):
                self._on_progress()
            reading.ask()

    async def _next(self, connection: Connection, until: float) -> list[Incoming]:
        """Return what comes next, or nothing when the time is over first."""
        try:
            async with asyncio.timeout_at(until):
                return await connection.events()
        except TimeoutError:
            return []

    async def _take(self, reading: "_Reading", events: Iterable[Incoming]) -> int:
        """Act on events; return how many bytes they brought of what was asked for."""
        offers: dict[bytes, int] = {}
        envelopes: list[tuple[bytes, bytes]] = []
        missing = 0
        for event in events:
            match event:
                case s.Offers(items):
                    offers |= {offer.identity: SIZES[offer.size_class] for offer in items}
                case s.Envelopes(items):
                    arrived = [(envelope_id(envelope), envelope) for envelope in items]
                    envelopes += [pair for pair in arrived if reading.arrived(pair[0])]
                case s.Missing(identities):
                    for identity in identities:
                        missing += reading.gone(identity)
                case s.CaughtUp():
                    reading.has_all_offers = True
        if reading.unwanted > MAX_UNWANTED:
            raise reading.connection.misbehaved("sends envelopes that nobody asked for")
        if envelopes:
            changed = await self._worker.run(self._keep, envelopes)
            if changed:
                self._on_change()
        if offers:
            unseen = await self._worker.run(self._inbox.unseen, list(offers))
            reading.want((identity, offers[identity]) for identity in unseen)
        return sum(len(envelope) for _, envelope in envelopes) + ID_BYTES * (missing + len(offers))

    def _keep(self, envelopes: list[tuple[bytes, bytes]]) -> bool:
        """Open, keep what is for us and remember the rest, on disk when this returns. Runs in the worker."""
        now_s = self._clock()
        now_hour = int(now_s // 3600)
        latest_hour = now_hour + MAX_LIFETIME_HOURS
        opened = []
        others: list[tuple[bytes, int]] = []
        for identity, envelope in envelopes:
            if (one := self._inbox.try_open(envelope)) is not None:
                opened.append(one)
                continue
            try:
                # A false expiry must not be remembered for years in place of true ones.
                expiry_hour = min(decode_envelope(envelope).expiry_hour, latest_hour)
            except DecodeError:
                expiry_hour = now_hour + MALFORMED_KEPT_HOURS
            others.append((identity, expiry_hour))
        outcomes = self._inbox.accept(opened, now_s) if opened else []
        if others:
            self._inbox.note_seen(others)
        self.result.envelopes += len(envelopes)
        self.result.kept += outcomes.count(Outcome.STORED)
        self.result.receipts += outcomes.count(Outcome.RECEIPT)
        self.result.full += outcomes.count(Outcome.FULL)
        return bool({Outcome.STORED, Outcome.RECEIPT} & set(outcomes))


class _Reading:
    """What one session has offered, was asked for and has brought."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.has_all_offers = False
        self.unwanted = 0
        self._wanted: dict[int, list[bytes]] = {size: [] for size in SIZES}
        self._wanted_count = 0
        self._asked: dict[bytes, int] = {}
        self._asked_bytes = 0
        self._known: set[bytes] = set()
        is_slow = connection.hello.slow
        self._most_bytes = SLOW_FETCH_BYTES if is_slow else FETCH_BYTES
        self._first_bytes = SLOW_FIRST_BYTES if is_slow else FETCH_BYTES

    @property
    def owes_nothing(self) -> bool:
        return not self._wanted_count and not self._asked

    @property
    def is_complete(self) -> bool:
        """Whether all that was there at the subscription is here."""
        return self.has_all_offers and self.owes_nothing

    def want(self, offers: Iterable[tuple[bytes, int]]) -> None:
        for identity, size in offers:
            if identity not in self._known and self._wanted_count < MAX_WANTED:
                self._known.add(identity)
                self._wanted[size].append(identity)
                self._wanted_count += 1

    def ask(self) -> None:
        """Ask for more once half of what was asked for is here: the small ones first, of one size the newest."""
        most_bytes = self._most_bytes if self.has_all_offers else self._first_bytes
        if self._asked_bytes > most_bytes // 2:
            return
        batch: list[bytes] = []
        while self._wanted_count and len(batch) < MAX_FETCH_IDS and self._asked_bytes < most_bytes:
            size, identities = next(pair for pair in self._wanted.items() if pair[1])
            identity = identities.pop()
            self._wanted_count -= 1
            self._asked[identity] = size
            self._asked_bytes += size
            batch.append(identity)
        if batch:
            self.connection.fetch(batch)

    def arrived(self, identity: bytes) -> bool:
        """Note a body; False when it was not asked for."""
        was_asked = self.gone(identity)
        self.unwanted += not was_asked
        return was_asked

    def gone(self, identity: bytes) -> bool:
        """Note that nothing more is to come of this one; False when it was not asked for."""
        size = self._asked.pop(identity, None)
        if size is None:
            return False
        self._asked_bytes -= size
        self._known.discard(identity)
        return True
