# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers that flood, hold and lie, against a whole host on real sockets; somebody honest is served meanwhile."""

import asyncio
import gc
import hashlib
import secrets
import struct
import tracemalloc
from collections import Counter
from contextlib import asynccontextmanager, suppress
from random import random

import pytest

from relay.libp2p import connection as connections
from relay.libp2p import dht, host
from relay.libp2p.bitswap import MAX_WISHES, Bitswap
from relay.libp2p.bitswap_message import PROTOCOL as BITSWAP
from relay.libp2p.bitswap_message import Entry, Message, Want
from relay.libp2p.cid import raw
from relay.libp2p.connection import StreamError
from relay.libp2p.dht import DhtServer, Kind, Node
from relay.libp2p.gossipsub import Gossipsub
from relay.libp2p.gossipsub_message import PROTOCOL as PUBSUB
from relay.libp2p.gossipsub_message import Rpc
from relay.libp2p.host import Host
from relay.libp2p.identity import Identity
from relay.libp2p.multiaddr import TcpAddress
from relay.libp2p.pubsub import Pubsub
from relay.libp2p.wire import delimited, varint
from tests.waiting import until_true

SINK = "/mesh-relay-test/sink/1"
BLOCK = b"honest" * 100
DIGEST = hashlib.sha256(BLOCK).digest()
FRAME = struct.Struct(">BBHII")


class Held:
    """What is served: one block."""

    def __init__(self):
        self.provided_by = Counter()

    async def read(self, cids, peer):
        _ = peer
        return {DIGEST: BLOCK} if any(cid.digest == DIGEST for cid in cids) else {}

    def wanted(self, cid, peer):
        pass

    async def has(self, digest, peer):
        _ = peer
        return digest == DIGEST

    def provided(self, digest, peer):
        _ = digest
        self.provided_by[peer] += 1


class One:
    """A host, with what it counts."""

    def __init__(self):
        self.counts = Counter()
        self.host = Host(Identity.generate(secrets.token_bytes), count=self.count)
        self.held = Held()
        self.bitswap = Bitswap(self.host, self.held, count=self.count)
        self.dht = DhtServer(self.host, self.held, count=self.count)
        self.host.handlers[SINK] = _sink

    def count(self, event, amount=1):
        self.counts[event] += amount


async def _sink(_):
    await asyncio.Event().wait()


async def _read(stream, count):
    while count > 0:
        count -= len(await stream.read())


@asynccontextmanager
async def hosts(others=2):
    """A victim that listens, and hosts that are connected to it."""
    made = [One() for _ in range(others + 1)]
    victim = made[0]
    port = await victim.host.listen("127.0.0.1")
    address = TcpAddress("127.0.0.1", port, victim.host.identity.peer)
    for one in made[1:]:
        connection = await one.host.dial(address)
        await until_true("it came to that", lambda met=connection: met.protocols, 10)
    try:
        yield made, address
    finally:
        for one in reversed(made):
            await one.host.close()


async def is_served(one):
    """Whether somebody honest gets the block."""
    return await one.bitswap.fetch(raw(DIGEST), timeout_s=20) == BLOCK


def run(work):
    asyncio.run(work())


def test_connections_without_a_word_or_with_nonsense_take_no_place_from_who_is_there(monkeypatch):
    monkeypatch.setattr(connections, "HANDSHAKE_S", 1.0)

    async def work():
        async with hosts(1) as ((victim, honest), address):
            writers = []
            for number in range(3 * host.MAX_CONNECTIONS):
                reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
                writer.write(b"" if number % 2 else secrets.token_bytes(100))
                writers.append((reader, writer))
            assert await is_served(honest)
            assert len(victim.host._places) <= host.MAX_CONNECTIONS
            assert victim.counts["connections_dropped"] > host.MAX_CONNECTIONS
            for _, writer in writers:
                writer.close()
            await until_true("it came to that", lambda: len(victim.host._places) <= 1, 10)
            assert await is_served(honest)

    run(work)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_thousand_wants_of_one_peer_are_remembered_within_bounds():
    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            stream = await hostile.host.open(victim.host.identity.peer, [BITSWAP])
            for batch in range(100):
                entries = [
                    Entry(cid=raw(hashlib.sha256(b"%d" % (1000 * batch + at)).digest()), want=Want.BLOCK)
                    for at in range(1000)
                ]
                await stream.send(Message(entries=entries).encode())
            assert await is_served(honest)
            await until_true(
                "it came to that",
                lambda: victim.counts["wants_missed"] + victim.counts["wants_refused"] >= 100_000,
                240,
            )
            partner = victim.bitswap._partners[hostile.host.identity.peer]
            assert len(partner.asked) + len(partner.missing) <= MAX_WISHES
            assert await is_served(honest)

    run(work)


