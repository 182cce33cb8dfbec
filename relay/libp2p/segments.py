# SPDX-License-Identifier: GPL-2.0-or-later
"""Listens on each served interface at its addresses, and is found there by multicast DNS; follows their changes."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from typing import TYPE_CHECKING

from relay.libp2p.mdns import Finder
from relay.links.interfaces import watch
from relay.process.ports import why_not
from relay.process.supervisor import supervise
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.libp2p.host import Host
    from relay.links.interfaces import Interface
    from relay.process.reports import Reporter

#: Nobody can come by any network; so it is where a relay has Bluetooth alone.
_NO_NETWORK = "none of its interfaces has an address: plug in a cable, switch on the access point, or change [libp2p]"


def usable(interface: Interface) -> list[str]:
    """The addresses by which others can dial: without a scope nobody can be told a link-local one of IPv6."""
    found = (ipaddress.ip_address(address) for address in interface.addresses)
    return sorted(str(each) for each in found if each.version == 4 or not each.is_link_local)


class Segments:
    """The interfaces of one host."""

    def __init__(
        self,
        host: Host,
        *,
        port: int,
        names: tuple[str, ...],
        random_bytes: Callable[[int], bytes],
        random: Callable[[], float],
        reporter: Reporter,
    ) -> None:
        """``names``: of interfaces; () are all but the loopback interface."""
        self._host = host
        self._port = port
        self._names = names
        self._random_bytes = random_bytes
        self._random = random
        self._reporter = reporter
        self._finders: dict[Interface, asyncio.Task[None]] = {}
        self._listening: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        async with TaskGroup() as tasks:
            async for snapshot in watch():
                await self._update(tasks, list(snapshot.interfaces.values()))

    def _serves(self, interface: Interface) -> bool:
        return interface.name in self._names if self._names else not interface.is_loopback

    async def _update(self, tasks: TaskGroup, interfaces: list[Interface]) -> None:
        served = [interface for interface in interfaces if self._serves(interface) and usable(interface)]
        addresses = {address for interface in served for address in usable(interface)}
        for address in self._listening - addresses:
            self._host.deafen(address)
        troubles: list[str] = []
        for address in sorted(addresses - self._listening):
            try:
                await self._host.listen(address, self._port)
            except OSError as error:
                cause = await asyncio.to_thread(why_not, error, self._port, "tcp")
                troubles.append(
                    f"cannot listen on port {self._port}: {cause}; stop what has it, or set another port in [libp2p]"
                )
        changed = {each.host for each in self._host.listening} != self._listening
        self._listening = {each.host for each in self._host.listening}
        heard = {
            interface for interface in served if interface.multicast and self._listening.issuperset(usable(interface))
        }
        for interface in self._finders.keys() - heard:
            self._finders.pop(interface).cancel()
        for interface in heard - self._finders.keys():
            self._finders[interface] = tasks.create_task(self._find(interface))
        if not addresses:
            troubles.append(_NO_NETWORK)
        self._reporter.troubles = tuple(dict.fromkeys(troubles))
        self._reporter.up = bool(self._listening)
        if changed:
            self._host.push()

    async def _find(self, interface: Interface) -> None:
        finder = functools.partial(
            Finder,
            self._host,
            interface,
            usable(interface),
            self._port,
            random_bytes=self._random_bytes,
            random=self._random,
            count=self._reporter.count,
        )

        def on_state(up: bool, fault: str) -> None:  # noqa: ARG001, FBT001 - a callback
            if not up:
                self._reporter.count("discovery_failed")

        # Each time by another name.
        await supervise("libp2p discovery", lambda: finder().run(), random=self._random, on_state=on_state)
