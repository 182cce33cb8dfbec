# SPDX-License-Identifier: GPL-2.0-or-later
"""The partition for data, on cards of all sizes and after whatever happens to them."""

import random
import time

import pytest

from image.layout import SECTOR_BYTES, layout
from tests.image.card import Card

pytestmark = [pytest.mark.image, pytest.mark.timeout(400)]

SEED = 4


@pytest.mark.parametrize("times", [1, 2, 32])
def test_the_partition_for_data_fills_the_card(image, tools, tmp_path, boot, times):
    card = Card(image, tmp_path / "card.img", tools=tools, times=times)
    appliance = boot(card)
    assert appliance.wait_booted() == "running", appliance.explain()
    size = int(appliance.sh("cat /sys/block/ubda/ubda7/size")) * SECTOR_BYTES
    last = layout()["ROOT_B"]
    free = card.path.stat().st_size - (last.start + last.size) * SECTOR_BYTES
    # Less the sector that describes it, aligned.
    assert free - 4 * 1024 * 1024 < size < free
    usable = int(appliance.sh("stat --file-system --format='%b %S' /data | awk '{print $1 * $2}'"))
    assert usable > 0.9 * size - 24 * 1024 * 1024


def plain(card):
    card.write("MESH-RELAY", "relay.toml", b'[appliance]\nstorage = "plain"\n')


def test_what_is_kept_is_there_after_the_plug_was_pulled(card, boot):
    plain(card)
    appliance = boot(card)
    assert appliance.wait_booted() == "running", appliance.explain()
    appliance.sh("echo kept >/data/mark && sync")
    appliance.kill()
    again = boot(card, "again")
    assert again.wait_booted() == "running", again.explain()
    assert again.sh("cat /data/mark") == "kept\n"


def test_the_plug_may_be_pulled_during_the_first_start(card, boot):
    """At moments that fall before, into and after the making of the partition, of either kind."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    for number in range(6):
        if number == 3:
            plain(card)
        appliance = boot(card, f"cut-{number}")
        time.sleep(chance.uniform(1.0, 4.0))
        appliance.kill()
    last = boot(card, "last")
    assert last.wait_booted() == "running", last.explain()
    assert last.sh("findmnt --noheadings --output FSTYPE /data").strip() == "ext4"


def test_a_ruined_partition_for_data_is_made_anew(card, boot):
    plain(card)
    first = boot(card)
    assert first.wait_booted() == "running", first.explain()
    start = int(first.sh("cat /sys/block/ubda/ubda7/start")) * SECTOR_BYTES
    size = int(first.sh("cat /sys/block/ubda/ubda7/size")) * SECTOR_BYTES
    first.kill()
    with card.path.open("r+b") as file:
        file.seek(start)
        for _ in range(0, size, 1024 * 1024):
            file.write(random.Random(SEED).randbytes(64 * 1024))
            file.seek(1024 * 1024 - 64 * 1024, 1)
    again = boot(card, "again")
    assert again.wait_booted() == "running", again.explain()
    assert again.sh("findmnt --noheadings --output FSTYPE /data").strip() == "ext4"


def test_a_changed_root_is_not_run(card, boot):
    """One bit in each of the first blocks, which every start reads."""
    for block in range(16):
        card.flip("ROOT_A", 4096 * block + 100)
    appliance = boot(card)
    assert appliance.wait_dead(60), "it runs on what is not the image"
    assert "verity" in appliance.console_text()
