# SPDX-License-Identifier: GPL-2.0-or-later
"""The power fails under load, with all that was not flushed lost, or some of it: what was acknowledged is there.

In guests with the image's root, relay and mounts, and nothing else of it (tests/power/guests.py), as there are a
hundred starts each way (`make test-image-survival`; some of them in `make test-image`), and with all of it a few times.
"""

import random
from collections import Counter

import pytest

from relay.board.slots import TRIES
from tests.image.card import Card
from tests.image.conftest import SURVIVAL
from tests.image.lan import Lan
from tests.image.seizure import ANSWER_S, connect
from tests.image.test_storage import started
from tests.netns.rawclient import make_envelopes
from tests.power import cut
from tests.power.series import LEAST_ACKNOWLEDGED, Series

pytestmark = [pytest.mark.image, pytest.mark.timeout(7200)]

CYCLES = 100 if SURVIVAL else 5
#: Of the whole image, each of which the next start looks at.
WHOLE_CYCLES = 4
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


@pytest.mark.skipif(
    not SURVIVAL, reason="a minute for each start; test_storage.py starts the image after pulled plugs, too"
)
def test_with_all_of_the_image_it_is_the_same(card, lan, boot, library, tmp_path, chance, measured):
    """What systemd starts beside the relay writes to the card as well, and changes nothing of that."""
    card.write("MESH-RELAY", "relay.toml", b'[appliance]\nstorage = "plain"\n')
    # Nobody fills the second slot meanwhile, which is most of a log and in test_cut.py.
    card.remember(card.record().with_tries("B", TRIES))
    needed, lost = set(), 0
    for number in range(WHOLE_CYCLES + 1):
        is_last = number == WHOLE_CYCLES
        recorded = tmp_path / f"{number}.log"
        words = cut.preloaded(library, card.path, log=recorded)
        relay = started(boot, card, lan, f"whole-{number}", before=words)
        with connect(relay, lan) as client:
            assert client.relay.durable, relay.explain()
            assert needed <= set(client.fetch_all(ANSWER_S))
            if is_last:
                break
            envelopes = make_envelopes(chance.randrange(1 << 40), LEAST_ACKNOWLEDGED + 50)
            client.put(envelopes)
            needed |= {*envelopes}
            for envelope in make_envelopes(chance.randrange(1 << 40), 50):
                client.session.put(envelope)
            client.step()
            relay.kill()
        with cut.Log(recorded) as log:
            lost += log.cut(card.path, len(log.records), chance)
    measured["power_cuts_whole_image"] = {
        "cycles": WHOLE_CYCLES, "acknowledged": len(needed), "acknowledged_lost": 0, "sectors_lost": lost
    }  # fmt: skip
