# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves what :class:`Keeper` decides between Berty's members, who are peers of our host, and this machine's store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NoReturn

from relay.core.envelope import envelope_id
from relay.core.errors import DecodeError
from relay.libp2p.berty import DIRECT_PROTOCOL, MAX_SEAL_BYTES, KeptBlock, KeptSeal, name_of, order_at
from relay.libp2p.bitswap import UnavailableError
from relay.libp2p.cid import raw
from relay.libp2p.connection import Budget, Messages, StreamError
from relay.libp2p.gossipsub import Subscribed
from relay.libp2p.keeper import Keeper
from relay.libp2p.live import GATEWAY, KIND, Pace, seal_live
from relay.links.named_store import NamedStore
from relay.process.gateway_client import GatewayClient
from relay.process.link_socket import Gateway
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from relay.core.messages import LiveDatagram
    from relay.core.named import Name
    from relay.libp2p.bitswap import Bitswap
    from relay.libp2p.connection import Stream
    from relay.libp2p.dht import Records
    from relay.libp2p.envelopes import Envelopes
    from relay.libp2p.gossipsub import Event, Gossipsub, Received
    from relay.libp2p.gossipsub_message import Published
    from relay.libp2p.host import Host
    from relay.libp2p.keeper import Kept, Place, Seal
    from relay.libp2p.pubsub import Pubsub

#: Until a receiver has read a seal, or said that it did not.
GIVE_S: Final = 5.0
#: Seals by the direct channel that are being taken, of one address and of all, and parts of such that are not whole.
MAX_GIVERS_OF_ADDRESS: Final = 16
MAX_GIVERS: Final = 256
MAX_HELD_BYTES: Final = 4 << 20
#: So long a giver has to send one. Who gave what is not kept has no answer, as each end of the stream would be one.
TAKE_S: Final = 60.0
#: Seals of topics that wait to be wrapped, the newest of each sender, and what was said at other relays.
MAX_PENDING: Final = 256
#: Blocks that are fetched, and kept, at a time.
FETCHERS: Final = 8
FETCH_S: Final = 20.0
WRAPPERS: Final = 2
TICK_S: Final = 1.0
_QUEUED_S: Final = 0.5
_EXPIRE_TICKS: Final = 60
#: Several members come at once; the next few wait so long.
READ_REST_S: Final = 1.0
MAX_DELAY_S: Final = 10.0


