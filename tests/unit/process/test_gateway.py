# SPDX-License-Identifier: GPL-2.0-or-later
"""A gateway's end of its connection to `relay run`: frames, and a client that outlives the relay."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import DecodeError
from relay.core.messages import LIVE_ID_BYTES, MAX_LIVE_BYTES, LiveDatagram
from relay.process.gateway_client import MAX_AHEAD_BYTES, GatewayClient
from relay.process.gateway_frames import (
    MAX_FRAME_BYTES,
    ClockReading,
    FrameCutter,
    decode_frame,
    encode_live_frame,
)
from relay.process.link_socket import Gateway, decode_preamble
from tests.waiting import until_true

BITCHAT = Gateway(name="bitchat", kinds=frozenset({1}))
PATIENCE_S = 10

datagrams = st.builds(
    LiveDatagram,
    kind=st.integers(0, 255),
    identity=st.binary(min_size=LIVE_ID_BYTES, max_size=LIVE_ID_BYTES),
    data=st.binary(min_size=1, max_size=300),
)
clocks = st.builds(ClockReading, unix_ms=st.none() | st.integers(0, (1 << 64) - 1))


def frame_of(said):
    return encode_live_frame(said.encode()) if isinstance(said, LiveDatagram) else said.encode()


@given(said=st.lists(datagrams | clocks, max_size=5), cuts=st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_as_they_went_in_however_they_are_cut(said, cuts):
    stream = b"".join(frame_of(one) for one in said)
    cutter, heard = FrameCutter(), []
    while stream:
        for cut in cuts:
            heard += [decode_frame(content) for content in cutter.receive(stream[:cut])]
            stream = stream[cut:]
    assert heard == said
    assert not cutter.held_bytes


@given(st.binary(max_size=80))
def test_any_bytes_are_frames_or_an_error(data):
    cutter = FrameCutter()
    with contextlib.suppress(DecodeError):
        for content in cutter.receive(data):
            frame = decode_frame(content)
            assert frame_of(frame) == len(content).to_bytes(2) + content
    assert cutter.held_bytes <= len(data)


def test_the_longest_frame_is_cut_and_a_longer_one_is_refused():
    longest = LiveDatagram(kind=1, identity=bytes(LIVE_ID_BYTES), data=bytes(MAX_LIVE_BYTES))
    assert FrameCutter().receive(encode_live_frame(longest.encode()))[0][18:] == longest.data
    for length in (0, MAX_FRAME_BYTES + 1, int.from_bytes(b'{"')):
        with pytest.raises(DecodeError):
            FrameCutter().receive(length.to_bytes(2))


@pytest.mark.parametrize("data", [b"", bytes(MAX_LIVE_BYTES + 1)])
def test_what_no_frame_holds_is_refused_before_it_is_sent(data):
    with pytest.raises(ValueError, match="live datagram"):
        LiveDatagram(kind=1, identity=bytes(LIVE_ID_BYTES), data=data).encode()
    with pytest.raises(DecodeError):
        decode_frame(bytes([1, 1]) + bytes(LIVE_ID_BYTES) + data)


class Relay:
    """Takes gateways in as `relay run` does, for as long as the context lasts."""

    def __init__(self, path, first=None, *, reads=True):
        self.path, self.first, self.reads = path, first or ClockReading(unix_ms=None), reads
        self.lines, self.heard, self.writers = [], [], []

    async def __aenter__(self):
        self.server = await asyncio.start_unix_server(self._talk, self.path)
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.writers:
            writer.close()
        self.path.unlink(missing_ok=True)

    async def _talk(self, reader, writer):
        self.writers.append(writer)
        self.lines.append((await reader.readline()).rstrip())
        writer.write(self.first if isinstance(self.first, bytes) else self.first.encode())
        if isinstance(self.first, bytes):
            writer.close()
            return
        cutter = FrameCutter()
        while self.reads and (data := await reader.read(4096)):
            self.heard += [decode_frame(content) for content in cutter.receive(data)]
        if self.reads:
            writer.close()


@contextlib.asynccontextmanager
async def client_at(path):
    said = []
    client = GatewayClient(
        path, BITCHAT, on_live=said.append, on_clock=said.append, on_away=lambda: said.append("away")
    )
    task = asyncio.create_task(client.run(random=random.random))
    try:
        yield client, said
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_gateway_hands_over_and_gets_and_comes_back_after_a_restart(tmp_path):
    path = tmp_path / "link.sock"
    mine = LiveDatagram(kind=1, identity=b"m" * 16, data=b"mine")
    theirs = LiveDatagram(kind=1, identity=b"t" * 16, data=b"theirs")

    async def main():
        async with client_at(path) as (client, said):
            assert not client.send(mine)
            for time_ms in (None, 1_800_000_000_000):
                async with Relay(path, ClockReading(unix_ms=time_ms)) as relay:
                    await until_true("the relay takes it in", lambda: client.is_connected, PATIENCE_S)
                    assert said[-1] == time_ms
                    assert decode_preamble(relay.lines[0]) == BITCHAT
                    assert client.send(mine)
                    await until_true("what it handed over is there", lambda: relay.heard, PATIENCE_S)
                    assert relay.heard == [mine]
                    relay.writers[0].write(encode_live_frame(theirs.encode()))
                    await until_true("what others said is there", lambda: said[-1] == theirs, PATIENCE_S)
                await until_true("the relay is gone", lambda: not client.is_connected, PATIENCE_S)
                assert not client.send(mine)
            await until_true("it hears of that", lambda: said[-1] == "away", PATIENCE_S)

    asyncio.run(main())


def test_what_a_relay_that_does_not_read_has_no_room_for_is_lost(tmp_path):
    path = tmp_path / "link.sock"
    long = LiveDatagram(kind=1, identity=bytes(16), data=bytes(MAX_LIVE_BYTES))

    async def main():
        async with Relay(path, reads=False), client_at(path) as (client, _):
            await until_true("the relay takes it in", lambda: client.is_connected, PATIENCE_S)
            sent = sum(client.send(long) for _ in range(100))
            # What the kernel holds comes on top of what waits here.
            assert MAX_AHEAD_BYTES // MAX_FRAME_BYTES < sent < 100

    asyncio.run(main())


def test_a_relay_that_refuses_is_heard_in_the_log_once(tmp_path, caplog):
    path = tmp_path / "link.sock"

    async def main():
        async with Relay(path, b'{"error": "no more than 8 gateways"}\n') as relay, client_at(path) as (client, _):
            await until_true("it tried twice", lambda: len(relay.lines) > 1, PATIENCE_S)
            assert not client.is_connected

    asyncio.run(main())
    assert [record.message for record in caplog.records] == [
        'relay run refuses this gateway: {"error": "no more than 8 gateways"}'
    ]
