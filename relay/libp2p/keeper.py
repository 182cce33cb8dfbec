# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept for Berty's members who are away, and what is handed to whom. Free of I/O and of keys.

What lasts is envelopes under the topics' names (relay.core.named), in the store and on all relays; in here is what
follows from those and from who is connected, of topics that somebody here subscribes to or did lately.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from relay.core.clock import HOUR_S
from relay.core.envelope import MAX_LIFETIME_HOURS, decode_header, envelope_id
from relay.core.errors import DecodeError
from relay.core.named import MAX_PIECES, Name, NamedPiece, join, unwrap, wrap
from relay.core.pool import Pool
from relay.core.rate import Bucket, Rate
from relay.libp2p.berty import (
    MAX_BLOCK_BYTES,
    MAX_ORDER,
    MAX_SEAL_BYTES,
    PRICE,
    KeptBlock,
    KeptSeal,
    decode_kept,
    decode_seal,
    expiry_hour,
    is_topic,
    name_of,
    sender_of,
)
from relay.libp2p.dag_cbor import read_entry
from relay.libp2p.live import decode_live, is_of, open_live

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from relay.core.messages import LiveDatagram
    from relay.libp2p.cid import Cid

#: A topic is remembered for so long after its last subscriber left: phones go to sleep.
WANTED_S: Final = 900.0
MAX_TOPICS: Final = 4096
#: Buckets that are read in the store at a time, of 32.
MAX_READ: Final = 6
#: Seals in memory, of which the topic and address with most gives way: 8 MiB and 2 MB of books.
MAX_SEALS: Final = 4096
MAX_SEALS_BYTES: Final = 8 << 20
#: Of one sender on one topic: he may have several devices' worth of days, and no more of them is of any use.
SEALS_OF_SENDER: Final = 4
#: Topics under which a seal is kept whose topic is not known: a person has two for each group.
MAX_GUESSES: Final = 16
MAX_ROTATIONS: Final = 8192
#: Blocks that are known to be held, 400 bytes each: 6 MB. The topic with most gives way.
MAX_BLOCKS: Final = 16_384
#: Digests that one peer may have us fetch, and of one topic those that entries link to and that are not here.
MAX_QUEUED: Final = 2048
MAX_MISSING: Final = 2048
MAX_FOREIGN: Final = 8192
FOREIGN_S: Final = 3600.0
#: A block that ends sooner is wrapped anew when somebody who has it says so.
REFRESH_HOURS: Final = 120
#: Of one address, as peers cost nothing: what is kept for it, and its bytes. A card is written about thrice as much.
KEPT: Final = Rate(per_s=2.0, burst=4000.0)
KEPT_BYTES: Final = Rate(per_s=16_384.0, burst=float(16 << 20))
MAX_ADDRESSES: Final = 1024
#: What is taken of what was said at other relays, for each topic: whoever knows its name can say anything under it.
HEARD: Final = Rate(per_s=2.0, burst=100.0)
HEARD_BYTES: Final = Rate(per_s=8192.0, burst=float(512 << 10))
#: Names that are tried on what comes, 2 us each: a twentieth of the time, where somebody made up topics of one bucket.
TRIED: Final = Rate(per_s=25_000.0, burst=100_000.0)
MAX_TRIES: Final = 3
#: When a seal is offered to who subscribed: his store drops what comes before it is ready.
OFFERS_S: Final = (0.3, 2.0, 8.0)
#: Who was there when it was published has it by the topic, if he is in a mesh.
LIVE_OFFERS_S: Final = (2.0,)
#: What was said at another relay just now: at once, and later for who has only just come.
HEARD_OFFERS_S: Final = (0.0, 2.0, 8.0)
MAX_OFFERS: Final = 2048
RETRY_S: Final = 2.0
MAX_RETRY_S: Final = 60.0
#: What waits for a topic is published after somebody subscribed, once in so long.
PUBLISH_AFTER_S: Final = 2.5
PUBLISH_REST_S: Final = 10.0
MAX_PUBLISHED: Final = 16
#: Signed at a time, 0.1 ms each; the topics after those have their turn later.
MAX_PUBLISHED_AT_ONCE: Final = 64
#: Envelopes of contents that are not whole.
MAX_PARTS: Final = 128
MAX_PARTS_BYTES: Final = 2 << 20
PARTS_S: Final = 600.0
_LIFE_S: Final = (MAX_LIFETIME_HOURS + 24) * HOUR_S
#: The origin of what came out of the store.
_STORE: Final = ""

