# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay net` on the real mac80211, batman-adv and bridge, with simulated radios."""

import json

import pytest

from tests.guest.guest import Guest
from tests.radio.net_lab import PATIENCE_S, SECRET, Box, until

pytestmark = pytest.mark.timeout(240)

MESH = "[net.radios.air]\nchannel = 6\n"
IBSS = MESH + 'mode = "ibss"\n'
SAE = MESH + f"secret = '{SECRET}'\n"
BATMAN = "batman = true\n"


@pytest.fixture(scope="module")
def guest(parts):
    with Guest(parts, "net") as guest:
        yield guest


@pytest.fixture
def boxes(guest):
    """Make boxes by name; they go at the end."""
    made = []

    def make(*names):
        made.extend(Box(guest, name) for name in names)
        return made[-len(names) :]

    yield make
    for box in made:
        box.close()


@pytest.fixture(scope="module")
def furnished(guest):
    pair = [Box(guest, name) for name in "ab"]
    for box in pair:
        box.plug()
    yield pair
    for box in pair:
        box.close()


@pytest.fixture
def pair(furnished):
    """Two boxes, a radio in each, as they always are."""
    yield furnished
    for box in furnished:
        box.reset()


@pytest.mark.parametrize(
    ("config", "interface"),
    [
        (MESH, "wl0"),
        (IBSS, "wl0"),
        (SAE, "wl0"),
        (MESH + BATMAN, "bat0"),
        (IBSS + BATMAN, "bat0"),
        (SAE + BATMAN, "bat0"),
    ],
    ids=["mesh", "ibss", "sae", "mesh-batman", "ibss-batman", "sae-batman"],
)
def test_two_relays_meet_and_leave_the_network_as_it_was(pair, config, interface):
    before = [box.snapshot() for box in pair]
    for box in pair:
        box.start(config, wait=False)
    for box in pair:
        box.net.wait_output("has joined", PATIENCE_S)
    print(f"heard each other after {pair[0].pings(pair[1], interface):.1f} s")
    assert ("MFP:\t\tyes" in pair[0].sh("iw dev wl0 station dump")) == ("secret" in config)
    assert ("mtu 1532" in pair[0].sh("ip link show wl0")) == (BATMAN in config)
    for box, found in zip(pair, before, strict=True):
        assert box.snapshot() != found
        box.stop()
        assert box.is_as(found)


@pytest.mark.parametrize(
    ("config", "with_children"),
    [(SAE + BATMAN, False), (SAE, True), (IBSS, True)],
    ids=["sae-batman-alone", "sae-and-wpa_supplicant", "ibss"],
)
def test_after_sigkill_undo_leaves_the_network_as_it_was(pair, config, with_children):
    box = pair[0]
    before = box.snapshot()
    box.start(config)
    if with_children:
        box.net.kill()
    else:
        # Its wpa_supplicant goes on, and `undo` has to end it.
        box.guest.run("kill", "-9", str(box.guest.sh("pgrep -f 'relay net'").split()[0]))
        box.net.wait()
    assert box.snapshot() != before
    box.relay("net", "undo")
    assert box.is_as(before)
    assert "wpa_supplicant" not in box.guest.sh("ps -A -o comm")
    assert box.sh(f"find {box.runtime} -type f -o -type s") == ""
    # A second time there is nothing to do.
    box.relay("net", "undo")
    assert box.is_as(before)


def test_a_second_start_after_sigkill_remembers_what_was_first(pair):
    box = pair[0]
    box.sh("ip link set wl0 up; ip addr add 192.0.2.7/24 dev wl0; ip route add 198.51.100.0/24 via 192.0.2.1 dev wl0")
    before = box.snapshot()
    box.start(MESH)
    assert "192.0.2.7" not in box.sh("ip addr")
    box.net.kill()
    box.start(IBSS)
    box.stop()
    assert box.is_as(before)
    box.sh("ip addr del 192.0.2.7/24 dev wl0; ip link set wl0 down")


