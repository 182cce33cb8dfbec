# SPDX-License-Identifier: GPL-2.0-or-later
"""One Bluetooth adapter of `relay ble`: address and what is advertised changing together, phones and relays there."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from relay.adapters import adapter
from relay.adapters.adapter import REGISTER_TIMEOUT_S
from relay.adapters.phase import Change
from relay.ble.central import run_central
from relay.bluetooth.gatt import make_beacon
from relay.core.news import SALT_BYTES
from relay.process.supervisor import keep_trying, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.adapters.epoch import Epoch
    from relay.adapters.info import AdapterInfo
    from relay.ble.server import Server
    from relay.bluetooth.bluez import Bluez
    from relay.bluetooth.stream import Stream
    from relay.process.reports import NewsForBle, Reporter
    from relay.process.tasks import TaskGroup

logger = logging.getLogger(__name__)


class Air(Protocol):
    """What the adapter advertises with; calls may raise any error of D-Bus."""

    async def register_service(self, adapter_path: str) -> None:
        """Offer the GATT service."""

    async def advertise(self, adapter_path: str, beacon: bytes) -> None:
        """Begin to advertise."""

    def refresh(self, adapter_path: str, beacon: bytes) -> None:
        """Advertise this from now on, and again if something stopped it."""

    async def silence(self, adapter_path: str) -> None:
        """Stop advertising."""


class Adapter(adapter.Adapter):
    """Runs one adapter, and is the :class:`relay.ble.host.CentralHost` of its central half."""

    def __init__(
        self,
        *,
        info: AdapterInfo,
        bluez: Bluez,
        server: Server,
        reporter: Reporter,
        rotation_s: float,
        max_neighbours: int,
        random: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        on_state: Callable[[bool], None],
        is_shared: bool = False,
    ) -> None:
        """As :class:`relay.adapters.adapter.Adapter`; ``random_bytes`` returns what nobody can guess."""
        super().__init__(
            info=info,
            bluez=bluez,
            reporter=reporter,
            rotation_s=rotation_s,
            random=random,
            on_state=on_state,
            is_shared=is_shared,
        )
        self.max_neighbours = max_neighbours
        self.news: NewsForBle | None = None
        self.salt: bytes | None = None
        self.relays_heard = 0
        self.neighbours = 0
        #: That of this life of bluetoothd.
        self._air: Air | None = None
        self._server = server
        self._random_bytes = random_bytes
        #: None: nothing is registered; empty: something is, which has to be told anew.
        self._advertised: bytes | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._dialling: set[str] = set()

    # -- CentralHost --------------------------------------------------------------

    async def changed(self) -> None:
        """Wait until ``salt`` or ``news`` changes."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def dialling(self, device_path: str, *, is_ours: bool) -> None:
        """Leave a connection alone although no client uses it, or no longer."""
        if is_ours:
            self._dialling.add(device_path)
        else:
            self._dialling.discard(device_path)

    async def serve(self, stream: Stream) -> None:
        """Hand over a stream that we dialled."""
        await self._server.serve_dialled(stream, self.info.name)

    def count(self, event: str) -> None:
        """Count an event."""
        self._reporter.count(event)

    def heard(self, *, relays: int, neighbours: int) -> None:
        """Note what the central half sees."""
        self.relays_heard = relays
        self.neighbours = neighbours

    def tell_news(self, news: NewsForBle | None) -> None:
        """Advertise this from now on; None: nothing, since nobody could be served."""
        self.news = news
        self._changed()
        self._wake.set()

    async def run(self, air: Air) -> None:
        """Serve until cancelled, through all that happens to the adapter; raise BluezError without bluetoothd."""
        self._air = air
        await self.live()

    # -- for its life ---------------------------------------------------------------

    @property
    def air(self) -> Air:
        """That of this life of bluetoothd."""
        if self._air is None:  # pragma: no cover - run() comes first
            raise RuntimeError("the adapter does not run")
        return self._air

    def bluetoothd_lost(self) -> None:
        """Whatever bluetoothd held is gone; the address stayed only if connections did."""
        super().bluetoothd_lost()
        self._dialling.clear()

    async def _offer(self) -> None:
        await self.air.register_service(self.info.path)

    def _begin(self, tasks: TaskGroup) -> None:
        tasks.create_task(self._advertise())
        tasks.create_task(self._run_central())
        tasks.create_task(self._end_idle())

    def _uses(self, device: str) -> bool:
        return self._server.carries(device) or device in self._dialling

    def _keeps_address(self) -> bool:
        return self._server.has_channels(self.info.path)

    def _gone(self, device: str) -> None:
        self._server.disconnected(device)

    def _stopped(self) -> None:
        self._set_salt(None)
        self._advertised = None

    # -- advertising ----------------------------------------------------------------

    def _wants_air(self) -> bool:
        return self.news is not None

    async def _be_heard(self, epoch: Epoch) -> bool:
        if self.news is None:  # pragma: no cover - it is not asked to, then
            return True
        salt = self.salt or self._random_bytes(SALT_BYTES)
        beacon = make_beacon(self.news.news, salt).encode()
        if self._advertised is None:
            try:
                async with asyncio.timeout(REGISTER_TIMEOUT_S):
                    await self.air.advertise(self.info.path, beacon)
            except Exception as error:  # noqa: BLE001 - of D-Bus, of which there are many
                logger.warning("adapter %s does not advertise (%s)", self.info.name, type(error).__name__)
                self._reporter.count("advertise_failed")
                self._change(Change.ADVERTISE_FAILED)
                return False
            epoch.began(asyncio.get_running_loop().time())
            self._set_salt(salt)
        elif beacon != self._advertised:
            self.air.refresh(self.info.path, beacon)
        self._advertised = beacon
        self._change(Change.ADVERTISED)
        return True

    async def _be_silent(self) -> None:
        self._set_salt(None)
        if self._advertised is not None:
            self._advertised = None
            try:
                async with asyncio.timeout(REGISTER_TIMEOUT_S):
                    await self.air.silence(self.info.path)
            except Exception:  # noqa: BLE001 - of D-Bus, of which there are many
                self._reporter.count("dbus_errors")

    def _refresh(self) -> None:
        if self._advertised is not None:
            self._advertised = b""
        self._wake.set()

    def _set_salt(self, salt: bytes | None) -> None:
        if salt != self.salt:
            self.salt = salt
            self._changed()

    def _changed(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    # -- the central half ------------------------------------------------------------

    async def _run_central(self) -> None:
        if self.max_neighbours:
            # Phones must not suffer from whatever it is.
            await keep_trying(self._look_for_relays, random=self._random, on_failure=self._central_failed)

    async def _look_for_relays(self) -> None:
        try:
            await run_central(self.info, self)
        finally:
            self._dialling.clear()
            self.heard(relays=0, neighbours=0)

    def _central_failed(self, error: Exception) -> None:
        if not self.bluez.is_running:
            raise error
        logger.warning("looking for relays failed (%s), starting it again", kind_of(error))
        self._reporter.count("dbus_errors")
