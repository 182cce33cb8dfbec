# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody in range does to a relay whatever Bluetooth lets him; honest people hardly notice."""

import random
import time

import pytest

from tests.radio.people import WITHOUT_CHANNELS, Person

PHOTO_BYTES = 60_000
#: The photo in four pieces, and a text.
ENVELOPES = 5
PATIENCE_S = 60
#: Of `relay ble`; what libraries need at first use is there when it is measured first.
MOST_GROWTH_KIB = 8 * 1024
PLAIN_TEXT = "Nobody but Bob reads this."
#: The honest ones connect three times.
MANY_CONNECTIONS = 10
#: What has to be counted besides.
COUNTED = (
    "frames_dropped_no_slot",
    "frames_dropped_malformed",
    "slot_protocol",
    "refused_extra_channel",
    "slots_given",
)
#: Mostly taken by somebody who says nothing. He gives way to whoever comes after ten seconds, and `relay run` has
#: as much patience with a stream without a handshake: which of both it is, is left to chance here, and shown by
#: tests/unit/ble.
PLACES = 1
WITHOUT_IP = {"tcp": {"interfaces": [], "discovery": False}}
#: He, too, has to find the one place free, for each of the things that he does.
COUNTED_S = 200
MOST_VISITS = 10
#: In quiet it is 8 s; ten false relays a second kept two from linking for over 240 s.
LINK_S = 100


@pytest.mark.lasts(240)
@pytest.mark.timeout(480)
def test_whoever_means_ill_is_bounded_and_counted_and_others_are_served(open_stage):
    photo = random.Random(5).randbytes(PHOTO_BYTES)
    with open_stage("hostile") as stage:
        relay, phone, other, evil = stage.machines.values()
        relay.start_relay(ble={"max_clients": PLACES}, **WITHOUT_IP)
        process = relay.start("ble")
        alice, bob = Person(phone, "alice"), Person(phone, "bob")
        alice.run("contact", "add", bob.card(), "--name", "Bob")
        phone.guest.write(f"{alice.folder}/photo.jpg", photo)
        alice.visit("send", "Bob", PLAIN_TEXT, system=WITHOUT_CHANNELS)
        before_kib = rss_kib(relay, process)

        evil.station.wait_powered(1)
        evil.sh(
            "dbus-send --system --print-reply --dest=org.bluez /org/bluez/hci1 org.freedesktop.DBus.Properties.Set "
            "string:org.bluez.Adapter1 string:Powered variant:boolean:false"
        )
        heard = f"{evil.folder}/heard"
        attacks = [
            evil.start_process("python3", "-m", "tests.radio.inside.hostile", *arguments)
            for arguments in (("radio",), ("attributes", heard))
        ]
        relay.wait("it is attacked", lambda status: counters(status)["frames_dropped_no_slot"] > 0, PATIENCE_S)

        # Two relays find each other among all that pass for relays, and phones find them.
        other.start_relay(**WITHOUT_IP)
        other.start("ble")
        began = time.monotonic()
        alice.visit("send", "Bob", "--file", "photo.jpg")
        other.wait("the relays have met", lambda status: has_all(status) and has_all(relay.status()), LINK_S)
        # Whichever of the two he finds: before, one may have the photo and not the text.
        shown = bob.visit("receive", system=WITHOUT_CHANNELS)
        print(f"the relays had met after {time.monotonic() - began:.1f} s, {counters(other.status())}")
        other.processes["ble"].kill()
        assert PLAIN_TEXT in shown
        assert bytes(phone.guest.read(f"{bob.folder}/photo.jpg")) == photo
        print(f"so far {counters(relay.status())}")
        relay.wait(
            "all of it is counted",
            lambda status: (
                all(counters(status)[name] for name in COUNTED)
                # Of streams that were opened and on which nothing came.
                and status["totals"]["handshake_failures"]["timeout"]
                and counters(status)["connections"] > MANY_CONNECTIONS
                and counters(status)["dial_timeout"] + counters(status)["dial_failed"] > 0
            ),
            COUNTED_S,
        )
        print(counters(relay.status()), [attack.stdout.splitlines()[-1:] for attack in attacks])
        assert all(attack.poll() is None for attack in attacks), [attack.output for attack in attacks]
        # He hears nothing while he has no place: the honest ones go on until he has heard enough.
        for _ in range(MOST_VISITS):
            if len(overheard := bytes(evil.guest.read(heard))) > 1000:
                break
            bob.visit("receive", system=WITHOUT_CHANNELS)
        for attack in attacks:
            attack.kill()
        relay.wait("nothing of them is left", lambda status: gauges(status)["clients"] == 0, PATIENCE_S)
        after_kib = rss_kib(relay, process)
        print(f"relay ble: {before_kib} KiB before, {after_kib} KiB after; {len(overheard)} bytes overheard")
        assert process.poll() is None
        assert relay.station.bluetoothd.poll() is None
        assert after_kib - before_kib < MOST_GROWTH_KIB
        # Nothing of who was there is on the disk, honest or not: bluetoothd has a folder for each device that it keeps.
        assert relay.sh("find /var/lib/bluetooth -mindepth 2 -type d") == ""
        # Frames of somebody else's slot, that is: and nothing in them to be read.
        assert len(overheard) > 1000
        assert PLAIN_TEXT.encode() not in overheard
        assert photo[:16] not in overheard


def has_all(status):
    return status["store"]["envelopes"] == ENVELOPES


def counters(status):
    (ble,) = status["components"]
    return dict.fromkeys((*COUNTED, "gave_way", "connections", "dial_timeout", "dial_failed"), 0) | ble["counters"]


def gauges(status):
    (ble,) = status["components"]
    return ble["gauges"]


def rss_kib(machine, process):
    return int(machine.sh(f"grep VmRSS /proc/{process.pid}/status").split()[1])
