# SPDX-License-Identifier: GPL-2.0-or-later
"""Berty's members who are never there together, as the facts say of them (tests/libp2p/go/member.go), and relays."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.libp2p.nodes import Libp2p
from tests.libp2p.peers import PeerError, peer

pytestmark = [pytest.mark.libp2p, pytest.mark.timeout(300)]
#: A member is found, gets the seals and fetches: seconds, on a quiet machine.
PATIENCE_S = 60


class Place:
    """A network with at most one relay, on which members come and go."""

    def __init__(self, lab, folder, name, *, segments=()):
        self.folder = folder
        self.segment = lab.segment()
        self.lab = lab
        self.name = name
        self.box = lab.box(name, self.segment, *segments)
        self.relay = self.ours = None
        self.boxes = {}

    def start(self, **sections):
        self.relay = self.box.relay(libp2p={"enabled": True}, **sections)
        self.ours = Libp2p(self.relay).start()
        return self

    def kill(self):
        """What a power cut does."""
        self.ours.process.kill()
        self.ours.process.wait(10)
        self.relay.kill()

    def restart(self):
        self.relay.start()
        self.ours.start()

    @asynccontextmanager
    async def member(self, name, group, *, on=None):
        """Have a member of a group come, with what it kept from before."""
        place = on or self
        # One machine for each visit: what has gone without a word leaves nothing behind.
        number = len(self.boxes)
        box = self.boxes[number] = self.lab.box(f"{self.name}-{name}{number}", place.segment)
        options = ["-mdns", "-listen", "/ip4/0.0.0.0/tcp/0", "-group", group, "-keep", self.lab_folder(name)]
        async with peer(self.folder, *options, prefix=("ip", "netns", "exec", box.namespace)) as node:
            yield node

    def lab_folder(self, name):
        return str(self.lab.folder / f"member-{name}")

    def counters(self):
        return self.ours.part()["counters"]


async def has(node, *texts):
    """Wait until a member has all of these."""
    try:
        for text in texts:
            await node.event("text", text=text, timeout_s=PATIENCE_S)
    except TimeoutError:
        raise AssertionError(f"of {texts} there are {(await node.ask('texts'))['texts']}") from None


async def kept(place, blocks, seals):
    """Wait until the relay has so many of each."""

    def look():
        counters = place.counters()
        return counters.get("blocks_kept", 0) >= blocks and counters.get("seals_taken", 0) >= seals

    for _ in range(PATIENCE_S):
        if await asyncio.to_thread(look):
            return
        await asyncio.sleep(1)
    raise AssertionError(f"not kept: {place.counters()}")


def test_who_is_never_there_with_another_gets_what_he_wrote_and_answers(lab, folder):
    place = Place(lab, folder, "camp").start()

    async def work():
        async with place.member("ana", "g") as ana:
            for text in ("one", "two"):
                await ana.ask("say", text=text)
            await kept(place, 2, 1)
        # They have never met, and in between the power was cut.
        place.kill()
        place.restart()
        async with place.member("ben", "g") as ben:
            await has(ben, "one", "two")
            await ben.ask("say", text="three")
            await kept(place, 1, 1)
        async with place.member("ana", "g") as ana:
            await has(ana, "three")

    asyncio.run(work())
