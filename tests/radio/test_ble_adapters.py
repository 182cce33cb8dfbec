# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay works with both of its adapters, with one session with a neighbour on each at most, and with either alone."""

import pytest

PATIENCE_S = 90
WITHOUT_IP = {"tcp": {"interfaces": [], "discovery": False}}


@pytest.mark.lasts(55)
@pytest.mark.timeout(300)
def test_two_adapters_and_either_of_them(open_stage):
    with open_stage("adapters") as stage:
        relay, other, phone = stage.machines.values()
        relay.station.wait_powered(1)
        for machine in (relay, other):
            machine.start_relay(**WITHOUT_IP)
            machine.start("ble")
        relay.wait("both adapters serve", lambda status: adapters(status) == 2, PATIENCE_S)
        relay.wait("it has met the other relay", has_neighbour, PATIENCE_S)
        phone.cli("contact", "add", phone.cli("identity").split()[0], "--name", "Me")

        for held, harm in enumerate((lambda: None, relay.station.unplug, lambda: swap(relay)), 1):
            harm()
            relay.wait("what is left serves", lambda status: adapters(status) >= 1, PATIENCE_S)
            phone.cli("send", "Me", f"letter {held}", "--relay", "ble", timeout_s=PATIENCE_S)
            for machine in (relay, other):
                machine.wait("it has the letter", lambda status, n=held: status["store"]["envelopes"] == n, PATIENCE_S)
            relay.wait("a session with the other relay", has_neighbour, PATIENCE_S)
        counters = part(relay.status())["counters"]
        assert counters.get("adapter_lost", 0) == 2, counters
        assert counters.get("bluetoothd_lost", 0) == 0, counters


def swap(relay):
    """The one that was pulled comes back, and the other one goes."""
    relay.station.plug(0)
    relay.wait("both adapters serve again", lambda status: adapters(status) == 2, PATIENCE_S)
    relay.station.unplug(1)
    relay.wait("one is gone", lambda status: adapters(status) == 1, PATIENCE_S)


def part(status):
    return next((found for found in status["components"] if found["name"] == "ble"), {"gauges": {}, "counters": {}})


def adapters(status):
    return part(status)["gauges"].get("adapters_up", 0)


def has_neighbour(status):
    # Both adapters may have dialled, or been dialled, at the same time.
    sessions = [link["relays"] for link in status["links"] if link["kind"] == "ble"]
    return sum(sessions) >= 1 and max(sessions) <= 1
