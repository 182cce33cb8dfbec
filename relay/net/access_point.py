# SPDX-License-Identifier: GPL-2.0-or-later
"""The access point, which hostapd makes: what stands in its way, whether it is on the air, and who is on it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from relay.net.errors import BlockedError, NotThereError, UnsuitableError, words_of
from relay.net.inventory import is_blocked, make_radio
from relay.net.suitability import access_point_obstacles, most_phones, ranges
from relay.net.wiphy import InterfaceType
from relay.process.supervisor import keep_trying

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.net.machine import Machine
    from relay.net.suitability import Radio

logger = logging.getLogger(__name__)

#: Changes of interfaces are told at once; this is for phones that come and go, and for rfkill.
LOOK_S: Final = 10.0
#: One look: more means that an answer of the kernel was lost.
_ALL_S: Final = 30.0
_MAX_DELAY_S: Final = 20.0
#: For what is told of it.
_WHAT: Final = "access point"


class AccessPoint:
    """Watches one. Nothing of it is changed but the country, which hostapd asks for as well."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._name = machine.config.access_point
        self._complaint = ""

    async def run(self, random: Callable[[], float]) -> None:
        """Look for ever: whatever goes wrong here takes nothing else down."""
        self._machine.reporting.access_point(up=False)
        await keep_trying(self._keep, random=random, on_failure=self._complain, max_s=_MAX_DELAY_S)

    async def _keep(self) -> None:
        machine = self._machine
        while True:
            seen = machine.changes.count
            try:
                async with asyncio.timeout(_ALL_S):
                    await self._look()
            except (NotThereError, BlockedError, UnsuitableError) as error:
                self._complain(error)
            await machine.changes.after(seen, LOOK_S)

    async def _look(self) -> None:
        """Note how it is; raise NotThereError, BlockedError or UnsuitableError where it is not on the air."""
        machine, name = self._machine, self._name
        await machine.ensure_country()
        interfaces = await machine.radios.interfaces()
        wiphys = await machine.radios.wiphys()
        interface = next((one for one in interfaces if one.name == name and one.wiphy in wiphys), None)
        if interface is None:
            others = ", ".join(one.name for one in interfaces) or "none"
            raise NotThereError(f"there is no radio {name} (there is: {others}): plug one in, or name another")
        radio = make_radio(wiphys[interface.wiphy], interfaces)
        link = await machine.links.find(name)
        if interface.kind == InterfaceType.AP and link is not None and link.up and link.carrier:
            phones = await machine.radios.peers(interface.index, InterfaceType.AP)
            self._works(phones, radio)
            return
        if is_blocked(radio.wiphy.name):
            raise BlockedError(f"{name} is blocked by rfkill: unblock it (`rfkill unblock wifi`)")
        if problems := access_point_obstacles(radio, machine.config.access_point_channel):
            raise UnsuitableError(f"{name}: {'; '.join(problems)}")
        raise NotThereError(
            f"{name} could be one, and hostapd has not made it one: try another channel "
            f"({ranges(radio.wiphy.usable_channels)}), or another radio"
        )

    def _works(self, phones: int, radio: Radio) -> None:
        if self._complaint:
            self._complaint = ""
            logger.info("the access point is on the air")
        self._machine.reporting.trouble(_WHAT)
        self._machine.reporting.access_point(up=True, phones=phones, most=most_phones(radio)[0])

    def _complain(self, error: Exception) -> None:
        reporting = self._machine.reporting
        reporting.access_point(up=False)
        text = words_of(error)
        if text != self._complaint:
            self._complaint = text
            logger.warning("access point: %s", text)
        reporting.trouble(_WHAT, f"The access point for phones is off: {text}.")
