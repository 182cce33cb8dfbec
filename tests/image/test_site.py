# SPDX-License-Identifier: GPL-2.0-or-later
"""Booted images at work: phones on the access point, and who hands out addresses on a cable."""

import contextlib
import itertools
import json
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from relay.appliance.election import SILENCE_S, TAKEOVER_S
from tests.guest.uml import ROOT
from tests.image.card import Card
from tests.image.lan import Lan, ip
from tests.image.ports import listening
from tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(400)]

PHONE = Path(__file__).with_name("inside") / "phone.py"
HARDWARE = ROOT / "tests" / "radio" / "inside" / "board_hardware.py"
PERSON = {"HOME": "/run/person", "PATH": "/usr/bin:/usr/sbin"}
FIXED = "10.42.70.1"
#: What the issue allows from the moment that segments meet.
SETTLED_S = 30

ACCESS_POINT = """\
[appliance]\r
country = "DE"\r
access_point = true\r
access_point_interface = "wlan0"\r
mesh_interface = ""\r
"""


def serves(relay, interface="eth0"):
    return relay.show(f"relay-dhcp@{interface}.service", "ActiveState")["ActiveState"] == "active"


@pytest.fixture
def cables():
    """Two switches. Named before `boot` in a test: what is plugged in ends before them."""
    with Lan() as one, Lan() as two:
        yield one, two


def radio_works(relay):
    return relay.show("relay-ap@wlan0.service", "ActiveState")["ActiveState"] == "active"


def associate(relay):
    """A phone near the relay: another radio of the same kernel, in a network of its own."""
    wait_until(relay.explain, lambda: radio_works(relay), 30)
    shutil.copy(PHONE, relay.share)
    relay.sh(
        "ip netns add phone; iw phy phy1 set netns name phone; "
        "ip -n phone link set lo up; ip -n phone link set wlan1 up; "
        "ip netns exec phone iw dev wlan1 connect 'Mesh relay'"
    )
    wait_until("the phone does not join", lambda: "Connected" in relay.sh("ip netns exec phone iw dev wlan1 link"), 30)


def phone(relay, what):
    """What the phone says."""
    return relay.sh(f"ip netns exec phone python3 /run/lab/share/phone.py wlan1 {what}", timeout_s=60)


