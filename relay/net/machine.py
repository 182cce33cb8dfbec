# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tasks of `relay net` share: connections to the kernel, the record, and the interface of batman-adv."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING, Final

from relay.config.net import BATMAN
from relay.net import batman, deaf, supplicant
from relay.net.changes import Changes
from relay.net.errors import ForeignStateError, KernelRefusedError
from relay.net.found import MadeLink
from relay.net.rtnetlink import ADDRESSES_NONE, ADDRESSES_RANDOM

if TYPE_CHECKING:
    from pathlib import Path

    from relay.config.net import NetConfig
    from relay.net.found import Record
    from relay.net.net_report import Reporting
    from relay.net.nl80211 import Nl80211
    from relay.net.rtnetlink import Links

logger = logging.getLogger(__name__)

#: Numbers of interfaces that are made here are drawn from this range, far above those that the
#: kernel gives out, so that one made by another program is never taken for ours and removed.
_FIRST_INDEX: Final = 1 << 24
_INDEXES: Final = 1 << 29
#: How long the kernel takes over a change of country: it asks itself, in a work queue.
_COUNTRY_S: Final = 1.0
_COUNTRY_POLL_S: Final = 0.1


class Machine:
    """Shared by all tasks of one `relay net`."""

    def __init__(
        self, config: NetConfig, *, links: Links, radios: Nl80211, record: Record, runtime: Path, reporting: Reporting
    ) -> None:
        self.config = config
        self.links = links
        self.radios = radios
        self.record = record
        self.runtime = runtime
        self.reporting = reporting
        self.changes = Changes()
        #: Held while interfaces are being changed.
        self.changing = asyncio.Lock()
        #: Which interface a configured radio uses, by the radio's name.
        self.taken: dict[str, str] = {}
        self.supplicant_program = supplicant.find_program()
        #: Held while a radio is being chosen, lest two take the same.
        self.choosing = asyncio.Lock()
        self._regulating = asyncio.Lock()
        self._making_batman = asyncio.Lock()
        self._country_refused = False

    async def make(self, name: str, kind: str, **settings: object) -> int:
        """Make an interface, once it is in the record; raise ForeignStateError when the name is taken."""
        if await self.links.find(name) is not None:
            raise ForeignStateError(f"another program has made an interface {name}; stop it, or remove the interface")
        index = _FIRST_INDEX + secrets.randbelow(_INDEXES)
        self.record.note_made(MadeLink(name=name, index=index))
        await self.links.add(name, kind, index, **settings)
        return index

    def make_deaf(self, interface: str) -> None:
        """Have the kernel believe no router there; where it cannot be told that, the interface works all the same."""
        if not deaf.make_deaf(interface):
            self.reporting.count("not_deaf")

    def made(self, name: str) -> int | None:
        """The number of an interface that was made here, the newest of that name."""
        numbers = [made.index for made in self.record.found.made if made.name == name]
        return numbers[-1] if numbers else None

    async def ensure_batman(self) -> int:
        """Return the number of batman-adv's interface, made if it is not there."""
        async with self._making_batman:
            return await self._batman()

    async def _batman(self) -> int:
        link = await self.links.find(BATMAN)
        if link is not None and link.index == self.made(BATMAN):
            return link.index
        try:
            index = await self.make(BATMAN, "batadv")
        except KernelRefusedError as error:
            raise KernelRefusedError("use batman-adv (is the kernel's module batman-adv there?)", error.code) from None
        await batman.set_up(index, avoid_loops=await self._may_loop())
        mode = ADDRESSES_NONE if self.config.bridges_batman else ADDRESSES_RANDOM
        await self.links.set_address_mode(index, mode)
        self.make_deaf(BATMAN)
        await self.links.set_up(index)
        return index

    async def _may_loop(self) -> bool:
        """Whether frames could go around: batman-adv is bridged with a cable, which another relay may share."""
        wireless = {interface.name for interface in await self.radios.interfaces()}
        return self.config.bridges_batman and not set(self.config.bridge) <= wireless | {BATMAN}

    async def ensure_country(self) -> None:
        """Have the kernel go by the configured country's rules, if it can."""
        wanted = self.config.country
        if not wanted or self._country_refused:
            return
        async with self._regulating:
            now = await self.radios.country()
            if now == wanted:
                return
            self.record.note_country(now or "00")
            if await self._ask(wanted):
                return
            # Read once at boot, maybe before the disk was there. It may not be there at all.
            with contextlib.suppress(KernelRefusedError):
                await self.radios.reload_rules()
            if not await self._ask(wanted):
                self._country_refused = True
                logger.warning(
                    "the kernel does not take the country of net.country: install the package wireless-regdb; "
                    "some radios know their own country and take no other"
                )

    async def _ask(self, wanted: str) -> bool:
        try:
            await self.radios.ask_for_country(wanted)
        except KernelRefusedError:
            return False
        deadline = asyncio.get_running_loop().time() + _COUNTRY_S
        while asyncio.get_running_loop().time() < deadline:
            if await self.radios.country() == wanted:
                return True
            await asyncio.sleep(_COUNTRY_POLL_S)
        return False