class Members:
    """Of one host; `run` has to run, and `attach` to be called before it listens."""

    def __init__(
        self,
        host: Host,
        envelopes: Envelopes,
        *,
        path: Path,
        secret: bytes | None,
        random: Callable[[], float],
        count: Callable[..., None],
    ) -> None:
        """``path``: link.sock. ``secret`` (32 bytes): the mesh's, where it is known here."""
        self._host = host
        self._envelopes = envelopes
        self._count = count
        self._loop = asyncio.get_running_loop()
        self.keeper = Keeper(count=count)
        self._store = NamedStore(
            self,
            path=path,
            secret=secret,
            random=random,
            on_lost=lambda: count("kept_relay_lost"),
            rest_s=READ_REST_S,
            max_delay_s=MAX_DELAY_S,
        )
        self._random = random
        self._relays = GatewayClient(
            path,
            Gateway(name=GATEWAY, kinds=frozenset({KIND})),
            on_live=self._on_live,
            on_clock=lambda _: None,
        )
        # Who brings a backlog of blocks leaves room for what others announce.
        self._paces = {kind: Pace(self._loop.time()) for kind in (KeptSeal, KeptBlock)}
        self._budget = Budget(MAX_HELD_BYTES)
        self._givers: Counter[str] = Counter()
        #: Of each who is there, what wakes the task that gives him seals.
        self._wakes: dict[bytes, asyncio.Event] = {}
        self._is_queued = asyncio.Event()
        self._pending: dict[tuple[str, bytes], Kept] = {}
        self._is_pending = asyncio.Event()
        self._reading = asyncio.Semaphore(1)
        host.handlers[DIRECT_PROTOCOL] = self._on_direct
        host.on_identified.append(self._on_identified)
        host.on_returned.append(self._on_returned)

    def attach(self, bitswap: Bitswap, router: Gossipsub, pubsub: Pubsub, records: Records) -> None:
        """Take the other parts of the host."""
        self._bitswap = bitswap
        self._router = router
        self._pubsub = pubsub
        self._records = records

    # -- topics -----------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Something happened on a topic."""
        if not isinstance(event, Subscribed):
            self._on_published(event)
        elif event.joined:
            self._subscribed(event.peer, [event.topic])
        else:
            self.keeper.left(event.peer, event.topic, self._loop.time())
            if event.peer not in self.keeper and (wake := self._wakes.pop(event.peer, None)) is not None:
                wake.set()

    def _on_identified(self, peer: bytes) -> None:
        # What it subscribed to before it said who it is.
        self._subscribed(peer, sorted(self._router.topics_of(peer)))
        self._pubsub.flush()

    def _on_returned(self, peer: bytes) -> None:
        self.keeper.returned(peer, self._loop.time())
        self._stir()

    def _subscribed(self, peer: bytes, topics: list[str]) -> None:
        connection = self._host.identified(peer)
        # Relays have what they have from each other in other ways. And who has not said yet what he is may be one.
        if connection is None or connection.is_relay:
            return
        now = self._loop.time()
        kept = [t for t in topics if self.keeper.subscribed(peer, t, address=connection.address, now=now)]
        if not kept:
            return
        for topic in kept:
            self._router.subscribe(topic)
        if peer not in self._wakes:
            for digest in self._records.of_peer(peer):
                self.keeper.provided(digest, peer)
            self._wakes[peer] = asyncio.Event()
            self._host.spawn(self._attend(peer, self._wakes[peer]))
        self._store.look()
        self._look_again(self.keeper.sharing(peer))
        self._stir()

    def _on_published(self, event: Received) -> None:
        message, connection = event.message, self._host.connection(event.source)
        sender = self._host.identified(message.sender)
        if connection is None or (sender is not None and sender.is_relay):
            return
        try:
            kept = self._take(message.data, message.sender, connection.address, message)
        except DecodeError:
            self._count("seals_malformed")
            return
        for each in kept or ():
            self._put_soon(each)

    def _take(self, payload: bytes, peer: bytes, address: str, message: Published | None) -> list[Kept] | None:
        kept = self.keeper.take_seal(
            payload,
            peer=peer,
            address=address,
            topic=None if message is None else message.topic,
            order=order_at(time.time()) if message is None else int.from_bytes(message.seqno[:8]),
            now=self._loop.time(),
        )
        self._stir()
        return kept

    def _put_soon(self, kept: Kept) -> None:
        """Put it soon; of a seal that waits already, the newer one alone: it has what that one had."""
        if kept.key not in self._pending and len(self._pending) >= MAX_PENDING:
            self._count("live_refused" if kept.is_told else "seals_limited")
            return
        self._pending[kept.key] = kept
        self._is_pending.set()

    async def _put_pending(self) -> NoReturn:
        while True:
            await self._is_pending.wait()
            if not self._pending:
                self._is_pending.clear()
                continue
            await self._put(self._pending.pop(next(iter(self._pending))))

    # -- other relays -----------------------------------------------------------------

    def _say(self, kept: Kept) -> None:
        """Tell members at other relays of something at once; the store brings it to where this does not reach."""
        datagram = seal_live(kept.content.encode(), name_of(kept.topic))
        if datagram is None:
            self._count("live_too_long")
        elif not self._paces[type(kept.content)].may_say(len(datagram.data), self._loop.time()):
            self._count("live_limited")
        else:
            self._count("live_sent" if self._relays.send(datagram) else "live_lost")

    def _on_live(self, datagram: LiveDatagram) -> None:
        try:
            kept = self.keeper.heard(datagram, self._loop.time())
        except DecodeError:
            self._count("live_untrue")
            return
        if kept is not None:
            # Into the store of this machine, so that it is served here: the same envelopes as there.
            self._put_soon(kept)
            self._stir()

    # -- the direct channel -----------------------------------------------------------

    async def _on_direct(self, stream: Stream) -> None:
        """Take a seal; the end of the stream says that it is kept, and survives a kill -9."""
        address = stream.connection.address
        if self._givers[address] >= MAX_GIVERS_OF_ADDRESS or self._givers.total() >= MAX_GIVERS:
            self._count("seals_limited")
            await asyncio.sleep(TAKE_S)
            stream.reset()
            return
        self._givers[address] += 1
        try:
            async with asyncio.timeout(TAKE_S):
                is_kept = await self._keep_direct(stream)
        except DecodeError:
            self._count("seals_malformed")
            raise
        finally:
            self._givers[address] -= 1
            if not self._givers[address]:
                del self._givers[address]
        if not is_kept:
            await asyncio.sleep(TAKE_S)
            stream.reset()

    async def _keep_direct(self, stream: Stream) -> bool:
        messages = Messages(stream, MAX_SEAL_BYTES, self._budget)
        try:
            payload = await messages.next()
        finally:
            messages.close()
        if payload is None:
            return False
        connection = self._host.identified(stream.peer)
        if connection is not None and connection.is_relay:
            return True
        kept = self._take(payload, stream.peer, stream.connection.address, None)
        stream.connection.useful_s = self._loop.time()
        return kept is not None and all([await self._put(each) for each in kept])

    async def _attend(self, peer: bytes, wake: asyncio.Event) -> None:
        """Give a member what is for him, for as long as he is there."""
        while self._wakes.get(peer) is wake:
            wake.clear()
            seal, due_s = self.keeper.next_offer(peer, self._loop.time())
            if seal is not None:
                taken = await self._give(peer, seal.kept.payload)
                self.keeper.offered(peer, seal, taken=taken, now=self._loop.time())
                continue
            try:
                async with asyncio.timeout_at(due_s):
                    await wake.wait()
            except TimeoutError:
                continue

    async def _give(self, peer: bytes, payload: bytes) -> bool:
        """Give a seal; whether it was read: then the receiver ends or resets the stream."""
        try:
            stream = await self._host.open(peer, [DIRECT_PROTOCOL])
        except StreamError:
            return False
        try:
            async with asyncio.timeout(GIVE_S):
                await stream.send(payload)
                stream.end()
                try:
                    while await stream.read():
                        pass
                except StreamError:
                    # It does not say so when it is the connection that ended: then he comes again, and is offered it.
                    pass
                return True
        except (StreamError, TimeoutError):
            stream.reset()
            return False
        finally:
            stream.connection.close_stream(stream)

    def _stir(self) -> None:
        """Have what is new be given and fetched."""
        if self.keeper.has_offers:
            self.keeper.has_offers = False
            for wake in self._wakes.values():
                wake.set()
        if self.keeper.is_anything_queued:
            self._is_queued.set()

    # -- the store --------------------------------------------------------------------

    async def _put(self, kept: Kept) -> bool:
        """Put something into the store; whether it holds it."""
        if not kept.is_told:
            self._say(kept)
        await self._store.met()
        hour = self.keeper.hour = self._store.hour()
        envelopes = await asyncio.to_thread(kept.wrap, hour)
        if not await self._store.put(envelopes):
            self._count("kept_refused")
            return False
        identities = tuple(envelope_id(envelope) for envelope in envelopes)
        self.keeper.stored(kept, identities, hour, self._loop.time())
        self._tell_arrived()
        return True

    def _tell_arrived(self) -> None:
        for digest in self.keeper.arrived:
            self._bitswap.arrived(raw(digest))
        self.keeper.arrived.clear()

    def is_anybody_wanted(self) -> bool:
        """Whether anything is looked for."""
        return self.keeper.is_anybody_wanted()

    def take_unread(self) -> frozenset[Name]:
        """Names whose buckets are to be read."""
        return self.keeper.take_unread()

    def found(self, envelope: bytes) -> None:
        """Take an envelope of the store."""
        self.keeper.found(envelope, self._loop.time())
        self._tell_arrived()
        if self.keeper.has_offers:
            self._stir()

    def read(self, names: frozenset[Name]) -> None:
        """What the store had of these is known."""
        self.keeper.hour = self._store.hour()
        self.keeper.read(names, self._loop.time())
        self._look_again(self.keeper.peers())
        self._stir()

    # -- blocks -----------------------------------------------------------------------

    def _look_again(self, peers: Iterable[bytes]) -> None:
        for peer in peers:
            self._bitswap.again(peer)

    def wanted(self, digest: bytes, peer: bytes) -> None:
        """A peer wants a block that is not here."""
        self.keeper.wanted(digest, peer)
        self._stir()

    def provided(self, digest: bytes, peer: bytes) -> None:
        """A peer says that it has a block."""
        self.keeper.provided(digest, peer)
        self._stir()

    def has(self, digest: bytes, peer: bytes) -> bool:
        """Whether a block is here that a peer may have."""
        return self.keeper.place(digest, peer) is not None

    async def blocks(self, digests: Iterable[bytes], peer: bytes) -> dict[bytes, bytes]:
        """Return those that are here and that a peer may have, by digest; raise UnavailableError."""
        places = {digest: place for digest in digests if (place := self.keeper.place(digest, peer)) is not None}
        return await self._read(places) if places else {}

    async def _read(self, places: dict[bytes, Place]) -> dict[bytes, bytes]:
        identities = [identity for place in places.values() for identity in place.held.identities]
        # One at a time, as so many envelopes may be asked for.
        async with self._reading:
            envelopes = await self._envelopes.read(identities)
        found: dict[bytes, bytes] = {}
        for digest, place in places.items():
            block = self.keeper.unwrapped(place, envelopes)
            if block is None:
                self.keeper.lost(digest, place)
            else:
                found[digest] = block
        return found

    async def _fetch_queued(self) -> NoReturn:
        while True:
            fetch = self.keeper.next_fetch(self._loop.time())
            if fetch is None:
                if self.keeper.is_anything_queued:
                    # Its topics are not read yet, it is being fetched for another, or its address has had enough.
                    await asyncio.sleep(_QUEUED_S)
                else:
                    self._is_queued.clear()
                    await self._is_queued.wait()
                continue
            block = None
            if fetch.place is not None:
                try:
                    block = (await self._read({fetch.digest: fetch.place})).get(fetch.digest)
                except UnavailableError:
                    self._count("kept_relay_lost")
            if block is None:
                among = self.keeper.sharing(fetch.peer)
                block = await self._bitswap.fetch(raw(fetch.digest), timeout_s=FETCH_S, among=among)
            kept = self.keeper.fetched(fetch, block, self._loop.time())
            if kept is not None:
                await self._put(kept)

    # -- all of it --------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with TaskGroup() as tasks:
            tasks.create_task(self._store.run())
            tasks.create_task(self._relays.run(random=self._random))
            tasks.create_task(self._beat())
            for _ in range(FETCHERS):
                tasks.create_task(self._fetch_queued())
            for _ in range(WRAPPERS):
                tasks.create_task(self._put_pending())

    async def _beat(self) -> NoReturn:
        tick = 0
        while True:
            await asyncio.sleep(TICK_S)
            tick += 1
            now = self._loop.time()
            seals: list[Seal] = self.keeper.take_to_publish(now)
            for seal in seals:
                self._router.publish(seal.topic, seal.kept.payload, now)
            if seals:
                self._count("seals_published", len(seals))
                self._pubsub.flush()
            if tick % _EXPIRE_TICKS == 0:
                self.keeper.expire(now)
                for topic in self._router.topics - self.keeper.subscribed_topics():
                    self._router.unsubscribe(topic)
                self._pubsub.flush()
