# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay with nothing to do does not wear out its card."""

import time

import pytest

pytestmark = [pytest.mark.image, pytest.mark.timeout(1000)]

IDLE_S = 600
#: Started, joined, and written down what there was to write.
SETTLE_S = 90


def written(appliance):
    """Requests and sectors written to the card since the start (Documentation/block/stat.rst)."""
    fields = appliance.sh("cat /sys/block/ubda/stat").split()
    return int(fields[4]), int(fields[6])


def test_an_idle_relay_writes_nothing(card, boot, measured):
    started = time.monotonic()
    appliance = boot(card, cpu=0)
    assert appliance.wait_booted() == "running", appliance.explain()
    measured["boot_s"] = round(time.monotonic() - started, 1)
    time.sleep(SETTLE_S)
    requests, sectors = written(appliance)
    time.sleep(IDLE_S)
    requests, sectors = (now - before for now, before in zip(written(appliance), (requests, sectors), strict=True))
    measured["idle_writes"] = requests
    # One save of the clock: an inode, and the journal of the file system twice.
    assert sectors * 512 <= 64 * 1024, f"{requests} requests, {sectors} sectors"
