# SPDX-License-Identifier: GPL-2.0-or-later
"""All adapters, through the lives of bluetoothd and the coming and going of adapters."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from relay.ble.adapter import Adapter
from relay.ble.air import BluezAir
from relay.ble.host import AdapterInfo
from relay.ble.presence import Presence
from relay.bluetooth.bluez import ADAPTER, Added, Owner, Removed, adapters
from relay.bluetooth.l2cap import parse_address
from relay.core.errors import DecodeError
from relay.process.supervisor import keep_trying, kind_of
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.ble.glib_thread import GLibThread
    from relay.ble.server import Server
    from relay.bluetooth.bluez import Bluez, Event
    from relay.config.ble import BleConfig
    from relay.process.reports import NewsForBle, Reporter

logger = logging.getLogger(__name__)

#: bluetoothd owns its name before it has found the adapters.
SETTLE_S: Final = 0.3
MAX_DELAY_S: Final = 10.0
#: Adapters used at once. Each costs a scan and an advertisement; few machines have two.
MAX_ADAPTERS: Final = 8


class Radio:
    """Finds adapters and runs them."""

    def __init__(
        self,
        *,
        config: BleConfig,
        bluez: Bluez,
        glib: GLibThread,
        reporter: Reporter,
        random: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """``random`` returns floats in [0, 1), ``random_bytes`` what nobody can guess."""
        self._config = config
        self._bluez = bluez
        self._glib = glib
        self._reporter = reporter
        self._random = random
        self._random_bytes = random_bytes
        self._news: NewsForBle | None = None
        self._air: BluezAir | None = None
        self._running: dict[str, tuple[Adapter, asyncio.Task[None]]] = {}
        self._known: dict[AdapterInfo, Adapter] = {}
        self._missing = 0
        self._presence = Presence(is_wanted=bool(config.adapters))
        self._changed = asyncio.Event()
        self._owner_changed = asyncio.Event()

    def notify(self, slot: int, values: list[bytes]) -> None:
        """Send notifications of a slot's TX, on whatever adapter its client is."""
        if self._air is not None:
            self._air.notify(slot, values)

    def hang_up(self, device: str) -> None:
        """End the connection of a device, which no stream uses any more."""
        for adapter, _ in self._running.values():
            adapter.hang_up(device)

    def tell_news(self, news: NewsForBle | None) -> None:
        """Advertise this on all adapters from now on."""
        self._news = news
        for adapter, _ in self._running.values():
            adapter.tell_news(news)

    def measure(self) -> None:
        """Report how many adapters there are and what they do."""
        running = [adapter for adapter, _ in self._running.values()]
        ups = sum(adapter.is_up for adapter in running)
        self._reporter.gauge("adapters", len(running))
        self._reporter.gauge("adapters_up", ups)
        self._reporter.gauge("neighbours", sum(adapter.neighbours for adapter in running))
        self._reporter.gauge("relays_heard", sum(adapter.relays_heard for adapter in running))
        self._reporter.up = ups > 0
        self._reporter.idle = self._presence.look()

    async def run(self, server: Server) -> None:
        """Serve until cancelled."""
        with self._bluez.listening(self._on_event):
            await keep_trying(lambda: self._serve(server), random=self._random, max_s=MAX_DELAY_S)

    async def _serve(self, server: Server) -> float | None:
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
            await self._live(server)
        except Exception as error:  # noqa: BLE001 - whatever D-Bus, bluezero or bluetoothd come up with
            logger.warning("Bluetooth failed (%s), starting it again", kind_of(error))
        self._lost(server)
        return 0.0 if self._owner_changed.is_set() else None

    async def _live(self, server: Server) -> None:
        """Serve one life of bluetoothd; return when it is over."""
        self._air = air = await BluezAir.open(self._glib, server)
        try:
            async with TaskGroup() as tasks:
                work = [
                    tasks.create_task(self._follow(tasks, air, server)),
                    tasks.create_task(self._owner_changed.wait()),
                ]
                await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for task in (*work, *(task for _, task in self._running.values())):
                    task.cancel()
        finally:
            self._air = None
            await air.close()

    def _lost(self, server: Server) -> None:
        for adapter, _ in self._running.values():
            adapter.bluetoothd_lost()
        self._running.clear()
        server.forget_slots()

    async def _follow(self, tasks: TaskGroup, air: BluezAir, server: Server) -> None:
        """Run the adapters that there are."""
        while True:
            self._changed.clear()
            found = self._wanted(await self._adapters())
            for info in [adapter.info for adapter, _ in self._running.values()]:
                if info not in found:
                    self._drop(info, server)
            for info in found:
                if info.path not in self._running:
                    self._start(info, tasks, air, server)
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
        names = self._config.adapters
        return [info for info in found if not names or info.name in names][:MAX_ADAPTERS]

    def _start(self, info: AdapterInfo, tasks: TaskGroup, air: BluezAir, server: Server) -> None:
        adapter = self._known.get(info)
        if adapter is None:
            adapter = self._known[info] = self._make(info, server)
        while len(self._known) > MAX_ADAPTERS:
            del self._known[next(iter(self._known))]
        server.adapters[info.address.text] = info.name
        adapter.tell_news(self._news)
        self._running[info.path] = (adapter, tasks.create_task(self._supervised(adapter, air)))

    def _make(self, info: AdapterInfo, server: Server) -> Adapter:
        return Adapter(
            info=info,
            bluez=self._bluez,
            server=server,
            reporter=self._reporter,
            rotation_s=self._config.rotation_s,
            max_neighbours=self._config.max_neighbours,
            random=self._random,
            random_bytes=self._random_bytes,
            on_state=self._on_state,
        )

    def _on_state(self, works: bool) -> None:  # noqa: FBT001 - a callback
        """Count an adapter that went, and one that came for it: the same, or another."""
        if not works:
            self._missing += 1
            self._reporter.count("adapter_lost")
        elif self._missing:
            self._missing -= 1
            self._reporter.count("adapter_recovered")

    def _drop(self, info: AdapterInfo, server: Server) -> None:
        adapter, task = self._running.pop(info.path)
        task.cancel()
        adapter.unplugged()
        server.adapters.pop(info.address.text, None)

    async def _supervised(self, adapter: Adapter, air: BluezAir) -> None:
        """One adapter that fails leaves the others alone, whatever D-Bus, bluezero or bluetoothd come up with."""

        def failed(error: Exception) -> None:
            logger.warning("adapter %s failed (%s), starting it again", adapter.info.name, kind_of(error))
            self._reporter.count("dbus_errors")

        await keep_trying(lambda: adapter.run(air), random=self._random, on_failure=failed, max_s=MAX_DELAY_S)

    def _on_event(self, event: Event) -> None:
        match event:
            case Owner():
                self._owner_changed.set()
            case Added() | Removed() if ADAPTER in event.interfaces:
                self._changed.set()
