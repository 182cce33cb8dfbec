# SPDX-License-Identifier: GPL-2.0-or-later
"""Members at two relays, `relay run` between them: all of what is kept for Berty, with hosts of ours as members.

Stock nodes in Go are in tests/libp2p; these need none.
"""

import asyncio
import random
import secrets
from collections import Counter
from contextlib import asynccontextmanager, suppress

import pytest

from relay.core.rate import Rate
from relay.libp2p import dht, live
from relay.libp2p.app import Blocks
from relay.libp2p.berty import DIRECT_PROTOCOL
from relay.libp2p.bitswap import Bitswap
from relay.libp2p.cid import raw
from relay.libp2p.connection import Messages, StreamError
from relay.libp2p.dht import DhtServer, Kind, Node
from relay.libp2p.envelopes import Envelopes
from relay.libp2p.gossipsub import Gossipsub, Received
from relay.libp2p.host import Host
from relay.libp2p.identity import Identity
from relay.libp2p.members import Members
from relay.libp2p.multiaddr import TcpAddress
from relay.libp2p.pubsub import Pubsub
from relay.libp2p.wire import delimited
from tests.client.online import RelayProcess
from tests.unit.libp2p.berty_bytes import digest, entry, seal
from tests.waiting import until_true

TOPIC = "/orbitdb/bafyreiabc/0123_wesh_group_messages"
PATIENCE_S = 60


class Side:
    """What the host of a relay and that of a member have in common."""

    def __init__(self, identity=None):
        self.counts = Counter()
        self.host = Host(identity or Identity.generate(secrets.token_bytes), count=self.count)
        self.router = Gossipsub(self.host.identity, draw=random.random, count=self.count, seqno=1)
        self.work = []

    def count(self, event, amount=1):
        self.counts[event] += amount

    async def close(self):
        for task in self.work:
            task.cancel()
        await asyncio.gather(*self.work, return_exceptions=True)
        await self.host.close()


class Camp(Side):
    """What `relay libp2p` is beside a relay, without the networks."""

    def __init__(self, path):
        super().__init__()
        envelopes = Envelopes(path, secret=None, random=random.random, count=self.count)
        self.members = Members(self.host, envelopes, path=path, secret=None, random=random.random, count=self.count)
        blocks = Blocks(None, self.members)
        bitswap = Bitswap(self.host, blocks, count=self.count)
        records = DhtServer(self.host, blocks, count=self.count).records
        pubsub = Pubsub(self.host, self.router, on_event=self.members.on_event)
        self.members.attach(bitswap, self.router, pubsub, records)
        self.work = [asyncio.ensure_future(each) for each in (envelopes.run(), self.members.run(), pubsub.run())]
        self.address = None


class Member(Side):
    """Somebody of a group."""

    def __init__(self, *, is_relay=False, identity=None):
        super().__init__(identity)
        self.blocks = {}
        self.seals = []
        self.bitswap = Bitswap(self.host, self, count=self.count)
        self.host.handlers[DIRECT_PROTOCOL] = self._on_direct
        self.pubsub = Pubsub(self.host, self.router, on_event=self._on_event)
        self.work = [asyncio.ensure_future(self.pubsub.run())]
        if not is_relay:
            said = self.host._said
            self.host._said = lambda connection: said(connection).replace(b"mesh-relay", b"berty-like")

    async def read(self, cids, peer):
        _ = peer
        return {cid.digest: self.blocks[cid.digest] for cid in cids if cid.digest in self.blocks}

    def wanted(self, cid, peer):
        pass

    def _on_event(self, event):
        if isinstance(event, Received):
            self.seals.append(event.message.data)

    async def _on_direct(self, stream):
        self.seals.append(await Messages(stream, 1 << 20).next())
        stream.reset()

    def write(self, count):
        last = None
        for number in range(count):
            block = entry(TOPIC, [raw(last)] if last else [], b"%d" % number)
            last = digest(block)
            self.blocks[last] = block
        return last

    async def tell(self, camp, found):
        """Say to the relay's DHT that a block is here."""
        stream = await self.host.open(camp.host.identity.peer, [dht.PROTOCOL])
        message = dht.Message(
            kind=Kind.ADD_PROVIDER, key=raw(found).multihash, providers=[Node(self.host.identity.peer)]
        )
        await stream.send(message.encode())
        stream.connection.close_stream(stream)

    async def give(self, camp, payload, *, timeout_s=PATIENCE_S):
        """Give a seal directly; whether it was answered."""
        stream = await self.host.open(camp.host.identity.peer, [DIRECT_PROTOCOL])
        stream.write(delimited(payload))
        stream.end()
        try:
            async with asyncio.timeout(timeout_s):
                with suppress(StreamError):
                    await stream.read()
            return True
        except TimeoutError:
            return False
        finally:
            stream.connection.close_stream(stream)


@pytest.fixture
def two(tmp_path):
    relays = [
        RelayProcess(tmp_path / name, unix={"enabled": True, "path": str(tmp_path / name / "link")}) for name in "ab"
    ]
    relays[0].start()
    relays[1]._sections["tcp"] = {"peers": [f"127.0.0.2:{relays[0].port}"]}
    relays[1].start()
    yield relays
    for relay in relays:
        relay.stop()


