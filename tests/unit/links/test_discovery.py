# SPDX-License-Identifier: GPL-2.0-or-later
"""Who announces himself decides neither where a relay dials nor how much it remembers."""

import asyncio
import ipaddress
import random

import pytest
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from relay.links.address import SERVICE_TYPE
from relay.links.announcement import announcement
from relay.links.discovery import MAX_FOUND, Discovery, _Browser
from relay.links.interfaces import Interface
from relay.process.tasks import TaskGroup

ETH0 = Interface(
    name="eth0",
    index=2,
    multicast=True,
    addresses=frozenset({"192.168.7.1", "fe80::1"}),
    networks=frozenset({"192.168.7.0/24", "fe80::/64"}),
)
OWN = f"{'f' * 16}.{SERVICE_TYPE}"


class Host:
    """Counts what is dropped."""

    dropped = 0

    def announcement_dropped(self):
        self.dropped += 1


def announced(number, *addresses):
    packed = [ipaddress.ip_address(address).packed for address in addresses]
    return AsyncServiceInfo(SERVICE_TYPE, f"{number:016x}.{SERVICE_TYPE}", port=4270, addresses=packed)


def discovery(dialled):
    async def dial(_, target):
        dialled.append(target)

    return Discovery(
        random_bytes=random.Random(1).randbytes, random=random.Random(1).random, dial=dial, own_hosts=set()
    )


def test_of_an_announcement_only_addresses_of_its_own_segment_are_dialled():
    dialled = []
    lies = ["192.168.8.9", "8.8.8.8", "127.0.0.1", "2001:db8::1", "::1"]

    async def act():
        found = discovery(dialled)
        await found.dial(Host(), ETH0, "0", announced(1, *lies))
        assert dialled == []
        await found.dial(Host(), ETH0, "0", announced(2, *lies, "192.168.7.9", "fe80::9"))

    asyncio.run(act())
    [target] = dialled
    assert target.addresses == (("fe80::9%eth0", 4270), ("192.168.7.9", 4270))
    assert target.interface == "eth0"


def test_announcements_beyond_the_bound_of_a_segment_are_dropped_and_counted():
    host = Host()

    async def act():
        async with asyncio.TaskGroup() as dialling:
            browser = _Browser(discovery([]), host, ETH0, OWN, dialling)

            def heard(number, change):
                browser.changed(None, SERVICE_TYPE, f"{number:016x}.{SERVICE_TYPE}", change)

            for number in range(MAX_FOUND + 5):
                heard(number, ServiceStateChange.Added)
            assert (len(browser._found), host.dropped) == (MAX_FOUND, 5)
            heard(0, ServiceStateChange.Removed)
            heard(MAX_FOUND, ServiceStateChange.Added)
            assert (len(browser._found), host.dropped) == (MAX_FOUND, 5)
            for task in browser._found.values():
                task.cancel()

    asyncio.run(act())


@pytest.mark.parametrize("label", ["a\nb", "\x00", "\x7f", "x\x1by" * 3])
def test_a_name_that_no_relay_has_ends_nothing(label):
    """One packet ended the discovery of a segment, with all that was dialled by it."""

    async def act():
        found = discovery([])
        async with AsyncZeroconf(interfaces=["127.0.0.1"]) as zeroconf, TaskGroup() as dialling:
            browser = _Browser(found, Host(), ETH0, "0", dialling)
            name = f"{label}.{SERVICE_TYPE}"
            browser.changed(zeroconf.zeroconf, SERVICE_TYPE, name, ServiceStateChange.Added)
            assert list(browser._found) == [name]
            await asyncio.sleep(0.05)
            # It takes no place of those that are looked at.
            assert browser._found == {}

    asyncio.run(act())


@pytest.mark.parametrize("label", ["a\nb", "0123456789abcdef", "a.b"])
def test_a_name_is_looked_at_before_it_is_resolved(label):
    found = announcement(f"{label}.{SERVICE_TYPE}")
    assert (found is None) == ("\n" in label)
