# SPDX-License-Identifier: GPL-2.0-or-later
"""Live datagrams between real relays, handed over by gateways and got by others."""

import asyncio
import contextlib
import json
import random
from contextlib import closing

import pytest

from relay.control.control_client import ControlClient
from relay.core.frames import LIVE_LANE
from relay.core.live import BYTES_IN, DATAGRAMS_IN
from relay.core.messages import Goodbye, LiveDatagram, Subscribe, encode_live
from relay.core.session import Closed
from relay.core.stats import HandshakeFailure, LiveDropped, LiveTotal
from relay.process.gateway_client import GatewayClient
from relay.process.gateway_frames import ClockReading, FrameCutter, decode_frame, encode_live_frame
from relay.process.link_socket import Gateway
from relay.run.app import build_hour
from relay.run.gateways import MAX_GATEWAYS, PAUSE_S, READ_BYTES
from tests.client.online import RelayProcess
from tests.programs.running import Phone, connect, envelope, put, running
from tests.programs.test_foreign import line_of
from tests.waiting import until_true

KIND = 7
#: Numbers from here on are said until the first is heard.
FIRST_TRIAL = 1_000_000
FLOOD = 600
PATIENCE_S = 60


def datagram(number, size=100, kind=KIND):
    return LiveDatagram(kind=kind, identity=number.to_bytes(16), data=bytes(size))


class Gate:
    """A gateway in a task of its own, and what it was told."""

    def __init__(self, path, name="gate", kinds=(KIND,)):
        self.heard, self.clock = [], []
        self.client = GatewayClient(
            path,
            Gateway(name=name, kinds=frozenset(kinds)),
            on_live=lambda one: self.heard.append(int.from_bytes(one.identity)),
            on_clock=self.clock.append,
        )

    async def __aenter__(self):
        self.task = asyncio.create_task(self.client.run(random=random.random))
        await until_true("the relay takes it in", lambda: self.client.is_connected, PATIENCE_S)
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def say(self, *numbers):
        """Hand datagrams over, one after the other, each as soon as it is taken."""
        for number in numbers:
            await until_true("it is taken", lambda number=number: self.client.send(datagram(number)), PATIENCE_S)


@pytest.fixture
def three(tmp_path):
    """Relays A, B and C that know of nobody but whom a test names."""
    relays = [
        RelayProcess(tmp_path / name, unix={"enabled": True, "path": str(tmp_path / name / "link")}) for name in "abc"
    ]
    yield relays
    for relay in relays:
        relay.stop()


def status_of(relay):
    with ControlClient(relay.folder / "control") as control:
        return control.status()


def live_totals(relay):
    totals = relay.totals()
    return totals["live"] | totals["live_dropped"]


def start(relay, *peers):
    # An address for each: whoever is connected from one does not dial it.
    relay._sections["tcp"] = {"peers": [f"127.0.0.{1 + ord(peer.folder.name) - 96}:{peer.port}" for peer in peers]}
    relay.start()


async def linked(from_gate, to_gate):
    """Say something again and again, a new one each time, until it is heard: the relays have found each other."""
    async with asyncio.timeout(PATIENCE_S):
        number = FIRST_TRIAL
        while not any(one >= FIRST_TRIAL for one in to_gate.heard):
            await from_gate.say(number)
            number += 1
            await asyncio.sleep(0.2)


