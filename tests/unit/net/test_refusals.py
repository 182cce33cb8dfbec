# SPDX-License-Identifier: GPL-2.0-or-later
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import DecodeError
from relay.net.net_report import Reporting
from relay.net.refusals import Refusals, decode_counter
from relay.process.netlink_attributes import encode, nest, text
from tests.unit.net.test_net_report import report


def counter(name, packets):
    """As the kernel answers (NFT_MSG_NEWOBJ): table, name, kind, bytes and packets."""
    data = nest(4, [(1, bytes(8)), (2, packets.to_bytes(8, "big"))])
    return encode([text(1, "relay"), text(2, name), (3, bytes((0, 0, 0, 1))), data])


def test_a_counter_is_read():
    assert decode_counter(counter("dhcp_crowd", 1 << 40)) == ("dhcp_crowd", 1 << 40)
    assert decode_counter(encode([text(2, "a"), (3, bytes((0, 0, 0, 2)))])) == ("", 0)


@given(st.binary(max_size=80))
def test_any_object_is_a_counter_or_none(noise):
    try:
        decode_counter(noise)
    except DecodeError:
        return
    with pytest.raises(DecodeError):
        decode_counter(noise + bytes((1, 0, 2, 0)))


def test_what_was_dropped_is_counted_once_also_after_the_rules_were_made_anew():
    told = Reporting()
    refusals = Refusals(told)
    for crowd in (5, 5, 7, 2):
        refusals._add({"dhcp_crowd": crowd})
    assert report(told).counters["dhcp_crowd"] == 9
