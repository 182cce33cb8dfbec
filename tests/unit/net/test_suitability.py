# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

from relay.config.net import NetConfig, RadioConfig
from relay.net import probe
from relay.net.inventory import Choice, best, candidates
from relay.net.suitability import Radio, access_point_obstacles, cautions, most_phones, obstacles, ranges
from relay.net.wiphy import Channel, Combination, InterfaceType, Wiphy, WirelessInterface


def radio(*kinds, driver="mt76x2u", mesh_security=True, index=0, **channels):
    known = {2412: Channel(mhz=2412), 2437: Channel(mhz=2437)} | {
        int(name[1:]): channel for name, channel in channels.items()
    }
    return Radio(
        wiphy=Wiphy(
            index=index,
            name=f"phy{index}",
            kinds=frozenset(kinds),
            channels=known,
            mesh_security=mesh_security,
            combinations=(Combination(most=2, channels=1, limits=((1, frozenset({"mesh"})), (1, frozenset({"ap"})))),),
        ),
        driver=driver,
        interfaces=(f"wlan{index}",),
    )


def problem(of, *, has_supplicant=True, **asked):
    (found,) = obstacles(of, RadioConfig(**asked), has_supplicant=has_supplicant)
    return found


GOOD = radio("mesh", "ibss", "station")


def test_a_good_radio_has_no_obstacles():
    for asked in (RadioConfig(), RadioConfig(mode="ibss", channel=6), RadioConfig(secret="correct horse")):
        assert obstacles(GOOD, asked, has_supplicant=True) == []


def test_the_raspberry_pi_has_no_mesh_point_and_is_told_so():
    pi = radio("ibss", "station", "ap", driver="brcmfmac")
    said = problem(pi)
    assert "no mesh point" in said
    assert "Raspberry Pi" in said
    assert 'mode = "ibss"' in said
    assert "mt7610u" in said
    assert obstacles(pi, RadioConfig(mode="ibss"), has_supplicant=True) == []
    assert "known to lose neighbours" in cautions(pi, RadioConfig(mode="ibss", batman=True))[0]


def test_a_radio_with_neither_is_not_sent_from_one_to_the_other():
    assert "mode =" not in problem(radio("station"))


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        (None, "does not know channel 11"),
        (Channel(mhz=2462, disabled=True), "not allowed here"),
        (Channel(mhz=2462, listen_only=True), "only answer"),
        (Channel(mhz=2462, radar=True), "radars"),
    ],
)
def test_a_channel_that_cannot_be_used_comes_with_those_that_can(channel, says):
    of = radio("mesh", **({"f2462": channel} if channel else {}))
    said = problem(of, channel=11)
    assert says in said
    assert "1, 6" in said


def test_without_any_channel_the_country_is_the_remedy():
    of = Radio(wiphy=Wiphy(index=0, kinds=frozenset({"mesh"})))
    assert "net.country" in problem(of)


def test_what_sae_needs():
    assert "wpasupplicant" in problem(GOOD, has_supplicant=False, secret="correct horse")
    assert "SAE" in problem(radio("mesh", mesh_security=False), secret="correct horse")


def interface(index, kind=InterfaceType.STATION, mhz=0):
    return WirelessInterface(index=10 + index, name=f"wlan{index}", wiphy=index, kind=kind, mhz=mhz)


def test_auto_takes_nobodys_interface():
    config = NetConfig(radios={"a": RadioConfig(), "b": RadioConfig(interface="wlan1")}, bridge=("wlan2", "eth0"))
    offered = [
        interface(0, mhz=2412),  # a station that is connected
        interface(1),  # named for another radio
        interface(2),  # a port of the bridge
        interface(3, InterfaceType.AP),
        interface(4),  # taken by another radio
        interface(5),
        interface(6, InterfaceType.MESH, mhz=2412),
    ]
    assert [found.name for found in candidates(offered, config, ["wlan4"])] == ["wlan5", "wlan6"]


