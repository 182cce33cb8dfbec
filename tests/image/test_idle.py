# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay with nothing to do does not wear out its card."""

import time

import pytest

from tests.image.card import Card

pytestmark = [pytest.mark.image, pytest.mark.timeout(2000)]

IDLE_S = 600
#: Started, joined, and written down what there was to write.
SETTLE_S = 90


def written(appliance):
    """Requests and sectors written to the card since the start (Documentation/block/stat.rst)."""
    fields = appliance.sh("cat /sys/block/ubda/stat").split()
    return int(fields[4]), int(fields[6])


def test_an_idle_relay_writes_nothing(image, tools, tmp_path, boot, measured):
    """An amnesic one; one that keeps its clock saves it."""
    started = time.monotonic()
    relays = {}
    for cpu, storage in enumerate(("amnesic", "plain")):
        card = Card(image, tmp_path / f"{storage}.img", tools=tools)
        card.write("MESH-RELAY", "relay.toml", f'[appliance]\nstorage = "{storage}"\n'.encode())
        relays[storage] = boot(card, storage, cpu=cpu)
    for storage, relay in relays.items():
        assert relay.wait_booted() == "running", relay.explain()
        if storage == "amnesic":
            measured["boot_s"] = round(time.monotonic() - started, 1)
    for relay in relays.values():
        # The second slot is filled once.
        relay.wait_slots()
    time.sleep(SETTLE_S)
    before = {storage: written(relay) for storage, relay in relays.items()}
    time.sleep(IDLE_S)
    after = {storage: written(relay) for storage, relay in relays.items()}
    requests, sectors = (now - then for now, then in zip(after["amnesic"], before["amnesic"], strict=True))
    measured["idle_writes_amnesic"] = requests
    assert (requests, sectors) == (0, 0)
    requests, sectors = (now - then for now, then in zip(after["plain"], before["plain"], strict=True))
    measured["idle_writes"] = requests
    # One save of the clock: an inode, and the journal of the file system twice.
    assert sectors * 512 <= 64 * 1024, f"{requests} requests, {sectors} sectors"