def assert_served(lan, address):
    """One relay, and no other, soon hands out addresses on a cable, advertises, and is relay.local."""
    # A unit is active before its server hears, and no more active before it is gone.
    told = ""

    def look():
        nonlocal told
        told = subprocess.run(
            [sys.executable, PHONE, lan.name, "survey"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        serving = [line.split() for line in told.splitlines()]
        return [kind for kind, _ in serving] == ["dhcp", "name", "ra"] and serving[0][1] == serving[1][1] == address

    wait_until(lambda: told, look, SETTLED_S)


def connects(relay, address, *inside):
    script = f"import socket; socket.create_connection({address}, timeout=5)"
    return relay.run(*inside, "python3", "-c", script, check=False).code == 0


def assert_apart(lan, relay):
    """Nothing passes between cable and phones, even where both ends know the way."""
    ip("address", "add", f"{prefix_of(relay)}200/24", "dev", lan.name)
    ip("route", "add", "10.42.64.0/19", "via", f"{prefix_of(relay)}1")
    with socket.create_server((f"{prefix_of(relay)}200", 0)) as server:
        assert connects(relay, server.getsockname())
        assert not connects(relay, server.getsockname(), "ip", "netns", "exec", "phone")
    ip("route", "delete", "10.42.64.0/19")


def assert_unseen(lan):
    """Whoever asks on a cable for the fixed address of access points gets no answer, not even who has it."""
    ip("address", "add", "10.42.70.9/24", "dev", lan.name)
    probe = subprocess.run(
        ["ping", "-c", "3", "-W", "1", "-I", lan.name, FIXED], check=False, stdout=subprocess.PIPE, text=True
    )
    assert "0 received" in probe.stdout
    assert "lladdr" not in ip("neighbour", "show", FIXED, "dev", lan.name)


def test_a_phone_stays_on_the_access_point_and_reaches_nothing_else(cables, card, boot):
    card.write("MESH-RELAY", "relay.toml", ACCESS_POINT.encode())
    card.write("MESH-RELAY", "shelf/map.pdf", b"%PDF a map")
    lan = cables[0]
    relay = boot(card, network=lan.port())
    assert relay.wait_booted() == "running", relay.explain()
    associate(relay)
    found = phone(relay, "join")
    assert f"router {FIXED}\n" in found
    assert f"dns {FIXED}\n" in found
    assert f"connectivitycheck.gstatic.com is {FIXED}\n" in found
    assert f"relay.local is {FIXED}\n" in found
    assert "example.com is unknown\n" in found
    assert "/generate_204 204\n" in found
    assert "/hotspot-detect.html 200\n" in found
    assert "4270 open\n" in found
    # Neither the status page nor a way to log in.
    assert "9470 closed\n" in found
    assert "22 closed\n" in found
    assert "80/tcp" in listening(relay)
    listed = "cat /run/mesh-relay-shelf/list.json 2>/dev/null || true"
    wait_until(relay.explain, lambda: "map.pdf" in relay.sh(listed), 60)
    fetch = f"import urllib.request as u; print(u.urlopen('http://{FIXED}/shelf/' + {{!r}}).read())"
    for name, found_there in (("", "map.pdf"), ("map.pdf", "%PDF a map")):
        assert found_there in relay.run("ip", "netns", "exec", "phone", "python3", "-c", fetch.format(name)).stdout
    shown = relay.run("relay", "identity", env=PERSON).stdout
    uri = next(word for word in shown.split() if word.startswith("mesh-relay:"))
    relay.run("relay", "contact", "add", uri, "--name", "me", env=PERSON)
    sending = ("ip", "netns", "exec", "phone", "relay", "send", "me", "by Wi-Fi", "--relay", FIXED)
    relay.run(*sending, env=PERSON, timeout_s=60)
    assert "by Wi-Fi" in relay.run("relay", "receive", "--relay", "127.0.0.1", env=PERSON, timeout_s=60).stdout
    # Nobody wrote down who it was; the kernel speaks of it as the phone's kernel, which it is as well.
    address = relay.sh("ip netns exec phone cat /sys/class/net/wlan1/address").strip()
    assert address not in relay.sh("journalctl --no-pager -o cat | grep -v '^wlan1: '")
    assert_apart(lan, relay)
    assert_unseen(lan)


@contextlib.contextmanager
def joined(one, two):
    """A cable between two switches."""
    ip("link", "add", f"{one.name}j", "type", "veth", "peer", "name", f"{two.name}j")
    for lan in (one, two):
        ip("link", "set", f"{lan.name}j", "master", lan.name, "up")
    try:
        yield
    finally:
        ip("link", "delete", f"{one.name}j")


def prefix_of(relay):
    """The first three numbers of the addresses that it hands out."""
    return relay.sh("grep -oh '10[.][0-9]*[.][0-9]*[.]' /run/mesh-relay-config/segment-*").strip()


def is_served(relay, interface, by):
    """Whether it has an address of the network that another one hands out."""
    network = ip_network(f"{prefix_of(by)}0/20")
    shown = relay.sh(f"ip -4 -j address show dev {interface}")
    return any(ip_address(entry["local"]) in network for link in json.loads(shown) for entry in link["addr_info"])


def test_when_bridged_relays_meet_one_serves_everybody_and_the_others_yield(cables, image, tools, tmp_path, boot):
    cards = [Card(image, tmp_path / f"{cpu}.img", tools=tools) for cpu in range(2)]
    for card in cards:
        card.write("MESH-RELAY", "relay.toml", (ACCESS_POINT + "lan_bridge = true\r\n").encode())
    relays = [boot(card, f"relay-{n}", cpu=n, network=cables[n].port()) for n, card in enumerate(cards)]
    for relay in relays:
        assert relay.wait_booted() == "running", relay.explain()
        wait_until(relay.explain, lambda relay=relay: serves(relay, "br-mesh"), 60)
        associate(relay)
    # After a crash the bridge is made anew, and served as before.
    relays[0].sh("systemctl kill --signal=KILL relay-net.service")
    wait_until(relays[0].explain, lambda: not serves(relays[0], "br-mesh"), 20)
    wait_until(relays[0].explain, lambda: serves(relays[0], "br-mesh"), 60)
    for relay, lan in zip(relays, cables, strict=True):
        own = f"{prefix_of(relay)}1"
        assert_served(lan, own)

    with joined(*cables):
        start = time.monotonic()
        wait_until("both serve", lambda: [serves(relay, "br-mesh") for relay in relays].count(True) == 1, SETTLED_S)
        print(f"settled after {time.monotonic() - start:.1f} s")
        (winner,) = (relay for relay in relays if serves(relay, "br-mesh"))
        (other,) = (relay for relay in relays if relay is not winner)
        own = f"{prefix_of(winner)}1"
        for lan in cables:
            assert_served(lan, own)
        # Phones on either access point are served by that one, and may stay.
        for relay in relays:
            found = phone(relay, "join")
            assert f"router {own}\n" in found
            assert f"relay.local is {own}\n" in found
            assert "/generate_204 204\n" in found
            assert "4270 open\n" in found
            assert f"fixed address {'open' if relay is winner else 'closed'}\n" in found
        for lan in cables:
            assert_unseen(lan)
        # The other one gets an address of the one that serves, as anybody does.
        wait_until("no lease", lambda: is_served(other, "br-mesh", winner), 90)
        assert serves(winner, "br-mesh")
        assert not serves(other, "br-mesh")


def test_when_two_cables_are_joined_one_relay_hands_out_addresses(cables, image, tools, tmp_path, boot):
    relays = [
        boot(Card(image, tmp_path / f"{cpu}.img", tools=tools), f"relay-{cpu}", cpu=cpu, network=lan.port())
        for cpu, lan in enumerate(cables)
    ]
    for relay in relays:
        assert relay.wait_booted() == "running", relay.explain()
        wait_until(relay.explain, lambda relay=relay: serves(relay), 40)
    assert prefix_of(relays[0]) != prefix_of(relays[1])
    with joined(*cables):
        start = time.monotonic()
        wait_until("both serve", lambda: [serves(relay) for relay in relays].count(True) == 1, SETTLED_S)
        print(f"settled after {time.monotonic() - start:.1f} s")
        (winner,) = itertools.compress(relays, map(serves, relays))
        (other,) = (relay for relay in relays if relay is not winner)
        # The other one gets an address of the one that serves, as anybody does.
        wait_until("no lease", lambda: is_served(other, "eth0", winner), 90)
        assert serves(winner)
        assert "68/udp" in listening(other)


@contextlib.contextmanager
def router(lan):
    """Somebody else who hands out an address on a cable, 192.0.2.9 (RFC 2131)."""
    ip("address", "add", "192.0.2.1/24", "dev", lan.name)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, lan.name.encode())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.bind(("", 67))
    ended = threading.Event()

    def serve():
        own, theirs = socket.inet_aton("192.0.2.1"), socket.inet_aton("192.0.2.9")
        while not ended.is_set():
            if not select.select([sock], [], [], 0.2)[0]:
                continue
            asked = sock.recv(2000)
            kind = {1: 2, 3: 5}[asked[asked.index(b"\x35\x01", 240) + 2]]
            header = b"\x02\x01\x06\0" + asked[4:8] + bytes(8) + theirs + own + bytes(4) + asked[28:44] + bytes(192)
            told = bytes((53, 1, kind, 54, 4)) + own + b"\x33\x04\0\0\x0e\x10\x01\x04\xff\xff\xff\0\xff"
            sock.sendto(header + b"\x63\x82\x53\x63" + told, ("255.255.255.255", 68))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sock.close()


def test_a_relay_hands_out_addresses_only_while_nobody_else_does(cables, card, boot):
    lan = cables[0]
    with router(lan):
        relay = boot(card, network=lan.port())
        assert relay.wait_booted() == "running", relay.explain()
        wait_until("no lease", lambda: "inet 192.0.2.9/24" in relay.sh("ip -4 address show dev eth0"), 60)
        # It would begin after nine seconds.
        time.sleep(15)
        assert relay.show("relay-segment@eth0.service", "StatusText")["StatusText"] == "yielding"
        assert not serves(relay)
        assert "67/udp" not in listening(relay)
    wait_until(relay.explain, lambda: serves(relay), SILENCE_S + TAKEOVER_S + 30)


OFFERED = b"an app that everybody may have, 7c1f"
SECRET = "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90"


def ciphertext(data):
    """Pieces of what only an envelope's ciphertext looks like: hardly a byte twice."""
    pieces = (data[at : at + 48] for at in range(0, len(data), 48))
    return [piece for piece in pieces if len(set(piece)) > 40]


def test_a_finger_on_the_button_leaves_nothing_on_the_card(card, boot):
    card.write("MESH-RELAY", "relay.toml", f'[appliance]\nstorage = "plain"\nmesh_secret = "{SECRET}"\n'.encode())
    card.write("MESH-RELAY", "shelf/app.apk", OFFERED)
    relay = boot(card)
    assert relay.wait_booted() == "running", relay.explain()
    shutil.copy(HARDWARE, relay.share)
    hardware = relay.start_process("python3", f"/run/lab/share/{HARDWARE.name}")
    hardware.wait_output("ready")
    shown = relay.run("relay", "identity", env=PERSON).stdout
    uri = next(word for word in shown.split() if word.startswith("mesh-relay:"))
    relay.run("relay", "contact", "add", uri, "--name", "me", env=PERSON)
    relay.run("relay", "send", "me", "hello", "--relay", "127.0.0.1", env=PERSON, timeout_s=60)
    # Light and button were plugged in late: they are looked for every 15 s.
    wait_until(relay.explain, lambda: "light" in hardware.stdout, 40)
    board = relay.show("relay-board.service", "MainPID")["MainPID"]
    wait_until(relay.explain, lambda: "/dev/input" in relay.sh(f"ls -l /proc/{board}/fd"), 40)
    relay.sh("sync; sleep 1; sync")
    store = relay.run("find", "/var/lib/private/mesh-relay", "-name", "store.sqlite*", "-size", "+4k").stdout.split()
    assert store
    relay.run("cp", *store, "/run/lab/share")
    samples = [sample for path in relay.share.glob("store.sqlite*") for sample in ciphertext(path.read_bytes())]
    assert samples
    assert any(sample in card.path.read_bytes() for sample in samples)

    relay.sh("printf d > /run/button")
    assert relay.wait_dead(90), relay.console_text()
    assert sum(line.endswith(" 1") for line in hardware.stdout.splitlines()) > 2
    content = card.path.read_bytes()
    for sample in (*samples, SECRET.encode(), OFFERED):
        assert sample not in content
    assert not {"::/relay.toml", "::/relay-status.txt"} & set(card.names("MESH-RELAY"))

    again = boot(card, "again")
    assert again.wait_booted() == "running", again.explain()
    assert " 0 envelopes" in again.run("relay", "status").stdout
