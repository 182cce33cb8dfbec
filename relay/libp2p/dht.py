# SPDX-License-Identifier: GPL-2.0-or-later
"""A server of the LAN DHT (https://github.com/libp2p/specs/blob/master/kad-dht/README.md): who has which block.

Records of providers alone: values are not kept. Nodes announce each new block here, by which a relay learns of it.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from relay.core.errors import DecodeError
from relay.core.rate import Bucket, Rate
from relay.libp2p.cid import decode_multihash
from relay.libp2p.connection import Messages
from relay.libp2p.identity import MAX_PEER_BYTES
from relay.libp2p.multiaddr import decode_address
from relay.libp2p.wire import as_bytes, as_number, bytes_field, fields, number_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.libp2p.connection import Stream
    from relay.libp2p.host import Host
    from relay.libp2p.multiaddr import TcpAddress

PROTOCOL: Final = "/ipfs/lan/kad/1.0.0"
MAX_MESSAGE_BYTES: Final = 64 << 10
MAX_KEY_BYTES: Final = 128
#: Peers that one answer names (k of Kademlia), and addresses of each.
NEAREST: Final = 20
_MAX_ADDRESSES: Final = 8
#: Records, of all peers and of one: 0.3 MB and less.
MAX_RECORDS: Final = 8192
MAX_RECORDS_OF_PEER: Final = 2048
#: What one peer may ask and announce: all blocks of somebody who was away come within a minute.
_QUESTIONS: Final = Rate(per_s=50.0, burst=2000.0)
_MAX_FIELDS: Final = 128
#: No peer is silent for longer between two questions on one stream.
_IDLE_S: Final = 60.0


class Kind(enum.IntEnum):
    """What a message is."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class Node:
    """A peer, and where it can be dialled."""

    peer: bytes
    addresses: tuple[TcpAddress, ...] = ()

    def encode(self) -> bytes:
        """Return the protocol buffer."""
        out = bytes_field(1, self.peer)
        out += b"".join(bytes_field(2, each.encode()) for each in self.addresses[:_MAX_ADDRESSES])
        return out + number_field(3, 1)  # connected


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A question or its answer."""

    kind: Kind
    key: bytes = b""
    closer: list[Node] = field(default_factory=list)
    providers: list[Node] = field(default_factory=list)

    def encode(self) -> bytes:
        """Return the protocol buffer."""
        out = number_field(1, self.kind) + bytes_field(2, self.key)
        out += b"".join(bytes_field(8, node.encode()) for node in self.closer)
        return out + b"".join(bytes_field(9, node.encode()) for node in self.providers)


def decode_message(message: bytes) -> Message:
    """Decode a message; raise DecodeError."""
    kind, key = 0, b""
    closer: list[Node] = []
    providers: list[Node] = []
    for number, value in fields(message, _MAX_FIELDS):
        if number == 1:
            kind = as_number(value)
        elif number == 2:
            key = as_bytes(value)
        elif number in (8, 9):
            (closer if number == 8 else providers).append(_decode_node(as_bytes(value)))
    if kind > Kind.PING or len(key) > MAX_KEY_BYTES:
        raise DecodeError("a question that is not known here")
    return Message(kind=Kind(kind), key=key, closer=closer, providers=providers)


def _decode_node(message: bytes) -> Node:
    peer = b""
    addresses: list[TcpAddress] = []
    for number, value in fields(message, _MAX_FIELDS):
        if number == 1:
            peer = as_bytes(value)
        elif number == 2 and len(addresses) < _MAX_ADDRESSES:
            try:
                addresses.append(decode_address(as_bytes(value)))
            except DecodeError:
                continue
    if not 0 < len(peer) <= MAX_PEER_BYTES:
        raise DecodeError("a peer without its ID")
    return Node(peer, tuple(addresses))


class Records:
    """Who has which block, by what peers say. Free of I/O."""

    def __init__(self, count: Callable[..., None]) -> None:
        self._count = count
        #: By digest and peer, the oldest first.
        self._records: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()
        self._by_digest: dict[bytes, dict[bytes, None]] = {}
        self._by_peer: dict[bytes, dict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, digest: bytes, peer: bytes) -> None:
        """Note that a peer says it has a block; its oldest record gives way where it has too many."""
        if (digest, peer) in self._records:
            self._records.move_to_end((digest, peer))
            return
        of_peer = self._by_peer.setdefault(peer, {})
        if len(of_peer) >= MAX_RECORDS_OF_PEER:
            self._count("records_displaced")
            self._remove(next(iter(of_peer)), peer)
        elif len(self._records) >= MAX_RECORDS:
            # Whoever says most gives way.
            most = max(self._by_peer, key=lambda each: len(self._by_peer[each]))
            self._count("records_displaced")
            self._remove(next(iter(self._by_peer[most])), most)
        self._records[digest, peer] = None
        self._by_digest.setdefault(digest, {})[peer] = None
        self._by_peer.setdefault(peer, {})[digest] = None

    def _remove(self, digest: bytes, peer: bytes) -> None:
        del self._records[digest, peer]
        for books, key, value in ((self._by_digest, digest, peer), (self._by_peer, peer, digest)):
            del books[key][value]
            if not books[key]:
                del books[key]

    def left(self, peer: bytes) -> None:
        """Forget what a peer said."""
        for digest in list(self._by_peer.get(peer, ())):
            self._remove(digest, peer)

    def of_peer(self, peer: bytes) -> list[bytes]:
        """What a peer said that it has."""
        return list(self._by_peer.get(peer, ()))

    def providers(self, digest: bytes) -> list[bytes]:
        """Who said it has a block."""
        return list(self._by_digest.get(digest, ()))


class Keeper(Protocol):
    """What a relay has, and what it wants to hear."""

    async def has(self, digest: bytes, peer: bytes) -> bool:
        """Whether a block is here that ``peer`` may have."""

    def provided(self, digest: bytes, peer: bytes) -> None:
        """A peer says that it has a block."""


class DhtServer:
    """Answers the peers of a host."""

    def __init__(self, host: Host, keeper: Keeper, *, count: Callable[..., None]) -> None:
        self._host = host
        self._keeper = keeper
        self._count = count
        self.records = Records(count)
        self._questions: dict[bytes, Bucket] = {}
        host.handlers[PROTOCOL] = self._on_stream
        host.on_left.append(self._on_left)

    def _on_left(self, peer: bytes) -> None:
        self.records.left(peer)
        self._questions.pop(peer, None)

    async def _on_stream(self, stream: Stream) -> None:
        messages = Messages(stream, MAX_MESSAGE_BYTES)
        loop = asyncio.get_running_loop()
        while True:
            async with asyncio.timeout(_IDLE_S):
                data = await messages.next()
            if data is None:
                return
            question = decode_message(data)
            if stream.peer not in self._host.peers:
                return
            bucket = self._questions.setdefault(stream.peer, Bucket(_QUESTIONS, loop.time()))
            if not bucket.take(1.0, loop.time()):
                self._count("questions_limited")
                stream.reset()
                return
            answer = await self._answer(stream, question)
            if answer is not None:
                await stream.send(answer.encode())

    async def _answer(self, stream: Stream, question: Message) -> Message | None:
        peer = stream.peer
        match question.kind:
            case Kind.PING:
                return Message(kind=Kind.PING)
            case Kind.FIND_NODE | Kind.GET_VALUE:
                return Message(kind=question.kind, key=question.key, closer=self._nearest(question.key, peer))
            case Kind.ADD_PROVIDER:
                digest, inline = decode_multihash(question.key)
                # Nobody speaks for another.
                if not inline and any(node.peer == peer for node in question.providers):
                    self._count("records_taken")
                    self.records.add(digest, peer)
                    self._keeper.provided(digest, peer)
                return None
            case Kind.GET_PROVIDERS:
                digest, inline = decode_multihash(question.key)
                known = [self._node(each) for each in self.records.providers(digest)[:NEAREST]]
                if not inline and await self._keeper.has(digest, peer):
                    here = self._host.reachable(stream.connection)
                    known.insert(0, Node(self._host.identity.peer, tuple(here)))
                return Message(
                    kind=question.kind, key=question.key, closer=self._nearest(question.key, peer), providers=known
                )
            case Kind.PUT_VALUE:
                raise DecodeError("no values are kept here")

    def _node(self, peer: bytes) -> Node:
        connection = self._host.connection(peer)
        return Node(peer, connection.listens if connection is not None else ())

    def _nearest(self, key: bytes, but: bytes) -> list[Node]:
        target = int.from_bytes(hashlib.sha256(key).digest())
        found = [peer for peer in self._host.speakers([PROTOCOL]) if peer != but]
        found.sort(key=lambda peer: int.from_bytes(hashlib.sha256(peer).digest()) ^ target)
        return [self._node(peer) for peer in found[:NEAREST]]
