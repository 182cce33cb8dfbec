# SPDX-License-Identifier: GPL-2.0-or-later
"""Where relays cannot be found by multicast at all, that is said, and taken back once they can."""

import asyncio
import os
import resource

from relay.core.stats import LinkKind
from relay.links.discovery import Discovery
from relay.links.interfaces import Interface
from relay.process.tasks import TaskGroup

TUNNEL = Interface(name="tun0", index=7, multicast=False, addresses=frozenset({"192.0.2.1"}))
#: Discovery on it begins when the loop runs next, which is after these tests.
CABLE = Interface(name="eth0", index=8, multicast=True, addresses=frozenset({"192.0.2.2"}))
BARE = Interface(name="eth1", index=9, multicast=True)


class Heard:
    """What is said of each interface."""

    def __init__(self):
        self.faults = {}
        self.failed = asyncio.Event()

    def link_failed(self, kind, interface):
        assert (kind, interface) == (LinkKind.DNSSD, "eth0")
        self.failed.set()

    def link_state(self, kind, interface, *, up, fault="", unplugged=False):  # noqa: ARG002 - of discovery nothing is
        assert kind is LinkKind.DNSSD
        self.faults.pop(interface, None)
        if up is False:
            self.faults[interface] = fault


def faults_after(*updates):
    heard = Heard()
    discovery = Discovery(random_bytes=bytes, random=lambda: 0.5, dial=None, own_hosts=set())

    async def run():
        async with TaskGroup() as tasks:
            for interfaces in updates:
                discovery.update(tasks, heard, interfaces, 4270)
            faults = dict(heard.faults)
            discovery.end(heard)
            return faults

    faults = asyncio.run(run())
    assert heard.faults == {}
    return faults


def test_a_machine_without_multicast_says_so_with_a_remedy():
    faults = faults_after([TUNNEL])
    assert list(faults) == ["tun0"]
    assert "multicast is impossible" in faults["tun0"]
    assert "name relays in peers" in faults["tun0"]


def test_an_interface_without_it_among_others_is_nothing_to_be_mended():
    assert faults_after([TUNNEL, CABLE]) == {}
    assert faults_after([TUNNEL], [TUNNEL, CABLE]) == {}
    assert list(faults_after([TUNNEL, CABLE], [TUNNEL])) == ["tun0"]


def test_without_addresses_and_without_a_network_nothing_is_wrong():
    assert faults_after([BARE]) == faults_after([]) == faults_after([TUNNEL], []) == {}


def test_what_the_system_refuses_is_told_with_a_remedy():
    """Of all but a port that is taken no more was told than that it does not work."""
    heard = Heard()
    discovery = Discovery(random_bytes=bytes, random=lambda: 0.5, dial=None, own_hosts=set())

    async def run():
        async with asyncio.timeout(10), TaskGroup() as tasks:
            # Threads, and what they take, are there on a relay that runs.
            await asyncio.to_thread(int)
            lowest = os.dup(0)
            os.close(lowest)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                discovery.update(tasks, heard, [CABLE], 4270)
                await heard.failed.wait()
                faults = dict(heard.faults)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            discovery.end(heard)
            return faults

    (fault,) = asyncio.run(run()).values()
    assert fault.startswith("port 5353: Too many open files; allow this program more open files (LimitNOFILE=")
    assert "name relays in peers" in fault
