# SPDX-License-Identifier: GPL-2.0-or-later
"""Each protocol of the host, both ways, against stock go-libp2p, pubsub and boxo."""

import asyncio
import hashlib
import secrets

import pytest

from relay.libp2p.cid import parse_cid, raw
from relay.libp2p.connection import StreamError
from relay.libp2p.gossipsub import Received
from relay.libp2p.host import PING_PROTOCOL
from relay.libp2p.multiaddr import parse_address
from tests.libp2p.peers import ECHO, PeerError, ours, peer, until

pytestmark = [pytest.mark.libp2p, pytest.mark.timeout(240)]
TOPIC = "/orbitdb/bafyreiabc/0123_wesh_group_messages"


def run(work):
    asyncio.run(work())


def test_it_dials_us_and_we_understand_each_other(folder):
    async def work():
        async with ours() as us, peer(folder) as it:
            await us.met(it)
            assert (await it.ask("ping", peer=us.name))["ms"] < 5000
            said = await it.ask("identified", peer=us.name)
            assert said["agent"] == "mesh-relay"
            assert {"/ipfs/bitswap/1.2.0", "/meshsub/1.1.0", "/ipfs/ping/1.0.0"} <= set(said["protocols"])
            # Of the interface by which it came, and no other.
            assert said["addrs"] == [f"/ip4/127.0.0.1/tcp/{us.port}"]
            await it.ask("echo", peer=us.name, count=1, bytes=8 << 20)
            assert (await it.ask("open", peer=us.name))["refused"]
            assert us.counts["protocol_errors"] == us.counts["handshakes_failed"] == 0

    run(work)


def test_we_dial_it(folder):
    async def work():
        async with ours() as us, peer(folder) as it:
            address = parse_address((await it.ask("info"))["addrs"][0])
            connection = await us.host.dial(address)
            await until(lambda: connection.protocols)
            assert ECHO in connection.protocols
            stream = await connection.open([PING_PROTOCOL])
            stream.write(b"p" * 32)
            assert await stream.read() == b"p" * 32
            connection.close_stream(stream)
            sent = secrets.token_bytes(3 << 20)
            stream = await connection.open(["/no/such/protocol", ECHO])

            async def write():
                for at in range(0, len(sent), 1 << 16):
                    stream.write(sent[at : at + (1 << 16)])
                    await stream.drain()
                stream.end()

            writing = asyncio.ensure_future(write())
            got = b""
            while data := await stream.read():
                got += data
            await writing
            assert got == sent
            with pytest.raises(StreamError):
                await connection.open(["/no/such/protocol"])

    run(work)


def test_another_peer_than_was_dialled_is_hung_up_on(folder):
    async def work():
        async with ours() as us, peer(folder) as it, peer(folder) as other:
            there = (await it.ask("info"))["addrs"][0].rpartition("/")[0]
            with pytest.raises(StreamError):
                await us.host.dial(parse_address(f"{there}/{other.peer}"))
            assert not us.host.peers
            assert us.counts["peer_dials_failed"] == 1

    run(work)


def test_a_thousand_streams_at_once_resets_and_slow_readers(folder):
    async def work():
        async with ours() as us, peer(folder) as it:
            await us.met(it)
            await it.ask("echo", peer=us.name, count=1000, bytes=20_000, seconds=100)
            await it.ask("reset", peer=us.name, count=300, bytes=1000)
            assert (await it.ask("slow", peer=us.name, bytes=4 << 20))["bytes"] == 4 << 20
            await it.ask("echo", peer=us.name, count=10, bytes=20_000)
            connection = next(iter(us.host.peers.values()))[-1]
            # Whatever was opened is over, and takes nothing.
            await until(lambda: connection.channel.mux.streams <= 2)
            assert us.counts["protocol_errors"] == us.counts["streams_stalled"] == us.counts["streams_refused"] == 0

    run(work)


