# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio
import socket

import pytest

from relay.bluetooth.sockets import Reader

BATCH_BYTES = 4000


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_SEQPACKET], ids=["stream", "seqpacket"])
def pair(request):
    ours, theirs = socket.socketpair(socket.AF_UNIX, request.param)
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def reader(sock):
    return Reader(sock, piece_bytes=1000, batch_bytes=BATCH_BYTES)


def test_what_is_there_comes_at_once_and_in_order(pair):
    ours, theirs = pair

    async def run():
        own = reader(ours)
        theirs.send(b"a" * 700)
        theirs.send(b"b" * 700)
        got = b""
        while len(got) < 1400:
            got += await own.read()
        assert got == b"a" * 700 + b"b" * 700
        waiting = asyncio.ensure_future(own.read())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        theirs.send(b"later")
        assert await waiting == b"later"
        own.close()

    asyncio.run(run())


def test_a_batch_is_bounded(pair):
    ours, theirs = pair

    async def run():
        own = reader(ours)
        for _ in range(20):
            theirs.send(bytes(900))
        sizes = []
        while sum(sizes) < 20 * 900:
            sizes.append(len(await own.read()))
        assert max(sizes) <= BATCH_BYTES + 900
        own.close()

    asyncio.run(run())


def test_the_end_comes_after_the_bytes_and_again(pair):
    ours, theirs = pair

    async def run():
        own = reader(ours)
        theirs.send(b"last")
        theirs.close()
        assert await own.read() == b"last"
        assert await own.read() == b""
        assert await own.read() == b""
        own.close()

    asyncio.run(run())


def test_closing_wakes_who_waits(pair):
    ours, _ = pair

    async def run():
        own = reader(ours)
        waiting = asyncio.ensure_future(own.read())
        await asyncio.sleep(0.01)
        own.close()
        assert await waiting == b""

    asyncio.run(run())


def test_the_loop_does_not_spin_while_nobody_reads(pair):
    ours, theirs = pair

    async def run():
        own = reader(ours)
        waiting = asyncio.ensure_future(own.read())
        await asyncio.sleep(0.01)
        theirs.send(b"first")
        assert await waiting == b"first"
        theirs.send(b"second")
        turns = 0
        loop = asyncio.get_running_loop()
        real = loop._selector.select

        def counted(timeout):
            nonlocal turns
            turns += 1
            return real(timeout)

        loop._selector.select = counted
        await asyncio.sleep(0.2)
        assert turns < 10
        assert await own.read() == b"second"
        own.close()

    asyncio.run(run())


def test_a_channel_is_not_asked_for_bytes_before_there_are_any(pair):
    """By asking, Linux grants credits, and may do so before it tells the other side that there is a channel."""
    ours, theirs = pair

    class Asked(socket.socket):
        times = 0

        def recv(self, *arguments):
            self.times += 1
            return super().recv(*arguments)

    async def run():
        with Asked(fileno=ours.detach()) as asked:
            own = reader(asked)
            waiting = asyncio.ensure_future(own.read())
            await asyncio.sleep(0.05)
            assert asked.times == 0
            theirs.send(b"first")
            assert await waiting == b"first"
            own.close()

    asyncio.run(run())
