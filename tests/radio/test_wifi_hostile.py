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
#: Of their packets some get through to batman-adv: an IBSS takes data from whom it knows only.
STRANGERS = 50
#: How much of its memory a process may owe to all of that.
GROWTH_MIB = 16

WIRELESS = ["other_config", "newcomers", "own_beacons", "logins", "garbage"]
#: Said in the name of a relay, and believed by whoever does not ask for a proof.
IN_A_RELAYS_NAME = ["goodbyes", "peerings", "paths", "impostors"]
BATMAN = ["originators", "clients", "version_five", "fragments", "broken", "storms"]

#: By mode: what relay.toml says of the radio, what does not stop the envelopes, and what may for as long as it lasts.
#: A mesh with a secret passes on nothing that is not encrypted, so batman-adv sees none of it. Some of it makes
#: Debian's wpa_supplicant crash: `relay net` counts that, and starts it again. In an IBSS all of it arrives. There
#: batman-adv keeps no way to whoever does not answer, but believes the numbers in a relay's name; the kernel forgets
#: whoever says goodbye, and has no room for him while 128 others are there; and it follows a switch of the channel:
#: `relay net` sees that the radio has left, counts it, and joins again.
KINDS = {
    "mesh": (
        {"secret": "correct horse battery staple"},
        [*BATMAN, *WIRELESS, *IN_A_RELAYS_NAME, "channel_switches"],
        [],
    ),
    "ibss": (
        {"mode": "ibss"},
        [*BATMAN, *WIRELESS],
        [["impostors"], ["newcomers", "goodbyes"], ["channel_switches"]],
    ),
}
#: IEEE80211_IBSS_MAX_STA_ENTRIES is 128, which it does not count exactly; a mesh has 99 peers.
MAX_STATIONS = 160


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


def stations(relay):
    """How many the kernel believes to be there."""
    return relay.sh("iw dev wlan0 station dump").count("Station")


def listen_for_strangers(relay, relays):
    """Start to listen for so many packets of batman-adv that no relay has sent; return the process, which ends then."""
    known = [address(relay) for relay in relays]
    sources = " and ".join(f"not ether src {source}" for source in known)
    return relay.start_process(
        "tcpdump", "-pni", "wlan0", "-c", str(STRANGERS), "-w", "/dev/null", f"ether proto 0x4305 and {sources}"
    )


def address(relay):
    return relay.sh("cat /sys/class/net/wlan0/address").strip()


class Attack:
    """Frames of these kinds, one after the other and for as long as this is entered."""

    def __init__(self, evil, relays, mode, kinds):
        addresses = [address(relay) for relay in relays]
        cell = relays[0].sh("iw dev wlan0 link").split()[2] if mode == "ibss" else "-"
        self._command = (mode, str(CHANNEL), MESH_ID, cell, *addresses, *kinds)
        self._evil = evil
        self._process = None

    def __enter__(self):
        program = "tests.radio.inside.forge"
        self._process = self._evil.start_process("python3", "-W", "ignore", "-m", program, *self._command)
        self._process.wait_output("ready\n", PATIENCE_S)
        return self

    def __exit__(self, *_):
        self._process.kill()

    def wait_sent(self, frames):
        """Wait until so many of each kind were sent."""
        until(lambda: min(self.sent().values(), default=0) >= frames, "frames are sent", patience_s=PATIENCE_S)

    def sent(self):
        assert self._process.poll() is None, self._process.output
        # The last line may be on its way.
        *_, line = self._process.stdout.rpartition("\n")[0].splitlines()
        return {} if line == "ready" else json.loads(line)


@pytest.mark.lasts(80)
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
        strangers = listen_for_strangers(near, relays)

        with Attack(evil, relays, mode, harmless) as attack:
            slowest = 0.0
            while min(attack.sent().values(), default=0) < FRAMES:
                began = time.monotonic()
                stream.wait_flow(PATIENCE_S)
                slowest = max(slowest, time.monotonic() - began)
            print(f"20 envelopes took {slowest:.1f} s at most, during {attack.sent()}")
            assert (strangers.poll() is not None) == (mode == "ibss"), "whether batman-adv gets anything of it"
            print(f"{stations(near)} stations")
            assert stations(near) <= MAX_STATIONS
        stream.wait_flow(PATIENCE_S)
        for relay, used in zip(relays, before, strict=True):
            now = memory_mib(relay)
            print(f"{relay.name}: MiB before {used}, after {now}; {counters(relay)}")
            assert all(now[name] - used[name] < GROWTH_MIB for name in used)

        for kinds in harmful:
            with Attack(evil, relays, mode, kinds) as attack:
                attack.wait_sent(FRAMES)
            began = time.monotonic()
            stream.wait_flow(PATIENCE_S)
            print(f"{time.monotonic() - began:.1f} s after {kinds} envelopes flow again")
        if ["channel_switches"] in harmful:
            until(lambda: any(counters(relay).get("left") for relay in relays), "it was noticed and told")

        acknowledged = stream.end()
        far.wait("it has them all", lambda status: status["store"]["admitted"] >= len(acknowledged), PATIENCE_S)
        assert acknowledged <= held(far)
