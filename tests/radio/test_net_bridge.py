# SPDX-License-Identifier: GPL-2.0-or-later
"""The LAN bridge of `relay net`: what lies behind one relay's Ethernet reaches what lies behind another's."""

import json
import time

import pytest

from tests.guest.guest import Guest
from tests.radio.net_lab import PATIENCE_S, Box, until

pytestmark = pytest.mark.timeout(240)

MESH = 'bridge = ["eth0", "wl0"]\n[net.radios.air]\ninterface = "wl0"\n'
BATMAN = 'bridge = ["eth0", "bat0"]\n[net.radios.air]\nbatman = true\n'


@pytest.fixture(scope="module")
def guest(parts):
    with Guest(parts, "bridge") as guest:
        yield guest


@pytest.fixture
def boxes(guest):
    """Relays a and b with a radio each; clients c on a's Ethernet and d on b's."""
    made = {name: Box(guest, name) for name in "abcd"}
    for relay, client in ("ac", "bd"):
        made[relay].plug()
        made[relay].ethernet("eth0", made[client])
    yield made
    for box in made.values():
        box.close()


def ports(box):
    links = json.loads(box.sh("ip -j link"))
    return {link["ifname"] for link in links if link.get("master") == "br-mesh"}


def set_addresses(box):
    box.sh(
        "ip addr add 192.0.2.1/24 brd + dev eth0; ip addr add 2001:db8::1/64 dev eth0; "
        "ip route add default via 192.0.2.254 dev eth0 metric 50; "
        "ip route add 2001:db8:1::/48 via 2001:db8::fe dev eth0"
    )


@pytest.mark.lasts(35)
@pytest.mark.parametrize("crashes", [False, True], ids=["sigterm", "sigkill"])
def test_clients_of_two_relays_reach_each_other_and_the_network_is_put_back(boxes, crashes):
    a, b, c, d = boxes.values()
    set_addresses(a)
    c.sh("ip addr add 192.0.2.9/24 dev eth0")
    before = [a.snapshot(), b.snapshot()]
    for box in (a, b):
        box.start(MESH)
    for box in (a, b):
        until(lambda box=box: ports(box) == {"eth0", "wl0"}, "both are ports")
    print(f"clients reach each other after {c.pings(d, 'eth0'):.1f} s")
    # The relay itself is where it was, by the bridge now.
    assert "192.0.2.1/24" in a.sh("ip addr show br-mesh")
    assert "default via 192.0.2.254 dev br-mesh" in a.sh("ip route")
    assert "via 2001:db8::fe dev br-mesh" in a.sh("ip -6 route")
    c.sh("ping -c1 -W5 192.0.2.1")
    for box, found in zip((a, b), before, strict=True):
        if crashes:
            box.net.kill()
            box.relay("net", "undo")
        else:
            box.stop()
        assert box.is_as(found)
    c.sh("ping -c1 -W5 192.0.2.1")


def frames(box, interface):
    (link,) = json.loads(box.sh(f"ip -s -j link show {interface}"))
    return link["stats64"]["tx"]["packets"]


@pytest.mark.lasts(30)
def test_a_ring_of_ethernet_and_mesh_carries_no_storm(guest, boxes):
    a, b, _, _ = boxes.values()
    # A cable between the two relays, beside their mesh.
    guest.sh("ip -n a link del eth0; ip -n b link del eth0")
    a.ethernet("eth0", b)
    for box in (a, b):
        box.start(MESH)
    a.pings(b, "br-mesh")
    began = time.monotonic()
    sent = frames(a, "eth0")
    # Broadcasts are what would go around.
    a.sh("ping -c 20 -i 0.1 -b -W1 ff02::1%br-mesh >/dev/null || true")
    rate = (frames(a, "eth0") - sent) / (time.monotonic() - began)
    print(f"{rate:.0f} frames/s on the cable")
    assert rate < 200
    blocked = [box.name for box in (a, b) if "state blocking" in box.sh("bridge link")]
    assert len(blocked) == 1


@pytest.mark.lasts(40)
def test_batman_avoids_loops_behind_ethernet(boxes):
    a, b, c, d = boxes.values()
    before = a.snapshot()
    for box in (a, b):
        box.start(BATMAN)
        until(lambda box=box: ports(box) == {"eth0", "bat0"}, "both are ports")
    assert "enabled" in a.sh("batctl meshif bat0 bl")
    print(f"clients reach each other after {c.pings(d, 'eth0'):.1f} s")
    a.stop()
    assert a.is_as(before)


def test_a_port_that_goes_and_comes_back_is_a_port_again(guest, boxes):
    a, _, c, _ = boxes.values()
    a.start(MESH)
    until(lambda: ports(a) == {"eth0", "wl0"}, "both are ports")
    guest.sh("ip -n a link del eth0")
    until(lambda: ports(a) == {"wl0"}, "one port is left")
    a.ethernet("eth0", c)
    until(lambda: ports(a) == {"eth0", "wl0"}, "both are ports again")
    a.unplug()
    until(lambda: ports(a) == {"eth0"}, "one port is left")
    a.plug()
    until(lambda: ports(a) == {"eth0", "wl0"}, "both are ports again")
    a.sh("ip link del br-mesh")
    until(lambda: ports(a) == {"eth0", "wl0"}, "the bridge is there again")
    a.stop()


def test_only_listed_interfaces_are_touched_and_a_station_is_refused(boxes):
    a = boxes["a"]
    a.plug("wl1")
    a.sh("ip link set wl1 up; ip link add other type dummy; ip link set other up")
    a.start('bridge = ["eth0", "wl0", "wl1"]\n[net.radios.air]\ninterface = "wl0"\n')
    a.net.wait_output("wl1 is a station interface", PATIENCE_S)
    until(lambda: ports(a) == {"eth0", "wl0"}, "two are ports")
    a.stop()


def test_a_phone_on_the_access_point_reaches_the_cable(guest, boxes):
    a, b, c, _ = boxes.values()
    before = a.snapshot()
    a.start('bridge = ["eth0", "wl0"]\n', wait=False)
    until(lambda: ports(a) == {"eth0"}, "the cable is a port")
    guest.write("/root/hostapd.conf", "interface=wl0\nssid=phones\nhw_mode=g\nchannel=6\n")
    hostapd = guest.start_process("hostapd", "/root/hostapd.conf", netns="a")
    until(lambda: ports(a) == {"eth0", "wl0"}, "the access point is a port, now that it is one")
    b.sh("ip link set wl0 up; iw dev wl0 connect phones")
    print(f"a phone reaches the cable after {b.pings(c, 'wl0', 'eth0'):.1f} s")
    a.stop()
    hostapd.stop()
    a.sh("iw dev wl0 set type managed; ip link set wl0 down")
    assert a.is_as(before)
