# SPDX-License-Identifier: GPL-2.0-or-later
"""Between a Bluetooth stream and `relay run`: all bytes, both ways."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress

import pytest

from relay.bluetooth.slots import Slot
from relay.bluetooth.splice import LINGER_S, STALL_S, splice
from relay.bluetooth.stream import SlotStream, StreamEndedError
from tests.unit.jumping import run

BLOB = random.Random(1).randbytes(100_000)


def slot_pair(frame_bytes=182, delay_s=0.01):
    """Two ends of an open slot on a perfect air."""
    loop = asyncio.get_running_loop()
    ends = []

    def air(to):
        def transmit(frames):
            for frame in frames:
                loop.call_later(delay_s, lambda frame=frame: ends[to].frame_received(frame))

        return transmit

    for is_central in (True, False):
        slot = Slot(is_central=is_central, nonce=3, frame_bytes=frame_bytes)
        ends.append(SlotStream(slot, air(1 if is_central else 0)))
    ends[0].open()
    return ends


def sockets():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


async def read_all(receive):
    data = bytearray()
    while part := await receive():
        data += part
    return bytes(data)


def test_all_bytes_go_both_ways_and_the_last_ones_leave():
    async def main():
        central, peripheral = slot_pair()
        ours, theirs = sockets()
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            splicing = tasks.create_task(splice(peripheral, ours))
            up = tasks.create_task(central.send(BLOB))
            got = b""
            while len(got) < len(BLOB):
                got += await loop.sock_recv(theirs, 4096)
            await up
            down = tasks.create_task(read_all(central.receive))
            await loop.sock_sendall(theirs, BLOB)
            theirs.close()  # `relay run` is through
        assert got == BLOB
        assert down.result() == BLOB
        assert splicing.result()
        assert ours.fileno() == -1

    run(main())


def test_the_end_of_the_air_is_the_end_of_the_socket():
    async def main():
        central, peripheral = slot_pair()
        ours, theirs = sockets()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(splice(peripheral, ours))
            await central.send(b"last words")
            await central.finish()
            data = await read_all(lambda: asyncio.get_running_loop().sock_recv(theirs, 4096))
        assert data == b"last words"
        theirs.close()

    run(main())


def test_a_peer_that_takes_nothing_is_given_up():
    async def main():
        _, peripheral = slot_pair()
        ours, theirs = sockets()
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            splicing = tasks.create_task(splice(peripheral, ours))
            # More than a window and all buffers: the central is there, and reads nothing.
            tasks.create_task(_send_until_broken(theirs))
        assert splicing.result() is False
        assert STALL_S <= loop.time() - began < STALL_S + 5
        theirs.close()

    async def _send_until_broken(sock):
        with suppress(OSError):
            while True:
                await asyncio.get_running_loop().sock_sendall(sock, BLOB)

    run(main())


def test_a_central_that_never_answers_does_not_hold_the_end_up():
    async def main():
        peripheral = SlotStream(Slot(is_central=False, nonce=1, frame_bytes=20), lambda _: None)
        ours, theirs = sockets()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(theirs, b"something")
        theirs.close()
        assert await splice(peripheral, ours)
        assert loop.time() == pytest.approx(LINGER_S)
        with pytest.raises(StreamEndedError):
            await peripheral.send(b"more")

    run(main())
