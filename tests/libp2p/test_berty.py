# SPDX-License-Identifier: GPL-2.0-or-later
"""Berty's members who are never there together, as the facts say of them (tests/libp2p/go/member.go), and relays."""

import asyncio
import hashlib
import os
import time
from contextlib import asynccontextmanager

import pytest

from relay.libp2p.identity import from_base58
from tests.libp2p.nodes import Libp2p, in_files, in_memory
from tests.libp2p.peers import PeerError, peer
from tests.waiting import until_true

pytestmark = [pytest.mark.libp2p, pytest.mark.timeout(300)]
#: A member is found, gets the seals and fetches: seconds, on a quiet machine.
PATIENCE_S = 60


class Place:
    """A network with a relay, on which members come and go."""

    def __init__(self, lab, folder, name, *segments, start=True, **sections):
        """``sections``: of relay.toml, beside what switches it on."""
        self.lab = lab
        self.folder = folder
        self.name = name
        self.segment = lab.segment()
        self.box = lab.box(name, self.segment, *segments)
        self.relay = self.box.relay(**{"libp2p": {"enabled": True}} | sections)
        self.ours = Libp2p(self.relay)
        if start:
            self.ours.start()
        self._visits = 0
        self.addresses = set()

    def kill(self):
        """What a power cut does."""
        self.ours.process.kill()
        self.ours.process.wait(10)
        self.relay.kill()

    def restart(self):
        self.relay.start()
        self.ours.start()

    @asynccontextmanager
    async def member(self, name, group="g"):
        """Have a member of a group come, with what he kept from before."""
        self._visits += 1
        # Another machine for each visit, as who comes back has another address.
        box = self.lab.box(f"{self.name}-{name}{self._visits}", self.segment)
        self.addresses.add(str(box.ports["eth0"].ipv4).encode())
        options = ["-mdns", "-listen", "/ip4/0.0.0.0/tcp/0", "-group", group, "-keep", self.lab.folder / f"of-{name}"]
        async with peer(self.folder, *options, prefix=("ip", "netns", "exec", box.namespace)) as node:
            yield node

    def counters(self):
        return self.ours.part()["counters"]

    async def kept(self, node, blocks):
        """Wait until the relay has kept so many blocks since it started, and a member's newest seal."""
        for peer_id in (await node.ask("peers"))["peers"]:
            if (await node.ask("identified", peer=peer_id))["agent"] == "mesh-relay":
                # It answers when kill -9 loses nothing of it.
                await node.ask("give", peer=peer_id)
        for _ in range(PATIENCE_S):
            if (await asyncio.to_thread(self.counters)).get("blocks_kept", 0) >= blocks:
                return
            await asyncio.sleep(1)
        raise AssertionError(f"not kept: {self.counters()}")


async def has(node, *texts):
    """Wait until a member has all of these."""
    try:
        for text in texts:
            await node.event("text", text=text, timeout_s=PATIENCE_S)
    except TimeoutError:
        raise AssertionError(f"of {texts} there are {(await node.ask('texts'))['texts']}") from None


