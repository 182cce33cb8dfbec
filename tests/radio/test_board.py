# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay appliance apply` and `relay board` on a kernel's own light, button, FAT and packet filter."""

import itertools
import json
import os
import re
import struct
import tempfile
import time
from pathlib import Path

import pytest

import relay
from relay.board.card import DISK_ID, SECTOR_BYTES
from tests.fat32 import Fat32
from tests.guest.guest import Guest
from tests.waiting import wait_until

CARD = "/dev/loop0p1"
HOLD_S = 3
#: Finding the network, joining it, and with a wrong password the relay's patience.
PHONE_S = 45
#: Of a message that nobody may find after a panic.
SECRET = "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90"
#: What is in the file that participants are offered.
OFFERED = "an app that everybody may have, 7c1f"
PASSWORD = "ask at the = bar #1"

RELAY_TOML = f"""\
[appliance]
country = "DE"
access_point = true
access_point_interface = "wlan0"
access_point_password = "{PASSWORD}"
mesh_interface = ""
mesh_secret = "{SECRET}"
storage = "volatile"

[board]
panic_hold_s = {HOLD_S}

[tcp]
discovery = false
"""
_CAPABILITIES = "+net_admin,+net_raw"
UNPRIVILEGED = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"),
    *(f"--inh-caps={_CAPABILITIES}", f"--ambient-caps={_CAPABILITIES}", f"--bounding-set=-all,{_CAPABILITIES}"),
)
#: Stands for the service manager, which a guest does not have: notes what it is asked.
SYSTEMCTL = '#!/bin/sh\necho "$@" >> /run/systemctl.log\n'


