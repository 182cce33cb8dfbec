# SPDX-License-Identifier: GPL-2.0-or-later
"""One Bluetooth adapter: switched on, advertising, address and data changing together; and again after each mishap."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from relay.ble.central import run_central
from relay.ble.epoch import Epoch
from relay.ble.phase import Change, Phase, after
from relay.bluetooth.bluez import ADAPTER, DEVICE, Added, BluezError, Changed, Removed, adapters, devices
from relay.bluetooth.gatt import make_beacon
from relay.core.news import SALT_BYTES
from relay.process.supervisor import Backoff, keep_trying, kind_of
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.ble.host import AdapterInfo
    from relay.ble.server import Server
    from relay.bluetooth.bluez import Bluez, Event
    from relay.bluetooth.stream import Stream
    from relay.process.reports import NewsForBle, Reporter

logger = logging.getLogger(__name__)

#: The GAP name of all relays: the host's would tell them apart.
ALIAS: Final = "relay"
#: An adapter that cannot be switched on (rfkill, a driver that hangs) is tried again so often.
POWER_RETRY_S: Final = 5.0
#: From a connection, which ends advertising, to advertising again; measured, at once is too soon.
REARM_S: Final = 0.2
#: A controller holds few connections, the least of them seven: one that carries no stream for so long is ended ...
IDLE_S: Final = 30.0
#: ... and sooner where there are more than so many. Connecting and discovering services takes 3 s, as measured.
MOST_IDLE: Final = 3
CROWDED_IDLE_S: Final = 8.0
_IDLE_CHECK_S: Final = 2.0
#: BlueZ answers within a fraction of a second, unless it hangs.
REGISTER_TIMEOUT_S: Final = 10.0


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


class PoweredOffError(Exception):
    """The adapter was switched off, or blocked."""


class Adapter:
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
    ) -> None:
        """Make an adapter that is lost until it works.

        ``random`` returns floats in [0, 1), ``random_bytes`` bytes, both such as nobody can guess;
        ``on_state`` hears True when the adapter works, and False when it was lost.
        """
        self.info = info
        self.bluez = bluez
        self.max_neighbours = max_neighbours
        self.news: NewsForBle | None = None
        self.salt: bytes | None = None
        self.relays_heard = 0
        self.neighbours = 0
        self._server = server
        self._reporter = reporter
        self._rotation_s = rotation_s
        self._random = random
        self._random_bytes = random_bytes
        self._on_state = on_state
        self._phase = Phase.LOST
        #: None: nobody knows how old the address is.
        self._epoch: Epoch | None = None
        #: What bluetoothd says.
        self._is_powered = False
        self._power_changed = asyncio.Event()
        self._wake = asyncio.Event()
        #: None: nothing is registered; empty: something is, which has to be told anew.
        self._advertised: bytes | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._connected: dict[str, float] = {}
        self._dialling: set[str] = set()

    @property
    def is_up(self) -> bool:
        """Whether it does its work now."""
        return self._phase is Phase.UP

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

    # -- its life -------------------------------------------------------------------

    def hang_up(self, device: str) -> None:
        """End a connection, which no stream uses any more."""
        if device in self._connected:
            self._connected[device] = -math.inf

    def tell_news(self, news: NewsForBle | None) -> None:
        """Advertise this from now on; None: nothing, since nobody could be served."""
        self.news = news
        self._changed()
        self._wake.set()

    def bluetoothd_lost(self) -> None:
        """Whatever bluetoothd held is gone; the address stayed only if connections did."""
        self._advertised = None
        self._connected.clear()
        self._dialling.clear()
        if not self._server.has_channels(self.info.path):
            self._epoch = None

    def unplugged(self) -> None:
        """The adapter is gone, and with it its address."""
        self._change(Change.LOST)
        self._advertised = None
        self._epoch = self._new_epoch()
        self._only_connected({})

    async def run(self, air: Air) -> None:
        """Serve until cancelled, through all that happens to the adapter; raise BluezError without bluetoothd."""
        with self.bluez.listening(self._on_event):
            await keep_trying(lambda: self._live(air), random=self._random, max_s=POWER_RETRY_S)

    async def _live(self, air: Air) -> None:
        """Serve until the adapter is switched off."""
        await self._look()
        try:
            await self._power_on()
            await self._serve_air(air)
        except* PoweredOffError:
            logger.info("adapter %s was switched off", self.info.name)
            # Switching it on makes a new address.
            self._epoch = self._new_epoch()
            self._change(Change.LOST)
        finally:
            self._change(Change.STOPPED)
            self._set_salt(None)
        self._advertised = None

    def _change(self, change: Change) -> None:
        before, self._phase = self._phase, after(self._phase, change)
        if (before is Phase.LOST) != (self._phase is Phase.LOST):
            self._on_state(before is Phase.LOST)

    async def _look(self) -> None:
        """Learn the adapter's state, which from then on is followed."""
        loop = asyncio.get_running_loop()
        objects = await self.bluez.objects()
        self._is_powered = any(item.path == self.info.path and item.is_powered for item in adapters(objects))
        self._only_connected({item.path: loop.time() for item in devices(objects, self.info.path) if item.is_connected})

    def _only_connected(self, connected: dict[str, float]) -> None:
        for device in self._connected.keys() - connected.keys():
            self._server.disconnected(device)
        self._connected = connected

    async def _power_on(self) -> None:
        is_blocked = False
        while not self._is_powered:
            self._power_changed.clear()
            try:
                await self.bluez.set_property(self.info.path, "Powered", value=True)
            except BluezError:
                if not self.bluez.is_running:
                    raise
                if not is_blocked:
                    is_blocked = True
                    self._reporter.count("adapter_blocked")
                    logger.warning("adapter %s cannot be switched on; `rfkill list` shows why", self.info.name)
            with suppress(TimeoutError):
                async with asyncio.timeout(POWER_RETRY_S):
                    await self._power_changed.wait()
            if not self._is_powered:
                await self._look()
        # Privacy is bluetoothd's business; what it says of the adapter is ours.
        for name, value in (("Alias", ALIAS), ("Discoverable", False), ("Pairable", False)):
            await self._set(name, value)
        if self._epoch is None:
            if not self._connected:
                # This makes a new address.
                await self._set("Powered", value=False)
                await self._set("Powered", value=True)
            self._epoch = self._new_epoch()
        self._is_powered = True
        self._power_changed.clear()

    async def _set(self, name: str, value: bool | str) -> None:  # noqa: FBT001 - a property's value
        try:
            await self.bluez.set_property(self.info.path, name, value)
        except BluezError:
            if not self.bluez.is_running:
                raise
            self._reporter.count("dbus_errors")

    async def _serve_air(self, air: Air) -> None:
        async with TaskGroup() as tasks:
            tasks.create_task(self._watch_power())
            try:
                async with asyncio.timeout(REGISTER_TIMEOUT_S):
                    await air.register_service(self.info.path)
            except Exception as error:
                self._reporter.count("gatt_failed")
                raise PoweredOffError from error
            self._change(Change.SERVED)
            tasks.create_task(self._advertise(air))
            tasks.create_task(self._run_central())
            tasks.create_task(self._end_idle())

    async def _watch_power(self) -> None:
        while True:
            await self._power_changed.wait()
            self._power_changed.clear()
            if not self._is_powered:
                # Unless it is what our own switching made bluetoothd say, late.
                await self._look()
            if not self._is_powered:
                raise PoweredOffError

    # -- advertising --------------------------------------------------------------------

    async def _advertise(self, air: Air) -> None:
        """Advertise while there is news to tell and the address is fresh, silently go from one epoch to the next."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._random)
        while True:
            self._wake.clear()
            now = loop.time()
            epoch = self._epoch or self._new_epoch()
            if now >= epoch.over_at(now):
                epoch = self._new_epoch()
                self._reporter.count("rotations")
            self._epoch = epoch
            until = epoch.silent_at(now)
            if now >= until:
                until = epoch.over_at(now)
                await self._be_silent(air)
            elif self.news is None:
                await self._be_silent(air)
            elif not await self._be_heard(air, self.news, epoch):
                until = min(until, now + backoff.next(ran_s=0.0))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._wake.wait()

    async def _be_heard(self, air: Air, news: NewsForBle, epoch: Epoch) -> bool:
        """Advertise; False when that did not work."""
        salt = self.salt or self._random_bytes(SALT_BYTES)
        beacon = make_beacon(news.news, salt).encode()
        if self._advertised is None:
            try:
                async with asyncio.timeout(REGISTER_TIMEOUT_S):
                    await air.advertise(self.info.path, beacon)
            except Exception as error:  # noqa: BLE001 - of D-Bus, of which there are many
                logger.warning("adapter %s does not advertise (%s)", self.info.name, type(error).__name__)
                self._reporter.count("advertise_failed")
                self._change(Change.ADVERTISE_FAILED)
                return False
            epoch.began(asyncio.get_running_loop().time())
            self._set_salt(salt)
        elif beacon != self._advertised:
            air.refresh(self.info.path, beacon)
        self._advertised = beacon
        self._change(Change.ADVERTISED)
        return True

    async def _be_silent(self, air: Air) -> None:
        self._set_salt(None)
        if self._advertised is not None:
            self._advertised = None
            try:
                async with asyncio.timeout(REGISTER_TIMEOUT_S):
                    await air.silence(self.info.path)
            except Exception:  # noqa: BLE001 - of D-Bus, of which there are many
                self._reporter.count("dbus_errors")

    def _refresh(self) -> None:
        if self._advertised is not None:
            self._advertised = b""
        self._wake.set()

    def _new_epoch(self) -> Epoch:
        return Epoch(rotation_s=self._rotation_s, random=self._random)

    def _set_salt(self, salt: bytes | None) -> None:
        if salt != self.salt:
            self.salt = salt
            self._changed()

    def _changed(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    # -- the central half, and connections --------------------------------------------------

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

    async def _end_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_IDLE_CHECK_S)
            now = loop.time()
            for device in self._connected:
                if self._server.carries(device) or device in self._dialling:
                    self._connected[device] = now
            idle = sorted(
                (device for device, since_s in self._connected.items() if since_s < now),
                key=self._connected.__getitem__,
            )
            crowd = len(idle) - MOST_IDLE
            idle = [
                device
                for index, device in enumerate(idle)
                if now - self._connected[device] >= (CROWDED_IDLE_S if index < crowd else IDLE_S)
            ]
            if not idle:
                continue
            for known in devices(await self.bluez.objects(), self.info.path):
                # What is paired belongs to somebody else on this machine, such as a keyboard.
                if known.path in idle and not known.is_paired:
                    self._reporter.count("idle_ended")
                    with suppress(BluezError):
                        await self.bluez.disconnect(known.path)

    def _on_event(self, event: Event) -> None:
        match event:
            case Changed(path=path, interface=interface) if path == self.info.path and interface == ADAPTER:
                if isinstance(powered := event.properties.get("Powered"), bool):
                    self._is_powered = powered
                    self._power_changed.set()
            case Changed(path=path, interface=interface) if interface == DEVICE and self._is_below(path):
                if isinstance(connected := event.properties.get("Connected"), bool):
                    self._device_connected(path, is_connected=connected)
            case Added(path=path) if DEVICE in event.interfaces and self._is_below(path):
                if event.interfaces[DEVICE].get("Connected") is True:
                    self._device_connected(path, is_connected=True)
            case Removed(path=path) if DEVICE in event.interfaces and self._is_below(path):
                self._device_connected(path, is_connected=False)

    def _is_below(self, path: str) -> bool:
        return path.startswith(f"{self.info.path}/")

    def _device_connected(self, device: str, *, is_connected: bool) -> None:
        loop = asyncio.get_running_loop()
        if is_connected:
            if device not in self._connected:
                self._reporter.count("connections")
            self._connected[device] = loop.time()
            loop.call_later(REARM_S, self._refresh)
        else:
            self._connected.pop(device, None)
            self._server.disconnected(device)
