# SPDX-License-Identifier: GPL-2.0-or-later
"""The partition for data, on cards of all sizes; a changed root. For all else: test_power.py, test_damage.py."""

import json

import pytest

from image.layout import SECTOR_BYTES, layout
from tests.image.card import Card
from tests.power.guests import Light

pytestmark = [pytest.mark.image, pytest.mark.timeout(400)]


@pytest.mark.parametrize("times", [1, 2, 32])
def test_the_partition_for_data_fills_the_card(image, tools, tmp_path, kernel, library, times):
    card = Card(image, tmp_path / "card.img", tools=tools, times=times)
    with Light(kernel, "fills", card, library) as guest:
        assert not json.loads(guest.prepare())["trouble"]
        size = int(guest.sh("cat /sys/block/ubda/ubda7/size")) * SECTOR_BYTES
        usable = int(guest.sh("stat --file-system --format='%b %S' /data | awk '{print $1 * $2}'"))
    last = layout()["ROOT_B"]
    free = card.path.stat().st_size - (last.start + last.size) * SECTOR_BYTES
    # Less the sector that describes it, aligned.
    assert free - 4 * 1024 * 1024 < size < free
    assert usable > 0.9 * size - 24 * 1024 * 1024


def test_a_changed_root_is_not_run(card, boot):
    """One bit in each of the first blocks, which every start reads."""
    for block in range(16):
        card.flip("ROOT_A", 4096 * block + 100)
    appliance = boot(card)
    assert appliance.wait_dead(60), "it runs on what is not the image"
    assert "verity" in appliance.console_text()