def test_what_a_gateway_says_is_heard_once_at_each_of_three_relays_in_a_chain_and_in_a_ring(three):
    a, b, c = three
    start(a)
    start(b, a)
    start(c, b)

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            gates = [await stack.enter_async_context(Gate(relay.folder / "link")) for relay in three]
            at_a, _, at_c = gates
            await linked(at_a, at_c)
            await at_a.say(*range(100, 120))
            await at_c.say(*range(200, 220))
            for gate, numbers in ((at_c, range(100, 120)), (at_a, range(200, 220))):
                await until_true("all is there", lambda g=gate, n=numbers: set(n) <= set(g.heard), PATIENCE_S)
            assert live_totals(b)["duplicate"] == 0
            # The chain becomes a ring, and A comes back as another relay: its gateway does, too.
            a.stop()
            await until_true("A is gone", lambda: not at_a.client.is_connected, PATIENCE_S)
            a._errors = (a.folder / "stderr").open("ab")
            start(a, c)
            await until_true("A is back", lambda: at_a.client.is_connected, PATIENCE_S)
            await until_true("A has both for neighbours", lambda: status_of(a)["relays"] == 2, PATIENCE_S, pause_s=0.3)
            for gate, first in zip(gates, (300, 400, 500), strict=True):
                await gate.say(*range(first, first + 20))
            for gate, own in zip(gates, (300, 400, 500), strict=True):
                others = {n for first in (300, 400, 500) if first != own for n in range(first, first + 20)}
                await until_true("all is there", lambda g=gate, o=others: o <= set(g.heard), PATIENCE_S)
            # Whatever came twice in the ring was heard once. Which of them gets it twice is a matter of who is faster.
            await until_true("it went both ways", lambda: any(live_totals(r)["duplicate"] for r in three), PATIENCE_S)
            for gate in gates:
                assert len(gate.heard) == len(set(gate.heard))
            for relay in three:
                assert not any(relay.totals()["live_dropped"][why] for why in ("rate", "queue_full", "late", "unread"))
            await flooded(a, c, at_c)

    asyncio.run(main())


async def flooded(a, c, at_c):
    """A gateway of A that floods costs no more than its rate, C's gateway its own, and no message its way."""
    before = live_totals(a)["handed_over"]
    loop = asyncio.get_running_loop()
    with closing(await connect(a.folder / "link", {"gateway": "flood", "kinds": [KIND]})) as sock:
        began = loop.time()
        frames = b"".join(encode_live_frame(datagram(10_000_000 + n, 8).encode()) for n in range(40_000))
        flood = asyncio.create_task(loop.sock_sendall(sock, frames))
        await until_true("it is beyond its rate", lambda: live_totals(a)["rate"] > 1000, PATIENCE_S)
        await put(a.folder / "link", [mail := envelope(random.Random(1), build_hour=build_hour())])
        with closing(await Phone.open(c.folder / "link", slow=False)) as phone:
            phone.session.subscribe(Subscribe(prefix_bits=0, prefix=0))
            await phone.flush()
            while mail not in phone.received:
                await phone.read(1 << 16)
        # It went by while the flood did.
        assert not flood.done()
        taken = live_totals(a)["handed_over"] - before
        assert taken <= DATAGRAMS_IN.burst + DATAGRAMS_IN.per_s * (loop.time() - began)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
    assert len([one for one in at_c.heard if one >= 10_000_000]) <= taken


def test_gateways_of_one_relay_hear_each_other_and_never_themselves(tmp_path):
    async def main():
        async with running(tmp_path) as (engine, path):
            async with Gate(path) as one, Gate(path, "other") as other, Gate(path, "third", kinds=[9]) as third:
                assert one.clock == [None]
                await one.say(1)
                await until_true("the other hears it", lambda: other.heard == [1], PATIENCE_S)
                await other.say(2, 1)
                await until_true("the first hears what is new", lambda: one.heard == [2], PATIENCE_S)
                assert third.heard == []
                engine.set_clock(1_800_000_000)
                await until_true("they hear the time", lambda: len(one.clock) == 2, PATIENCE_S)
                assert abs(one.clock[1] - 1_800_000_000_000) < 10_000
                engine.tick()
                # Another process of that name takes its place; the old one comes back and takes it again.
                with closing(await connect(path, {"gateway": "gate", "kinds": [KIND]})) as sock:
                    [content] = FrameCutter().receive(await asyncio.get_running_loop().sock_recv(sock, 100))
                    assert isinstance(decode_frame(content), ClockReading)
                    await until_true("the old one is back", lambda: len(one.clock) == 3, PATIENCE_S)
                assert len(one.clock) == 3
            await until_true("nobody wants any", lambda: engine.node.live.wanted == frozenset(), PATIENCE_S)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (b"\0\0", "a frame has 1 to"),
        (ClockReading(unix_ms=1).encode(), "does not tell the time"),
        (b"\0\1\x09", "type of a frame"),
        (b"\0\2\1\1", "1 to 16384 bytes of data"),
    ],
)
def test_a_gateway_that_does_not_speak_as_it_should_hears_why_and_is_counted(tmp_path, wrong, says):
    async def main():
        async with running(tmp_path) as (engine, path):
            with closing(await connect(path, {"gateway": "gate", "kinds": [KIND]})) as sock:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, encode_live_frame(datagram(1).encode()) + wrong)
                clock = ClockReading(unix_ms=None).encode()
                assert await loop.sock_recv(sock, len(clock)) == clock
                assert says in json.loads(await line_of(sock))["error"]
                assert await line_of(sock) == b""
            assert engine.stats.get(HandshakeFailure.BAD_PREAMBLE) == 1

    asyncio.run(main())