Key = tuple[str, bytes]
"""Topic and digest of a seal."""


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal of a topic."""

    topic: str
    kept: KeptSeal
    rotation: bytes

    @property
    def key(self) -> Key:
        """By what it is known."""
        return self.topic, _digest(self.kept.payload)


class Kept(NamedTuple):
    """Something to be put into the store; ``is_told``: other relays have heard of it already."""

    topic: str
    content: KeptSeal | KeptBlock
    is_told: bool = False

    @property
    def key(self) -> tuple[str, bytes]:
        """Of two of one key the newer does for both: of a sender's seals, and of what is the same block."""
        if isinstance(self.content, KeptSeal):
            return self.topic, self.content.sender
        return self.topic, hashlib.sha256(self.content.block).digest()

    def wrap(self, hour: int) -> tuple[bytes, ...]:
        """Return its envelopes, which is work for a thread."""
        return wrap(self.content.encode(), name_of(self.topic), expiry_hour=expiry_hour(hour), price=PRICE)


class Held(NamedTuple):
    """Where a block is in the store."""

    identities: tuple[bytes, ...]
    expiry_hour: int


class Place(NamedTuple):
    """Where a block is, and under which topic."""

    topic: str
    held: Held


class Fetch(NamedTuple):
    """A block to get, for a peer's sake; ``place``: from the store, to wrap it anew."""

    digest: bytes
    peer: bytes
    tries: int
    place: Place | None


@dataclass(slots=True)
class _Topic:
    name: Name
    peers: set[bytes] = field(default_factory=set)
    left_s: float = 0.0
    #: What the store had of it is known.
    is_read: bool = False
    seals: dict[Key, None] = field(default_factory=dict)
    #: By sender, and whether they came out of the store, the newest first.
    of_sender: dict[tuple[bytes, bool], list[Key]] = field(default_factory=dict)
    missing: dict[bytes, None] = field(default_factory=dict)
    publish_s: float | None = None
    published_s: float = -PUBLISH_REST_S
    #: Of what is said at other relays; made at the first.
    heard: _Budget | None = None


@dataclass(slots=True)
class _Offer:
    due_s: float
    #: When it is offered again even if it is taken.
    again_s: tuple[float, ...]
    failures: int = 0


@dataclass(slots=True)
class _Peer:
    address: str
    topics: set[str] = field(default_factory=set)
    offers: dict[Key, _Offer] = field(default_factory=dict)
    #: Digests to fetch, with how often that failed.
    queue: dict[bytes, int] = field(default_factory=dict)


class _Budget:
    """What one address may have kept, or what is taken of one topic."""

    __slots__ = ("bytes", "count")

    def __init__(self, now: float, *, count: Rate, data: Rate) -> None:
        self.count = Bucket(count, now)
        self.bytes = Bucket(data, now)

    def take(self, size: int, count: int, now: float) -> bool:
        return self.count.take(float(count), now) and self.bytes.take(float(size), now)