@asynccontextmanager
async def camp(relay):
    made = Camp(relay.folder / "link")
    port = await made.host.listen("127.0.0.1")
    made.address = TcpAddress("127.0.0.1", port, made.host.identity.peer)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def visit(camp, *topics, is_relay=False):
    made = Member(is_relay=is_relay)
    await made.host.dial(camp.address)
    for topic in topics:
        made.router.subscribe(topic)
    made.pubsub.flush()
    try:
        yield made
    finally:
        await made.close()


async def until_met(camp, member):
    await until_true("the relay knows the member", lambda: member.host.identity.peer in camp.members.keeper, PATIENCE_S)


def test_what_a_member_leaves_at_one_relay_another_is_given_at_the_other(two):
    async def main():
        async with camp(two[0]) as first, camp(two[1]) as second:
            async with visit(first, TOPIC) as ana:
                await until_met(first, ana)
                last = ana.write(20)
                await ana.tell(first, last)
                assert await ana.give(first, seal(b"r"))
                await until_true(
                    lambda: f"all is kept: {first.counts}", lambda: first.counts["blocks_kept"] == 20, PATIENCE_S
                )
            async with visit(second, TOPIC) as ben, visit(second, "/orbitdb/other") as cleo:
                await until_true(
                    lambda: f"he is given it: {second.counts}", lambda: seal(b"r") in ben.seals, PATIENCE_S
                )
                for found, block in ana.blocks.items():
                    assert await ben.bitswap.fetch(raw(found), timeout_s=20) == block
                # Who is in another group has neither.
                await until_met(second, cleo)
                assert await cleo.bitswap.fetch(raw(last), timeout_s=2) is None
                assert cleo.seals == []
                # And what he writes is for himself and his group alone.
                await until_true("he was offered it again", lambda: ben.seals.count(seal(b"r")) >= 3, PATIENCE_S)

    asyncio.run(main())


def test_a_seal_is_answered_once_it_is_durable_and_not_before(two):
    async def main():
        async with camp(two[0]) as first, visit(first, TOPIC) as ana:
            await until_met(first, ana)
            assert await ana.give(first, seal(b"r", b"1"))
            two[0].kill()
            assert not await ana.give(first, seal(b"r", b"2"), timeout_s=2)
            giving = asyncio.ensure_future(ana.give(first, seal(b"r", b"3")))
            await asyncio.to_thread(two[0].start)
            assert await giving
            # What is known is answered at once, and kept once.
            assert await ana.give(first, seal(b"r", b"3"), timeout_s=5)
            assert first.counts["kept_refused"] == 0

    asyncio.run(main())


def test_another_relay_is_given_nothing_as_it_has_it_otherwise(two):
    async def main():
        async with camp(two[0]) as first, visit(first, TOPIC) as ana, visit(first, TOPIC, is_relay=True) as other:
            await until_met(first, ana)
            assert await ana.give(first, seal(b"r"))
            await asyncio.sleep(1.5)
            assert other.host.identity.peer not in first.members.keeper
            assert other.seals == []
            # Nor is anything taken of it.
            assert await other.give(first, seal(b"r", b"of a relay"))
            assert first.counts["seals_taken"] == 1

    asyncio.run(main())


def test_who_comes_back_without_having_gone_is_told_and_offered_all_again(two):
    async def main():
        async with camp(two[0]) as first, visit(first, TOPIC) as ana, visit(first, TOPIC) as ben:
            await until_met(first, ana)
            await until_met(first, ben)
            assert await ana.give(first, seal(b"r"))
            await until_true("he has it", lambda: first.counts["seals_given"] >= 1, PATIENCE_S)
            # His phone was off for a moment; the relay has not noticed.
            again = Member(identity=ben.host.identity)
            try:
                await again.host.dial(first.address)
                again.router.subscribe(TOPIC)
                again.pubsub.flush()
                peer = first.host.identity.peer
                await until_true("he has it again", lambda: seal(b"r") in again.seals, PATIENCE_S)
                await until_true("he knows who is there", lambda: peer in again.router.subscribers(TOPIC), PATIENCE_S)
                assert len(first.host.peers[ben.host.identity.peer]) == 2
            finally:
                await again.close()

    asyncio.run(main())


def test_a_backlog_leaves_room_for_what_is_announced_live(two, monkeypatch):
    most = 8
    monkeypatch.setattr(live, "SAID", Rate(per_s=0.001, burst=most))

    async def main():
        async with (
            camp(two[0]) as first,
            camp(two[1]) as second,
            visit(first, TOPIC) as ana,
            visit(second, TOPIC) as ben,
        ):
            await until_met(first, ana)
            await until_met(second, ben)
            last = ana.write(30)
            await ana.tell(first, last)
            await until_true(
                lambda: f"all is kept: {first.counts}", lambda: first.counts["blocks_kept"] == 30, PATIENCE_S
            )
            assert first.counts["live_limited"] == 30 - most
            # The relays may not have met yet: each time it is another one.
            for number in range(most - 1):
                assert await ana.give(first, seal(b"r", b"%d" % number))
                assert first.counts["live_sent"] + first.counts["live_lost"] == most + number + 1
                await asyncio.sleep(0.5)
                if second.counts["live_received"]:
                    break
            assert second.counts["live_received"]
            await until_true("he is given it", lambda: seal(b"r", b"%d" % number) in ben.seals, PATIENCE_S)

    asyncio.run(main())
