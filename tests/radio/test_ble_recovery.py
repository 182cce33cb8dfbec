# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever happens to Bluetooth under load, it comes back without a hand, and says how often it happened."""

import signal
import time

import pytest

PATIENCE_S = 90
#: A big file, so that something is always under way, on an air that is no faster than a good one.
LOAD_BYTES = 20_000_000
BYTES_PER_S = 150_000
#: What is left is offered first, and only when nothing is, another copy.
LOAD = """
while sleep 1; do python3 -m relay receive --relay ble && python3 -m relay send Alice --file load --relay ble; done
"""


@pytest.mark.lasts(120)
@pytest.mark.timeout(600)
def test_bluetooth_comes_back_after_whatever_happens_under_load(open_stage):
    with open_stage("phones") as stage:
        relay, loader, alice, _ = stage.machines.values()
        relay.start_relay()
        relay.start("ble")
        scene = Recovery(relay)
        scene.wait_up()
        stage.air.conditions(bytes_per_s=BYTES_PER_S)
        alice.cli("contact", "add", loader.cli("identity").split()[0], "--name", "Bob")
        loader.cli("contact", "add", alice.cli("identity").split()[0], "--name", "Alice")
        loader.sh(f"head -c {LOAD_BYTES} /dev/urandom >load")
        loader.start_process("bash", "-c", LOAD)
        station = relay.station

        def kill_bluetoothd(number):
            station.bluetoothd.signal(number)
            station.bluetoothd.wait(PATIENCE_S)

        def replace_adapter():
            station.plug(address="02:00:00:00:00:77")

        def rfkill(verb):
            relay.sh(f"rfkill {verb} bluetooth")

        def restart(part):
            relay.processes[part].kill()
            relay.start(part)

        cases = [
            (
                "bluetoothd stopped",
                lambda: kill_bluetoothd(signal.SIGTERM),
                station.start_bluetoothd,
                "bluetoothd_lost",
            ),
            ("bluetoothd killed", lambda: kill_bluetoothd(signal.SIGKILL), station.start_bluetoothd, "bluetoothd_lost"),
            ("adapter unplugged", station.unplug, station.plug, "adapter_lost"),
            ("adapter replaced by another", station.unplug, replace_adapter, "adapter_lost"),
            ("blocked by rfkill", lambda: rfkill("block"), lambda: rfkill("unblock"), "adapter_blocked"),
        ]
        for number, (what, harm, mend, counter) in enumerate(cases):
            scene.wait_load()
            before = scene.counted(counter)
            harm()
            relay.wait(f"it notices: {what}", lambda status: not is_up(status), PATIENCE_S)
            relay.wait(f"it counts: {what}", lambda status, c=counter, n=before: counted(status, c) > n, PATIENCE_S)
            began = time.monotonic()
            mend()
            scene.wait_up()
            print(f"{what}: up again after {time.monotonic() - began:.1f} s")
            alice.cli("send", "Bob", f"after {number}", "--relay", "ble", timeout_s=PATIENCE_S)

        for part in ("ble", "run"):
            scene.wait_load()
            began = time.monotonic()
            restart(part)
            scene.wait_up()
            print(f"relay {part} killed: up again after {time.monotonic() - began:.1f} s")
            alice.cli("send", "Bob", f"after relay {part}", "--relay", "ble", timeout_s=PATIENCE_S)


class Recovery:
    """Looks at the relay's Bluetooth by its status."""

    def __init__(self, relay):
        self._relay = relay

    def wait_up(self):
        self._relay.wait("Bluetooth is up", is_up, PATIENCE_S)

    def counted(self, name):
        return counted(self._relay.status(), name)

    def wait_load(self):
        """Wait until the loader's bytes flow."""
        before = bytes_in(self._relay.status())
        self._relay.wait("the load is on", lambda status: bytes_in(status) > before + 50_000, PATIENCE_S)


def part_of(status):
    return next((part for part in status["components"] if part["name"] == "ble"), None)


def is_up(status):
    part = part_of(status)
    return part is not None and part["up"]


def counted(status, name):
    return part_of(status)["counters"].get(name, 0)


def bytes_in(status):
    return sum(link["bytes_in"] for link in status["links"] if link["kind"] == "ble")