def test_who_is_never_there_with_the_other_gets_what_he_wrote_and_answers(lab, folder):
    place = Place(lab, folder, "camp")
    texts = ["first of ana 6f1c", "second of ana 92ab"]
    peers = []

    async def work():
        async with place.member("ana") as ana:
            for text in texts:
                await ana.ask("say", text=text)
            await place.kept(ana, 2)
            (block,) = (await ana.ask("heads"))["cids"]
            peers.append(ana.peer)
        # Of another group there is nothing to be had, also for who knows what to ask for.
        async with place.member("cleo", "h") as cleo:
            await cleo.ask("say", text="of another group")
            await place.kept(cleo, 3)
            with pytest.raises(PeerError):
                await cleo.ask("get", cid=block, seconds=4)
        # They have never met, and the power was cut in between. While there is no relay nothing comes: the control.
        place.kill()
        async with place.member("ben") as ben:
            await asyncio.sleep(5)
            assert (await ben.ask("texts"))["texts"] == []
            await asyncio.to_thread(place.restart)
            await has(ben, *texts)
            await ben.ask("say", text="answer of ben 77de")
            await place.kept(ben, 1)
            peers.append(ben.peer)
        async with place.member("ana") as ana:
            await has(ana, "answer of ben 77de")

    asyncio.run(work())
    # Nothing of it can be read here: neither texts nor what they are sealed with.
    secrets = [hashlib.sha256(f"{what} {group}".encode()).digest() for what in ("secret", "link key") for group in "gh"]
    markers = {text.encode() for text in [*texts, "answer of ben 77de", "of another group"]} | set(secrets)
    # And who was there, in which group and with what address stands nowhere.
    topics = {hashlib.sha256(f"public key {group}".encode()).hexdigest().encode() for group in "gh"}
    who = {each.encode() for each in peers} | {from_base58(each) for each in peers} | topics | place.addresses
    assert len(who) == 2 * 2 + 2 + 4
    assert in_files(place.relay.folder, markers | who) == set()
    for process in (place.relay.process, place.ours.process):
        assert in_memory(process.pid, markers) == set()
    (place.relay.folder / "planted").write_bytes(b" ".join(markers | who))
    assert {marker for marker, _ in in_files(place.relay.folder, markers | who)} == markers | who
    assert in_memory(os.getpid(), markers) == markers
    assert place.ours.pss_mib() < 45


def test_what_is_written_in_the_moment_in_which_the_relay_comes_is_kept(lab, folder):
    """A phone publishes to its mesh; whom it takes in only afterwards hears of that neither from it nor by gossip."""
    place = Place(lab, folder, "camp")
    # After it has connected, and before its next heartbeat. Half of these were lost while the relay waited for its own.
    moments_s = [0.04, 0.08, 0.12, 0.16, 0.2]

    async def work():
        for number, moment_s in enumerate(moments_s):
            async with place.member(f"ana{number}", f"g{number}") as ana:
                async with asyncio.timeout(PATIENCE_S):
                    while not (await ana.ask("peers"))["peers"]:  # noqa: ASYNC110 - the peer tells of nothing by itself
                        await asyncio.sleep(0.01)
                # It had nothing to give when the relay subscribed, and gives nothing later either.
                await asyncio.sleep(moment_s)
                await ana.ask("say", text="at once")
                await until_true(lambda: f"it is kept: {place.counters()}", lambda n=number: kept() > n, PATIENCE_S)
        async with place.member("ben", "g0") as ben:
            await has(ben, "at once")

    def kept():
        return place.counters().get("seals_kept", 0)

    asyncio.run(work())


def test_what_was_left_at_one_relay_is_there_at_another(lab, folder):
    """Members who met once; a backlog; one that waits at another relay, and the answer on the way back."""
    backbone = lab.segment()
    camp = Place(lab, folder, "camp", backbone)
    town = Place(lab, folder, "town", backbone)
    camp.relay.wait_linked(1)
    backlog = [f"text {number} of ana" for number in range(40)]

    async def work():
        async with camp.member("ana") as ana, camp.member("ben") as ben:
            await ana.ask("say", text="together")
            await has(ben, "together")
        async with camp.member("ana") as ana:
            for text in backlog:
                await ana.ask("say", text=text)
            await camp.kept(ana, 40)
        camp.kill()
        await asyncio.to_thread(camp.restart)
        await asyncio.to_thread(camp.relay.wait_linked, 1)
        held = camp.relay.status()["store"]["envelopes"]
        await asyncio.to_thread(town.relay.wait_held, held)
        # Of the town's process nobody has heard of the group yet.
        async with town.member("ben") as ben:
            began = time.monotonic()
            await has(ben, *backlog)
            print(f"all of {len(backlog)} after {time.monotonic() - began:.1f} s")
            await ben.ask("say", text="answer of ben")
            await town.kept(ben, 1)
        async with camp.member("ana") as ana:
            await has(ana, "answer of ben")

    asyncio.run(work())
