# SPDX-License-Identifier: GPL-2.0-or-later
import ipaddress
import socket
import struct

import pytest

from relay.net.rtnetlink import address_key, is_link_local
from relay.process import netlink_attributes as nla

IFA_ADDRESS, IFA_LOCAL, IFA_LABEL = 1, 2, 3


def body(address, prefix, *more, index=4, flags=0):
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return struct.pack("=BBBBI", family, prefix, flags, 0, index) + nla.encode([(IFA_ADDRESS, packed), *more])


@pytest.mark.parametrize(
    ("address", "local"),
    [("fe80::1", True), ("febf::1", True), ("fec0::1", False), ("2001:db8::1", False), ("169.254.1.1", False)],
)
def test_link_local_addresses_stay_with_their_interface(address, local):
    assert is_link_local(body(address, 64 if ":" in address else 16)) is local


def test_an_address_is_the_same_whatever_its_flags_and_label():
    plain = body("192.0.2.1", 24)
    assert address_key(plain) == address_key(body("192.0.2.1", 24, nla.text(IFA_LABEL, "eth0"), index=9, flags=0x40))
    assert address_key(plain) != address_key(body("192.0.2.1", 25))
    # Of two ends of a line, the one that is ours.
    local = ipaddress.ip_address("192.0.2.7").packed
    assert address_key(body("192.0.2.1", 32, (IFA_LOCAL, local)))[2] == local