def test_nobody_hangs_up_in_forty_silent_seconds(folder):
    async def work():
        async with ours() as us, peer(folder) as it:
            await us.met(it)
            connection = next(iter(us.host.peers.values()))[-1]
            # Of whom we have heard by bitswap nobody is dialled anew.
            assert await us.bitswap.fetch(raw(bytes(32)), timeout_s=1) is None
            await asyncio.sleep(40)
            await it.ask("ping", peer=us.name)
            assert us.host.connection(connection.peer) is connection
            assert not [event for event in it.events if event["event"] == "left"]

    run(work)


def test_blocks_go_both_ways(folder):
    async def work():
        async with ours() as us, peer(folder) as it:
            await us.met(it)
            block = secrets.token_bytes(16_384)
            digest = hashlib.sha256(block).digest()
            us.blocks.blocks[digest] = block
            assert bytes.fromhex((await it.ask("get", cid=str(raw(digest))))["data"]) == block
            for size in (1, 900, 5000, 1 << 20):
                sent = secrets.token_bytes(size)
                cid = parse_cid((await it.ask("put", data=sent.hex()))["cid"])
                assert await us.bitswap.fetch(cid, timeout_s=20) == sent
            nobodys = raw(secrets.token_bytes(32))
            assert await us.bitswap.fetch(nobodys, timeout_s=2) is None
            # Asked for first, and there later.
            late = secrets.token_bytes(3000)
            asking = asyncio.ensure_future(it.ask("get", cid=str(raw(hashlib.sha256(late).digest()))))
            await until(lambda: us.blocks.asked)
            us.blocks.blocks[hashlib.sha256(late).digest()] = late
            us.bitswap.arrived(raw(hashlib.sha256(late).digest()))
            assert bytes.fromhex((await asking)["data"]) == late

    run(work)


def test_a_thousand_blocks_each_way(folder):
    async def work():
        async with ours() as us, peer(folder) as it:
            await us.met(it)
            cids = []
            for _ in range(1000):
                block = secrets.token_bytes(4096)
                digest = hashlib.sha256(block).digest()
                us.blocks.blocks[digest] = block
                cids.append(str(raw(digest)))
            assert (await it.ask("get_many", cids=cids, seconds=60))["blocks"] == 1000
            theirs = (await it.ask("put_many", count=1000, bytes=4096))["cids"]
            got = await asyncio.gather(*(us.bitswap.fetch(parse_cid(cid), timeout_s=60) for cid in theirs))
            assert all(block is not None and len(block) == 4096 for block in got)

    run(work)


def test_topics_both_ways(folder):
    async def work():
        async with ours() as us, peer(folder) as it, peer(folder) as other:
            await us.met(it)
            await us.met(other)
            await until(lambda: len(us.router._peers) == 2)
            us.router.subscribe(TOPIC)
            us.pubsub.flush()
            for node in (it, other):
                await node.ask("subscribe", topic=TOPIC)
            await until(lambda: len(us.router.subscribers(TOPIC)) == 2)
            await asyncio.sleep(2.5)  # two heartbeats: meshes are there
            # From one to the other through us: they do not know each other.
            await it.ask("publish", topic=TOPIC, data=b"first".hex())
            await other.event("published", data=b"first".hex())
            await until(lambda: any(isinstance(each, Received) and each.message.data == b"first" for each in us.heard))
            us.router.publish(TOPIC, b"of ours", asyncio.get_running_loop().time())
            us.pubsub.flush()
            for node in (it, other):
                assert (await node.event("published", data=b"of ours".hex()))["from"] == us.name
            us.router.unsubscribe(TOPIC)
            us.pubsub.flush()
            await asyncio.sleep(1)
            assert us.name not in (await it.ask("subscribers", topic=TOPIC))["peers"]

    run(work)


def test_without_us_nothing_goes_from_one_to_the_other(folder):
    async def work():
        async with peer(folder) as it, peer(folder) as other:
            for node in (it, other):
                await node.ask("subscribe", topic=TOPIC)
            await it.ask("publish", topic=TOPIC, data=b"first".hex())
            with pytest.raises(TimeoutError):
                await other.event("published", timeout_s=3)
            cid = (await it.ask("put", data=b"block".hex()))["cid"]
            with pytest.raises(PeerError):
                await other.ask("get", cid=cid, seconds=3)

    run(work)