def test_there_are_so_many_gateways_and_no_more(tmp_path):
    async def main():
        async with running(tmp_path) as (engine, path), contextlib.AsyncExitStack() as stack:
            for number in range(MAX_GATEWAYS):
                await stack.enter_async_context(Gate(path, f"gate{number}"))
            with closing(await connect(path, {"gateway": "gate", "kinds": [KIND]})) as sock:
                assert f"no more than {MAX_GATEWAYS} gateways" in json.loads(await line_of(sock))["error"]
            assert engine.stats.get(HandshakeFailure.BAD_PREAMBLE) == 1

    asyncio.run(main())


def test_a_flood_is_not_read_from_and_what_a_gateway_does_not_read_is_dropped(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        async with running(tmp_path) as (engine, path):
            with (
                closing(await connect(path, {"gateway": "flood", "kinds": [KIND]})) as flood,
                closing(await connect(path, {"gateway": "deaf", "kinds": [KIND]})),
            ):
                await until_true("both are there", lambda: len(engine._gateways._connections) == 2, PATIENCE_S)
                began = loop.time()
                frames = b"".join(encode_live_frame(datagram(number, 2000).encode()) for number in range(FLOOD))
                await loop.sock_sendall(flood, frames)
                seconds = loop.time() - began
                taken = engine.stats.get(LiveTotal.HANDED_OVER)
                assert BYTES_IN.burst // 2000 <= taken <= (BYTES_IN.burst + BYTES_IN.per_s * seconds) / 2000 + 1
                assert taken + engine.stats.get(LiveDropped.RATE) >= FLOOD - 2 * (256 << 10) // 2000
                # It is read in pieces, with pauses in between.
                assert seconds > len(frames) / READ_BYTES * PAUSE_S / 4
                await until_true(
                    "all of it was delivered or dropped",
                    lambda: (
                        engine.stats.get(LiveTotal.DELIVERED) + engine.stats.get(LiveDropped.UNREAD)
                        == engine.stats.get(LiveTotal.HANDED_OVER)
                    ),
                    PATIENCE_S,
                )
                for number in range(4000, 4400):
                    await asyncio.sleep(0)
                    engine.node.live.handed_over(f"g{number}", datagram(number, 2000), loop.time())
                engine.wake()
                await until_true("it was dropped", lambda: engine.stats.get(LiveDropped.UNREAD), PATIENCE_S)

    asyncio.run(main())


def test_a_client_that_says_a_live_datagram_is_sent_away(tmp_path):
    async def main():
        async with running(tmp_path) as (engine, path), Gate(path) as gate:
            with closing(await Phone.open(path, slow=False)) as phone:
                phone.session._push(LIVE_LANE, encode_live(9, datagram(1).encode()))
                await phone.flush()
                while not phone.of(Closed):
                    await phone.read(4096)
                assert phone.of(Closed)[0].goodbye is Goodbye.PROTOCOL
            assert engine.stats.get(LiveTotal.RECEIVED) == 0
            assert gate.heard == []

    asyncio.run(main())