class Keeper:
    """Of one host; all times are monotonic seconds."""

    def __init__(self, *, count: Callable[..., None]) -> None:
        self._count = count
        #: The hour by which envelopes end.
        self.hour = 0
        self._topics: dict[str, _Topic] = {}
        self._peers: dict[bytes, _Peer] = {}
        self._by_bucket: dict[int, dict[Name, str]] = {}
        #: By address, the topics that were not looked for in the store yet.
        self._unread: dict[str, dict[str, None]] = {}
        self._seals: Pool[Key, Seal] = Pool(most=MAX_SEALS, most_bytes=MAX_SEALS_BYTES, life_s=_LIFE_S)
        self._rotations: Pool[tuple[bytes, str], None] = Pool(most=MAX_ROTATIONS, most_bytes=1, life_s=_LIFE_S)
        self._blocks: Pool[tuple[bytes, str], Held] = Pool(most=MAX_BLOCKS, most_bytes=1, life_s=_LIFE_S)
        self._foreign: Pool[bytes, None] = Pool(most=MAX_FOREIGN, most_bytes=1, life_s=FOREIGN_S)
        self._parts: Pool[tuple[str, bytes, int], tuple[NamedPiece, bytes, int]] = Pool(
            most=MAX_PARTS, most_bytes=MAX_PARTS_BYTES, life_s=PARTS_S
        )
        self._budgets: Pool[str, _Budget] = Pool(most=MAX_ADDRESSES, most_bytes=1, life_s=_LIFE_S)
        self._tried = Bucket(TRIED, 0.0)
        self._fetching: set[bytes] = set()
        #: Those of these that the store may not have yet.
        self._unkept: dict[Key, None] = {}
        #: Something new is to be offered.
        self.has_offers = False
        #: Digests of blocks that came out of the store or into it, for who waits for them.
        self.arrived: list[bytes] = []

    # -- who is there -----------------------------------------------------------------

    def subscribed(self, peer: bytes, topic: str, *, address: str, now: float) -> bool:
        """A peer has subscribed to a topic; whether it is one that we keep."""
        if not is_topic(topic):
            return False
        state = self._topics.get(topic)
        if state is None:
            if len(self._topics) >= MAX_TOPICS:
                self._count("topics_refused")
                return False
            name = name_of(topic)
            state = self._topics[topic] = _Topic(name)
            self._by_bucket.setdefault(name.bucket, {})[name] = topic
            self._unread.setdefault(address, {})[topic] = None
        there = self._peers.setdefault(peer, _Peer(address))
        if peer in state.peers:
            return True
        state.peers.add(peer)
        there.topics.add(topic)
        if state.is_read:
            self._welcome(peer, state, now)
        return True

    def returned(self, peer: bytes, now: float) -> None:
        """A peer may have begun anew, without having said that it went: it is offered all again."""
        there = self._peers.get(peer)
        for topic in there.topics if there is not None else ():
            if (state := self._topics[topic]).is_read:
                self._welcome(peer, state, now)

    def left(self, peer: bytes, topic: str, now: float) -> None:
        """A peer has left a topic."""
        state, there = self._topics.get(topic), self._peers.get(peer)
        if state is None or there is None or peer not in state.peers:
            return
        state.peers.discard(peer)
        state.left_s = now
        there.topics.discard(topic)
        for key in [key for key in there.offers if key[0] == topic]:
            del there.offers[key]
        if not there.topics:
            del self._peers[peer]

    def __contains__(self, peer: bytes) -> bool:
        """Whether a peer subscribes to anything that we keep."""
        return peer in self._peers

    def peers(self) -> list[bytes]:
        """All who subscribe to anything that we keep."""
        return list(self._peers)

    def sharing(self, peer: bytes) -> set[bytes]:
        """Who subscribes to a topic that this peer subscribes to, himself too."""
        there = self._peers.get(peer)
        return {other for topic in there.topics for other in self._topics[topic].peers} if there else set()

    def _welcome(self, peer: bytes, state: _Topic, now: float) -> None:
        """Have somebody who subscribed get all that waits, and ask him for what is missing."""
        for key in reversed(self._seals_of(state)):
            self._offer(peer, state, key, OFFERS_S, now)
        state.publish_s = max(now + PUBLISH_AFTER_S, state.published_s + PUBLISH_REST_S)
        for digest in state.missing:
            self._enqueue(peer, digest)

    def expire(self, now: float) -> None:
        """Forget what is over, and topics that nobody has subscribed to for long."""
        for pool in (self._seals, self._rotations, self._blocks, self._foreign, self._parts, self._budgets):
            pool.expire(now)
        gone = [topic for topic, state in self._topics.items() if not state.peers and state.left_s + WANTED_S <= now]
        for topic in gone:
            state = self._topics.pop(topic)
            names = self._by_bucket[state.name.bucket]
            del names[state.name]
            if not names:
                del self._by_bucket[state.name.bucket]
            for key in state.seals:
                self._seals.pop(key)
        if gone:
            lost = set(gone)
            for found in [key for key, _ in self._blocks.items() if key[1] in lost]:
                self._blocks.pop(found)
            self._unread = {
                address: left
                for address, topics in self._unread.items()
                if (left := {topic: None for topic in topics if topic not in lost})
            }

    def subscribed_topics(self) -> set[str]:
        """Topics that somebody here subscribes to."""
        return {topic for topic, state in self._topics.items() if state.peers}

    # -- the store --------------------------------------------------------------------

    def is_anybody_wanted(self) -> bool:
        """Whether anything is looked for."""
        return bool(self._topics)

    def take_unread(self) -> frozenset[Name]:
        """Return names whose buckets are to be read now, by turns of the addresses; none: all were.

        Topics cost nothing, and reading does: whoever makes up many waits for himself.
        """
        chosen: set[int] = set()
        while self._unread and len(chosen) < MAX_READ:
            address, topics = next(iter(self._unread.items()))
            del self._unread[address]
            chosen.add(self._topics[next(iter(topics))].name.bucket)
            left = {topic: None for topic in topics if self._topics[topic].name.bucket not in chosen}
            if left:
                self._unread[address] = left
        self._unread = {
            address: left
            for address, topics in self._unread.items()
            if (left := {topic: None for topic in topics if self._topics[topic].name.bucket not in chosen})
        }
        return frozenset(name for bucket in chosen for name in self._by_bucket.get(bucket, {}))

    def read(self, names: Collection[Name], now: float) -> None:
        """All that the store had under these has been found."""
        for name in names:
            topic = self._by_bucket.get(name.bucket, {}).get(name)
            state = self._topics[topic] if topic is not None else None
            if state is None or state.is_read:
                continue
            state.is_read = True
            for peer in state.peers:
                self._welcome(peer, state, now)

    def found(self, envelope: bytes, now: float) -> None:
        """Take an envelope of the store, which may be of anybody."""
        try:
            header = decode_header(envelope)
        except DecodeError:
            return
        for name, topic in self._by_bucket.get(header.bucket, {}).items():
            piece = unwrap(envelope, name)
            if piece is not None:
                self._on_piece(topic, piece, envelope_id(envelope), header.expiry_hour, now)
                return

    def _on_piece(self, topic: str, piece: NamedPiece, identity: bytes, ends: int, now: float) -> None:
        parts = {piece.index: (piece, identity, ends)}
        for index in range(MAX_PIECES if piece.count > 1 else 0):
            if (part := self._parts.get((topic, piece.digest, index))) is not None:
                parts.setdefault(index, part)
        content = join(part[0] for part in parts.values())
        if content is None:
            if piece.count > 1:
                key = topic, piece.digest, piece.index
                self._parts.put(key, parts[piece.index], origin=topic, now=now, size=len(piece.data))
            return
        identities = tuple(parts[index][1] for index in range(piece.count))
        try:
            kept = decode_kept(content)
            if isinstance(kept, KeptSeal):
                self._add(Seal(topic, kept, decode_seal(kept.payload)), origin=_STORE, offers=OFFERS_S, now=now)
                return
            entry = read_entry(kept.block)
        except DecodeError:
            self._count("kept_malformed")
            return
        # Whoever knows the name may have wrapped anything.
        if entry.log != topic:
            self._count("kept_malformed")
            return
        held = Held(identities, min(part[2] for part in parts.values()))
        self._hold(topic, hashlib.sha256(kept.block).digest(), held, entry.links, now)

    def _hold(self, topic: str, digest: bytes, held: Held, links: Iterable[Cid], now: float) -> None:
        before = self._blocks.get((digest, topic))
        if before is None or before.expiry_hour < held.expiry_hour:
            self._blocks.put((digest, topic), held, origin=topic, now=now)
        if before is None:
            self.arrived.append(digest)
        state = self._topics[topic]
        state.missing.pop(digest, None)
        for link in links:
            if not link.inline and (link.digest, topic) not in self._blocks and len(state.missing) < MAX_MISSING:
                state.missing[link.digest] = None

    def stored(self, kept: Kept, identities: tuple[bytes, ...], hour: int, now: float) -> None:
        """The store holds it: kill -9 loses nothing of it."""
        if isinstance(kept.content, KeptSeal):
            self._count("seals_kept")
            self._unkept.pop((kept.topic, _digest(kept.content.payload)), None)
            return
        self._count("blocks_kept")
        if kept.topic not in self._topics:
            return
        block = kept.content.block
        held = Held(identities, expiry_hour(hour))
        self._hold(kept.topic, hashlib.sha256(block).digest(), held, read_entry(block).links, now)

    # -- other relays -----------------------------------------------------------------

    def heard(self, datagram: LiveDatagram, now: float) -> Kept | None:
        """Take what a member said at another relay just now; return what is to be put into the store.

        None: nobody here is in that group, or it is here already, or its topic had too much. Raise DecodeError.
        """
        said = decode_live(datagram)
        names = self._by_bucket.get(said.bucket, {})
        if not self._tried.take(float(len(names)), now):
            self._count("live_refused")
            return None
        found = next(((name, topic) for name, topic in names.items() if is_of(said, name)), None)
        if found is None or not self._topics[found[1]].peers:
            self._count("live_elsewhere")
            return None
        name, topic = found
        encoded = open_live(said, name)
        content = decode_kept(encoded)
        seal: Seal | None = None
        if isinstance(content, KeptSeal):
            seal = Seal(topic, content, decode_seal(content.payload))
            is_known = seal.key in self._seals
        elif read_entry(content.block).log == topic:
            is_known = (hashlib.sha256(content.block).digest(), topic) in self._blocks
        else:
            raise DecodeError("a block of another log")
        if is_known:
            self._count("live_known")
            return None
        state = self._topics[topic]
        if state.heard is None:
            state.heard = _Budget(now, count=HEARD, data=HEARD_BYTES)
        if not state.heard.take(len(encoded), 1, now):
            self._count("live_refused")
            return None
        self._count("live_received")
        if seal is not None:
            self._add(seal, origin=_STORE, offers=HEARD_OFFERS_S, now=now)
        return Kept(topic, content, is_told=True)

    # -- seals ------------------------------------------------------------------------

    def take_seal(
        self, payload: bytes, *, peer: bytes, address: str, topic: str | None, order: int, now: float
    ) -> list[Kept] | None:
        """Take a seal of a peer, by a topic or by the direct channel (None); return what is to be put into the store.

        [] is for what is there already, None for what is not taken. Raise DecodeError.
        """
        if len(payload) > MAX_SEAL_BYTES:
            raise DecodeError("a seal is too long")
        rotation = decode_seal(payload)
        is_guess = False
        if topic is not None:
            topics = [topic] if topic in self._topics else []
            if topics and self._learn(rotation, topic, address, now):
                self._drop_guesses(rotation, topic)
        else:
            there = self._peers.get(peer)
            own = sorted(there.topics) if there is not None else []
            topics = [each for each in own if (rotation, each) in self._rotations]
            if not topics:
                topics, is_guess = own[:MAX_GUESSES], True
        if not topics:
            self._count("seals_elsewhere")
            return None
        digest = _digest(payload)
        new = [each for each in topics if (each, digest) not in self._seals]
        # What came by the topic a moment ago may not be there yet.
        found = [
            Kept(each, seal.kept)
            for each in topics
            if (each, digest) in self._unkept and (seal := self._seals.get((each, digest))) is not None
        ]
        if not new:
            self._count("seals_known")
            return found
        if not self._may_keep(address, len(payload) * len(new), len(new), now):
            self._count("seals_limited")
            return None
        self._count("seals_taken")
        for each in new:
            state = self._topics[each]
            sender = sender_of(state.name, peer)
            newest = next(iter(state.of_sender.get((sender, False), ())), None)
            before = self._seals.get(newest) if newest is not None else None
            # Of two clocks the one may be behind.
            least = min(before.kept.order + 1, MAX_ORDER) if before is not None else 0
            kept = KeptSeal(sender, max(order, least), payload, is_guess)
            self._add(Seal(each, kept, rotation), origin=address, offers=LIVE_OFFERS_S, now=now)
            self._unkept[each, digest] = None
            if len(self._unkept) > MAX_SEALS:
                del self._unkept[next(iter(self._unkept))]
            found.append(Kept(each, kept))
        return found

    def _learn(self, rotation: bytes, topic: str, origin: str, now: float) -> bool:
        if (rotation, topic) in self._rotations:
            return False
        self._rotations.put((rotation, topic), None, origin=origin, now=now)
        return True

    def _drop_guesses(self, rotation: bytes, topic: str) -> None:
        """Of seals with a rotation whose topic is known now, let go of those under other topics."""
        for key, seal in list(self._seals.items()):
            if seal.kept.is_guess and seal.rotation == rotation and seal.topic != topic:
                self._forget_seal(key)

    def _add(self, seal: Seal, *, origin: str, offers: tuple[float, ...], now: float) -> None:
        key, state = seal.key, self._topics[seal.topic]
        if key in self._seals:
            return
        if not seal.kept.is_guess and origin == _STORE:
            self._learn(seal.rotation, seal.topic, origin, now)
        # Whoever knows the topic can make up newer ones under anybody's name: they leave none out that was taken here.
        sender = seal.kept.sender, origin == _STORE
        of_sender = [each for each in state.of_sender.get(sender, ()) if each in self._seals]
        place = sum(1 for each in of_sender if (other := self._seals.get(each)) and other.kept.order > seal.kept.order)
        if place >= SEALS_OF_SENDER:
            return
        of_sender.insert(place, key)
        for each in of_sender[SEALS_OF_SENDER:]:
            self._forget_seal(each)
        state.of_sender[sender] = of_sender[:SEALS_OF_SENDER]
        self._seals.put(key, seal, origin=(seal.topic, origin), now=now, size=len(seal.kept.payload))
        state.seals[key] = None
        if len(state.seals) > MAX_SEALS:
            # Of those that gave way.
            state.seals = {each: None for each in state.seals if each in self._seals}
            state.of_sender = {
                each: left
                for each, keys in state.of_sender.items()
                if (left := [known for known in keys if known in self._seals])
            }
        if state.is_read:
            for peer in state.peers:
                self._offer(peer, state, key, offers, now)

    def _forget_seal(self, key: Key) -> None:
        self._seals.pop(key)
        self._unkept.pop(key, None)
        state = self._topics[key[0]]
        state.seals.pop(key, None)
        for peer in state.peers:
            self._peers[peer].offers.pop(key, None)

    def _seals_of(self, state: _Topic) -> list[Key]:
        return [key for key in state.seals if key in self._seals]

    # -- offers -----------------------------------------------------------------------

    def _offer(self, peer: bytes, state: _Topic, key: Key, offers: tuple[float, ...], now: float) -> None:
        there, seal = self._peers[peer], self._seals.get(key)
        if seal is None or seal.kept.sender == sender_of(state.name, peer) or key in there.offers:
            return
        if len(there.offers) >= MAX_OFFERS:
            self._count("offers_refused")
            return
        first, *rest = (now + each for each in offers)
        there.offers[key] = _Offer(first, tuple(rest))
        self.has_offers = True

    def next_offer(self, peer: bytes, now: float) -> tuple[Seal | None, float | None]:
        """Return the seal that a peer is to be given now; or when the next one is due, None while there is none."""
        there = self._peers.get(peer)
        if there is None:
            return None, None
        for key in [key for key in there.offers if key not in self._seals]:
            del there.offers[key]
        if not there.offers:
            return None, None
        key = min(there.offers, key=lambda each: there.offers[each].due_s)
        due_s = there.offers[key].due_s
        return (self._seals.get(key), due_s) if due_s <= now else (None, due_s)

    def offered(self, peer: bytes, seal: Seal, *, taken: bool, now: float) -> None:
        """A peer was given a seal, and took it or not."""
        there = self._peers.get(peer)
        offer = there.offers.get(seal.key) if there is not None else None
        if there is None or offer is None:
            return
        self._count("seals_given" if taken else "seals_not_taken")
        if not taken:
            offer.due_s = now + min(RETRY_S * 2**offer.failures, MAX_RETRY_S)
            offer.failures = min(offer.failures + 1, 8)
        elif offer.again_s:
            offer.due_s, offer.again_s = max(offer.again_s[0], now), offer.again_s[1:]
        else:
            del there.offers[seal.key]

    def take_to_publish(self, now: float) -> list[Seal]:
        """Return what is to be published now, for who subscribed: the newest of each sender."""
        found: list[Seal] = []
        for state in self._topics.values():
            if len(found) >= MAX_PUBLISHED_AT_ONCE:
                break
            if state.publish_s is None or state.publish_s > now:
                continue
            state.publish_s = None
            if not state.peers:
                continue
            state.published_s = now
            newest = [keys[0] for keys in state.of_sender.values() if keys]
            found += [seal for key in newest[-MAX_PUBLISHED:] if (seal := self._seals.get(key)) is not None]
        return found

    # -- blocks -----------------------------------------------------------------------

    def provided(self, digest: bytes, peer: bytes) -> None:
        """A peer says that it has a block."""
        self._enqueue(peer, digest)

    def wanted(self, digest: bytes, peer: bytes) -> None:
        """A peer wants a block that is not here: others may have it."""
        if len(self.sharing(peer)) > 1:
            self._enqueue(peer, digest)

    def _enqueue(self, peer: bytes, digest: bytes, tries: int = 0) -> None:
        there = self._peers.get(peer)
        if there is None or digest in there.queue:
            return
        if len(there.queue) >= MAX_QUEUED:
            self._count("blocks_not_queued")
            return
        there.queue[digest] = tries

    def next_fetch(self, now: float) -> Fetch | None:
        """Return a block to get now, by turns of the peers; None while there is none."""
        for peer in list(self._peers):
            there = self._peers[peer]
            # What the store has is not asked for.
            if not there.queue or not all(self._topics[topic].is_read for topic in there.topics):
                continue
            for digest in list(there.queue):
                if digest in self._fetching:
                    continue
                place = self._place(digest, there)
                is_fresh = place is not None and place.held.expiry_hour - self.hour >= REFRESH_HOURS
                if is_fresh or digest in self._foreign:
                    del there.queue[digest]
                    continue
                if not self._may_keep(there.address, 0, 1, now):
                    break
                self._fetching.add(digest)
                # Its turn comes after those of all others.
                self._peers[peer] = self._peers.pop(peer)
                return Fetch(digest, peer, there.queue.pop(digest), place)
        return None

    @property
    def is_anything_queued(self) -> bool:
        """Whether there is something to fetch, now or later."""
        return any(there.queue for there in self._peers.values())

    def fetched(self, fetch: Fetch, block: bytes | None, now: float) -> Kept | None:
        """A block is here, or nobody had it; return what is to be put into the store."""
        there = self._peers.get(fetch.peer)
        self._fetching.discard(fetch.digest)
        if block is None:
            if there is not None and fetch.tries + 1 < MAX_TRIES:
                self._enqueue(fetch.peer, fetch.digest, fetch.tries + 1)
            else:
                self._count("blocks_not_found")
            return None
        if there is None:
            return None
        try:
            entry = read_entry(block)
        except DecodeError:
            entry = None
        if entry is None or entry.log not in there.topics:
            # Whatever else a peer has, a photo of kubo's: not of a group that he is in.
            self._count("blocks_foreign")
            self._foreign.put(fetch.digest, None, origin=there.address, now=now)
            return None
        if len(block) > MAX_BLOCK_BYTES or not self._may_keep(there.address, len(block), 0, now):
            self._count("blocks_limited")
            return None
        for link in entry.links:
            if not link.inline and (link.digest, entry.log) not in self._blocks:
                self._enqueue(fetch.peer, link.digest)
        # What is wrapped anew has been told of when it was new.
        return Kept(entry.log, KeptBlock(block), is_told=fetch.place is not None)

    def _place(self, digest: bytes, there: _Peer) -> Place | None:
        for topic in there.topics:
            if (held := self._blocks.get((digest, topic))) is not None:
                return Place(topic, held)
        return None

    def place(self, digest: bytes, peer: bytes) -> Place | None:
        """Where a block is that a peer may have, as it subscribes to a topic of it."""
        there = self._peers.get(peer)
        return None if there is None else self._place(digest, there)

    def lost(self, digest: bytes, place: Place) -> None:
        """The store has a block no more."""
        if self._blocks.get((digest, place.topic)) == place.held:
            self._blocks.pop((digest, place.topic))

    def _may_keep(self, address: str, size: int, count: int, now: float) -> bool:
        budget = self._budgets.get(address)
        if budget is None:
            budget = _Budget(now, count=KEPT, data=KEPT_BYTES)
            self._budgets.put(address, budget, origin=address, now=now)
        return budget.take(size, count, now)

    @property
    def block_count(self) -> int:
        """Blocks that are known to be held."""
        return len(self._blocks)

    def unwrapped(self, place: Place, envelopes: dict[bytes, bytes]) -> bytes | None:
        """Return the block that its envelopes hold; None while one of them is not there."""
        name = name_of(place.topic)
        pieces: list[NamedPiece] = []
        for identity in place.held.identities:
            piece = unwrap(envelopes[identity], name) if identity in envelopes else None
            if piece is None:
                return None
            pieces.append(piece)
        content = join(pieces)
        kept = decode_kept(content) if content is not None else None
        return kept.block if isinstance(kept, KeptBlock) else None


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:16]