def test_auto_takes_the_radio_that_can_do_it():
    pi = Choice(interface=interface(0), radio=radio("ibss", "station", driver="brcmfmac"))
    usb = Choice(interface=interface(1), radio=radio("mesh", "ibss", index=1))
    for mode in ("mesh", "ibss"):
        assert best([pi, usb], RadioConfig(mode=mode), has_supplicant=True) is usb
    assert best([pi], RadioConfig(mode="mesh"), has_supplicant=True) is pi
    assert best([], RadioConfig(), has_supplicant=True) is None


def test_an_access_point_is_told_what_stands_in_its_way_and_how_many_phones_it_holds():
    assert access_point_obstacles(radio("ap", "station"), 6) == []
    (said,) = access_point_obstacles(radio("station"), 6)
    assert "cannot be an access point" in said
    (said,) = access_point_obstacles(radio("ap", f2472=Channel(mhz=2472, disabled=True)), 13)
    assert said.startswith("channel 13 is not allowed here: choose one of 1, 6,")
    (said,) = access_point_obstacles(radio("ap", f5260=Channel(mhz=5260, radar=True)), 52)
    assert "radars" in said
    declared = radio("ap")
    declared.wiphy.most_stations = 10
    found = [most_phones(one) for one in (radio("ap"), declared, radio("ap", driver="brcmfmac"))]
    assert found == [(128, "nobody"), (10, "driver"), (7, "experience")]


def test_the_probe_reads_well():
    pi = radio("ibss", "station", "ap", driver="brcmfmac")
    text = probe.text(
        {
            "version": 1,
            "country": "00",
            "unreadable": 2,
            "radios": [
                probe.describe(GOOD, blocked=True, has_supplicant=True),
                probe.describe(pi, blocked=False, has_supplicant=False),
            ],
            "configured": [{"name": "air", "interface": "wlan0", "problems": [], "cautions": ["x"]}],
        }
    )
    assert text.splitlines() == [
        "phy0 (wlan0), driver mt76x2u",
        "  blocked by rfkill: unblock it (`rfkill unblock wifi`)",
        "  channels: 1, 6",
        "  mesh: works",
        "  mesh with secret: works",
        "  ibss: works",
        "  access point: no",
        "    this radio cannot be an access point: use a USB radio, one with an mt7610u or mt7612u chip",
        "  access point at the same time: beside mesh",
        "phy0 (wlan0), driver brcmfmac",
        "  channels: 1, 6",
        "  mesh: no",
        (
            "    this radio has no mesh point (802.11s) (brcmfmac, as on the Raspberry Pi's board): "
            'set mode = "ibss" on all relays, or use a USB radio, one with an mt7610u or mt7612u chip'
        ),
        "  mesh with secret: no",
        (
            "    this radio has no mesh point (802.11s) (brcmfmac, as on the Raspberry Pi's board): "
            'set mode = "ibss" on all relays, or use a USB radio, one with an mt7610u or mt7612u chip'
        ),
        "    SAE needs wpa_supplicant, which is not installed: install the package wpasupplicant",
        "  ibss: works",
        (
            "    mind: the IBSS of brcmfmac (the Raspberry Pi's own radio) is known to lose neighbours and to stop "
            "until it is reset: for more than trying out, use a USB radio, one with an mt7610u or mt7612u chip"
        ),
        "  access point: works, for 7 to 10 phones with the firmware that it comes with",
        "  access point at the same time: beside mesh",
        "country: not set, so only what is allowed everywhere; set net.country",
        "2 messages of drivers could not be read and were left out",
        "radio air of the configuration: wlan0, works",
        "  mind: x",
    ]


def test_numbers_are_written_as_ranges():
    assert ranges([1, 2, 3, 6, 36, 37]) == "1-3, 6, 36-37"
    assert ranges([]) == ""