def test_blocks_that_nobody_asked_for_and_that_are_not_what_they_say_are_thrown_away():
    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            wanted = raw(secrets.token_bytes(32))
            fetching = asyncio.ensure_future(victim.bitswap.fetch(wanted, timeout_s=3))
            stream = await hostile.host.open(victim.host.identity.peer, [BITSWAP])
            for number in range(50):
                await stream.send(Message(blocks=[(wanted, b"%d" % number * 1000)]).encode())
            assert await fetching is None
            assert victim.counts["blocks_unwanted"] == 50
            assert victim.counts["blocks_received"] == 0
            assert await is_served(honest)

    run(work)


def test_messages_that_are_begun_and_never_ended_share_one_budget():
    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            tracemalloc.start()
            streams = [await hostile.host.open(victim.host.identity.peer, [BITSWAP]) for _ in range(40)]
            for stream in streams:
                try:
                    stream.write(varint(2 << 20) + bytes(1 << 20))
                    async with asyncio.timeout(5):
                        await stream.drain()
                except (StreamError, TimeoutError):
                    continue
            await asyncio.sleep(0.5)
            held = sum(each._taken for each in _messages())
            assert held <= 8 << 20
            assert await is_served(honest)
            tracemalloc.stop()

    run(work)


def _messages():
    return [each for each in gc.get_objects() if isinstance(each, connections.Messages)]


def test_streams_that_nobody_reads_are_reset_and_the_connection_goes_on(monkeypatch):
    monkeypatch.setattr(connections, "STALL_S", 0.5)

    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            peer = victim.host.identity.peer
            streams = [await hostile.host.open(peer, [SINK]) for _ in range(8)]
            for stream in streams:
                stream.write(bytes(200_000))
            await until_true("it came to that", lambda: victim.counts["streams_stalled"], 20)
            assert await is_served(honest)
            (found,) = victim.host.peers[hostile.host.identity.peer]
            await until_true("it came to that", lambda: found._is_reading, 20)
            assert found._unread_bytes <= connections.MAX_UNREAD_BYTES
            assert await is_served(hostile)

    run(work)


def test_more_streams_than_there_may_be_are_refused():
    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            connection = hostile.host.connection(victim.host.identity.peer)
            for _ in range(1500):
                connection.channel.mux.open()
            connection._pump()
            await until_true("it came to that", lambda: victim.counts["streams_refused"], 20)
            assert await is_served(honest)

    run(work)


@pytest.mark.parametrize("frame", [(1, 1, 65537, 0xFFFFFFFF), (0, 1, 65537, 0x7FFFFFFF), (9, 0, 0, 0)])
def test_games_with_windows_end_the_connection_and_cost_nobody_else(frame):
    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            connection = hostile.host.connection(victim.host.identity.peer)
            kind, flags, stream, length = frame
            connection.channel.mux.open()
            connection.channel.mux._control.append(FRAME.pack(0, kind, flags, stream, length))
            connection._pump()
            await until_true("it came to that", lambda: hostile.host.identity.peer not in victim.host.peers, 10)
            assert victim.counts["protocol_errors"] == 1
            assert await is_served(honest)

    run(work)


def test_a_bomb_of_proposals_is_one_stream_that_is_reset():
    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            connection = hostile.host.connection(victim.host.identity.peer)
            number = connection.channel.mux.open()
            lines = delimited(b"/multistream/1.0.0\n") + b"".join(delimited(b"/%d\n" % at) for at in range(10_000))
            connection.write(number, lines)
            await until_true("it came to that", lambda: victim.counts["protocols_refused"], 10)
            assert await is_served(honest)

    run(work)


