# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of the kernel's, from this one and from one that answers oddly."""

import asyncio
import errno
import socket
import struct

import pytest

from relay.links import interfaces, rtnetlink


def message(kind, body=b"", flags=2):
    length = 16 + len(body)
    return struct.pack("=IHHII", length, kind, flags, 1, 0) + body + bytes(-length % 4)


DONE = message(3)


def dumped(*datagrams):
    """What comes of a kernel's answers."""

    async def ask():
        ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, kernel:
            ours.setblocking(False)
            for datagram in datagrams:
                kernel.send(datagram)
            answers = await asyncio.wait_for(rtnetlink._dump(ours, rtnetlink.RTM_GETLINK), 5)
            question = kernel.recv(100)
        assert struct.unpack("=IHHII", question[:16]) == (32, 18, 0x301, 1, 0)
        return answers

    return asyncio.run(ask())


def test_a_list_may_come_in_parts():
    assert dumped(message(16, b"one") + message(16, b"second"), message(16, b"3"), DONE) == [b"one", b"second", b"3"]
    assert dumped(message(16, b"one") + DONE) == [b"one"]


def test_a_list_that_changed_meanwhile_is_none():
    assert dumped(message(16, b"one", flags=0x12), DONE) is None
    assert dumped(message(16, b"one"), message(3, flags=0x12)) is None


def test_a_refusal_is_an_error_with_its_number():
    with pytest.raises(OSError, match="not permitted") as caught:
        dumped(message(2, struct.pack("=i", -errno.EPERM)))
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("length", [0, 15, 17, 1 << 31])
def test_a_length_that_cannot_be_ends_the_question(length):
    with pytest.raises(ConnectionError):
        dumped(struct.pack("=IHHII", length, 16, 2, 1, 0))


def test_this_machine_has_a_loopback():
    snapshot = asyncio.run(interfaces.read())
    loopback = snapshot.interfaces["lo"]
    assert "127.0.0.1" in loopback.addresses
    assert "127.0.0.0/8" in loopback.networks
    assert loopback.is_loopback
    assert loopback.reaches("127.9.9.9")
    assert not loopback.multicast
    assert snapshot.name_of("127.0.0.1", 0) == "lo"


def test_notes_that_overflow_count_as_a_change():
    async def main():
        changes = rtnetlink.Changes()
        real, ours = changes._socket, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        real.close()
        changes._socket, kernel = ours
        changes._socket.setblocking(False)
        kernel.send(message(99))
        kernel.send(message(rtnetlink.RTM_NEWADDR))
        await asyncio.wait_for(changes.wait(), 5)
        kernel.send(message(rtnetlink.RTM_DELLINK))
        changes.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(changes.wait(), 0.1)
        changes.close()
        kernel.close()

    asyncio.run(main())
