# SPDX-License-Identifier: GPL-2.0-or-later
"""The Bluetooth adapter of `relay bitchat`.

With each address we are somebody else. An adapter that is ours alone has epochs as one of `relay ble` has. On one that
`relay ble` has, too, its advertisement is what we go by: while it is silent, before the address changes, so are we, and
with its next one we begin anew. bluetoothd tells how many advertisements there are.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from relay.adapters import adapter, epoch
from relay.adapters.adapter import REGISTER_TIMEOUT_S
from relay.adapters.follow import Adapters
from relay.adapters.phase import Change
from relay.bluetooth.bluez import ADVERTISING, BluezError, Changed
from relay.process.supervisor import kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from relay.adapters.epoch import Epoch
    from relay.adapters.info import AdapterInfo
    from relay.bitchat_gateway.central import Central
    from relay.bitchat_gateway.gateway import Gateway
    from relay.bitchat_gateway.peripheral import Peripheral
    from relay.bluetooth.bluez import Bluez, Event
    from relay.bluetooth.local import LocalService
    from relay.process.reports import Reporter
    from relay.process.tasks import TaskGroup

logger = logging.getLogger(__name__)

#: `relay ble` is silent for no longer between two addresses: whoever is, does not run.
ALONE_S: Final = epoch.BEFORE_S + epoch.AFTER_S + 2 * epoch.MOST_MORE_S + 30.0
"""Then we have epochs of our own, as on an adapter that is ours alone."""


class Adapter(adapter.Adapter):
    """The adapter, and what is advertised on it."""

    def __init__(
        self,
        *,
        info: AdapterInfo,
        bluez: Bluez,
        reporter: Reporter,
        rotation_s: float,
        random: Callable[[], float],
        on_state: Callable[[bool], None],
        is_shared: bool,
        service: LocalService,
        gateway: Gateway,
        peripheral: Peripheral,
        central: Central,
    ) -> None:
        """As :class:`relay.adapters.adapter.Adapter`."""
        super().__init__(
            info=info,
            bluez=bluez,
            reporter=reporter,
            rotation_s=rotation_s,
            random=random,
            on_state=on_state,
            is_shared=is_shared,
        )
        self._service = service
        self._gateway = gateway
        self._peripheral = peripheral
        self._central = central
        self._is_advertised = False
        self._is_open = False
        self._instances_changed = asyncio.Event()

    def tell_open(self, *, is_open: bool) -> None:
        """Advertise only while `relay run` is there: without it we would join no islands."""
        self._is_open = is_open
        self._wake.set()

    # -- for its life ---------------------------------------------------------------

    async def _offer(self) -> None:
        await self._service.offer(self.info.path)

    def _begin(self, tasks: TaskGroup) -> None:
        tasks.create_task(self._follow_other() if self._is_shared else self._advertise())
        tasks.create_task(self._end_idle())
        tasks.create_task(self._central.run(self.info.path, is_heard=lambda: self._is_advertised))

    async def _renew_address(self) -> None:
        if not self._is_shared:
            await super()._renew_address()

    def _uses(self, device: str) -> bool:
        return self._peripheral.uses(device) or self._central.number_of(device) is not None

    def _keeps_address(self) -> bool:
        return False

    def _gone(self, device: str) -> None:
        self._peripheral.gone(device)

    def _stopped(self) -> None:
        self._is_advertised = False
        self._gateway.become_another()

    # -- advertising ----------------------------------------------------------------

    def _wants_air(self) -> bool:
        return self._is_open

    async def _others(self) -> int:
        """How many advertisements other programs have on this adapter."""
        return await self.bluez.instances(self.info.path) - self._is_advertised

    async def _follow_other(self) -> None:
        """Advertise while another program does on this adapter; with none for long, by ourselves."""
        loop = asyncio.get_running_loop()
        alone_at = loop.time() + ALONE_S
        epoch = self._new_epoch()
        with self.bluez.listening(self._look_at):
            while True:
                self._wake.clear()
                if await self._others() > 0:
                    alone_at = loop.time() + ALONE_S
                    await (self._be_heard(epoch) if self._is_open else self._be_silent())
                else:
                    await self._be_silent()
                    if loop.time() >= alone_at:
                        await self._be_alone()
                        alone_at = loop.time() + ALONE_S
                        continue
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(alone_at):
                        await self._wake.wait()

    async def _be_alone(self) -> None:
        """Have epochs of our own, until another program is there again."""
        await super()._renew_address()
        self._epoch = self._new_epoch()
        work = [asyncio.ensure_future(self._advertise()), asyncio.ensure_future(self._until_others())]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        await self._be_silent()

    async def _until_others(self) -> None:
        while True:
            self._instances_changed.clear()
            if await self._others() > 0:
                return
            await self._instances_changed.wait()

    def _look_at(self, event: Event) -> None:
        match event:
            case Changed(path=self.info.path, interface=interface) if interface == ADVERTISING:
                self._wake.set()
                self._instances_changed.set()

    async def _be_heard(self, epoch: Epoch) -> bool:
        if self._is_advertised:
            return True
        try:
            async with asyncio.timeout(REGISTER_TIMEOUT_S):
                await self._service.advertise(self.info.path)
        except (BluezError, TimeoutError) as error:
            logger.warning("adapter %s does not advertise (%s)", self.info.name, kind_of(error))
            self._reporter.count("advertise_failed")
            self._change(Change.ADVERTISE_FAILED)
            return False
        self._is_advertised = True
        epoch.began(asyncio.get_running_loop().time())
        self._change(Change.ADVERTISED)
        return True

    async def _be_silent(self) -> None:
        if not self._is_advertised:
            return
        self._is_advertised = False
        try:
            async with asyncio.timeout(REGISTER_TIMEOUT_S):
                await self._service.silence(self.info.path)
        except (BluezError, TimeoutError):
            self._reporter.count("dbus_errors")
        self._gateway.become_another()

    def _refresh(self) -> None:
        if self._is_advertised:
            self._service.refresh(self.info.path)


class Radio(Adapters[Adapter]):
    """Finds the adapter and runs it."""

    most = 1

    def __init__(
        self,
        *,
        name: str,
        is_shared: Callable[[str], bool],
        rotation_s: float,
        bluez: Bluez,
        reporter: Reporter,
        random: Callable[[], float],
        service: LocalService,
        gateway: Gateway,
        peripheral: Peripheral,
        central: Central,
    ) -> None:
        """``name`` of the adapter, "" for the first; ``is_shared``: whether `relay ble` has the one of a name, too."""
        super().__init__(names=(name,) if name else (), bluez=bluez, reporter=reporter, random=random)
        self._shared = is_shared
        self._rotation_s = rotation_s
        self._service = service
        self._gateway = gateway
        self._peripheral = peripheral
        self._central = central
        self._is_open = False

    def tell_open(self, *, is_open: bool) -> None:
        """Advertise, or no more."""
        self._is_open = is_open
        for one in self.running():
            one.tell_open(is_open=is_open)

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        with self._service.on_the_bus():
            yield

    def _make(self, info: AdapterInfo) -> Adapter:
        return Adapter(
            info=info,
            bluez=self._bluez,
            reporter=self._reporter,
            rotation_s=self._rotation_s,
            random=self._random,
            on_state=self._on_state,
            is_shared=self._shared(info.name),
            service=self._service,
            gateway=self._gateway,
            peripheral=self._peripheral,
            central=self._central,
        )

    async def _run(self, adapter: Adapter) -> None:
        await adapter.live()

    def _started(self, adapter: Adapter) -> None:
        adapter.tell_open(is_open=self._is_open)

    def _dropped(self, info: AdapterInfo) -> None:
        """The adapter's own end was told it."""

    def _lost(self) -> None:
        self._peripheral.forget_all()