def test_a_radio_pulled_out_and_put_back_joins_again(pair, boxes):
    (c,) = boxes("c")
    c.plug()
    for box in (c, pair[0]):
        box.start(MESH + BATMAN)
    c.pings(pair[0], "bat0")
    c.unplug()
    c.net.wait_output("unplugged", PATIENCE_S)
    c.plug("wl7")
    until(lambda: c.net.output.count("has joined") == 2, "joined again")
    print(f"neighbour back after {c.pings(pair[0], 'bat0'):.1f} s")


def test_what_throws_a_radio_out_of_the_mesh_is_mended(pair):
    a, b = pair
    for box in pair:
        box.start(SAE)
    a.pings(b, "wl0")
    a.sh("kill $(pgrep -f '[w]pa_supplicant.*/run/a/')")
    until(lambda: a.net.output.count("has joined") == 2, "joined again")
    a.pings(b, "wl0")
    b.sh("ip link set wl0 down")
    until(lambda: b.net.output.count("has joined") == 2, "joined again")
    b.pings(a, "wl0")


def test_rfkill_is_waited_for(pair):
    a, b = pair
    for box in pair:
        box.start(MESH)
    a.sh("echo 1 > /sys/class/ieee80211/awl0/rfkill*/soft")
    a.net.wait_output("rfkill", PATIENCE_S)
    a.sh("echo 0 > /sys/class/ieee80211/awl0/rfkill*/soft")
    until(lambda: a.net.output.count("has joined") == 2, "joined again")
    a.pings(b, "wl0")


def test_a_channel_that_is_not_allowed_is_explained_and_used_once_it_is(pair):
    box = pair[0]
    box.start("[net.radios.air]\nchannel = 13\n", wait=False)
    box.net.wait_output("channel 13", PATIENCE_S)
    assert "set net.country" in box.net.output
    box.stop()
    box.start('country = "DE"\n[net.radios.air]\nchannel = 13\n')
    assert "country DE" in box.sh("iw reg get")
    box.stop()


def test_a_country_that_the_kernel_has_no_rules_of_is_explained_and_the_radio_works(pair):
    box = pair[0]
    # As without Debian's wireless-regdb.
    box.guest.sh("mount --bind /dev/null /lib/firmware/regulatory.db")
    try:
        # Antarctica, of which nobody's rules are known.
        box.start('country = "AQ"\n' + MESH)
    finally:
        box.guest.sh("umount /lib/firmware/regulatory.db")
    assert "wireless-regdb" in box.net.output
    box.stop()


@pytest.mark.lasts(80)
def test_a_change_of_rules_ends_the_mesh_and_another_one_begins_it_again(pair):
    box = pair[0]
    box.sh("iw reg set DE")
    until(lambda: "country DE" in box.sh("iw reg get"), "rules of DE")
    box.start("[net.radios.air]\nchannel = 13\n")
    box.sh("iw reg set US")
    # The kernel gives a mesh 60 s to leave a channel.
    box.net.wait_output("not allowed", 60 + PATIENCE_S)
    box.sh("iw reg set DE")
    until(lambda: box.net.output.count("has joined") == 2, "joined again")
    box.stop()


def test_a_radio_without_mesh_point_is_explained_and_another_one_taken(boxes):
    (box,) = boxes("c")
    box.plug("wl0", ["station", "ap", "ibss"])
    before = box.snapshot()
    told = json.loads(box.relay("net", "probe", "--json"))
    (radio,) = (radio for radio in told["radios"] if radio["interfaces"] == ["wl0"])
    assert not radio["modes"]["ibss"]["problems"]
    assert "no mesh point" in radio["modes"]["mesh"]["problems"][0]
    # The kernel's own driver does not say for how many phones it is.
    assert radio["access_point"] == {"problems": [], "phones": 128, "phones_from": "nobody"}
    text = box.relay("net", "probe")
    assert 'set mode = "ibss"' in text
    assert "mt7610u" in text
    box.start(MESH, wait=False)
    box.net.wait_output("no mesh point", PATIENCE_S)
    assert box.is_as(before), "a radio that cannot do it is left alone"
    box.plug("wl1")
    box.net.wait_output("has joined", PATIENCE_S)
    assert "type mesh point" in box.wireless("wl1")
    assert "type managed" in box.wireless("wl0")
    box.stop()


