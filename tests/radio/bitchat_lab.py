# SPDX-License-Identifier: GPL-2.0-or-later
"""Phones with bitchat (test phones, written from the facts) and relays of the scene "islands"."""

import json
import time

from tests.guest.uml import GuestError
from tests.waiting import wait_until

PATIENCE_S = 90
#: By how much the clock of the relays' machine is slow, and the one that an operator set wrong is fast.
WRONG_S = 3 * 3600
KINDS = {"ana": "iphone", "ben": "android", "cleo": "iphone", "dora": "android", "emil": "iphone", "fay": "android"}


class Phone:
    """A phone with bitchat: a process, with an adapter of a machine of the scene."""

    def __init__(self, machine, kind, name, *how, adapter=0):
        self._machine = machine
        self.name = name
        self.kind = kind
        self._socket = f"{machine.folder}/{name}.sock"
        machine.run("true")
        self.process = machine.start_process(
            "python3", "-m", "tests.radio.inside.bitchat_phone", kind, name, self._socket, f"hci{adapter}", *how
        )

    def ask(self, line):
        answer = self._machine.guest.ask(self._socket, line)
        return json.loads(answer) if answer else None

    def state(self):
        return self.ask("state")

    def say(self, text):
        """Say something to all; return when, by the clock of its machine."""
        answer = self.ask(f"say {text}")
        if answer is None or not answer["ok"]:
            raise GuestError(self.process.describe(f"{self.name} could not say {text!r}"))
        return answer["at_s"]

    def wait(self, what, condition, patience_s=PATIENCE_S):
        state = None

        def look():
            nonlocal state
            state = self.state()
            return state if state is not None and condition(state) else None

        return wait_until(lambda: self.process.describe(f"{self.name}: {what}; {state}"), look, patience_s)

    def wait_linked(self):
        self.wait("it is linked to a relay", lambda state: state["linked_to"])

    def wait_names(self, *names):
        self.wait(f"it knows {names}", lambda state: set(names) <= set(state["names"].values()))

    def wait_shows(self, text):
        return self.wait(f"it shows {text!r}", lambda state: text in state["shown"])


def part(status, name="bitchat"):
    return next((found for found in status["components"] if found["name"] == name), {"gauges": {}, "counters": {}})


class Islands:
    """Six phones at two relays, with another between them."""

    def __init__(self, stage):
        self.stage = stage
        self.relays = [stage.machines[name] for name in ("relay_a", "relay_m", "relay_b")]
        self.relay_a, self.relay_m, self.relay_b = self.relays
        self.phones = {}
        self.at = {}
        #: How long those who are away have been, by the clock.
        self.missed = {}

    def place(self, **where):
        """Who hears which relay: "a", "b", or None; by radio, not by machine, as both relays' are of one."""
        self.at |= where
        pairs = []
        for name, at in self.at.items():
            if at is not None:
                relay = self.relay_a.station.radio({"a": 0, "b": 1}[at])
                radio = self.stage.machines["phones"].station.radio(list(KINDS).index(name))
                pairs += [(radio, relay), (relay, radio)]
        self.stage.air.heard(pairs)

    def start(self):
        """Relays: one with a clock that is right, one with a wrong one, one without; the machine's is wrong, too."""
        self.place(ana="a", ben="a", cleo=None, dora="b", emil="b", fay="b")
        for relay in (self.relay_m, self.relay_b):
            relay.sh(
                "iw dev wlan0 set type ibss; ip link set wlan0 up; "
                "iw dev wlan0 ibss join lab 2412 fixed-freq 02:ca:fe:00:00:01"
            )
        self.relay_a.station.wait_powered(1)
        self.relay_a.sh(f"date -s @{int(time.time()) - WRONG_S}")
        for relay, ble in zip(
            self.relays, ({"adapters": ["hci0"]}, {"enabled": False}, {"enabled": False}), strict=True
        ):
            adapter = {"relay_a": "hci0", "relay_b": "hci1"}.get(relay.name)
            bitchat = {"enabled": adapter is not None} | ({"adapter": adapter} if adapter else {})
            relay.start_relay(bitchat=bitchat, ble=ble)
        self.set_clock(time.time())
        for relay in (self.relay_a, self.relay_b):
            relay.start("bitchat")
        self.relay_a.start("ble")
        machine = self.stage.machines["phones"]
        for number, (name, kind) in enumerate(KINDS.items()):
            machine.station.wait_powered(number)
            # What is looked for afterwards has to be found nowhere else.
            self.phones[name] = Phone(machine, kind, f"{name}.weaver", adapter=number)
        for name in ("ana", "ben"):
            self.phones[name].wait_linked()
        # Of three at one relay she is the last to come.
        self.place(cleo="a")

    def set_clock(self, unix_s):
        self.unix_s = unix_s
        self.set_at_s = time.monotonic()
        for relay, off_s in ((self.relay_a, 0), (self.relay_m, WRONG_S)):
            relay.cli("clock", "set", f"@{int(unix_s) + off_s}", "--config", f"{relay.folder}/relay.toml")

    def let_pass(self, seconds, **where):
        """All are somewhere else for so long; then they are here, or there."""
        for phone in self.phones.values():
            phone.ask("away")
        for relay in (self.relay_a, self.relay_b):
            relay.wait("nobody is here", lambda status: part(status)["gauges"].get("clients") == 0, PATIENCE_S)
        self.set_clock(self.unix_s + time.monotonic() - self.set_at_s + seconds)
        self.place(**where)
        for name, phone in self.phones.items():
            if self.at[name] is not None:
                phone.ask(f"back {self.missed.pop(name, 0) + seconds}")
            else:
                self.missed[name] = self.missed.get(name, 0) + seconds
