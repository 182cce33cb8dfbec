# SPDX-License-Identifier: GPL-2.0-or-later
"""Phones with bitchat, each in reach of another relay, hear each other; test phones, written from the facts."""

import json

import pytest

from tests.waiting import wait_until

PATIENCE_S = 90
BITCHAT = {"enabled": True}


class Phone:
    """A phone with bitchat, on a machine of the scene."""

    def __init__(self, machine, kind):
        self._machine = machine
        self._socket = f"{machine.folder}/phone.sock"
        machine.run("true")
        self.process = machine.start_process(
            "python3", "-m", "tests.radio.inside.bitchat_phone", kind, machine.name, self._socket
        )

    def state(self):
        answer = self._machine.guest.ask(self._socket, "state")
        return json.loads(answer) if answer else None

    def say(self, text):
        assert json.loads(self._machine.guest.ask(self._socket, f"say {text}"))["ok"]

    def wait(self, what, condition, patience_s=PATIENCE_S):
        state = None

        def look():
            nonlocal state
            state = self.state()
            return state if state is not None and condition(state) else None

        return wait_until(lambda: self.process.describe(f"{what}; {state}"), look, patience_s)

    def wait_linked(self):
        self.wait("it is linked to a relay", lambda state: state["linked_to"])

    def wait_name(self, name):
        self.wait(f"it knows {name}", lambda state: name in state["names"].values())

    def wait_shown(self, texts):
        self.wait(f"it shows {texts}", lambda state: sorted(state["shown"]) == sorted(texts))


def part(status):
    return next((found for found in status["components"] if found["name"] == "bitchat"), {"gauges": {}, "counters": {}})


@pytest.mark.lasts(60)
@pytest.mark.timeout(300)
def test_phones_of_two_islands_hear_each_other_by_way_of_relays(open_stage):
    with open_stage("islands") as stage:
        relay_a, relay_b = stage.machines["relay_a"], stage.machines["relay_b"]
        relay_a.station.wait_powered(1)
        # Who hears whom is by radio here, not by machine.
        near = [("ana", "relay_a"), ("ben", "relay_a.1")]
        stage.air.heard([pair for one, other in near for pair in ((one, other), (other, one))])
        for relay, adapter in ((relay_a, "hci0"), (relay_b, "hci1")):
            relay.start_relay(bitchat=BITCHAT | {"adapter": adapter}, ble={"enabled": False})
            relay.start("bitchat")
        ana, ben = Phone(stage.machines["ana"], "iphone"), Phone(stage.machines["ben"], "android")
        for relay in (relay_a, relay_b):
            relay.wait("it has bitchat", lambda status: part(status)["gauges"].get("clients"), PATIENCE_S)
        for phone in (ana, ben):
            phone.wait_linked()
        ana.wait_name("ben")
        ben.wait_name("ana")
        ana.say("soup at eight")
        ben.wait_shown(["soup at eight"])
        ben.say("I bring bread")
        ana.wait_shown(["I bring bread"])
        for phone in (ana, ben):
            state = phone.state()
            assert state["refused"] == [], state
            assert state["links"] == 1, state