def test_the_secret_is_nowhere_to_be_read(pair):
    box = pair[0]
    box.start(SAE)
    box.guest.write("/root/needle", SECRET)
    seen = box.guest.sh(
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -aFc -f /root/needle || true; "
        f"grep -raFl -f /root/needle {box.runtime} || true"
    )
    assert seen.split() == ["0"]
    assert SECRET not in box.net.output
    assert "02:00" not in box.net.output, "no addresses in the log"
    box.stop()


def test_the_rate_is_capped(pair):
    a, b = pair
    for box in pair:
        box.start(MESH + "rate_cap_mbit = 4\n")
    a.pings(b, "wl0")
    server = b.guest.start_process("iperf3", "-s", "-1", "--forceflush", netns="b")
    server.wait_output("listening", 10)
    report = json.loads(a.guest.run("iperf3", "-c", f"{b.address('wl0')}%wl0", "-t", "4", "-J", netns="a").stdout)
    mbit = report["end"]["sum_received"]["bits_per_second"] / 1e6
    print(f"{mbit:.1f} Mbit/s through a cap of 4")
    assert 2 < mbit < 4.4


def test_relay_run_shows_how_the_radios_do(pair):
    a, _ = pair
    run = a.guest.python(
        "-m", "relay", "run", netns="a", env={"XDG_RUNTIME_DIR": a.runtime, "XDG_STATE_HOME": "/run/state-a"}
    )
    for box in pair:
        box.start(MESH)

    def shown():
        asked = a.guest.run(
            "python3", "-m", "relay", "status", "--json", netns="a", env={"XDG_RUNTIME_DIR": a.runtime}, check=False
        )
        if asked.code:  # it is about to start
            assert run.poll() is None, run.output
            return None
        status = json.loads(asked.stdout)
        components = {component["name"]: component for component in status["components"]}
        net = components.get("net")
        return net if net and net["up"] and net["gauges"]["mesh_peers"] == 1 else None

    net = until(shown, "relay status has the radio and its neighbour")
    assert net["gauges"]["radios"] == net["gauges"]["radios_up"] == 1
    assert net["counters"]["joined"] == 1
    run.kill()


def test_a_storm_of_notifications_is_survived(pair):
    a, b = pair
    for box in pair:
        box.start(MESH)
    a.sh("for i in $(seq 400); do echo link add d$i type dummy; echo link del d$i; done | ip -batch -", timeout_s=60)
    a.pings(b, "wl0")
    assert a.net.poll() is None
    assert a.net.output.count("has joined") == 1
    a.stop()


@pytest.mark.parametrize(("config", "interface"), [(IBSS, "wl0"), (IBSS + BATMAN, "bat0")], ids=["ibss", "batman"])
def test_a_strangers_router_advertisement_configures_nothing(pair, config, interface):
    relay, stranger = pair
    # As most systems have it; tests/netns/test_router_advertisement.py shows that such a kernel believes.
    relay.sh("echo 1 | tee /proc/sys/net/ipv6/conf/*/accept_ra")
    for box in pair:
        box.start(config)
    relay.pings(stranger, interface)
    script = (
        "import socket, struct; s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6); "
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255); "
        "prefix = bytes((3, 4, 64, 192)) + struct.pack('!III', 1800, 1800, 0) + b' \\x01\\r\\xb8' + bytes(12); "
        "advertisement = bytes((134, 0, 0, 0, 64, 8)) + struct.pack('!HII', 1800, 0, 0) + prefix; "
        f"s.sendto(advertisement, ('ff02::1', 0, 0, socket.if_nametoindex('{interface}')))"
    )

    def heard():
        stranger.guest.run("python3", "-c", script, netns=stranger.name)
        return relay.sh(f"awk '/InRouterAdv/ {{ print $2 }}' /proc/net/dev_snmp6/{interface}").strip() != "0"

    until(heard, "an advertisement arrived")
    assert relay.sh(f"ip -6 address show dev {interface} scope global") == ""
    assert relay.sh("ip -6 route show default") == ""
