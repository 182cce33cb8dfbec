# SPDX-License-Identifier: GPL-2.0-or-later
"""The power fails while a slot is filled or an update written: all that was not flushed is lost, or some of it.

The real code on a file, at any of its sectors. That a booted image goes on with both is in test_slots.py.
"""

import os
import random
import shutil
import subprocess
import sys

import pytest

from relay.board import slots
from relay.board.card_slots import PARTITIONS, CardSlots
from relay.board.device import Device
from relay.board.manifest import HEAD_BYTES
from tests.guest.uml import ROOT
from tests.power import cut, slotwork
from tests.power.slotwork import MIB, card_in, head, made_card, work

pytestmark = [pytest.mark.image, pytest.mark.timeout(300)]

CUTS = 50


def is_whole(card, slot):
    """Whether a slot is what its own head says."""
    found = CardSlots(card)[slot].head().manifest
    boot, root = (card.parts[number] for number in PARTITIONS[slot])
    for part, wanted in ((boot, found.boot), (root, found.root)):
        with Device(part) as device:
            if slotwork.head(device.read(0, wanted.size), b"", version="", built=0).manifest.boot != wanted:
                return False
    return True


@pytest.mark.parametrize("is_update", [False, True], ids=["filling", "update"])
def test_cut_at_any_sector_what_starts_is_whole_and_the_rest_is_gone_on_with(tmp_path, library, measured, is_update):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    boot, root = os.urandom(2 * MIB + 4096), os.urandom(4 * MIB + 8192)
    newer = os.urandom(2 * MIB), os.urandom(5 * MIB + 4096)
    update = head(*newer, version="1.1", built=2000).encode() + b"".join(newer)
    path, begun = tmp_path / "card", tmp_path / "begun"
    made_card(path, boot, root)
    if is_update:
        work(card_in(path), None)
    with Device(card_in(path).parts[5]) as device:
        before = device.read(0, 8 * MIB)
    (tmp_path / "update").write_bytes(update)
    words = cut.preloaded(library, path, log=tmp_path / "log")
    command = [sys.executable, "-m", "tests.power.slotwork", path, *([tmp_path / "update"] if is_update else [])]
    subprocess.run([*words, *command], check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    lost = first = 0
    with cut.Log(tmp_path / "log") as log:
        for _ in range(CUTS):
            shutil.copyfile(path, begun)
            lost += log.cut(begun, chance.randrange(len(log.records) + 1), chance)
            card = card_in(begun)
            chosen = slots.choose(CardSlots(card).record())
            assert is_whole(card, chosen.slots[0])
            assert chosen.on_trial == (chosen.slots == ("B",))
            first += chosen.slots == ("A",)
            assert not CardSlots(card).record().tries("B") or is_whole(card, "B")
            with Device(card.parts[5]) as device:
                assert device.read(0, 8 * MIB) == before, "what runs is not touched"
            work(card, update if is_update else None)
            assert is_whole(card, "B")
            assert slots.choose(CardSlots(card).record()).slots == (("B",) if is_update else ("A",))
            wanted = CardSlots(card)["B"].head().encode()
            assert wanted == (update[:HEAD_BYTES] if is_update else CardSlots(card)["A"].head().encode())
    assert first, "some were before its end"
    assert lost
    measured["update_cuts" if is_update else "filling_cuts"] = CUTS


def test_a_card_that_ignores_flushes_is_found_out(tmp_path, library):
    """The control: where what was flushed may be lost as well, something else starts sooner or later."""
    chance = random.Random(1)
    boot, root = os.urandom(2 * MIB), os.urandom(2 * MIB)
    newer = os.urandom(2 * MIB), os.urandom(2 * MIB)
    update = head(*newer, version="1.1", built=2000).encode() + b"".join(newer)
    path, begun = tmp_path / "card", tmp_path / "begun"
    made_card(path, boot, root)
    (tmp_path / "update").write_bytes(update)
    words = cut.preloaded(library, path, log=tmp_path / "log")
    command = [sys.executable, "-m", "tests.power.slotwork", path, tmp_path / "update"]
    subprocess.run([*words, *command], check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    whole = []
    with cut.Log(tmp_path / "log") as log:
        for _ in range(CUTS):
            shutil.copyfile(path, begun)
            log.cut(begun, len(log.records), chance, flushes=False)
            card = card_in(begun)
            chosen = slots.choose(CardSlots(card).record())
            whole.append(chosen.slots == ("A",) or (CardSlots(card)["B"].name() != "" and is_whole(card, "B")))
    assert not all(whole)
