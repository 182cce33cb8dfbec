# SPDX-License-Identifier: GPL-2.0-or-later
"""One Bluetooth adapter: switched on, its service offered, its connections followed; and again after each mishap.

What is advertised there, and who may stay connected, is the business of the program whose class stands on this one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from relay.adapters.epoch import Epoch
from relay.adapters.phase import Change, Phase, after
from relay.bluetooth.bluez import ADAPTER, DEVICE, Added, BluezError, Changed, InUse, Removed, adapters, devices
from relay.process.supervisor import Backoff, keep_trying
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.adapters.info import AdapterInfo
    from relay.bluetooth.bluez import Bluez, Event
    from relay.process.reports import Reporter

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
#: Two programs may have one adapter. Each says so often which connections it uses, and is believed for so long.
CLAIM_S: Final = 10.0
CLAIMED_S: Final = 25.0
#: BlueZ answers within a fraction of a second, unless it hangs.
REGISTER_TIMEOUT_S: Final = 10.0


class PoweredOffError(Exception):
    """The adapter was switched off, or blocked."""


class Adapter(ABC):
    """Runs one adapter, through the lives of bluetoothd."""

    def __init__(
        self,
        *,
        info: AdapterInfo,
        bluez: Bluez,
        reporter: Reporter,
        rotation_s: float,
        random: Callable[[], float],
        on_state: Callable[[bool], None],
        is_shared: bool = False,
    ) -> None:
        """Make an adapter that is lost until it works. ``is_shared``: another program of the relay has it, too.

        ``random`` returns floats in [0, 1) that nobody can guess;
        ``on_state`` hears True when the adapter works, and False when it was lost.
        """
        self.info = info
        self.bluez = bluez
        self._reporter = reporter
        self._rotation_s = rotation_s
        self._random = random
        self._on_state = on_state
        self._is_shared = is_shared
        self._phase = Phase.LOST
        #: None: nobody knows how old the address is.
        self._epoch: Epoch | None = None
        #: What bluetoothd says.
        self._is_powered = False
        self._power_changed = asyncio.Event()
        self._wake = asyncio.Event()
        #: By the path of each device that is connected: since when nobody uses its connection.
        self._connected: dict[str, float] = {}
        #: Until when another program uses the connection of a device, of those connected.
        self._claimed: dict[str, float] = {}

    # -- what the program decides ---------------------------------------------------

    @abstractmethod
    async def _offer(self) -> None:
        """Offer the GATT service; may raise any error of D-Bus."""

    @abstractmethod
    def _begin(self, tasks: TaskGroup) -> None:
        """Begin what the program does on this adapter, :meth:`_advertise` among it."""

    @abstractmethod
    def _wants_air(self) -> bool:
        """Whether there is anything to advertise."""

    @abstractmethod
    async def _be_heard(self, epoch: Epoch) -> bool:
        """Advertise; False when that did not work."""

    @abstractmethod
    async def _be_silent(self) -> None:
        """Stop advertising, if it does."""

    @abstractmethod
    def _refresh(self) -> None:
        """A connection stopped advertising."""

    @abstractmethod
    def _uses(self, device: str) -> bool:
        """Whether a device's connection is of use to anybody."""

    @abstractmethod
    def _keeps_address(self) -> bool:
        """Whether a connection stood while bluetoothd was away, which proves that the adapter kept its address."""

    @abstractmethod
    def _gone(self, device: str) -> None:
        """A device's connection ended."""

    @abstractmethod
    def _stopped(self) -> None:
        """Nothing is advertised any more, as bluetoothd or the adapter ended that."""

    # -- its life -------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether it does its work now."""
        return self._phase is Phase.UP

    def hang_up(self, device: str) -> None:
        """End a connection, which nobody uses any more."""
        if device in self._connected:
            self._connected[device] = -math.inf

    def bluetoothd_lost(self) -> None:
        """Whatever bluetoothd held is gone; the address stayed only if connections did."""
        self._stopped()
        self._connected.clear()
        self._claimed.clear()
        if not self._keeps_address():
            self._epoch = None

    def unplugged(self) -> None:
        """The adapter is gone, and with it its address."""
        self._change(Change.LOST)
        self._stopped()
        self._epoch = self._new_epoch()
        self._only_connected({})

    async def live(self) -> None:
        """Serve until cancelled, through all that happens to the adapter; raise BluezError without bluetoothd."""
        with self.bluez.listening(self._on_event):
            await keep_trying(self._once, random=self._random, max_s=POWER_RETRY_S)

    async def _once(self) -> None:
        """Serve until the adapter is switched off."""
        await self._look()
        try:
            await self._power_on()
            await self._serve_air()
        except* PoweredOffError:
            logger.info("adapter %s was switched off", self.info.name)
            # Switching it on makes a new address.
            self._epoch = self._new_epoch()
            self._change(Change.LOST)
        finally:
            self._change(Change.STOPPED)
            self._stopped()

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
            self._gone(device)
        self._connected = connected

    async def _power_on(self) -> None:
        is_blocked = False
        # Of one that another program is switching off and on, the first attempt may fail.
        may_fail = self._is_shared
        while not self._is_powered:
            self._power_changed.clear()
            try:
                await self.bluez.set_property(self.info.path, "Powered", value=True)
            except BluezError:
                if not self.bluez.is_running:
                    raise
                if may_fail:
                    may_fail = False
                elif not is_blocked:
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
            await self._renew_address()
            self._epoch = self._new_epoch()
        self._is_powered = True
        self._power_changed.clear()

    async def _renew_address(self) -> None:
        """Have an address of which it is known how old it is, unless somebody is connected."""
        if not self._connected:
            # This makes a new one.
            await self._set("Powered", value=False)
            await self._set("Powered", value=True)

    async def _set(self, name: str, value: bool | str) -> None:  # noqa: FBT001 - a property's value
        try:
            await self.bluez.set_property(self.info.path, name, value)
        except BluezError:
            if not self.bluez.is_running:
                raise
            self._reporter.count("dbus_errors")

    async def _serve_air(self) -> None:
        async with TaskGroup() as tasks:
            tasks.create_task(self._watch_power())
            try:
                async with asyncio.timeout(REGISTER_TIMEOUT_S):
                    await self._offer()
            except Exception as error:
                self._reporter.count("gatt_failed")
                raise PoweredOffError from error
            self._change(Change.SERVED)
            self._begin(tasks)

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

    async def _advertise(self) -> None:
        """Advertise while there is something to tell and the address is fresh, silently go from epoch to epoch."""
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
                await self._be_silent()
            elif not self._wants_air():
                await self._be_silent()
            elif not await self._be_heard(epoch):
                until = min(until, now + backoff.next(ran_s=0.0))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._wake.wait()

    def _new_epoch(self) -> Epoch:
        return Epoch(rotation_s=self._rotation_s, random=self._random)

    # -- connections --------------------------------------------------------------------

    async def _end_idle(self) -> None:
        loop = asyncio.get_running_loop()
        claim_at = loop.time()
        while True:
            await asyncio.sleep(_IDLE_CHECK_S)
            now = loop.time()
            used = [device for device in self._connected if self._uses(device)]
            for device in self._connected:
                if device in used or self._claimed.get(device, now) > now:
                    self._connected[device] = now
            if self._is_shared and used and now >= claim_at:
                claim_at = now + CLAIM_S
                self.bluez.tell_in_use(used)
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
            case InUse(paths=paths):
                until = asyncio.get_running_loop().time() + CLAIMED_S
                self._claimed |= {path: until for path in paths if path in self._connected}

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
            self._claimed.pop(device, None)
            self._gone(device)