class Box:
    """A guest that is an appliance, as far as a board is concerned."""

    def __init__(self, guest):
        self.guest = guest
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "card.img"
            # A relay's card, as far as there is one: its table, and the drive from its second MiB on.
            table = bytearray(SECTOR_BYTES)
            struct.pack_into("<I", table, 440, DISK_ID)
            image.write_bytes(table)
            fat = Fat32(image, 8000, offset=1 << 20)
            struct.pack_into("<B3xB3xII", table, 446, 0, 0x0C, (1 << 20) // SECTOR_BYTES, fat.size // SECTOR_BYTES)
            table[510:] = b"\x55\xaa"
            fat.put(-fat.offset, table)
            os.truncate(image, fat.offset + fat.size)
            guest.write("/run/card.img", image.read_bytes())
        guest.write("/usr/local/bin/systemctl", SYSTEMCTL)
        guest.sh("chmod 755 /usr/local/bin/systemctl; losetup -P /dev/loop0 /run/card.img; mkdir -p /mnt /run/systemd")
        self.hardware = guest.python("/src/tests/radio/inside/board_hardware.py")
        self.hardware.wait_output("ready")

    def put(self, data):
        self.guest.write("/run/new.toml", data)
        self.guest.sh(f"mount -t vfat {CARD} /mnt; cp /run/new.toml /mnt/relay.toml; umount /mnt")

    def card(self):
        """The files on the card, as somebody's computer shows them."""
        script = f"mount -t vfat -o ro {CARD} /mnt; cd /mnt; grep -r '' . || true; cd /; umount /mnt"
        return self.guest.sh(script)

    def offer(self):
        """Put a file on the shelf, and have the card mounted as the units do; nobody else sees the rest."""
        self.guest.sh(f"mount -t vfat {CARD} /mnt; mkdir /mnt/shelf; echo {OFFERED} > /mnt/shelf/app.apk; umount /mnt")
        unit = (Path(relay.__file__).parent / "units/run-relaycard-fs.mount").read_text()
        options, where = (re.search(f"^{name}=(.*)$", unit, re.MULTILINE)[1] for name in ("Options", "Where"))
        folder = Path(where).parent
        self.guest.sh(f"install -d -m 700 {folder} && mkdir {where} && mount -t vfat -o {options} {CARD} {where}")
        self.guest.sh(f"python3 -m relay appliance shelf {where}/shelf /run/list.json")
        assert [row["name"] for row in json.loads(self.guest.read("/run/list.json"))] == ["app.apk"]
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        assert self.guest.run(*nobody, "cat", f"{where}/relay.toml", check=False).code
        assert OFFERED in self.guest.sh(f"cat {where}/shelf/app.apk")

    def apply(self):
        return self.guest.sh(f"python3 -m relay appliance apply --boot-device {CARD} 2>&1")

    def relay(self):
        config = "/run/mesh-relay-config/relay.toml"
        self.guest.sh("mkdir -p /run/mesh-relay /run/mesh-relay-board; mount -t tmpfs tmpfs /var/cache")
        # A cable: a relay that nobody can reach says so before all else.
        self.guest.sh("ip link add eth0 type veth peer name switch; ip link set switch up; ip link set eth0 up")
        # The service manager gives the secret to `relay run` alone.
        given = {"CREDENTIALS_DIRECTORY": "/run/mesh-relay-config"}
        self.guest.python("-m", "relay", "run", "--config", config, env=given).wait_output("ready")
        board = self.guest.python("-m", "relay", "board", "--config", config, "--boot-device", CARD)
        self.until(lambda: self.light_of() != "starting")
        return board

    def light_of(self):
        found = self.guest.run("python3", "-m", "relay", "board", "status", check=False)
        return json.loads(found.stdout)["light"] if found.code == 0 else "starting"

    def changes(self):
        """Changes of the light: seconds and whether it is on."""
        lines = [line.split() for line in self.hardware.stdout.splitlines() if line.startswith("light")]
        return [(float(at), on == "1") for _, at, on in lines]

    def button(self, letter):
        self.guest.sh(f"printf {letter} > /run/button")

    def until(self, true, timeout_s=40, *, pause_s=0.1):
        wait_until(lambda: self.hardware.stdout[-500:], true, timeout_s, pause_s=pause_s)

    def until_card_says(self, text, timeout_s=40):
        # While we look nobody can write, and tries again a minute later: so not again and again.
        self.until(lambda: text in self.card(), timeout_s, pause_s=5)


@pytest.fixture
def box(parts):
    with Guest(parts, "box", memory_mib=256) as guest:
        yield Box(guest)


@pytest.mark.lasts(40)
@pytest.mark.timeout(300)
def test_a_relay_is_set_up_by_its_card_signals_and_is_erased_by_its_button(box):
    guest = box.guest
    box.put(RELAY_TOML.replace("\n", "\r\n").encode("utf-16"))
    assert box.apply() == ""
    assert "vfat" not in guest.sh("cat /proc/mounts")
    box.offer()
    guest.sh("nft -f /run/mesh-relay-config/nftables.conf; ip link set lo up")
    assert guest.sh("hostname").strip() == "relay"

    # As its unit has it: nobody's user, two capabilities, and a radio that can protect management frames.
    guest.sh("iw phy phy0 info | grep 00-0f-ac:6; install -D -o 65534 -m 600 -t /run/ap /run/mesh-relay-config/host*")
    hostapd = guest.start_process(*UNPRIVILEGED, "hostapd", "-i", "wlan0", "/run/ap/hostapd.conf")
    hostapd.wait_output("AP-ENABLED")
    assert "Mesh relay" in guest.sh("iw dev wlan0 info")
    guest.sh("ip netns add phone; iw phy phy1 set netns name phone")
    connected = "CTRL-EVENT-CONNECTED"
    # An old phone knows no protection (0), a new one may insist on it (2).
    for password, told, protection in (
        ("ask at the bar", "WRONG_KEY", 2),
        (PASSWORD, connected, 2),
        (PASSWORD, connected, 0),
    ):
        network = f'ssid="Mesh relay"\npsk="{password}"\nieee80211w={protection}\n'
        guest.write("/root/phone.conf", f"network={{\n{network}}}\n")
        phone = guest.start_process("wpa_supplicant", "-i", "wlan1", "-c", "/root/phone.conf", netns="phone")
        phone.wait_output(told, PHONE_S)
        phone.stop()

    box.relay()
    # One long flash: works, and has no clock to go by.
    box.until(lambda: box.light_of() == "clock")
    start = len(box.changes())
    box.until(lambda: len(box.changes()) >= start + 4)
    after = box.changes()[start:]
    on_s = [later - at for (at, on), (later, _) in itertools.pairwise(after) if on]
    assert all(0.8 < seconds < 1.6 for seconds in on_s), after

    box.until_card_says("relay-status.txt")
    assert "The relay started and works." in box.card()
    (mounted,) = [line.split() for line in guest.sh("cat /proc/mounts").splitlines() if "vfat" in line]
    assert mounted[1] == "/run/relaycard/fs"
    assert "ro" in mounted[3].split(",")

    # Too short: the light answers, and nothing is lost.
    box.button("d")
    box.until(lambda: box.light_of() == "held")
    box.button("u")
    box.until(lambda: box.light_of() == "clock")
    store = guest.sh("ls /var/cache/mesh-relay")
    assert "store.sqlite" in store

    box.button("d")
    box.until(lambda: "poweroff --force" in guest.sh("cat /run/systemctl.log 2>/dev/null || true"))
    asked = guest.sh("cat /run/systemctl.log").splitlines()
    units = "mesh-relay.service relay-ble.service relay-bitchat.service relay-libp2p.service relay-net.service"
    assert asked == [
        f"kill --signal=SIGKILL {units}",
        f"stop {units}",
        "poweroff --force",
    ]
    assert box.changes()[-1][1], "steady at the end"
    assert guest.sh("find /var/cache/mesh-relay /run/mesh-relay-config -type f") == ""
    # This kernel has in memory what it read from there before, as long as it is mounted.
    guest.sh("umount /run/relaycard/fs")
    assert box.card() == ""
    # Not only the names: no byte of the secret is left on the card, in either of its spellings.
    image = guest.read("/run/card.img")
    assert SECRET.encode() not in image
    assert SECRET.encode("utf-16-le") not in image
    assert OFFERED.encode() not in image


def test_a_button_pulled_out_while_held_erases_nothing(box):
    box.put(RELAY_TOML)
    box.apply()
    box.relay()
    box.button("d")
    box.until(lambda: box.light_of() == "held")
    box.button("q")
    box.until(lambda: box.light_of() == "clock")
    time.sleep(HOLD_S + 1)
    assert "relay.toml" in box.card()


def test_a_mistake_on_the_card_is_on_light_and_card_and_the_relay_works(box):
    box.put('[appliance]\ncountry = "Germany"\naccess_point = true\n')
    assert "line 2" in box.apply()
    assert box.guest.run("test", "-e", "/run/mesh-relay-config/hostapd.conf", check=False).code
    box.relay()
    box.until(lambda: box.light_of() == "config")
    box.until_card_says("relay-status.txt")
    assert "MISTAKE: line 2" in box.card()


#: A relay and a phone of the same channel, which is one in Germany and none in the USA.
CHANNEL_13 = """\
[appliance]
country = "{}"
access_point = true
access_point_interface = "wlan0"
access_point_channel = 13
mesh_interface = ""
"""


@pytest.mark.lasts(110)
@pytest.mark.timeout(300)
def test_an_access_point_that_cannot_come_up_is_on_light_card_and_page_with_what_would_work(box):
    """The file had no mistake, hostapd ended, and nobody was told."""
    guest = box.guest
    environment = {"RUNTIME_DIRECTORY": "/run/mesh-relay-net"}
    net = ("-m", "relay", "net", "--config", "/run/mesh-relay-config/relay.toml")

    def told():
        """What relay run was told of it."""
        found = json.loads(guest.run("python3", "-m", "relay", "status", "--json").stdout)
        return next((row for row in found["components"] if row["name"] == "net"), {"gauges": {}, "troubles": []})

    box.put(CHANNEL_13.format("US"))
    assert "line 5: appliance.access_point_channel: channel 13 is not allowed in US" in box.apply()
    # A machine without that list has to find out.
    guest.sh("mount --bind /dev/null /lib/firmware/regulatory.db")
    assert box.apply() == ""
    guest.sh("umount /lib/firmware/regulatory.db")
    guest.sh("nft -f /run/mesh-relay-config/nftables.conf; ip link set lo up")
    box.relay()
    running = guest.python(*net, env=environment)
    running.wait_output("channel 13 is not allowed here: choose one of 1-11", 40)
    # As it lasts: not at each start.
    box.until(lambda: box.light_of() == "network", 60)
    assert "channel 13 is not allowed" in told()["troubles"][0]
    box.until_card_says("NETWORK: The access point for phones is off: wlan0: channel 13", 150)
    running.stop()

    box.put(CHANNEL_13.format("DE"))
    assert box.apply() == ""
    guest.python(*net, env=environment)
    hostapd = guest.start_process("hostapd", "-i", "wlan0", "/run/mesh-relay-config/hostapd.conf")
    hostapd.wait_output("AP-ENABLED")
    box.until(lambda: box.light_of() == "clock", 40)
    assert (told()["gauges"]["access_points_up"], told()["gauges"]["phones"]) == (1, 0)
    guest.sh("ip netns add phone; iw phy phy1 set netns name phone; ip -n phone link set wlan1 up")
    guest.sh("iw dev wlan1 connect 'Mesh relay'", netns="phone")
    box.until(lambda: told()["gauges"]["phones"] == 1, 40)
    hostapd.kill()
    box.until(lambda: told()["gauges"]["access_points_up"] == 0, 40)


def test_a_card_without_its_drive_starts_as_well(box):
    assert "MESH-RELAY" in box.guest.sh("python3 -m relay appliance apply --boot-device /dev/loop7x 2>&1")
    box.guest.sh("nft -f /run/mesh-relay-config/nftables.conf")
    box.relay()
    box.until(lambda: box.light_of() == "config")
