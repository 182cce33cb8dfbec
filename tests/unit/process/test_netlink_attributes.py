# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

from relay.core.errors import DecodeError
from relay.process import netlink_attributes as nla
from relay.process.netlink_attributes import Attributes


def test_what_was_written_is_read_back():
    body = nla.encode(
        [nla.u32(3, 7), nla.u8(5, 1), nla.text(4, "wlan0"), nla.flag(9), nla.nest(8, [nla.u32(1, 2412)]), (52, b"abc")]
    )
    found = Attributes(body)
    assert len(body) % 4 == 0
    assert (found.unsigned(3), found.unsigned(5), found.text(4)) == (7, 1, "wlan0")
    assert 9 in found
    assert found.nest(8).unsigned(1) == 2412
    assert found.get(52) == b"abc"
    assert [number for number, _ in found] == [3, 5, 4, 9, 8, 52]


def test_what_is_not_there_is_none_or_empty():
    found = Attributes(b"")
    assert (found.get(1), found.unsigned(1), found.text(1)) == (None, None, None)
    assert list(found.nest(1)) == []


@pytest.mark.parametrize("data", [b"\x03\x00\x01\x00", b"\x09\x00\x01\x00aaaa", b"\x00\x00\x00\x00"])
def test_lengths_that_cannot_be_are_refused(data):
    with pytest.raises(DecodeError):
        Attributes(data)


def test_a_number_of_odd_size_is_refused_and_odd_text_is_not():
    found = Attributes(nla.encode([(1, b"abc"), (2, b"\xff\xfe")]))
    with pytest.raises(DecodeError):
        found.unsigned(1)
    assert found.text(2)
