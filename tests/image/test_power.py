# SPDX-License-Identifier: GPL-2.0-or-later
"""The power fails under load, with all that was not flushed lost, or some of it: what was acknowledged is there.

In guests with the image's root, relay and mounts, and nothing else of it (tests/power/guests.py), as there are a
hundred starts each way (`make test-image-survival`; some of them in `make test-image`).
"""

import random
from collections import Counter

import pytest

from tests.image.card import Card
from tests.image.conftest import SURVIVAL
from tests.image.lan import Lan
from tests.power.series import LEAST_ACKNOWLEDGED, Series

pytestmark = [pytest.mark.image, pytest.mark.timeout(7200)]

CYCLES = 100 if SURVIVAL else 5
#: By then each control has lost something; it stops there.
CONTROL_CYCLES = 12


@pytest.fixture
def lan():
    """Named before what starts guests: what is plugged in ends before it."""
    with Lan() as cable:
        yield cable


@pytest.fixture
def card(image, tools, tmp_path):
    return Card(image, tmp_path / "card.img", tools=tools, times=2)


@pytest.fixture
def chance():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return random.Random(seed)


@pytest.mark.parametrize("storage", ["plain", "durable"])
def test_what_was_acknowledged_is_there_after_each_power_cut(
    kernel, card, lan, library, tmp_path, chance, measured, storage
):
    within, acknowledged, lost, cycles, left = Counter(), 0, 0, 0, 0
    for cycle in Series(kernel, card, lan, library, tmp_path, chance, storage=storage, cycles=CYCLES).run():
        print(cycle, flush=True)
        assert cycle.found.is_whole, cycle.found
        left += cycle.found.displaced
        if cycle.acknowledged:
            assert cycle.acknowledged >= LEAST_ACKNOWLEDGED
            cycles += 1
            acknowledged += cycle.acknowledged
            lost += cycle.sectors_lost
            within.update(cycle.within)
    assert cycles == CYCLES
    assert lost, "the control: something was lost each time"
    measured[f"power_cuts_{storage}"] = {
        "cycles": cycles, "acknowledged": acknowledged, "acknowledged_lost": 0, "sectors_lost": lost,
        "displaced": left, **{f"within_{name}": within[name] for name in ("commit", "checkpoint", "eviction")},
    }  # fmt: skip
    if SURVIVAL:
        assert min(within[name] for name in ("commit", "checkpoint", "eviction")) > 0
        assert left


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("synchronous=NORMAL", {"sync": "NORMAL"}),
        ("nobarrier", {"options": "nobarrier"}),
        ("flushes ignored", {"flushes": False}),
    ],
)
def test_the_control_is_caught(kernel, card, lan, library, tmp_path, chance, measured, name, options):
    """What does not sync, or a card that does not, loses what was acknowledged: so the tests above would tell."""
    series = Series(kernel, card, lan, library, tmp_path, chance, storage="plain", cycles=CONTROL_CYCLES, **options)
    for number, cycle in enumerate(series.run()):
        print(cycle, flush=True)
        if not cycle.found.is_whole:
            measured[f"control_caught_{name}"] = number
            return
    pytest.fail(f"{name} was not caught in {CONTROL_CYCLES} cycles")
