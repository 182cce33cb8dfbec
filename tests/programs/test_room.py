# SPDX-License-Identifier: GPL-2.0-or-later
"""Places, turns and memory of all connections together: who is let in, who waits, who has to go."""

import asyncio
import random

import pytest

from relay.core.messages import Hello, MessageType, Role
from relay.core.session import Session, State
from relay.core.stats import HandshakeFailure, LinkKind, SessionError
from relay.links import StreamInfo
from relay.run import limits
from relay.run.limits import MAX_FOUND_CONNECTIONS
from tests.programs.running import running
from tests.unit.core.memory import reachable


class Transport(asyncio.Transport):
    """Bytes to nowhere."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.reads = True

    def write(self, data):
        self.written += data

    def abort(self):
        self.closed = True

    close = write_eof = abort

    def is_closing(self):
        return self.closed

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        self.reads = True


def connect(engine, peer, *, interface="eth0", initiator=False, named=False):
    """A connection from an address; its transport, which is closed once it is turned away."""
    transport = Transport()
    info = StreamInfo(kind=LinkKind.TCP, interface=interface, initiator=initiator, peer=peer, named=named)
    stream = engine.stream(lambda _: info)
    stream.connection_made(transport)
    transport.stream = stream
    return transport


async def prove(transport):
    """Let a connection become a session; returns the client's side of it."""
    session = Session(initiator=True, hello=Hello(role=Role.CLIENT), random_bytes=random.Random(1).randbytes, now=0.0)
    while session.state is not State.OPEN:
        if data := session.data_to_send():
            transport.stream.data_received(data)
        await asyncio.sleep(0)
        session.receive_data(bytes(transport.written), 0.0)
        transport.written.clear()
    transport.stream.data_received(session.data_to_send())
    await asyncio.sleep(0.01)
    session.receive_data(bytes(transport.written), 0.0)
    transport.written.clear()
    return session


def scene(tmp_path, act, **limits):
    async def run():
        async with running(tmp_path, **limits) as (engine, _):
            await act(engine)

    asyncio.run(run())


def test_a_newcomer_takes_the_oldest_unproven_place_of_the_address_with_the_most(tmp_path):
    async def act(engine):
        many = [connect(engine, "many") for _ in range(5)]
        few = [connect(engine, "few") for _ in range(3)]
        await prove(many[0])
        newcomer = connect(engine, "new")
        assert [transport.closed for transport in many] == [False, True, False, False, False]
        assert not any(transport.closed for transport in [*few, newcomer])
        assert engine.stats.get(HandshakeFailure.TOO_MANY) == 1

    scene(tmp_path, act, max_connections=8)


def test_where_all_of_them_are_sessions_the_oldest_goes(tmp_path):
    async def act(engine):
        many = [connect(engine, "many") for _ in range(4)]
        for transport in many:
            await prove(transport)
        newcomer = connect(engine, "new")
        assert [transport.closed for transport in many] == [True, False, False, False]
        assert not newcomer.closed

    scene(tmp_path, act, max_connections=4)


def test_where_all_have_as_few_as_the_newcomer_only_one_without_a_session_gives_way(tmp_path):
    async def act(engine):
        sessions = [connect(engine, name) for name in ("a", "b")]
        for transport in sessions:
            await prove(transport)
        unproven = connect(engine, "c")
        newcomer = connect(engine, "d")
        assert unproven.closed
        assert not newcomer.closed
        await prove(newcomer)
        assert connect(engine, "e").closed
        assert not any(transport.closed for transport in [*sessions, newcomer])

    scene(tmp_path, act, max_connections=3)


def test_who_has_most_himself_displaces_only_his_own(tmp_path):
    async def act(engine):
        flood = [connect(engine, "flood") for _ in range(6)]
        others = [connect(engine, f"other {number}") for number in range(2)]
        assert connect(engine, "flood").closed or any(transport.closed for transport in flood)
        assert not any(transport.closed for transport in others)

    scene(tmp_path, act, max_connections=8)


def test_what_we_dial_and_what_dials_us_do_not_compete(tmp_path):
    async def act(engine):
        found = [connect(engine, f"found {number}", initiator=True) for number in range(MAX_FOUND_CONNECTIONS)]
        for transport in found:
            await prove_dialled(transport)
        accepted = [connect(engine, "phone"), connect(engine, "other phone")]
        for transport in accepted:
            await prove(transport)
        assert connect(engine, "third").closed
        assert connect(engine, "found too many", initiator=True).closed
        # What the operator named finds a place whatever others do.
        assert not connect(engine, "peer", initiator=True, named=True).closed
        assert not any(transport.closed for transport in [*found, *accepted])

    scene(tmp_path, act, max_connections=2)


async def prove_dialled(transport):
    """Be the other side of a connection that the relay opened."""
    session = Session(initiator=False, hello=Hello(role=Role.CLIENT), random_bytes=random.Random(2).randbytes, now=0.0)
    while session.state is not State.OPEN:
        session.receive_data(bytes(transport.written), 0.0)
        transport.written.clear()
        if data := session.data_to_send():
            transport.stream.data_received(data)
        await asyncio.sleep(0)


