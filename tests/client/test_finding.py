# SPDX-License-Identifier: GPL-2.0-or-later
"""Which relays are near: what `relay scan` says of them, and what a client says that cannot look."""

import asyncio
import os
import resource

import pytest

from relay.cli.scan import lines
from relay.client.bluetooth import HeardRelay
from relay.client.finding import MulticastError, browse
from relay.links.address import parse_address


class Device:
    address = "5A:00:00:00:00:01"


def test_what_is_listed_has_a_heading_with_its_unit():
    heard = [HeardRelay(device=Device(), beacon=None, rssi_dbm=rssi_dbm) for rssi_dbm in (-81, -58)]
    found = [parse_address("192.0.2.1:4270"), parse_address("[fe80::1%eth0]:4270")]
    bluetooth, nearest, farthest, network = lines(heard, found)
    assert bluetooth.startswith("Bluetooth: 2 relays, by signal strength (-30 dBm: beside it;")
    assert (nearest, farthest) == ("  -58 dBm", "  -81 dBm")
    assert network.startswith("This network (multicast DNS): 2 relays, one for each interface of a relay; --verbose")
    shown = list(lines(heard[:1], found, with_addresses=True))
    assert shown[1] == "  -81 dBm  5A:00:00:00:00:01"
    # As --relay takes them.
    assert [parse_address(line.strip()) for line in shown[-2:]] == found
    assert list(lines([], [])) == []


def test_a_client_that_cannot_look_says_why():
    """It said that no relay announces itself."""

    async def run():
        # Imported, and its thread there.
        await asyncio.to_thread(__import__, "zeroconf.asyncio")
        lowest = os.dup(0)
        os.close(lowest)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            await browse(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with pytest.raises(MulticastError, match="port 5353: Too many open files; name a relay with --relay HOST"):
        asyncio.run(run())
