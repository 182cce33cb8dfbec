# SPDX-License-Identifier: GPL-2.0-or-later
"""The least that has to work over ad-hoc Wi-Fi, with a network that was set up by hand."""

import pytest

from tests.netns.relays import linked

TEXT = "Meet at the bridge at six. 🌉"


@pytest.mark.timeout(120)
def test_an_envelope_crosses_ad_hoc_wifi_to_someone_on_the_other_relays_ethernet(open_stage):
    with open_stage("ibss") as stage:
        relay_a, relay_b, alice, bob = (stage.machines[name] for name in ("relay_a", "relay_b", "alice", "bob"))
        for relay in (relay_a, relay_b):
            relay.sh(
                "iw dev wlan0 set type ibss; ip link set wlan0 up; "
                "iw dev wlan0 ibss join lab 2412 fixed-freq 02:ca:fe:00:00:01"
            )
            relay.start_relay()
        alice.cli("contact", "add", bob.cli("identity").split()[0], "--name", "Bob")
        alice.cli("send", "Bob", TEXT)
        relay_a.wait("it holds what Alice sent", lambda status: status["store"]["envelopes"] > 0, 20)
        assert linked(relay_b.status()) == 0

        stage.step("the relays come into each other's range")
        relay_b.wait("the relays are linked", lambda status: linked(status) == 1, 30)
        relay_b.wait("it holds it, too", lambda status: status["store"]["envelopes"] > 0, 20)

        stage.step("and leave it again")
        assert TEXT in bob.cli("receive")
