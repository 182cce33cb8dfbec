# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine, its store and the foreign link in this process, for tests that speak to its socket."""

import asyncio
import contextlib
import json
import os
import random
import secrets
import socket
from contextlib import asynccontextmanager

from relay.core.admission import Policy
from relay.core.clock import Clock
from relay.core.envelope import SIZES, EnvelopeType, Header, grind
from relay.core.messages import Hello, Role
from relay.core.node import Node, NodeConfig
from relay.core.session import Session, State
from relay.core.stats import Stats
from relay.links.foreign import ForeignLink
from relay.process.progress import Progress
from relay.run.engine import Engine
from relay.store.committer import Committer
from relay.store.database import Store
from tests.heard import Heard

BUILD_HOUR = 490_000


def envelope(rng, size_class=0, *, build_hour=BUILD_HOUR):
    """A message that any relay here takes; with its own build hour also a whole program."""
    header = Header(
        type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=build_hour + 100, tag=rng.randbytes(16)
    )
    body = header.encode() + rng.randbytes(SIZES[size_class] - 32)
    return grind(body, price=0, random_bytes=rng.randbytes)


@asynccontextmanager
async def running(folder, *, max_connections=64, max_connections_per_address=32, own_interfaces=()):
    """An engine that serves `folder`/link.sock; yields it and the path."""
    loop = asyncio.get_running_loop()
    with contextlib.closing(Store.open(folder / "relay.db", durable=True)) as store:
        committer = Committer(store, loop=loop)
        node = Node(
            config=NodeConfig(durable=True),
            policy=Policy(max_bytes=1 << 28, max_envelopes=10_000),
            clock=Clock(now=loop.time(), build_hour=BUILD_HOUR, residence_s=0.0),
            stats=Stats(),
            random_bytes=secrets.token_bytes,
            read_bodies=store.read_bodies,
            interfaces=store.interfaces(),
        )
        node.log.load(store.load())
        node.log.reserve(store.last_seq)
        engine = Engine(
            node=node,
            store=store,
            committer=committer,
            progress=Progress(loop.time),
            trust_system_clock=False,
            max_connections=max_connections,
            max_connections_per_address=max_connections_per_address,
        )
        path = folder / "link.sock"
        link = asyncio.create_task(ForeignLink(path=path, mode=0o600, own_interfaces=own_interfaces).run(engine))
        while not path.exists():  # noqa: ASYNC110 - a file says nothing when it appears
            await asyncio.sleep(0.005)
        try:
            yield engine, path
        finally:
            await engine.shutdown()
            await asyncio.sleep(0.05)
            link.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await link
            await committer.close()


@contextlib.contextmanager
def not_root():
    """To whom permissions apply, whoever runs the tests."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


class Phone(Heard):
    """A client at the other end of a foreign stream that reads as slowly as a test wants."""

    def __init__(self, sock):
        self.sock = sock
        self.session = Session(
            initiator=True,
            hello=Hello(role=Role.CLIENT),
            random_bytes=random.Random(1).randbytes,
            now=0.0,
        )
        self.events = []
        self.read_bytes = 0

    @classmethod
    async def open(cls, path, *, slow, link="unix"):
        """Connect, and shake hands at full speed."""
        sock = await connect(path, {"interface": "hci0", "initiator": False, "slow": slow, "link": link})
        phone = cls(sock)
        while phone.session.state is not State.OPEN:
            await phone.flush()
            await phone.read(4096)
        return phone

    async def flush(self):
        """Send all that the session has to say."""
        while data := self.session.data_to_send():
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read(self, most_bytes):
        """Take one piece from the socket, and no more."""
        async with asyncio.timeout(10):
            data = await asyncio.get_running_loop().sock_recv(self.sock, most_bytes)
        assert data, "the relay closed the stream"
        self.read_bytes += len(data)
        self.events += self.session.receive_data(data, 0.0)

    def close(self):
        self.sock.close()


async def connect(path, preamble):
    """A socket at `path` that has sent its first line."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, str(path))
    await loop.sock_sendall(sock, json.dumps({"version": 1, **preamble}).encode() + b"\n")
    return sock


async def put(path, envelopes):
    """Put envelopes over a fast stream, all of which have to be acknowledged."""
    with contextlib.closing(await Phone.open(path, slow=False)) as phone:
        for one in envelopes:
            phone.session.put(one)
        await phone.flush()
        while len(phone.acknowledged) < len(envelopes):
            await phone.read(1 << 16)
