# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes of one prefix of buckets, from one relay into the inbox.

What is asked for says as much as what is put. On a fast link everything under the prefix and the window is taken,
what is known already too, so that nobody sees by what is left out who came before. Over a radio of some kB/s that
would not do: there, what is new is asked for by name.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from relay.client.inbox import Inbox, Outcome
from relay.client.patience import Patience
from relay.client.posts import PostStore
from relay.client.worker import Worker
from relay.core import session as s
from relay.core.envelope import BUCKET_BITS, ID_BYTES, MAX_LIFETIME_HOURS, SIZES, decode_envelope, envelope_id
from relay.core.errors import DecodeError
from relay.core.messages import MAX_FETCH_IDS, OFFER_BYTES, Subscribe, Window
from relay.links.client_session import Connection, Incoming

FETCH_BYTES: Final = 1024 * 1024
SLOW_FETCH_BYTES: Final = 48 * 1024
MAX_MATCHES: Final = 65_536
"""Envelopes remembered as brought, or offers that wait, under one prefix, 100 bytes each: twice what a store of a
million has there. Envelopes beyond it are taken all the same: else who fills one bucket hides what is behind."""
MAX_UNWANTED: Final = 256
"""Envelopes that nobody asked for, before a relay that sends them is left."""
MALFORMED_KEPT_HOURS: Final = 24
"""What has the right identity and is no envelope is not asked for again so soon."""

RESUME_S: Final = 600.0
"""Sessions further apart are visits of their own, and the later one does not show that it had the earlier."""


def prefixes_of(buckets: Iterable[int], bits: int) -> list[int]:
    """Return the distinct prefixes of some buckets, in their order; one, 0, when no bit is told."""
    return list(dict.fromkeys(bucket >> (BUCKET_BITS - bits) for bucket in buckets))


@dataclass(slots=True)
class Collected:
    """What one or several sessions brought."""

    envelopes: int = 0
    """Looked at for the first time, most of them other people's."""
    kept: int = 0
    """Messages and pieces of them that are new."""
    receipts: int = 0
    posts: int = 0
    """On notice boards, that are new and hold."""
    full: int = 0
    """Messages and pieces that found no room here; relays keep them until they expire."""
    missing: int = 0
    """Asked for by their identity, and not held there."""


