# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

from relay.config.net import frequency_of
from relay.net import wiphy
from relay.net.wiphy import InterfaceType, decode_interfaces, decode_wiphys
from relay.process import netlink_attributes as nla

NAME = nla.text(wiphy.ATTR_WIPHY_NAME, "phy0")
INDEX = nla.u32(wiphy.ATTR_WIPHY, 0)


def band(*channels, ht=0x107E):
    entries = [
        nla.nest(number, [nla.u32(1, mhz), *(nla.flag(flag) for flag in flags)])
        for number, (mhz, *flags) in enumerate(channels)
    ]
    return nla.nest(wiphy.ATTR_WIPHY_BANDS, [nla.nest(0, [nla.nest(1, entries), (4, ht.to_bytes(2, "little"))])])


def kinds(*names):
    return nla.nest(wiphy.ATTR_SUPPORTED_IFTYPES, [nla.flag(InterfaceType[name]) for name in names])


def test_a_radio_is_put_together_from_many_messages():
    found, unreadable = decode_wiphys(
        nla.encode(message)
        for message in (
            [INDEX, NAME, kinds("STATION", "MESH")],
            [INDEX, NAME, band((2412,), (2484, 2))],
            [INDEX, NAME, band((5180,), (5260, 5), (5500, 3))],
            [INDEX, NAME, nla.flag(wiphy.ATTR_SUPPORT_MESH_AUTH), nla.u32(wiphy.ATTR_MAX_AP_ASSOC_STA, 10)],
            [INDEX, NAME],
        )
    )
    (radio,) = found.values()
    assert radio.most_stations == 10
    assert unreadable == 0
    assert (radio.name, radio.kinds) == ("phy0", {"station", "mesh"})
    assert radio.mesh_security
    assert radio.high_throughput
    assert radio.usable_channels == [1, 36]
    assert radio.channel(5260).radar
    assert radio.channel(5500).listen_only
    assert radio.channel(2484).disabled
    assert radio.channel(5500).number == 100


def test_interface_types_of_newer_kernels_are_numbers():
    message = nla.encode([INDEX, nla.nest(wiphy.ATTR_SUPPORTED_IFTYPES, [nla.flag(7), nla.flag(99)])])
    assert decode_wiphys([message])[0][0].kinds == {"mesh", "99"}


@pytest.mark.parametrize(
    "odd",
    [
        b"\x03\x00\x01\x00",
        nla.encode([NAME]),
        nla.encode([(wiphy.ATTR_WIPHY, b"abc")]),
        nla.encode([INDEX, (wiphy.ATTR_WIPHY_BANDS, b"\xff\xff\xff\xff\xff")]),
    ],
)
def test_one_odd_radio_does_not_hide_the_others(odd):
    good = nla.encode([nla.u32(wiphy.ATTR_WIPHY, 1), nla.text(wiphy.ATTR_WIPHY_NAME, "phy1")])
    found, unreadable = decode_wiphys([odd, good])
    assert found[1].name == "phy1"
    assert unreadable == 1


def test_a_driver_that_lists_channels_without_end_is_not_believed():
    message = nla.encode([INDEX, band(*((mhz,) for mhz in range(1, 2000)))])
    assert len(decode_wiphys([message])[0][0].channels) == wiphy.MAX_CHANNELS


def test_interfaces_without_a_name_are_left_out():
    device = nla.encode([INDEX, nla.u32(wiphy.ATTR_IFTYPE, 10)])
    mesh = nla.encode(
        [
            INDEX,
            nla.u32(wiphy.ATTR_IFINDEX, 5),
            nla.text(wiphy.ATTR_IFNAME, "wlan0"),
            nla.u32(wiphy.ATTR_IFTYPE, 7),
            nla.u32(wiphy.ATTR_WIPHY_FREQ, 2437),
        ]
    )
    found, unreadable = decode_interfaces([device, mesh, b"\xff\xff\xff\xff"])
    (interface,) = found
    assert (interface.name, interface.kind_name, interface.mhz, unreadable) == ("wlan0", "mesh", 2437, 1)


def test_only_established_peerings_count_in_a_mesh():
    states = [nla.encode([nla.nest(wiphy.ATTR_STA_INFO, [nla.u8(6, state)])]) for state in (0, 2, 4, 4)]
    assert wiphy.count_peers([*states, b"\x01"], InterfaceType.MESH) == 2
    assert wiphy.count_peers(states, InterfaceType.IBSS) == 4


@pytest.mark.parametrize(("channel", "mhz"), [(1, 2412), (13, 2472), (14, 2484), (36, 5180), (165, 5825), (177, 5885)])
def test_channels_and_frequencies(channel, mhz):
    assert frequency_of(channel) == mhz
    assert wiphy.channel_of(mhz) == channel


def test_the_country_is_the_one_for_all_radios():
    of_one = nla.encode([INDEX, nla.text(wiphy.ATTR_REG_ALPHA2, "US")])
    of_all = nla.encode([nla.text(wiphy.ATTR_REG_ALPHA2, "DE")])
    assert wiphy.decode_country([b"\xff\xff\x01\x00", of_one, of_all]) == "DE"
    assert wiphy.decode_country([of_one]) == ""
