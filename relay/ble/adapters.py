# SPDX-License-Identifier: GPL-2.0-or-later
"""The adapters of `relay ble`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from relay.adapters.follow import Adapters
from relay.ble.adapter import Adapter
from relay.ble.air import BluezAir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from relay.adapters.info import AdapterInfo
    from relay.ble.glib_thread import GLibThread
    from relay.ble.server import Server
    from relay.bluetooth.bluez import Bluez
    from relay.config.ble import BleConfig
    from relay.process.reports import NewsForBle, Reporter


class Radio(Adapters[Adapter]):
    """Finds adapters and runs them."""

    #: The places of all adapters; whoever makes this and the server sets it.
    server: Server

    def __init__(
        self,
        *,
        config: BleConfig,
        bluez: Bluez,
        glib: GLibThread,
        reporter: Reporter,
        random: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        is_shared: bool,
    ) -> None:
        """``random`` returns floats in [0, 1), ``random_bytes`` what nobody can guess.

        ``is_shared``: `relay bitchat` has one of the adapters, too.
        """
        super().__init__(names=config.adapters, bluez=bluez, reporter=reporter, random=random)
        self._config = config
        self._is_shared = is_shared
        self._glib = glib
        self._random_bytes = random_bytes
        self._news: NewsForBle | None = None
        self._air: BluezAir | None = None

    def notify(self, slot: int, values: list[bytes]) -> None:
        """Send notifications of a slot's TX, on whatever adapter its client is."""
        if self._air is not None:
            self._air.notify(slot, values)

    def tell_news(self, news: NewsForBle | None) -> None:
        """Advertise this on all adapters from now on."""
        self._news = news
        for adapter in self.running():
            adapter.tell_news(news)

    def measure(self) -> None:
        """Report how many adapters there are and what they do."""
        super().measure()
        self._reporter.gauge("neighbours", sum(adapter.neighbours for adapter in self.running()))
        self._reporter.gauge("relays_heard", sum(adapter.relays_heard for adapter in self.running()))

    # -- for their lives ------------------------------------------------------------

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        self._air = air = await BluezAir.open(self._glib, self.server)
        try:
            yield
        finally:
            self._air = None
            await air.close()

    def _make(self, info: AdapterInfo) -> Adapter:
        return Adapter(
            info=info,
            bluez=self._bluez,
            server=self.server,
            reporter=self._reporter,
            rotation_s=self._config.rotation_s,
            max_neighbours=self._config.max_neighbours,
            random=self._random,
            random_bytes=self._random_bytes,
            on_state=self._on_state,
            is_shared=self._is_shared,
        )

    async def _run(self, adapter: Adapter) -> None:
        if self._air is None:  # pragma: no cover - adapters run within a life
            raise RuntimeError("there is no bluetoothd")
        await adapter.run(self._air)

    def _started(self, adapter: Adapter) -> None:
        self.server.adapters[adapter.info.address.text] = adapter.info.name
        adapter.tell_news(self._news)

    def _dropped(self, info: AdapterInfo) -> None:
        self.server.adapters.pop(info.address.text, None)

    def _lost(self) -> None:
        self.server.forget_slots()
