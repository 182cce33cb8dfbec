# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a driver says and whatever lies in the file: a value or a DecodeError, and no other exception."""

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import DecodeError
from relay.net import found, wiphy
from relay.process import netlink_attributes as nla
from relay.process.netlink_attributes import Attributes

NUMBERS = st.integers(0, 0x3FFF)
#: Attributes within attributes under the numbers that matter, and garbage between.
TREES = st.recursive(
    st.binary(max_size=24),
    lambda inner: st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 21, 22, 32, 33, 38, 52, 120]), inner), max_size=6
    ).map(nla.encode),
    max_leaves=40,
)


@given(st.lists(st.tuples(NUMBERS, st.binary(max_size=40)), max_size=10))
def test_attributes_round_trip(pairs):
    assert list(Attributes(nla.encode(pairs))) == pairs


@given(st.lists(st.binary(max_size=80) | TREES, max_size=5))
def test_dumps_of_radios_never_raise(messages):
    radios, unreadable = wiphy.decode_wiphys(messages)
    assert unreadable <= len(messages)
    assert all(channel >= 0 for radio in radios.values() for channel in radio.usable_channels)
    interfaces, unreadable = wiphy.decode_interfaces(messages)
    assert len(interfaces) + unreadable <= len(messages)
    assert wiphy.count_peers(messages, wiphy.InterfaceType.MESH) <= len(messages)
    wiphy.decode_country(messages)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["version", "links", "made", "country", "name", "index"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_the_record_is_read_or_refused(data):
    with contextlib.suppress(DecodeError):
        assert isinstance(found.decode(data), found.Found)
