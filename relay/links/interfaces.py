# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's interfaces and addresses, and when they change (rtnetlink through pyroute2)."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pyroute2 import AsyncIPRoute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR (linux/rtnetlink.h)
_GROUPS: Final = 0x1 | 0x10 | 0x100
_CHANGES: Final = frozenset({"RTM_NEWLINK", "RTM_DELLINK", "RTM_NEWADDR", "RTM_DELADDR"})
_TENTATIVE: Final = 0x40  # IFA_F_TENTATIVE: not usable until duplicate detection is over
_UP: Final = 0x1  # IFF_UP
_CARRIER: Final = 0x10000  # IFF_LOWER_UP: there is somebody at the other end of the cable, or on the air
_MULTICAST: Final = 0x1000  # IFF_MULTICAST
#: Changes come in bursts (link up, three addresses): look once they are over.
SETTLE_S: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface that is up. ``addresses`` without their scope; ``networks`` they are in, as prefixes."""

    name: str
    index: int
    multicast: bool
    addresses: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()

    def reaches(self, address: str) -> bool:
        """Whether an address lies on this segment, so that no packet to it leaves by a router."""
        parsed = ipaddress.ip_address(plain(address))
        return any(parsed in ipaddress.ip_network(network) for network in self.networks)

    @property
    def is_loopback(self) -> bool:
        """Whether it leads nowhere but to this machine."""
        return self.name == "lo"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The interfaces that are up, by name; ``unplugged``: the names of those of them that have no carrier."""

    interfaces: dict[str, Interface] = field(default_factory=dict)
    unplugged: frozenset[str] = frozenset()

    def name_of(self, address: str, scope_id: int) -> str | None:
        """Return the interface that has ``address``; link-local ones are told apart by ``scope_id``."""
        for interface in self.interfaces.values():
            if address in interface.addresses and scope_id in (0, interface.index):
                return interface.name
        return None

    def is_own(self, address: str) -> bool:
        """Whether this machine has ``address``."""
        return any(plain(address) in interface.addresses for interface in self.interfaces.values())


def plain(address: str) -> str:
    """Write an address one way: without scope, IPv4 not mapped into IPv6."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


async def watch() -> AsyncIterator[Snapshot]:
    """Yield the interfaces now, and again after every change."""
    async with AsyncIPRoute() as netlink:
        # Before the first request, so that no change between the two is missed.
        await netlink.bind(groups=_GROUPS)
        changed = asyncio.Event()
        reader = asyncio.create_task(_note_changes(netlink, changed))
        last: Snapshot | None = None
        try:
            while True:
                snapshot = await read()
                if snapshot != last:
                    last = snapshot
                    yield snapshot
                waiter = asyncio.create_task(changed.wait())
                done, _ = await asyncio.wait({waiter, reader}, return_when=asyncio.FIRST_COMPLETED)
                if reader in done:
                    waiter.cancel()
                    reader.result()
                    raise ConnectionError("netlink closed")
                await asyncio.sleep(SETTLE_S)
                changed.clear()
        finally:
            reader.cancel()


async def _note_changes(netlink: AsyncIPRoute, changed: asyncio.Event) -> None:
    is_open = True
    while is_open:
        is_open = False
        # Ends after every datagram, and without a message once the socket is closed.
        async for message in netlink.get():
            is_open = True
            if message.get("event") in _CHANGES:
                changed.set()


async def read() -> Snapshot:
    """The interfaces now."""
    # A socket of its own: answers to requests must not mix with notifications.
    async with AsyncIPRoute() as netlink:
        links: dict[int, Any] = {}
        async for message in await netlink.get_links():
            if message["flags"] & _UP:
                links[message["index"]] = message
        addresses: dict[int, set[str]] = {index: set() for index in links}
        networks: dict[int, set[str]] = {index: set() for index in links}
        async for message in await netlink.get_addr():
            address = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
            flags = message.get("IFA_FLAGS") or message["flags"]
            if address and message["index"] in addresses and not flags & _TENTATIVE:
                addresses[message["index"]].add(plain(address))
                network = ipaddress.ip_network(f"{plain(address)}/{message['prefixlen']}", strict=False)
                networks[message["index"]].add(str(network))
    return Snapshot(
        {
            link.get("IFLA_IFNAME"): Interface(
                name=link.get("IFLA_IFNAME"),
                index=index,
                multicast=bool(link["flags"] & _MULTICAST),
                addresses=frozenset(addresses[index]),
                networks=frozenset(networks[index]),
            )
            for index, link in links.items()
        },
        frozenset(link.get("IFLA_IFNAME") for link in links.values() if not link["flags"] & _CARRIER),
    )
