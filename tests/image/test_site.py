# SPDX-License-Identifier: GPL-2.0-or-later
"""Booted images at work: phones on the access point, and who hands out addresses on a cable."""

import contextlib
import itertools
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.guest.uml import ROOT
from tests.image.card import Card
from tests.image.lan import Lan, ip

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


def until(true, timeout_s, what):
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(0.5)
    return found


def serves(relay):
    return relay.show("relay-dhcp@eth0.service", "ActiveState")["ActiveState"] == "active"


@pytest.fixture
def cables():
    """Two switches. Named before `boot` in a test: what is plugged in ends before them."""
    with Lan("one0") as one, Lan("two0") as two:
        yield one, two


def test_a_phone_stays_on_the_access_point_and_reaches_nothing_else(cables, card, boot):
    card.write("MESH-RELAY", "relay.toml", ACCESS_POINT.encode())
    lan = cables[0]
    relay = boot(card, network=lan.port())
    assert relay.wait_booted() == "running", relay.explain()
    until(lambda: relay.show("relay-ap@wlan0.service", "ActiveState")["ActiveState"] == "active", 30, relay.explain)
    shutil.copy(PHONE, relay.share)
    relay.sh(
        "ip netns add phone; iw phy phy1 set netns name phone; "
        "ip -n phone link set lo up; ip -n phone link set wlan1 up; "
        "ip netns exec phone iw dev wlan1 connect 'Mesh relay'"
    )
    until(lambda: "Connected" in relay.sh("ip netns exec phone iw dev wlan1 link"), 30, "the phone does not join")
    found = relay.sh("ip netns exec phone python3 /run/lab/share/phone.py", timeout_s=60)
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
    assert "ago" not in relay.sh(
        "journalctl --no-pager -o cat | grep -iE '([0-9a-f]{2}:){5}[0-9a-f]{2}.*(AP-STA|DHCP)' || true"
    )

    # The fixed address is that of the access point alone, whoever else is asked for it.
    ip("address", "add", "10.42.70.9/24", "dev", lan.name)
    probe = subprocess.run(
        ["ping", "-c", "3", "-W", "1", "-I", lan.name, FIXED], check=False, stdout=subprocess.PIPE, text=True
    )
    assert "0 received" in probe.stdout
    neighbour = ip("neighbour", "show", FIXED, "dev", lan.name)
    assert "lladdr" not in neighbour


def test_when_two_cables_are_joined_one_relay_hands_out_addresses(cables, image, tools, tmp_path, boot):
    one, two = cables
    with contextlib.ExitStack() as stack:
        relays = [
            boot(Card(image, tmp_path / f"{cpu}.img", tools=tools), f"relay-{cpu}", cpu=cpu, network=lan.port())
            for cpu, lan in enumerate((one, two))
        ]
        for relay in relays:
            assert relay.wait_booted() == "running", relay.explain()
            until(lambda relay=relay: serves(relay), 40, relay.explain)
        numbers = [relay.sh("cat /run/mesh-relay-config/segment-cable") for relay in relays]
        assert numbers[0] != numbers[1]

        ip("link", "add", "join0", "type", "veth", "peer", "name", "join1")
        stack.callback(ip, "link", "delete", "join0")
        ip("link", "set", "join0", "master", one.name, "up")
        joined = time.monotonic()
        ip("link", "set", "join1", "master", two.name, "up")
        until(lambda: [serves(relay) for relay in relays].count(True) == 1, SETTLED_S, "both serve")
        print(f"settled after {time.monotonic() - joined:.1f} s")
        (winner,) = itertools.compress(relays, map(serves, relays))
        (other,) = (relay for relay in relays if relay is not winner)
        # The other one gets an address of the one that serves, as anybody does.
        prefix = winner.sh("grep -o '10[.][0-9]*[.][0-9]*[.]' /run/mesh-relay-config/segment-cable").strip()
        until(lambda: f"inet {prefix}" in other.sh("ip -4 address show dev eth0"), 90, "no lease")
        assert serves(winner)


SECRET = "correct horse battery staple"


def ciphertext(data):
    """Pieces of what only an envelope's ciphertext looks like: hardly a byte twice."""
    pieces = (data[at : at + 48] for at in range(0, len(data), 48))
    return [piece for piece in pieces if len(set(piece)) > 40]


def test_a_finger_on_the_button_leaves_nothing_on_the_card(card, boot):
    card.write("MESH-RELAY", "relay.toml", f'[appliance]\nmesh_secret = "{SECRET}"\n'.encode())
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
    until(lambda: "light" in hardware.stdout, 40, relay.explain)
    board = relay.show("relay-board.service", "MainPID")["MainPID"]
    until(lambda: "/dev/input" in relay.sh(f"ls -l /proc/{board}/fd"), 40, relay.explain)
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
    for sample in (*samples, SECRET.encode()):
        assert sample not in content
    assert not {"::/relay.toml", "::/relay-status.txt"} & set(card.names("MESH-RELAY"))

    again = boot(card, "again")
    assert again.wait_booted() == "running", again.explain()
    assert " 0 envelopes" in again.run("relay", "status").stdout