def test_an_interface_within_its_share_finds_a_place_whoever_has_taken_them_all(tmp_path):
    async def act(engine):
        flood = [connect(engine, f"fd00::{number:x}", interface="eth0") for number in range(8)]
        for transport in flood:
            await prove(transport)
        phones = [connect(engine, f"phone {number}", interface="wlan0") for number in range(2)]
        # Streams of Bluetooth have no address, and none is the second of another.
        phones += [connect(engine, "", interface="hci0") for _ in range(2)]
        assert not any(transport.closed for transport in phones)
        assert [transport.closed for transport in flood] == [True] * 4 + [False] * 4
        # Once each has its share the flood's own interface has to do with that.
        for transport in phones:
            await prove(transport)
        assert connect(engine, "fd00::ffff", interface="eth0").closed

    scene(tmp_path, act, max_connections=8)


def pings(session, count):
    """Records full of PINGs, such as no session of ours would send."""
    plaintext = b"\x00\x00\x01\x03" * count
    record = session._encrypt.encrypt(plaintext)
    return len(record).to_bytes(2, "big") + record


def test_who_says_little_is_answered_before_those_who_say_much_are_through(tmp_path):
    async def act(engine):
        flood = [connect(engine, f"flood {number % 3}") for number in range(28)]
        sessions = [await prove(transport) for transport in flood]
        quiet = connect(engine, "quiet")
        phone = await prove(quiet)
        stats = engine.link_stats(LinkKind.TCP, "eth0")
        began, total = stats.frames_in, len(flood) * 16_000
        for transport, session in zip(flood, sessions, strict=True):
            transport.stream.data_received(pings(session, 16_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        # Nothing more is read from who has not been served yet.
        assert not all(transport.reads for transport in flood)
        answered = []
        for _ in range(5):
            quiet.stream.data_received(pings(phone, 1))
            while not quiet.written:  # noqa: ASYNC110 - each turn of the loop counts
                await asyncio.sleep(0)
            quiet.written.clear()
            answered.append(stats.frames_in - began)
        # Turns are shared by time, and the handshake took some: how much the machine says.
        assert answered[0] < total
        assert answered[-1] - answered[0] < total // 8
        newcomer = connect(engine, "newcomer")
        # That takes what the clock says, 20 ms, whatever is done meanwhile.
        await prove(newcomer)
        assert stats.frames_in - began < total
        while stats.frames_in - began < total:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert all(transport.reads for transport in flood)

    scene(tmp_path, act)


def test_when_all_hold_too_much_who_holds_most_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_SESSION_MEMORY_BYTES", 1 << 20)

    async def act(engine):
        people = [connect(engine, name, interface=interface) for name, interface in WHO]
        sessions = [await prove(transport) for transport in people]
        for transport, session, unsent in zip(people, sessions, (100, 300_000, 250_000, 250_000, 400_000), strict=True):
            transport.get_write_buffer_size = lambda unsent=unsent: unsent
            transport.stream.data_received(pings(session, 1))
            await asyncio.sleep(0.01)
        # Of the interface furthest above its share the address that holds most, though another session holds more.
        assert [transport.closed for transport in people] == [False, False, True, False, False]
        assert engine.link_stats(LinkKind.TCP, "eth0").errors[SessionError.MEMORY] == 1

    scene(tmp_path, act)


WHO = [("a", "eth0"), ("b", "eth0"), ("c", "eth0"), ("c", "eth0"), ("d", "wlan0")]


def test_the_address_of_who_has_gone_is_forgotten_in_a_moment(tmp_path):
    address = "fe80::77"

    async def act(engine):
        def is_known():
            return address.encode() in reachable(engine._connections, engine.node)

        async def keep_busy_and_go():
            phone = connect(engine, address)
            session = await prove(phone)
            for _ in range(20_000):
                session._writer.push(0, bytes([MessageType.PING]))
            while data := session.data_to_send():
                phone.stream.data_received(data)
            while phone.stream.link.session.has_input:  # noqa: ASYNC110 - a relay says nothing of having looked
                await asyncio.sleep(0)
            phone.stream.connection_lost(None)

        # Or whoever comes again at once would have his turns as a newcomer. On a machine that is
        # busy itself there may have been time for all in between.
        for _ in range(20):
            await keep_busy_and_go()
            await asyncio.sleep(0)
            if is_known():
                break
        else:
            pytest.fail("the relay never knew it any more")
        async with asyncio.timeout(20):
            while is_known():
                await asyncio.sleep(0.1)
                engine.tick()

    scene(tmp_path, act)


def test_one_address_has_its_own_bound(tmp_path):
    async def act(engine):
        assert [connect(engine, "one").closed for _ in range(4)] == [False, False, True, True]
        assert not connect(engine, "two").closed

    scene(tmp_path, act, max_connections_per_address=2)
