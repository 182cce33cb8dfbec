# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's interfaces and addresses, and when they change (rtnetlink)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.links import rtnetlink
from relay.process.addresses import plain
from relay.process.netlink_attributes import Attributes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: struct ifinfomsg: family, type, index, flags; struct ifaddrmsg: family, prefix length, flags, scope, index
#: (linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h).
_LINK: Final = struct.Struct("=BxxxiI4x")
_ADDRESS: Final = struct.Struct("=BBBBI")
_IFLA_IFNAME: Final = 3
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
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


async def watch() -> AsyncIterator[Snapshot]:
    """Yield the interfaces now, and again after every change."""
    # Before the first request, so that no change between the two is missed.
    with contextlib.closing(rtnetlink.Changes()) as changes:
        last: Snapshot | None = None
        while True:
            snapshot = await read()
            if snapshot != last:
                last = snapshot
                yield snapshot
            await changes.wait()
            await asyncio.sleep(SETTLE_S)
            changes.clear()


async def read() -> Snapshot:
    """The interfaces now."""
    links: dict[int, tuple[str, int]] = {}
    for body in await rtnetlink.dump(rtnetlink.RTM_GETLINK):
        _, index, flags = _LINK.unpack_from(body)
        name = Attributes(body[_LINK.size :]).text(_IFLA_IFNAME)
        if flags & _UP and name:
            links[index] = name, flags
    addresses: dict[int, set[str]] = {index: set() for index in links}
    networks: dict[int, set[str]] = {index: set() for index in links}
    for body in await rtnetlink.dump(rtnetlink.RTM_GETADDR):
        _, prefix_bits, flags, _, index = _ADDRESS.unpack_from(body)
        attributes = Attributes(body[_ADDRESS.size :])
        value = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        flags = attributes.unsigned(_IFA_FLAGS) or flags
        if value and index in addresses and not flags & _TENTATIVE:
            address = plain(str(ipaddress.ip_address(value)))
            addresses[index].add(address)
            networks[index].add(str(ipaddress.ip_network(f"{address}/{prefix_bits}", strict=False)))
    return Snapshot(
        {
            name: Interface(
                name=name,
                index=index,
                multicast=bool(flags & _MULTICAST),
                addresses=frozenset(addresses[index]),
                networks=frozenset(networks[index]),
            )
            for index, (name, flags) in links.items()
        },
        frozenset(name for name, flags in links.values() if not flags & _CARRIER),
    )
