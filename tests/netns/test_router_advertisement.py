# SPDX-License-Identifier: GPL-2.0-or-later
"""A router advertisement by a stranger, a real kernel's answer to it, and both undone."""

import asyncio
import json
import socket
import struct
import subprocess
import time

import pytest

from relay.net import deaf
from relay.net.rtnetlink import Links
from relay.net.undo import look

#: Flags: on-link, and make addresses of it. Lifetimes in seconds.
PREFIX = (
    bytes((3, 4, 64, 0xC0)) + struct.pack("!III", 1800, 1800, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
)
#: Router for half an hour, preferred over others (RFC 4191).
ADVERTISEMENT = bytes((134, 0, 0, 0, 64, 0x08)) + struct.pack("!HII", 1800, 0, 0) + PREFIX


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def ours(interface):
    """Global addresses of an interface, and the ways out."""
    told = json.loads(ip("-j", "-6", "address", "show", "dev", interface, "scope", "global"))
    addresses = [entry for link in told for entry in link.get("addr_info", ()) if entry]
    return len(addresses), len(json.loads(ip("-j", "-6", "route", "show", "default")))


@pytest.fixture
def cable():
    """Two ends of a cable; the second is a stranger's, in a namespace of its own."""
    ip("netns", "add", "stranger")
    ip("link", "add", "air0", "type", "veth", "peer", "name", "air1", "netns", "stranger")
    try:
        yield "air0"
    finally:
        ip("link", "delete", "air0")
        ip("netns", "delete", "stranger")


def advertise():
    """Send it until it must have arrived; the kernel gives the packet its checksum and its link-local source."""
    script = (
        "import socket, time\n"
        "sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)\n"
        "sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)\n"
        "index = socket.if_nametoindex('air1')\n"
        "for _ in range(20):\n"
        "    try:\n"
        f"        sock.sendto(bytes.fromhex('{ADVERTISEMENT.hex()}'), ('ff02::1', 0, 0, index))\n"
        "    except OSError:\n"
        "        pass\n"
        "    time.sleep(0.2)\n"
    )
    subprocess.run(["ip", "netns", "exec", "stranger", "python3", "-c", script], check=True, timeout=30)


def up(interface):
    ip("-n", "stranger", "link", "set", "air1", "up")
    ip("link", "set", interface, "up")
    end = time.monotonic() + 10
    while "tentative" in ip("-6", "address", "show", "dev", interface) or "fe80" not in ip(
        "address", "show", interface
    ):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_stranger_gives_no_address_and_no_way_out_and_it_is_undone(cable):
    async def as_found():
        async with Links() as links:
            return await look(links, await links.find(cable))

    # As many systems have it, also where this test runs on one that does not.
    assert deaf.write(cable, {"ipv6/conf/{}/accept_ra": "1", "ipv6/conf/{}/autoconf": "1"})
    found = asyncio.run(as_found())
    assert deaf.make_deaf(cable)
    up(cable)
    advertise()
    assert ours(cable) == (0, 0)
    # What `relay net` puts back at its end: the kernel believes again, so it was this that kept it from that.
    assert deaf.write(cable, found.believes)
    assert deaf.read(cable) == found.believes
    advertise()
    assert ours(cable) == (1, 1)


def test_nothing_else_is_set_whatever_a_record_says(cable):
    before = deaf.read(cable)
    assert deaf.write(cable, {"ipv6/conf/{}/forwarding": "1", "../../kernel/core_pattern": "x"})
    assert deaf.read(cable) == before
