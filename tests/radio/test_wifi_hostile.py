# SPDX-License-Identifier: GPL-2.0-or-later
"""Forged frames of 802.11 and batman-adv while envelopes flow: they go on flowing, and nothing grows."""

import json
import time

import pytest

from tests.radio.net_lab import until
from tests.radio.streams import EnvelopeStream, held

PATIENCE_S = 120
CHANNEL = 6
MESH_ID = "mesh-relay"
#: Frames of each kind, at least.
FRAMES = 600
#: How much of its memory a process may owe to all of that.
GROWTH_MIB = 16

#: Of anybody's; what 802.11 alone is about, in a mesh or an IBSS.
WIRELESS = {
    "mesh": ["other_config", "newcomers", "own_beacons", "goodbyes", "logins", "peerings", "paths", "garbage"],
    "ibss": ["other_config", "newcomers", "own_beacons", "goodbyes", "logins", "garbage"],
}
BATMAN = ["originators", "clients", "version_five", "fragments", "broken", "storms"]
#: Lies about the way, in a relay's name.
LIES = ["impostors"]
MOVES = ["channel_switches"]

#: By mode: what relay.toml says of the radio, what does not stop the envelopes, and what does for as long as it lasts.
KINDS = {
    "mesh": ({"secret": "correct horse battery staple"}, [*WIRELESS["mesh"], *BATMAN, *LIES], MOVES),
    "ibss": ({"mode": "ibss"}, [*WIRELESS["ibss"], *BATMAN], [*LIES, *MOVES]),
}


def memory_mib(relay):
    """Resident memory of the relay's processes and their children, by name."""
    found = {}
    for part, process in relay.processes.items():
        assert process.poll() is None, process.output
        for pid in relay.guest.sh(f"echo {process.pid}; pgrep -P {process.pid} || true").split():
            name = part if int(pid) == process.pid else "wpa_supplicant"
            found[name] = int(relay.guest.sh(f"grep VmRSS /proc/{pid}/status").split()[1]) / 1024
    return found


def counters(relay):
    parts = {part["name"]: part for part in relay.status()["components"]}
    return parts["net"]["counters"]


class Attack:
    """Frames of these kinds, one after the other and for as long as this is entered."""

    def __init__(self, evil, relays, mode, kinds):
        addresses = [relay.sh("cat /sys/class/net/wlan0/address").strip() for relay in relays]
        cell = relays[0].sh("iw dev wlan0 link").split()[2] if mode == "ibss" else "-"
        self._command = (mode, str(CHANNEL), MESH_ID, cell, *addresses, *kinds)
        self._evil = evil
        self._process = None

    def __enter__(self):
        program = "tests.radio.inside.forge"
        self._process = self._evil.start_process("python3", "-W", "ignore", "-m", program, *self._command)
        self._process.wait_output("ready", PATIENCE_S)
        return self

    def __exit__(self, *_):
        self._process.kill()

    def wait_sent(self, frames):
        """Wait until so many of each kind were sent."""
        until(lambda: min(self.sent().values(), default=0) >= frames, "frames are sent", patience_s=PATIENCE_S)

    def sent(self):
        assert self._process.poll() is None, self._process.output
        lines = self._process.stdout.splitlines()
        return json.loads(lines[-1]) if lines[-1] != "ready" else {}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", KINDS)
def test_envelopes_flow_whatever_is_forged(open_stage, mode):
    radio, harmless, harmful = KINDS[mode]
    with open_stage("forged") as stage:
        near, far, evil = stage.machines.values()
        relays = (near, far)
        sections = {
            "tcp": {"interfaces": ["bat0"]},
            "net.radios.air": {"interface": "wlan0", "channel": CHANNEL, "batman": True, **radio},
        }
        for relay in relays:
            relay.configure(**sections)
            relay.start("net")
        evil.sh(f"iw dev wlan0 set type monitor; ip link set wlan0 up mtu 2304; iw dev wlan0 set channel {CHANNEL}")
        for relay in relays:
            relay.processes["net"].wait_output("has joined", PATIENCE_S)
            relay.start_relay(**sections)
        stream = EnvelopeStream(near, far)
        stream.wait_flow(PATIENCE_S)
        before = [memory_mib(relay) for relay in relays]

        with Attack(evil, relays, mode, harmless) as attack:
            slowest = 0.0
            while min(attack.sent().values(), default=0) < FRAMES:
                began = time.monotonic()
                stream.wait_flow(PATIENCE_S)
                slowest = max(slowest, time.monotonic() - began)
            print(f"20 envelopes took {slowest:.1f} s at most, during {attack.sent()}")
            print(near.sh("iw dev wlan0 station dump | grep -c Station; batctl o 2>/dev/null | wc -l || true"))
        for relay, used in zip(relays, before, strict=True):
            print(f"{relay.name}: MiB before {used}, after {memory_mib(relay)}; {counters(relay)}")
            for name, after in memory_mib(relay).items():
                assert after - used[name] < GROWTH_MIB, name

        for kind in harmful:
            with Attack(evil, relays, mode, [kind]) as attack:
                attack.wait_sent(FRAMES)
            began = time.monotonic()
            stream.wait_flow(PATIENCE_S)
            print(f"after {kind} envelopes flow again in {time.monotonic() - began:.1f} s")
            for relay in relays:
                print(f"{relay.name}: {counters(relay)}")

        acknowledged = stream.end()
        far.wait("it has them all", lambda status: status["store"]["admitted"] >= len(acknowledged), PATIENCE_S)
        assert acknowledged <= held(far)
        print(near.guest.sh("dmesg | tail -n 20"))
