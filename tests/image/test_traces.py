# SPDX-License-Identifier: GPL-2.0-or-later
"""What somebody on the cable could recognise a relay by, after it was switched off and on."""

import socket
import time

import pytest

from tests.image.lan import Lan

pytestmark = [pytest.mark.image, pytest.mark.timeout(400)]

ETH_ALL, OUTGOING = 3, 4
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
UDP = 17
#: Options of DHCP (RFC 2132, RFC 4702) with something of the machine in them.
HOST_NAME, VENDOR, CLIENT, FULL_NAME = 12, 60, 61, 81
#: By then it has asked for addresses, serves, and has told its name.
LISTEN_S = 25


class Ear:
    """Hears all frames on a switch; a context manager."""

    def __init__(self, lan):
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
        self._sock.bind((lan.name, ETH_ALL))
        self._sock.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._sock.close()

    def frames(self):
        """Those of others, since the last time."""
        found = []
        while True:
            try:
                frame, (_, _, kind, *_) = self._sock.recvfrom(4096)
            except BlockingIOError:
                return found
            if kind != OUTGOING:
                found.append(frame)


def dhcp_questions(frames):
    """Hardware address and options of each."""
    for frame in frames:
        packet = frame[14:]
        if frame[12:14] != IPV4 or packet[9] != UDP or packet[22:24] != b"\x00\x43":
            continue
        message = packet[28:]
        options, at = {}, 240
        while message[at] != 255:
            options[message[at]] = message[at + 2 : at + 2 + message[at + 1]]
            at += 2 + message[at + 1]
        yield message[28:34], options


def test_no_address_and_no_name_is_the_same_after_a_restart(card, boot):
    heard = []
    with Lan() as lan:
        for number in range(2):
            with Ear(lan) as ear:
                relay = boot(card, f"relay-{number}", network=lan.port())
                assert relay.wait_booted() == "running", relay.explain()
                time.sleep(LISTEN_S)
                heard.append(ear.frames())
                relay.kill()
    for frames in heard:
        asked = list(dhcp_questions(frames))
        assert asked
        for address, options in asked:
            assert not options.keys() & {HOST_NAME, VENDOR, FULL_NAME}
            # RFC 7844, section 3.5.
            assert options.get(CLIENT, b"\x01" + address) == b"\x01" + address
    for what, found in (
        ("hardware", [{frame[6:12] for frame in frames} for frames in heard]),
        ("IPv4", [{frame[26:30] for frame in frames if frame[12:14] == IPV4} - {bytes(4)} for frames in heard]),
        ("IPv6", [{frame[22:38] for frame in frames if frame[12:14] == IPV6} - {bytes(16)} for frames in heard]),
    ):
        first, second = found
        assert first, what
        assert second, what
        assert not first & second, what
    # Of a locally administered address.
    assert all(frame[6] & 2 for frames in heard for frame in frames)
