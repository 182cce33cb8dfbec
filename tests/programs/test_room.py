# SPDX-License-Identifier: GPL-2.0-or-later
"""All places taken: a newcomer gets one from the address that has the most, and from nobody else."""

import asyncio
import random

from relay.core.messages import Hello, Role
from relay.core.session import Session, State
from relay.core.stats import HandshakeFailure, LinkKind
from relay.links import StreamInfo
from tests.programs.running import running


class Transport(asyncio.Transport):
    """Bytes to nowhere."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data):
        self.written += data

    def abort(self):
        self.closed = True

    close = write_eof = abort

    def is_closing(self):
        return self.closed

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def pause_reading(self):
        pass

    resume_reading = pause_reading


def connect(engine, peer, *, initiator=False):
    """A connection from an address; its transport, which is closed once it is turned away."""
    transport = Transport()
    info = StreamInfo(kind=LinkKind.TCP, interface="eth0", initiator=initiator, peer=peer)
    stream = engine.stream(lambda _: info)
    stream.connection_made(transport)
    transport.stream = stream
    return transport


def prove(transport):
    """Let a connection become a session."""
    session = Session(initiator=True, hello=Hello(role=Role.CLIENT), random_bytes=random.Random(1).randbytes, now=0.0)
    while session.state is not State.OPEN:
        if data := session.data_to_send():
            transport.stream.data_received(data)
        transport.stream.flush()
        session.receive_data(bytes(transport.written), 0.0)
        transport.written.clear()


def scene(tmp_path, act, **limits):
    async def run():
        async with running(tmp_path, **limits) as (engine, _):
            act(engine)

    asyncio.run(run())


def test_a_newcomer_takes_the_oldest_unproven_place_of_the_address_with_the_most(tmp_path):
    def act(engine):
        many = [connect(engine, "many") for _ in range(5)]
        few = [connect(engine, "few") for _ in range(3)]
        prove(many[0])
        newcomer = connect(engine, "new")
        assert [transport.closed for transport in many] == [False, True, False, False, False]
        assert not any(transport.closed for transport in [*few, newcomer])
        assert engine.stats.get(HandshakeFailure.TOO_MANY) == 1

    scene(tmp_path, act, max_connections=8)


def test_where_all_of_them_are_sessions_the_oldest_goes(tmp_path):
    def act(engine):
        many = [connect(engine, "many") for _ in range(4)]
        for transport in many:
            prove(transport)
        newcomer = connect(engine, "new")
        assert [transport.closed for transport in many] == [True, False, False, False]
        assert not newcomer.closed

    scene(tmp_path, act, max_connections=4)


def test_where_all_have_as_few_as_the_newcomer_only_one_without_a_session_gives_way(tmp_path):
    def act(engine):
        sessions = [connect(engine, name) for name in ("a", "b")]
        for transport in sessions:
            prove(transport)
        unproven = connect(engine, "c")
        newcomer = connect(engine, "d")
        assert unproven.closed
        assert not newcomer.closed
        prove(newcomer)
        assert connect(engine, "e").closed
        assert not any(transport.closed for transport in [*sessions, newcomer])

    scene(tmp_path, act, max_connections=3)


def test_who_has_most_himself_displaces_only_his_own(tmp_path):
    def act(engine):
        flood = [connect(engine, "flood") for _ in range(6)]
        others = [connect(engine, f"other {number}") for number in range(2)]
        assert connect(engine, "flood").closed or any(transport.closed for transport in flood)
        assert not any(transport.closed for transport in others)

    scene(tmp_path, act, max_connections=8)


def test_connections_that_we_dialled_give_way_to_nobody(tmp_path):
    def act(engine):
        dialled = [connect(engine, "peer", initiator=True) for _ in range(4)]
        assert connect(engine, "new").closed
        assert not any(transport.closed for transport in dialled)

    scene(tmp_path, act, max_connections=4)


def test_one_address_has_its_own_bound(tmp_path):
    def act(engine):
        assert [connect(engine, "one").closed for _ in range(4)] == [False, False, True, True]
        assert not connect(engine, "two").closed

    scene(tmp_path, act, max_connections_per_address=2)