class Collection:
    """Reads from one relay into an inbox, over as many sessions as it takes."""

    def __init__(
        self,
        inbox: Inbox,
        posts: PostStore,
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
        self._posts = posts
        self._worker = worker
        self._clock = clock
        self._patience_s = patience_s
        self._patience = Patience(patience_s)
        self._on_progress = on_progress
        self._on_change = on_change
        self._broken: _Reading | None = None
        self._broken_at = 0.0
        self.result = Collected()

    async def run(
        self,
        connection: Connection,
        *,
        bits: int,
        prefix: int,
        window: Window,
        follow_until: float | None = None,
        on_caught_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Read all that is there of one prefix, and with `follow_until` (loop time) what comes until then.

        RelayConnectionError when the session breaks or the relay does not deliver what it offers. What was
        read until then is kept, and of this prefix the next session does not ask for it again.
        """
        loop = asyncio.get_running_loop()
        reading = _Reading(connection, bits, prefix, self._brought(bits, prefix, loop.time()))
        follow = follow_until is not None
        connection.subscribe(
            Subscribe(prefix_bits=bits, prefix=prefix, window=window, offers_only=reading.is_by_offers, follow=follow)
        )
        self._broken = reading
        patience = self._patience
        if follow:
            patience.rest()
        patience.start(loop.time())
        while True:
            if reading.is_complete:
                self._broken = None
                on_caught_up()
                if follow_until is None or loop.time() >= follow_until:
                    return
                events = await self._next(connection, follow_until)
                # From here on the relay owes what it offers next.
                patience.rest()
                patience.start(loop.time())
            else:
                if patience.is_endless(loop.time()):
                    raise connection.misbehaved("does not come to an end")
                if not (left_s := patience.left_s(loop.time())):
                    raise connection.stalled()
                events = await connection.events(left_s)
            self._broken_at = loop.time()
            if patience.brought(await self._take(reading, events), loop.time()):
                self._on_progress()
            reading.ask()

    async def fetch(self, connection: Connection, identities: Sequence[bytes]) -> None:
        """Read these alone, by which the relay knows what is looked for; RelayConnectionError when it breaks."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        waiting = set(identities)
        connection.fetch(list(waiting))
        while waiting:
            arrived: list[tuple[bytes, bytes]] = []
            # However much else it says meanwhile.
            if (left_s := until - loop.time()) <= 0:
                raise connection.stalled()
            for event in await connection.events(left_s):
                match event:
                    case s.Envelopes(items):
                        arrived += [(envelope_id(envelope), envelope) for envelope in items]
                    case s.Missing(gone):
                        self.result.missing += len(waiting & set(gone))
                        waiting -= set(gone)
            wanted = [pair for pair in arrived if pair[0] in waiting]
            waiting -= {identity for identity, _ in wanted}
            if wanted:
                changed = await self._worker.run(self._keep, wanted)
                if changed:
                    self._on_change()

    def _brought(self, bits: int, prefix: int, now: float) -> set[bytes]:
        """Return what the session that broke just now has brought of a prefix, and nothing after another one."""
        broken = self._broken
        if broken is None or (broken.bits, broken.prefix) != (bits, prefix) or now - self._broken_at > RESUME_S:
            return set()
        return broken.brought

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
                # On a fast link nobody asked for any.
                case s.Offers(items) if reading.is_by_offers:
                    offers |= {offer.identity: SIZES[offer.size_class] for offer in items}
                case s.Envelopes(items):
                    arrived = [(envelope_id(envelope), envelope) for envelope in items]
                    envelopes += [pair for pair in arrived if reading.arrived(*pair)]
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
            wanted = list(offers)
            if reading.is_slow:
                wanted = await self._worker.run(self._inbox.unseen, wanted)
            reading.want((identity, offers[identity]) for identity in wanted)
        return sum(len(envelope) for _, envelope in envelopes) + OFFER_BYTES * len(offers) + ID_BYTES * missing

    def _keep(self, envelopes: list[tuple[bytes, bytes]]) -> bool:
        """Open, keep what is for us and remember the rest, on disk when this returns. Runs in the worker."""
        now_s = self._clock()
        now_hour = int(now_s // 3600)
        latest_hour = now_hour + MAX_LIFETIME_HOURS
        # What another command has begun to read since.
        self._posts.book.refresh()
        open_post = self._posts.reader(now_hour)
        opened = []
        posts = []
        others: list[tuple[bytes, int]] = []
        unseen = set(self._inbox.unseen(identity for identity, _ in envelopes))
        for identity, envelope in envelopes:
            if identity not in unseen:
                continue
            if (one := self._inbox.try_open(envelope)) is not None:
                opened.append(one)
                continue
            if (post := open_post(envelope)) is not None:
                posts.append((identity, post))
                continue
            try:
                # A false expiry must not be remembered for years in place of true ones.
                expiry_hour = min(decode_envelope(envelope).expiry_hour, latest_hour)
            except DecodeError:
                expiry_hour = now_hour + MALFORMED_KEPT_HOURS
            others.append((identity, expiry_hour))
        outcomes = self._inbox.accept(opened, now_s) if opened else []
        of_posts = self._posts.accept([post for _, post in posts], now_s) if posts else []
        settled = {Outcome.STORED, Outcome.DUPLICATE}
        # Others not: it may be our clock that is wrong.
        others += [
            (identity, post.expiry_hour)
            for (identity, post), outcome in zip(posts, of_posts, strict=True)
            if outcome in settled
        ]
        if others:
            self._inbox.note_seen(others, self._posts.book.is_current)
        self.result.envelopes += len(unseen)
        self.result.kept += outcomes.count(Outcome.STORED)
        self.result.receipts += outcomes.count(Outcome.RECEIPT)
        self.result.posts += of_posts.count(Outcome.STORED)
        self.result.full += outcomes.count(Outcome.FULL)
        return bool({Outcome.STORED, Outcome.RECEIPT} & {*outcomes, *of_posts})


class _Reading:
    """What one session has offered, was asked for and has brought of one prefix."""

    def __init__(self, connection: Connection, bits: int, prefix: int, brought: set[bytes]) -> None:
        """`brought`: what an earlier session of the same visit has brought of it, before it broke."""
        self.connection = connection
        self.bits = bits
        self.prefix = prefix
        self.brought = brought
        self.has_all_offers = False
        self.unwanted = 0
        # By what we know ourselves: a relay on a cable that says so would see which visits were ours.
        self.is_slow = connection.address.is_bluetooth
        # What continues a broken session on a fast link names what is missing, not what there was before the visit.
        self.is_by_offers = self.is_slow or bool(brought)
        self._wanted: dict[int, deque[bytes]] = {size: deque() for size in SIZES}
        self._wanted_count = 0
        self._asked: dict[bytes, int] = {}
        self._asked_bytes = 0
        self._known: set[bytes] = set()
        self._most_bytes = SLOW_FETCH_BYTES if self.is_slow else FETCH_BYTES

    @property
    def is_complete(self) -> bool:
        """Whether all that was there at the subscription is here."""
        return self.has_all_offers and not self._wanted_count and not self._asked

    def want(self, offers: Iterable[tuple[bytes, int]]) -> None:
        for identity, size in offers:
            if identity not in self._known and identity not in self.brought and self._wanted_count < MAX_MATCHES:
                self._known.add(identity)
                self._wanted[size].append(identity)
                self._wanted_count += 1

    def ask(self) -> None:
        """Ask for more once half of what was asked for is here: the small ones first, of one size the newest."""
        if self._asked_bytes > self._most_bytes // 2:
            return
        batch: list[bytes] = []
        while self._wanted_count and len(batch) < MAX_FETCH_IDS and self._asked_bytes < self._most_bytes:
            size, identities = next(pair for pair in self._wanted.items() if pair[1])
            # In the order of the offers, which is that.
            identity = identities.popleft()
            self._wanted_count -= 1
            self._asked[identity] = size
            self._asked_bytes += size
            batch.append(identity)
        if batch:
            self.connection.fetch(batch)

    def arrived(self, identity: bytes, envelope: bytes) -> bool:
        """Note a body; False when it was not asked for, or has come before."""
        was_asked = self.gone(identity) if self.is_by_offers else self._is_under_prefix(envelope)
        self.unwanted += not was_asked
        if not was_asked or identity in self.brought:
            return False
        # Of what is fetched by name, the most comes after all of it was offered.
        if (self.is_by_offers or not self.has_all_offers) and len(self.brought) < MAX_MATCHES:
            self.brought.add(identity)
        return True

    def _is_under_prefix(self, envelope: bytes) -> bool:
        try:
            bucket = decode_envelope(envelope).bucket
        except DecodeError:
            return False
        return bucket >> (BUCKET_BITS - self.bits) == self.prefix

    def gone(self, identity: bytes) -> bool:
        """Note that nothing more is to come of this one; False when it was not asked for."""
        size = self._asked.pop(identity, None)
        if size is None:
            return False
        self._asked_bytes -= size
        self._known.discard(identity)
        return True
