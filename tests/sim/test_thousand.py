# SPDX-License-Identifier: GPL-2.0-or-later
"""A town of relays, carriers, people and enemies.

RELAY_SIM_RELAYS, RELAY_SIM_MINUTES and RELAY_SIM_SEED change its size; the
thousand relays of the name are `make sim`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.sim.judge import faults
from tests.sim.report import as_svg, as_text, digest, make_report, write
from tests.sim.town import Simulation, Town, town_of

RELAYS = int(os.environ.get("RELAY_SIM_RELAYS", "60"))
MINUTES = float(os.environ.get("RELAY_SIM_MINUTES", "20"))
SEED = os.environ.get("RELAY_SIM_SEED", "1")


def live(town: Town) -> tuple[Simulation, dict]:
    simulation = Simulation(town)
    simulation.run()
    return simulation, make_report(simulation)


@pytest.mark.timeout(900)  # for RELAY_SIM_RELAYS=1000; sixty take seconds
def test_a_town_delivers_its_letters_and_comes_to_rest(tmp_path: Path) -> None:
    simulation, report = live(town_of(RELAYS, minutes=MINUTES, seed=SEED))
    print(as_text(report))
    write(simulation, report, tmp_path)
    assert faults(report) == []
    # It was no walk in the park: everything that a radio and an enemy does has happened.
    air = report["air"]
    assert min(air["lost"], air["doubled"], air["overtaken"], air["broken"]) > 0
    assert report["hostile"] >= RELAYS // 25
    assert report["crashes"] > 0
    counters = report["counters"]
    for hardship in ("dropped.request_timeout", "session.connection_lost", "session.stalled"):
        assert counters.get(hardship, 0) > 0, hardship
    # What is written is what was measured, and the picture is one.
    assert json.loads((tmp_path / "report.json").read_text())["delivered"] == report["delivered"]
    assert (tmp_path / "delivery.svg").read_text() == as_svg(simulation)
    assert len(ET.fromstring(as_svg(simulation)).findall(".//{*}polyline")) == 2  # noqa: S314 - our own


def test_a_store_too_small_for_all_keeps_what_was_paid_for() -> None:
    """Flooders fill the stores with what cost nothing; letters displace it, and each other by nothing but work."""
    town = town_of(40, minutes=12, seed=SEED, letters=60, flood=60, hostile=0.15, store_envelopes=80)
    _, report = live(town)
    print(as_text(report))
    assert report["counters"]["evicted.price"] > 0
    assert report["counters"]["rejected.full"] > 0
    assert report["broken_rules"] == []
    assert report["delivery_ratio"] > 0.6


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_same_seed_gives_the_same_town(hash_seed: str) -> None:
    """To the last byte and counter, whatever order Python's hashes have; another seed gives another."""
    code = (
        "from tests.sim.report import digest, make_report\n"
        "from tests.sim.town import Simulation, town_of\n"
        "s = Simulation(town_of(30, minutes=4, seed='same')); s.run(); print(digest(make_report(s)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    here = digest(live(town_of(30, minutes=4, seed="same"))[1])
    assert run.stdout.strip() == here
    assert digest(live(town_of(30, minutes=4, seed="other"))[1]) != here
