# SPDX-License-Identifier: GPL-2.0-or-later
"""One configured radio: finding it, joining, noticing that it has left, and joining again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Final

from relay.net import batman, inventory
from relay.net.errors import BlockedError, KernelRefusedError, LostError, NotThereError, UnsuitableError, words_of
from relay.net.rtnetlink import ADDRESSES_NONE, ADDRESSES_RANDOM
from relay.net.supplicant import Supplicant
from relay.net.undo import look
from relay.net.wiphy import InterfaceType
from relay.process.supervisor import keep_trying

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.config.net import RadioConfig
    from relay.net.inventory import Choice
    from relay.net.machine import Machine

logger = logging.getLogger(__name__)

#: How long a driver may take to be on its channel; SAE's own program is slower.
_JOIN_S: Final = 10.0
_JOIN_POLL_S: Final = 0.1
#: All steps of joining, and of one look: more means that an answer of the kernel was lost.
_ALL_S: Final = 30.0
#: Changes are told at once; this is for what no notification tells (neighbours, rfkill).
LOOK_S: Final = 10.0
_BLOCKED_LOOK_S: Final = 2.0
MAX_DELAY_S: Final = 20.0
_KINDS: Final = {"mesh": InterfaceType.MESH, "ibss": InterfaceType.IBSS}


class RadioTask:
    """Keeps one radio joined."""

    def __init__(self, name: str, config: RadioConfig, machine: Machine) -> None:
        self.name = name
        self._config = config
        self._machine = machine
        self._supplicant: Supplicant | None = None
        self._choice: Choice | None = None
        self._has_joined = False
        self._was_lost = False
        self._complaint = ""

    async def run(self, random: Callable[[], float]) -> None:
        """Join for ever, again after whatever went wrong: no radio may take the others down."""
        self._machine.reporting.radio(self.name, None)
        await keep_trying(self._try, random=random, on_failure=self._complain, max_s=MAX_DELAY_S)

    async def _try(self) -> float:
        """Join and stay; return how long to wait until it makes sense again."""
        seen = self._machine.changes.count
        try:
            await self._live()
        except (NotThereError, BlockedError, UnsuitableError) as error:
            # Nothing was changed yet, so a change is news.
            self._complain(error)
            # rfkill tells by a device that is not ours to read.
            wait_s = _BLOCKED_LOOK_S if isinstance(error, BlockedError) else MAX_DELAY_S
            await self._machine.changes.after(seen, wait_s)
        return 0.0

    async def _live(self) -> None:
        """Join and stay until something is lost; whatever was begun is ended."""
        machine = self._machine
        await machine.ensure_country()
        async with machine.choosing:
            choice = await inventory.choose(machine, self.name, self._config)
            machine.taken[self.name] = choice.interface.name
        self._choice = choice
        is_joined = False
        try:
            async with machine.changing, asyncio.timeout(_ALL_S):
                await self._join(choice)
            is_joined = True
            self._joined()
            await self._stay(choice)
        except LostError:
            machine.reporting.count("left" if is_joined else "join_failed")
            raise
        except KernelRefusedError:
            machine.reporting.count("netlink_errors" if is_joined else "join_failed")
            raise
        finally:
            machine.taken.pop(self.name, None)
            machine.reporting.radio(self.name, None)
            if self._supplicant is not None:
                await self._supplicant.stop()
                self._supplicant = None

    async def _join(self, choice: Choice) -> None:
        machine, config, index = self._machine, self._config, choice.interface.index
        links, radios = machine.links, machine.radios
        link = await links.find(choice.interface.name)
        if link is None or link.index != index:
            raise NotThereError(f"{choice.interface.name} has just gone")
        machine.record.note_link(
            await look(links, link, kind=choice.interface.kind, four_address=choice.interface.four_address)
        )
        kind = _KINDS[config.mode]
        try:
            await links.set_down(index)
            for address in await links.addresses(index):
                await links.delete_address(address, index)
            await links.uncap_rate(index)
            if choice.interface.kind != kind:
                if link.master:
                    await links.set_master(index, 0)
                await radios.set_kind(index, kind)
            # Left so by a wpa_supplicant that was killed, it would never have an address.
            await links.set_link_mode(index, 0)
            await links.set_address_mode(index, ADDRESSES_NONE if self._is_lower else ADDRESSES_RANDOM)
            machine.make_deaf(choice.interface.name)
            if config.batman:
                # Some drivers know 1500 only; then batman-adv splits large frames.
                with contextlib.suppress(KernelRefusedError):
                    await links.change(index, "make room for batman-adv's header", mtu=batman.LOWER_MTU_BYTES)
            await links.set_up(index)
            await self._enter(choice, index)
            await self._wait_for_channel(index)
            if config.batman:
                await links.set_master(index, await machine.ensure_batman())
            if config.rate_cap_mbit:
                await self._cap(index)
        except KernelRefusedError as error:
            if error.code == errno.ERFKILL:
                raise BlockedError(
                    f"{choice.interface.name} is blocked by rfkill: unblock it (`rfkill unblock wifi`)"
                ) from None
            raise

    @property
    def _is_lower(self) -> bool:
        """Whether something above the interface has the addresses."""
        choice = self._choice
        return self._config.batman or (choice is not None and choice.interface.name in self._machine.config.bridge)

    async def _enter(self, choice: Choice, index: int) -> None:
        config, radios = self._config, self._machine.radios
        high_throughput = choice.radio.wiphy.high_throughput
        network = config.mesh_id.encode()
        if config.mode == "ibss":
            await radios.join_ibss(index, network, config.mhz, cell=config.cell, high_throughput=high_throughput)
        elif not config.secret:
            await radios.join_mesh(
                index, network, config.mhz, high_throughput=high_throughput, forwarding=not config.batman
            )
        else:
            program = self._machine.supplicant_program
            if program is None:  # pragma: no cover - inventory.choose has refused
                raise UnsuitableError("no wpa_supplicant")
            self._supplicant = Supplicant(program, choice.interface.name, self._machine.runtime)
            self._machine.reporting.count("wpa_restarted" if self._has_joined else "wpa_started")
            await self._supplicant.start(config.mesh_id, config.secret, config.mhz, forwarding=not config.batman)

    async def _wait_for_channel(self, index: int) -> None:
        try:
            async with asyncio.timeout(_JOIN_S):
                while await self._problem(index):  # noqa: ASYNC110 - not all drivers tell when they are there
                    await asyncio.sleep(_JOIN_POLL_S)
        except TimeoutError:
            raise LostError(f"not on its channel after {_JOIN_S:g} s") from None

    async def _cap(self, index: int) -> None:
        links = self._machine.links
        if await links.root_queue(index):
            logger.warning("radio %s: the rate stays as it is, somebody else has set a queue there", self.name)
        else:
            await links.cap_rate(index, int(self._config.rate_cap_mbit * 1e6 / 8))

    def _joined(self) -> None:
        reporting = self._machine.reporting
        reporting.count("rejoined" if self._has_joined else "joined")
        if self._was_lost:
            reporting.count("radio_recovered")
        logger.info("radio %s has joined", self.name)
        self._has_joined, self._was_lost, self._complaint = True, False, ""
        reporting.radio(self.name, 0)
        reporting.trouble(f"radio {self.name}")
        # The bridge may be waiting for this one.
        self._machine.changes.note()

    async def _stay(self, choice: Choice) -> None:
        machine, index = self._machine, choice.interface.index
        while True:
            seen = machine.changes.count
            async with asyncio.timeout(_ALL_S):
                await self._look(choice)
            machine.reporting.radio(self.name, await machine.radios.peers(index, _KINDS[self._config.mode]))
            await machine.changes.after(seen, LOOK_S)

    async def _look(self, choice: Choice) -> None:
        """Raise LostError or NotThereError unless it is joined."""
        machine, index, name = self._machine, choice.interface.index, choice.interface.name
        problem = await self._problem(index)
        if problem:
            link = await machine.links.find(name)
            if link is None or link.index != index:
                machine.reporting.count("radio_lost")
                self._was_lost = True
                raise NotThereError(f"{name} was unplugged or its driver reset")
            raise LostError(problem)
        if self._config.batman:
            await self._stay_in_batman(name, index)

    async def _stay_in_batman(self, name: str, index: int) -> None:
        batman_index = await self._machine.ensure_batman()
        link = await self._machine.links.find(name)
        if link is not None and link.master != batman_index:
            await self._machine.links.set_master(index, batman_index)
            self._machine.reporting.count("batman_restored")

    async def _problem(self, index: int) -> str:
        """What keeps the interface from being joined, "" when it is."""
        if self._supplicant is not None:
            self._supplicant.check()
        interfaces = await self._machine.radios.interfaces()
        now = next((interface for interface in interfaces if interface.index == index), None)
        if now is None:
            return "the interface has gone"
        if now.kind != _KINDS[self._config.mode]:
            return f"something made the interface a {now.kind_name} one"
        if now.mhz != self._config.mhz:
            return "it left its channel"
        return ""

    def _complain(self, error: Exception) -> None:
        """Say what is wrong, once until it is something else."""
        counted = ""
        if isinstance(error, UnsuitableError):
            counted = "unsupported"
        elif isinstance(error, BlockedError):
            counted = "rfkill_blocked"
        text = words_of(error)
        self._machine.reporting.trouble(f"radio {self.name}", f"Wi-Fi between relays is off: {text}.")
        if text != self._complaint:
            self._complaint = text
            if counted:
                self._machine.reporting.count(counted)
            logger.warning("radio %s: %s", self.name, text)
