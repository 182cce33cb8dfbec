# SPDX-License-Identifier: GPL-2.0-or-later
"""Two booted images: on one cable, and within reach of each other's Bluetooth."""

import contextlib

import pytest

from tests.guest.uml import GuestError
from tests.image.card import Card
from tests.image.lan import Lan
from tests.radio.lab import Air

pytestmark = [pytest.mark.image, pytest.mark.timeout(400)]

EVERYTHING = "relay status; journalctl --no-pager -o cat -u relay-ble -u bluetooth -u mesh-relay"
PERSON = {"HOME": "/run/person", "PATH": "/usr/bin:/usr/sbin"}


def say(ana, ben, text):
    """Somebody at one relay writes to somebody at the other, who gets it there."""
    shown = ben.run("relay", "identity", env=PERSON).stdout
    uri = next(word for word in shown.split() if word.startswith("mesh-relay:"))
    ana.run("relay", "contact", "add", uri, "--name", "ben", env=PERSON)
    ana.run("relay", "send", "ben", text, "--relay", "127.0.0.1", env=PERSON, timeout_s=60)
    following = ben.start_process("relay", "receive", "--follow", "--relay", "127.0.0.1", env=PERSON)
    try:
        following.wait_output(text, 240)
    except GuestError as error:
        said = "".join(relay.explain() + relay.sh(EVERYTHING) for relay in (ana, ben))
        raise GuestError(f"{error}\n{said}") from error


def plug_bluetooth(air, relay, number):
    """Give a booted relay a controller; all else is what the image does with one."""
    air.add(f"{relay.name}-{number}", relay.radio_lines[0], f"02:00:00:00:00:{number:02X}")
    relay.start_process("btattach", "-B", "/dev/ttyS1", "-P", "h4", "-N")


def advertisers(pcap):
    """Addresses of all who advertised to be connected to (Bluetooth 5.4, volume 6, part B, 2.3)."""
    data, at, found = pcap.read_bytes(), 24, set()
    while at < len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        packet = data[at + 16 : at + 16 + size]
        if packet[10:14] == (0x8E89BED6).to_bytes(4, "little") and packet[14] & 15 == 0:
            found.add(packet[16:22])
        at += 16 + size
    return found


def test_two_relays_exchange_an_envelope_by_bluetooth_from_addresses_of_that_start(
    image, tools, kernel, tmp_path, boot
):
    with contextlib.closing(Air(kernel)) as air:
        cards = [Card(image, tmp_path / f"{name}.img", tools=tools) for name in "ab"]
        ana, ben = (boot(card, f"relay-{cpu}", radios=1, cpu=cpu) for cpu, card in enumerate(cards))
        recorded = [tmp_path / f"{number}.pcap" for number in range(2)]
        air.record(recorded[0])
        for number, relay in enumerate((ana, ben)):
            assert relay.wait_booted() == "running", relay.explain()
            plug_bluetooth(air, relay, number)
        say(ana, ben, "over the air")
        air.record(None)
        first = advertisers(recorded[0])
        # The two highest bits of an address that its owner's key resolves, and nobody else.
        assert len(first) >= 2
        assert all(address[5] >> 6 == 1 for address in first)

        air.remove("relay-0-0")
        ana.kill()
        air.record(recorded[1])
        again = boot(cards[0], "relay-0", radios=1, cpu=0)
        assert again.wait_booted() == "running", again.explain()
        plug_bluetooth(air, again, 0)
        again.wait_for(lambda: (air.flush(), advertisers(recorded[1]) - first)[1], 60, again.explain)
        air.record(None)


def test_two_relays_exchange_an_envelope(image, tools, tmp_path, boot):
    cards = [Card(image, tmp_path / f"{name}.img", tools=tools) for name in "ab"]
    with Lan() as lan:
        ana, ben = (boot(card, f"relay-{cpu}", network=lan.port(), cpu=cpu) for cpu, card in enumerate(cards))
        for relay in (ana, ben):
            assert relay.wait_booted() == "running", relay.explain()
        say(ana, ben, "over the cable")
        # Before the cable goes, so that nothing of theirs complains.
        ana.kill()
        ben.kill()
