# SPDX-License-Identifier: GPL-2.0-or-later
"""The LAN bridge: the interfaces that the operator listed, and no other, as one segment.

Two relays that both bridge their Ethernet and their mesh close a ring, and a frame
in a ring goes around until the cable is pulled. With an 802.11s interface as a port
the bridge runs the spanning tree protocol, whose frames 802.11s carries; batman-adv
does not carry them and has a protocol of its own (relay.net.batman).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, Final

from relay.config.net import BATMAN, BRIDGE
from relay.net.errors import KernelRefusedError, words_of
from relay.net.rtnetlink import ADDRESSES_NONE, ADDRESSES_RANDOM, is_link_local
from relay.net.undo import look
from relay.net.wiphy import InterfaceType
from relay.process.supervisor import keep_trying

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.net.machine import Machine
    from relay.net.rtnetlink import Link
    from relay.net.wiphy import WirelessInterface

logger = logging.getLogger(__name__)

#: In hundredths of a second. 15 s each of listening and learning are for networks of seven
#: bridges in a row; these are the least that IEEE 802.1D-2004 17.14 allows together: max age 6 s,
#: hello 1 s, forward delay 4 s. So a port passes frames 8 s after it came.
_HELLO_CS: Final = 100
_MAX_AGE_CS: Final = 600
_FORWARD_DELAY_CS: Final = 400
_LOOK_S: Final = 30.0
_MAX_DELAY_S: Final = 20.0
#: One look, waiting for radios that are joining included: more means that an answer of the kernel was lost.
_ALL_S: Final = 120.0
#: Types whose frames have room for the address of somebody behind a bridge.
_BRIDGEABLE: Final = frozenset({InterfaceType.MESH, InterfaceType.AP})


class Bridge:
    """Keeps the listed interfaces in one bridge, as they come and go."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._had: set[str] = set()
        self._complaints: dict[str, str] = {}

    async def run(self, random: Callable[[], float]) -> None:
        """Work until cancelled: the bridge may not take the radios down, whatever happens."""
        await keep_trying(self._keep, random=random, on_failure=self._failed, max_s=_MAX_DELAY_S)

    async def _keep(self) -> None:
        while True:
            seen = self._machine.changes.count
            async with asyncio.timeout(_ALL_S):
                await self._look()
            self._machine.reporting.trouble(BRIDGE)
            await self._machine.changes.after(seen, _LOOK_S)

    def _failed(self, error: Exception) -> None:
        text = words_of(error)
        self._complain(BRIDGE, text)
        self._machine.reporting.trouble(BRIDGE, f"The LAN bridge does not work: {text}.")
        self._machine.reporting.count("netlink_errors")

    async def _look(self) -> None:
        machine = self._machine
        async with machine.changing:
            links = await machine.links.all()
            bridge = links.get(BRIDGE)
            if bridge is None or bridge.index != machine.made(BRIDGE):
                bridge = await self._make(links)
            interfaces = {interface.name: interface for interface in await machine.radios.interfaces()}
            ports = set()
            for name in machine.config.bridge:
                link = links.get(name)
                if link is not None and await self._is_port(bridge, link, interfaces.get(name)):
                    ports.add(name)
            machine.reporting.count("bridge_ports_lost", len(self._had - ports))
            self._had = ports
            machine.reporting.ports(len(ports))
            self._tell(ports)

    def _tell(self, ports: set[str]) -> None:
        """Tell of ports that are missing, but for radios, whose own troubles are told of them."""
        config = self._machine.config
        wireless = {radio.interface for radio in config.radios.values()} | {config.access_point, BATMAN}
        for name in set(config.bridge) - wireless:
            text = (
                ""
                if name in ports
                else self._complaints.get(name) or f"there is no {name}: plug it in, or name another"
            )
            self._machine.reporting.trouble(f"port {name}", text and f"The LAN bridge lacks a port: {text}.")

    async def _make(self, links: dict[str, Link]) -> Link:
        machine = self._machine
        is_again = machine.made(BRIDGE) is not None
        # The address of the first port, whichever comes later: neighbours and DHCP servers remember it.
        first = next((links[name].mac for name in machine.config.bridge if name in links), None)
        settings = {"address": first} if first else {}
        index = await machine.make(
            BRIDGE,
            "bridge",
            br_stp_state=int(self._needs_spanning_tree),
            br_hello_time=_HELLO_CS,
            br_max_age=_MAX_AGE_CS,
            br_forward_delay=_FORWARD_DELAY_CS if self._needs_spanning_tree else 0,
            **settings,
        )
        await machine.links.set_address_mode(index, ADDRESSES_RANDOM)
        machine.make_deaf(BRIDGE)
        await machine.links.set_up(index)
        if is_again:
            machine.reporting.count("bridge_restored")
        bridge = await machine.links.find(BRIDGE)
        if bridge is None:
            raise KernelRefusedError("make the bridge", errno.ENODEV)
        return bridge

    @property
    def _needs_spanning_tree(self) -> bool:
        return BATMAN not in self._machine.config.bridge

    async def _is_port(self, bridge: Link, link: Link, wireless: WirelessInterface | None) -> bool:
        """Put an interface into the bridge, unless it is in there; return whether it is."""
        machine = self._machine
        if link.master == bridge.index:
            return True
        if wireless is not None and wireless.kind not in _BRIDGEABLE and not wireless.four_address:
            # Ours will be a mesh in a moment, and one that is off may become an access point.
            if link.up and link.name not in {radio.interface for radio in machine.config.radios.values()}:
                self._complain(
                    link.name,
                    f"{link.name} is a {wireless.kind_name} interface, whose frames have no room for the address of "
                    "somebody behind a bridge: make it an access point or a mesh, or take it out of net.bridge",
                )
            return False
        if link.master:
            self._complain(link.name, f"{link.name} is in another bridge already; take it out there or here")
            return False
        if link.name == BATMAN and link.index == machine.made(BATMAN):
            await machine.links.set_master(link.index, bridge.index)
        else:
            await self._add(bridge, link, wireless)
        self._complaints.pop(link.name, None)
        return True

    async def _add(self, bridge: Link, link: Link, wireless: WirelessInterface | None) -> None:
        """Move an interface's addresses and routes to the bridge, which from now on receives its frames."""
        links, record = self._machine.links, self._machine.record
        found = (
            await look(links, link, kind=wireless.kind, four_address=wireless.four_address)
            if wireless
            else await look(links, link)
        )
        record.note_link(found)
        await links.set_address_mode(link.index, ADDRESSES_NONE)
        for text in found.addresses:
            await links.delete_address(bytes.fromhex(text), link.index)
        await links.set_master(link.index, bridge.index)
        await links.set_up(link.index)
        for text in found.addresses:
            address = bytes.fromhex(text)
            if not is_link_local(address):
                await links.add_address(address, bridge.index)
        for text in found.routes:
            try:
                await links.add_route(bytes.fromhex(text), bridge.index)
            except KernelRefusedError as error:
                self._complain(link.name, f"a route of {link.name} does not work through the bridge ({error})")

    def _complain(self, what: str, text: str) -> None:
        if self._complaints.get(what) != text:
            self._complaints[what] = text
            logger.warning("bridge: %s", text)
