# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever happens to ad-hoc Wi-Fi while envelopes flow, it comes back without a hand, and none of them is lost."""

import time

import pytest

from tests.netns.relays import linked
from tests.radio.streams import EnvelopeStream, held

PATIENCE_S = 120
#: How soon relays that come into range have found each other: announced every 15 to 25 s, and two machines' work.
MEET_S = 60
NET = {
    "tcp": {"interfaces": ["wlan0"]},
    "net": {"country": "DE"},
    "net.radios.air": {"interface": "wlan0", "secret": "correct horse battery staple"},
}


def pull_radio(machine):
    machine.sh("python3 /src/tests/radio/hwsim.py del")


def put_radio(stage, machine):
    """Put a radio into its socket; it has the name that the one before it had."""
    made = machine.guest.sh(f"python3 /src/tests/radio/hwsim.py new {machine.name}").strip()
    number = int(machine.guest.sh(f"cat /sys/class/ieee80211/{machine.name}/index"))
    machine.guest.sh(
        f"iw phy {machine.name} set name phy{number}; ip link set {made} name wlan0; "
        f"iw phy phy{number} set netns name {machine.netns}"
    )
    machine.phys = [number]
    stage.apply_wifi()


@pytest.mark.lasts(55)
@pytest.mark.timeout(600)
def test_wifi_comes_back_after_whatever_happens_while_envelopes_flow(open_stage):
    with open_stage("recovery") as stage:
        near, far, late = relays = list(stage.machines.values())
        for relay in relays:
            relay.configure(**NET)
            relay.start("net")
        for relay in relays:
            relay.processes["net"].wait_output("has joined", PATIENCE_S)
            relay.start_relay(**NET)
        stream = EnvelopeStream(near, far)
        stream.wait_flow(PATIENCE_S)

        def split():
            stage.step("the mesh is split")
            stream.wait_stuck(PATIENCE_S)
            near.wait("the session ends", lambda status: linked(status) == 0, PATIENCE_S)

        def pull():
            pull_radio(near)
            stream.wait_stuck(PATIENCE_S)

        cases = {
            "mesh split": (split, lambda: stage.step("the mesh is whole again")),
            "relay net killed": (near.processes["net"].kill, lambda: near.start("net")),
            "relay run killed where envelopes come in": (near.processes["run"].kill, lambda: near.start("run")),
            "relay run killed where they go": (far.processes["run"].kill, lambda: far.start("run")),
        }
        for what, (harm, mend) in cases.items():
            began = time.monotonic()
            harm()
            mended = time.monotonic()
            mend()
            stream.wait_flow(PATIENCE_S, f"envelopes flow again: {what}")
            now = time.monotonic()
            print(
                f"{what}: envelopes flow again {now - mended:.1f} s after it was mended, {now - began:.1f} s after it"
            )

        assert late.status()["store"]["admitted"] == 0
        began = time.monotonic()
        stage.step("the third one comes into range of one of them")
        late.wait("a relay is found", lambda status: linked(status) > 0, MEET_S)
        print(f"a third relay that was away all the time is found after {time.monotonic() - began:.1f} s")

        began = time.monotonic()
        pull()
        mended = time.monotonic()
        put_radio(stage, near)
        stream.wait_flow(PATIENCE_S, "envelopes flow again: radio pulled out and put in")
        now = time.monotonic()
        print(f"radio pulled out: envelopes flow again {now - mended:.1f} s after it was put in again")

        acknowledged = stream.end()
        print(f"{len(acknowledged)} envelopes acknowledged")
        for relay in (far, late):
            relay.wait("it has them all", lambda status: status["store"]["admitted"] >= len(acknowledged), PATIENCE_S)
            assert acknowledged <= held(relay)
