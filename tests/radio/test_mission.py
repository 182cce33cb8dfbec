# SPDX-License-Identifier: GPL-2.0-or-later
"""What the product is for: one message across all three kinds of segment, between people who never meet."""

import random

import pytest

TEXT = "The bridge is open. Come by the river. 🌉"
REPLY = "Thanks! We are at the fountain."
PHOTO_BYTES = 2_000_000
#: 2 MB in pieces of at most 16,352 bytes.
LEAST_ENVELOPES = 123
#: The photo over Bluetooth takes tens of seconds with two cores full of other guests.
PATIENCE_S = 180

#: What relay.toml says of the radio, and the interface that `relay run` then uses.
WIFI = {
    "ibss": ({"mode": "ibss"}, "wlan0"),
    "80211s_sae": ({"mode": "mesh", "secret": "correct horse battery staple"}, "wlan0"),
    "batman": ({"mode": "ibss", "batman": True}, "bat0"),
}


def photo(seed):
    return random.Random(seed).randbytes(PHOTO_BYTES)


@pytest.mark.lasts(75)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", WIFI)
def test_a_text_and_a_photo_go_from_a_phone_to_ethernet_and_back(open_stage, kind):
    radio, interface = WIFI[kind]
    with open_stage("mission") as stage:
        alice, relay_a, relay_m, relay_b, bob = stage.machines.values()
        # With batman-adv the one in the middle is no relay of messages: it forwards frames, two hops.
        relays = (relay_a, relay_b) if kind == "batman" else (relay_a, relay_m, relay_b)
        net = {"net": {"country": "DE"}, "net.radios.mesh": {"interface": "wlan0", **radio}}
        for relay in (relay_a, relay_m, relay_b):
            relay.configure(tcp={"interfaces": [interface, "eth0"]}, **net)
            relay.start("net").wait_output("has joined", PATIENCE_S)
        for relay in relays:
            relay.start_relay(tcp={"interfaces": [interface, "eth0"]}, **net)
        relay_a.start("ble")
        people = {"alice": alice, "bob": bob}
        cards = {name: person.cli("identity").split()[0] for name, person in people.items()}
        alice.cli("contact", "add", cards["bob"], "--name", "Bob")
        bob.cli("contact", "add", cards["alice"], "--name", "Alice")
        alice.guest.write(f"{alice.folder}/river.jpg", photo(1))
        bob.guest.write(f"{bob.folder}/fountain.jpg", photo(2))
        stage.step("Bob's cable is out")

        stage.step("Alice comes by")
        alice.cli("send", "Bob", TEXT, "--relay", "ble", timeout_s=PATIENCE_S)
        alice.cli("send", "Bob", "--file", "river.jpg", "--relay", "ble", timeout_s=PATIENCE_S)
        relay_a.wait("it holds all of it", lambda status: status["store"]["envelopes"] > LEAST_ENVELOPES, 30)
        assert relay_b.status()["store"]["envelopes"] == 0
        stage.step("Alice leaves")

        stage.step("the relays come into range")
        there = relay_a.status()["store"]["envelopes"]
        relay_b.wait("it holds all of it", lambda status: status["store"]["envelopes"] == there, PATIENCE_S)
        stage.step("and lose each other")

        stage.step("Bob plugs in")
        host = relay_b.ipv4["lan"]
        assert TEXT in bob.cli("receive", "--relay", host, timeout_s=PATIENCE_S)
        assert bob.guest.read(f"{bob.folder}/river.jpg") == photo(1)
        bob.cli("send", "Alice", REPLY, "--relay", host, timeout_s=PATIENCE_S)
        bob.cli("send", "Alice", "--file", "fountain.jpg", "--relay", host, timeout_s=PATIENCE_S)
        stage.step("Bob leaves")

        stage.step("the relays come into range again")
        there = relay_b.status()["store"]["envelopes"]
        relay_a.wait("it holds the answer, too", lambda status: status["store"]["envelopes"] == there, PATIENCE_S)

        stage.step("Alice comes by again")
        assert REPLY in alice.cli("receive", "--relay", "ble", timeout_s=PATIENCE_S)
        assert alice.guest.read(f"{alice.folder}/fountain.jpg") == photo(2)
