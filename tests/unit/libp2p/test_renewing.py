# SPDX-License-Identifier: GPL-2.0-or-later
"""A peer whose bitswap started after we met it has not noticed us: it is dialled anew, once."""

import asyncio
import secrets
from collections import Counter

from relay.libp2p import bitswap
from relay.libp2p.bitswap import Bitswap
from relay.libp2p.cid import raw
from relay.libp2p.host import Host
from relay.libp2p.identity import Identity
from relay.libp2p.multiaddr import TcpAddress
from tests.waiting import until_true


class Nothing:
    """No blocks."""

    async def read(self, cids, peer):
        _ = cids, peer
        return {}

    def wanted(self, cid, peer):
        pass


def make():
    counts = Counter()

    def count(event, amount=1):
        counts[event] += amount

    return Host(Identity.generate(secrets.token_bytes), count=count), counts, count


def test_a_peer_whose_bitswap_says_nothing_is_dialled_anew_once(monkeypatch):
    monkeypatch.setattr(bitswap, "SETTLE_S", 0.3)

    async def work():
        (ours, counts, count), (other, _, other_count) = make(), make()
        Bitswap(ours, Nothing(), count=count)
        Bitswap(other, Nothing(), count=other_count)
        port = await other.listen("127.0.0.1")
        first = await ours.dial(TcpAddress("127.0.0.1", port, other.identity.peer))
        await until_true(
            "there is another connection",
            lambda: (found := ours.connection(other.identity.peer)) not in (None, first) and found.protocols,
            10,
        )
        await asyncio.sleep(1)
        assert counts["peers_renewed"] == 1
        assert counts["peers_met"] == 2
        await ours.close()
        await other.close()

    asyncio.run(work())


def test_one_that_asked_for_something_is_left_alone(monkeypatch):
    monkeypatch.setattr(bitswap, "SETTLE_S", 1.0)

    async def work():
        (ours, counts, count), (other, _, other_count) = make(), make()
        mine, theirs = Bitswap(ours, Nothing(), count=count), Bitswap(other, Nothing(), count=other_count)
        port = await other.listen("127.0.0.1")
        first = await ours.dial(TcpAddress("127.0.0.1", port, other.identity.peer))
        asking = [asyncio.ensure_future(each.fetch(raw(bytes(32)), timeout_s=2)) for each in (mine, theirs)]
        assert await asyncio.gather(*asking) == [None, None]
        assert counts["peers_renewed"] == 0
        assert first.is_open
        await ours.close()
        await other.close()

    asyncio.run(work())


def test_a_peer_that_is_dialled_anew_speaks_meanwhile_what_it_has_said():
    async def work():
        (ours, _, count), (other, _, _) = make(), make()
        Bitswap(ours, Nothing(), count=count)
        port = await ours.listen("127.0.0.1")
        there = TcpAddress("127.0.0.1", port, ours.identity.peer)
        other.handlers["/a"] = other.handlers["/ipfs/ping/1.0.0"]
        await other.dial(there)
        await until_true("it is known", lambda: ours.speakers(["/a"]), 10)

        async def never(_):
            await asyncio.Event().wait()

        other.handlers["/ipfs/id/1.0.0"] = never
        await other.dial(there, anew=True)
        await until_true("there are two", lambda: len(ours.peers[other.identity.peer]) == 2, 10)
        assert not ours.connection(other.identity.peer).protocols
        assert ours.speakers(["/a"]) == [other.identity.peer]
        assert ours.identified(other.identity.peer) is ours.peers[other.identity.peer][0]
        await ours.close()
        await other.close()

    asyncio.run(work())
