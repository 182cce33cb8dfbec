# SPDX-License-Identifier: GPL-2.0-or-later
"""As many clients at once as the relay lets in, each with a stream of its own; one more hears that it is busy."""

import json

import pytest

PLACES = 7
CLIENTS = 8
PATIENCE_S = 150


@pytest.mark.lasts(50)
@pytest.mark.timeout(240)
def test_seven_clients_are_served_at_once_and_the_eighth_hears_busy(open_stage):
    with open_stage("crowd") as stage:
        relay, crowd = stage.machines.values()
        relay.start_relay(ble={"max_clients": PLACES}, tcp={"interfaces": [], "discovery": False})
        relay.start("ble")
        relay.wait("Bluetooth is up", lambda status: any(part["up"] for part in status["components"]), PATIENCE_S)
        for index in range(CLIENTS):
            crowd.station.wait_powered(index)
        shown = crowd.run("python3", "-m", "bench.guests.crowd", timeout_s=PATIENCE_S).stdout
        assert json.loads(shown.splitlines()[-1]) == {"served": PLACES, "busy": CLIENTS - PLACES}
        totals = relay.status()["totals"]["total"]
        assert totals["accepted"] == PLACES
        assert totals["duplicate"] == 0
        # Told to end, they do so in peace.
        for part in ("ble", "run"):
            process = relay.processes[part]
            assert process.stop(PATIENCE_S) == 0, process.output
            assert "CRITICAL" not in process.output
