# SPDX-License-Identifier: GPL-2.0-or-later
"""All adapters, through the lives of bluetoothd and the coming and going of adapters."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from relay.adapters.adapter import Adapter
from relay.adapters.info import AdapterInfo
from relay.adapters.presence import Presence
from relay.bluetooth.bluez import ADAPTER, Added, Owner, Removed, adapters
from relay.bluetooth.l2cap import parse_address
from relay.core.errors import DecodeError
from relay.process.reports import REPORT_LEAST_S
from relay.process.supervisor import keep_trying, kind_of
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from relay.bluetooth.bluez import Bluez, Event
    from relay.process.reports import Reporter

logger = logging.getLogger(__name__)

#: bluetoothd owns its name before it has found the adapters.
SETTLE_S: Final = 0.3
MAX_DELAY_S: Final = 10.0
#: Adapters used at once. Each costs a scan and an advertisement; few machines have two.
MAX_ADAPTERS: Final = 8

A = TypeVar("A", bound=Adapter)


class Adapters(ABC, Generic[A]):
    """Finds adapters and runs them."""

    #: So many of them at once.
    most = MAX_ADAPTERS

    def __init__(
        self, *, names: tuple[str, ...], bluez: Bluez, reporter: Reporter, random: Callable[[], float]
    ) -> None:
        """``names``: of those wanted, none for all; ``random`` returns floats in [0, 1)."""
        self._names = names
        self._bluez = bluez
        self._reporter = reporter
        self._random = random
        self._running: dict[str, tuple[A, asyncio.Task[None]]] = {}
        self._known: dict[AdapterInfo, A] = {}
        self._missing = 0
        self._presence = Presence(is_wanted=bool(names))
        self._changed = asyncio.Event()
        self._owner_changed = asyncio.Event()

    # -- what the program decides ---------------------------------------------------

    @abstractmethod
    def _make(self, info: AdapterInfo) -> A:
        """Make an adapter, which is used again when it comes again."""

    @abstractmethod
    async def _run(self, adapter: A) -> None:
        """Run it until cancelled."""

    @abstractmethod
    def _life(self) -> AbstractAsyncContextManager[object]:
        """What lasts as long as a life of bluetoothd."""

    @abstractmethod
    def _started(self, adapter: A) -> None:
        """An adapter begins to run."""

    @abstractmethod
    def _dropped(self, info: AdapterInfo) -> None:
        """An adapter is gone."""

    @abstractmethod
    def _lost(self) -> None:
        """Bluetoothd is gone."""

    # -- its life -------------------------------------------------------------------

    def running(self) -> list[A]:
        """Return the adapters that there are."""
        return [adapter for adapter, _ in self._running.values()]

    def hang_up(self, device: str) -> None:
        """End the connection of a device, which nobody uses any more."""
        for adapter in self.running():
            adapter.hang_up(device)

    def measure(self) -> None:
        """Report how many adapters there are and whether they work."""
        ups = sum(adapter.is_up for adapter in self.running())
        self._reporter.gauge("adapters", len(self._running))
        self._reporter.gauge("adapters_up", ups)
        self._reporter.up = ups > 0
        self._reporter.idle = self._presence.look()

    async def measure_forever(self) -> None:
        """Report it again and again, until cancelled."""
        while True:
            self.measure()
            await asyncio.sleep(REPORT_LEAST_S)

    async def run(self) -> None:
        """Serve until cancelled."""
        with self._bluez.listening(self._on_event):
            await keep_trying(self._serve, random=self._random, max_s=MAX_DELAY_S)

    async def _serve(self) -> float | None:
        """Serve one life of bluetoothd, once it is there; return how long to wait for the next, None for as usual."""
        is_lost = self._owner_changed.is_set()
        if is_lost:
            self._reporter.count("bluetoothd_lost")
        while not self._bluez.is_running:
            self._owner_changed.clear()
            await self._owner_changed.wait()
        await asyncio.sleep(SETTLE_S)
        self._owner_changed.clear()
        if is_lost:
            self._reporter.count("bluetoothd_recovered")
        try:
            await self._live()
        except Exception as error:  # noqa: BLE001 - whatever D-Bus, bluezero or bluetoothd come up with
            logger.warning("Bluetooth failed (%s), starting it again", kind_of(error))
        for adapter in self.running():
            adapter.bluetoothd_lost()
        self._running.clear()
        self._lost()
        return 0.0 if self._owner_changed.is_set() else None

    async def _live(self) -> None:
        """Serve one life of bluetoothd; return when it is over."""
        async with self._life(), TaskGroup() as tasks:
            work = [
                tasks.create_task(self._follow(tasks)),
                tasks.create_task(self._owner_changed.wait()),
            ]
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in (*work, *(task for _, task in self._running.values())):
                task.cancel()

    async def _follow(self, tasks: TaskGroup) -> None:
        """Run the adapters that there are."""
        while True:
            self._changed.clear()
            found = self._wanted(await self._adapters())
            for info in [adapter.info for adapter in self.running()]:
                if info not in found:
                    self._drop(info)
            for info in found:
                if info.path not in self._running:
                    self._start(info, tasks)
            await self._changed.wait()

    async def _adapters(self) -> list[AdapterInfo]:
        found = []
        for item in adapters(await self._bluez.objects()):
            try:
                address = parse_address(item.address, item.address_type)
            except DecodeError:
                continue  # one that is not set up yet; its properties change
            found.append(AdapterInfo(name=item.name, path=item.path, address=address))
        return found

    def _wanted(self, found: list[AdapterInfo]) -> list[AdapterInfo]:
        return [info for info in found if not self._names or info.name in self._names][: self.most]

    def _start(self, info: AdapterInfo, tasks: TaskGroup) -> None:
        adapter = self._known.get(info)
        if adapter is None:
            adapter = self._known[info] = self._make(info)
        while len(self._known) > MAX_ADAPTERS:
            del self._known[next(iter(self._known))]
        self._started(adapter)
        self._running[info.path] = (adapter, tasks.create_task(self._supervised(adapter)))

    def _on_state(self, works: bool) -> None:  # noqa: FBT001 - a callback
        """Count an adapter that went, and one that came for it: the same, or another."""
        if not works:
            self._missing += 1
            self._reporter.count("adapter_lost")
        elif self._missing:
            self._missing -= 1
            self._reporter.count("adapter_recovered")

    def _drop(self, info: AdapterInfo) -> None:
        adapter, task = self._running.pop(info.path)
        task.cancel()
        adapter.unplugged()
        self._dropped(info)

    async def _supervised(self, adapter: A) -> None:
        """One adapter that fails leaves the others alone, whatever D-Bus, bluezero or bluetoothd come up with."""

        def failed(error: Exception) -> None:
            logger.warning("adapter %s failed (%s), starting it again", adapter.info.name, kind_of(error))
            self._reporter.count("dbus_errors")

        await keep_trying(lambda: self._run(adapter), random=self._random, on_failure=failed, max_s=MAX_DELAY_S)

    def _on_event(self, event: Event) -> None:
        match event:
            case Owner():
                self._owner_changed.set()
            case Added() | Removed() if ADAPTER in event.interfaces:
                self._changed.set()
