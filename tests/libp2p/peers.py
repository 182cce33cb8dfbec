# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock nodes in Go, and a host of ours beside them."""

import asyncio
import json
import secrets
import time
from collections import Counter
from contextlib import asynccontextmanager

from relay.libp2p.bitswap import Bitswap
from relay.libp2p.gossipsub import Gossipsub
from relay.libp2p.host import Host
from relay.libp2p.identity import Identity, base58
from relay.libp2p.pubsub import Pubsub

ECHO = "/mesh-relay-test/echo/1"
READY_S = 60
ANSWER_S = 60


class PeerError(Exception):
    """What a peer says went wrong."""


class Peer:
    """A node of tests/libp2p/go."""

    def __init__(self, process):
        self._process = process
        self._waiting = {}
        self._number = 0
        self.events = []
        self._news = asyncio.Event()
        self.peer = ""
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self):
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "event" in said:
                self.events.append(said)
                self._news.set()
            elif not (future := self._waiting.pop(said["id"])).done():
                future.set_result(said)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(PeerError("the peer has ended"))

    async def ask(self, do, **values):
        """Have it do something; raise PeerError."""
        self._number += 1
        future = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": self._number, "do": do, **values}).encode() + b"\n")
        async with asyncio.timeout(values.get("seconds", 20) + ANSWER_S):
            said = await future
        if "error" in said:
            raise PeerError(said["error"])
        return said

    async def event(self, name, *, timeout_s=ANSWER_S, **values):
        """Wait for something that comes by itself."""
        async with asyncio.timeout(timeout_s):
            while True:
                for said in self.events:
                    if said["event"] == name and all(said[key] == value for key, value in values.items()):
                        return said
                self._news.clear()
                await self._news.wait()

    def kill(self):
        if self._process.returncode is None:
            self._process.kill()

    async def end(self):
        self.kill()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def peer(folder, *options, prefix=()):
    """Run a node."""
    process = await asyncio.create_subprocess_exec(
        *prefix, folder / "peer", *options, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26
    )
    node = Peer(process)
    try:
        node.peer = (await node.event("ready", timeout_s=READY_S))["peer"]
        yield node
    finally:
        await node.end()


async def until(holds, *, timeout_s=20.0, why=""):
    """Wait until something holds."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, why or "it did not come to that"
        await asyncio.sleep(0.02)


class Held:
    """Blocks in memory, for everybody."""

    def __init__(self):
        self.blocks = {}
        self.asked = []

    async def read(self, cids, peer):
        _ = peer
        return {cid.digest: self.blocks[cid.digest] for cid in cids if cid.digest in self.blocks}

    def wanted(self, cid, peer):
        _ = peer
        self.asked.append(cid)


class Ours:
    """A host of ours with all protocols, on the loopback interface."""

    def __init__(self):
        self.counts = Counter()
        self.host = Host(Identity.generate(secrets.token_bytes), count=self.count)
        self.blocks = Held()
        self.bitswap = Bitswap(self.host, self.blocks, count=self.count)
        self.router = Gossipsub(self.host.identity, draw=secrets.SystemRandom().random, count=self.count, seqno=1)
        self.heard = []
        self.pubsub = Pubsub(self.host, self.router, on_event=self.heard.append)
        self.host.handlers[ECHO] = echo
        self.port = 0

    def count(self, event, amount=1):
        self.counts[event] += amount

    @property
    def name(self):
        return base58(self.host.identity.peer)

    @property
    def address(self):
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.name}"

    async def met(self, node):
        """Have a node connect, and wait until both know what the other speaks."""
        await node.ask("connect", addr=self.address)
        await until(lambda: any(found[-1].protocols for found in self.host.peers.values()))


async def echo(stream):
    while data := await stream.read():
        stream.write(data)
        await stream.drain()


@asynccontextmanager
async def ours():
    one = Ours()
    one.port = await one.host.listen("127.0.0.1")
    beating = asyncio.ensure_future(one.pubsub.run())
    try:
        yield one
    finally:
        beating.cancel()
        await one.host.close()