def test_provider_records_are_bounded_and_nobody_speaks_for_another():
    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            me, other = hostile.host.identity.peer, honest.host.identity.peer
            stream = await hostile.host.open(victim.host.identity.peer, [dht.PROTOCOL])
            forged = dht.Message(kind=Kind.ADD_PROVIDER, key=raw(DIGEST).multihash, providers=[Node(other)])
            await stream.send(forged.encode())
            try:
                for number in range(10_000):
                    key = raw(hashlib.sha256(b"%d" % number).digest()).multihash
                    message = dht.Message(kind=Kind.ADD_PROVIDER, key=key, providers=[Node(me)])
                    await stream.send(message.encode())
            except StreamError:
                pass
            await until_true("it came to that", lambda: victim.counts["questions_limited"], 10)
            assert victim.held.provided_by[other] == 0
            assert victim.dht.records.providers(DIGEST) == []
            assert len(victim.dht.records) <= dht.MAX_RECORDS_OF_PEER
            assert await is_served(honest)
            await hostile.host.close()
            await until_true("it came to that", lambda: not len(victim.dht.records), 10)

    run(work)


def test_records_of_many_peers_leave_room_for_each():
    records = dht.Records(lambda *_: None)
    for number in range(dht.MAX_RECORDS + 5000):
        records.add(hashlib.sha256(b"%d" % number).digest(), b"flood%d" % (number % 5))
    records.add(DIGEST, b"honest")
    assert len(records) == dht.MAX_RECORDS
    assert records.providers(DIGEST) == [b"honest"]


def test_streams_of_many_connections_are_bounded_together(monkeypatch):
    monkeypatch.setattr(host, "MAX_STREAMS", 100)

    async def work():
        async with hosts(3) as ((victim, first, second, honest), _):
            peer = victim.host.identity.peer
            for one in (first, second) * 80:
                with suppress(StreamError):
                    await one.host.open(peer, [SINK])
            there = [connection for found in victim.host.peers.values() for connection in found]
            assert sum(connection.stream_count for connection in there) <= 100
            # Of those who have most, the oldest went.
            assert victim.counts["streams_crowded_out"] >= 60
            assert await is_served(honest)

    run(work)


def test_answers_that_nobody_reads_are_bounded_for_a_connection(monkeypatch):
    monkeypatch.setattr(dht, "_QUESTIONS", dht.Rate(per_s=1e6, burst=1e6))
    big = [Node(bytes([0, 32]) + secrets.token_bytes(32)) for _ in range(400)]
    monkeypatch.setattr(DhtServer, "_nearest", lambda *_: big)

    async def work():
        async with hosts() as ((victim, hostile, honest), _):
            (there,) = victim.host.peers[hostile.host.identity.peer]
            mine = hostile.host.connection(victim.host.identity.peer)
            streams = [await mine.open([dht.PROTOCOL]) for _ in range(100)]
            mine._transport.pause_reading()
            question = dht.Message(kind=Kind.FIND_NODE, key=b"k").encode()
            for stream in streams:
                for _ in range(20):
                    stream.write(delimited(question))
            await asyncio.sleep(2)
            one_answer = len(delimited(dht.Message(kind=Kind.FIND_NODE, key=b"k", closer=big).encode()))
            assert there.channel.mux.unsent_bytes > connections.MAX_UNSENT_BYTES
            assert there.channel.mux.unsent_bytes <= connections.MAX_UNSENT_BYTES + 101 * one_answer
            assert await is_served(honest)
            # Once it reads, each writer goes on.
            reading = [asyncio.ensure_future(_read(stream, 20 * one_answer)) for stream in streams]
            mine._transport.resume_reading()
            async with asyncio.timeout(60):
                await asyncio.gather(*reading)

    run(work)


def test_who_leaves_without_having_said_what_it_speaks_leaves_nothing_behind():
    async def work():
        async with hosts(1) as ((victim, honest), address):
            router = Gossipsub(victim.host.identity, draw=random, count=victim.count, seqno=1)
            Pubsub(victim.host, router, on_event=lambda _: None)
            silent = One()
            silent.host.handlers.clear()
            connection = await silent.host.dial(address)
            stream = await connection.open([PUBSUB])
            await stream.send(Rpc(subscriptions=[("topic", True)]).encode())
            await until_true("the topic is known", lambda: router.topic_count == 1, 10)
            assert not victim.host.connection(silent.host.identity.peer).protocols
            connection.drop()
            await until_true("it is forgotten", lambda: router.topic_count == 0, 10)
            assert await is_served(honest)

    run(work)
