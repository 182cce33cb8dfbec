# SPDX-License-Identifier: GPL-2.0-or-later
"""The scene ``bridge`` with both relays running: for its test, and for the benchmark."""

import json

from tests.radio.net_lab import until

APP = "tests.radio.inside.app"
#: Joining, then the bridge's spanning tree (8 s) or the loop avoidance of batman-adv (30 s).
PATIENCE_S = 120.0

#: What relay.toml says: sections, by the kind of the mesh.
KINDS = {
    "80211s_sae": {
        "net": {"country": "DE", "bridge": ["eth0", "wlan0"]},
        "net.radios.air": {"interface": "wlan0", "secret": "correct horse battery staple"},
    },
    "batman_over_ibss": {
        "net": {"country": "DE", "bridge": ["eth0", "bat0"]},
        "net.radios.air": {"interface": "wlan0", "mode": "ibss", "batman": True},
    },
}


def bridge(stage, kind):
    """Start `relay net` on both relays, and wait until the machines behind them reach each other."""
    relays = [stage.machines[name] for name in ("relay_a", "relay_b")]
    for relay in relays:
        relay.configure(**KINDS[kind])
        relay.start("net")
    for relay in relays:
        relay.processes["net"].wait_output("has joined", PATIENCE_S)
    north, south = stage.machines["north"], stage.machines["south"]
    for one, other in ((north, south), (south, north)):
        ping = f"ip neigh flush dev eth0; ping -c1 -W1 {address(other)}"
        until(
            # Whom it does not know it asks for by multicast, as programs ask for services; that has its own delay
            # each way.
            lambda one=one, ping=ping: one.run("bash", "-c", ping, check=False).code == 0,
            f"{one.name}, behind one relay, reaches {other.name} behind the other",
            patience_s=PATIENCE_S,
        )


def address(machine):
    """How its neighbours reach it."""
    (link,) = json.loads(machine.sh("ip -j -6 address show dev eth0 scope link"))
    return f"{link['addr_info'][0]['local']}%eth0"


def start_offer(machine, seed, size):
    """Offer a file of ``size`` bytes; return the process."""
    process = machine.start_process("python3", "-m", APP, "offer", machine.name, str(seed), str(size))
    process.wait_output("offered", PATIENCE_S)
    return process


def start_fetch(machine, other):
    """Find what ``other`` offers and fetch it; return the process, to be given to `fetched`."""
    return machine.start_process("python3", "-m", APP, "fetch", other.name)


def fetched(process):
    """Wait until it has all; return what it tells."""
    assert process.wait(2 * PATIENCE_S) == 0, process.output
    return json.loads(process.stdout.splitlines()[-1])
