# SPDX-License-Identifier: GPL-2.0-or-later
"""Phones that we dial: those that advertise bitchat and have not dialled us. One write is one packet here."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

from relay.bitchat.announce import decode_announce
from relay.bitchat.packet import PacketType, decode_packet, expanded_bytes
from relay.bitchat_gateway.peripheral import LONG_S, SILENT_S
from relay.bluetooth.bluez import DEVICE, BluezError, Changed, characteristics, devices, is_lost
from relay.bluetooth.gatt import DEFAULT_MTU_BYTES, frame_bytes
from relay.core.clock import jittered
from relay.core.errors import DecodeError
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.bitchat_gateway.gateway import Gateway
    from relay.bluetooth.bluez import Bluez, Device, Event
    from relay.process.reports import Reporter

#: Phones advertise several times a second while their app is in front.
SCAN_S: Final = 3.0
#: Scanning takes air from everybody, and who dials us by himself should have time for that.
REST_S: Final = 20.0
LINK_TIMEOUT_S: Final = 8.0
CONNECT_TIMEOUT_S: Final = 20.0
#: Whoever could not be dialled is not dialled again before.
RETRY_S: Final = 60.0
#: ... another relay not before its address has changed, and whoever said nothing as long.
RELAY_S: Final = 900.0
#: Devices that are not dialled now: whoever makes up more is dialled again sooner.
MAX_AVOIDED: Final = 256
_CLOSE_TIMEOUT_S: Final = 3.0


class _Dialled:
    """A phone that we dialled."""

    def __init__(self, device: str, wake: Callable[[], None]) -> None:
        self.device = device
        self.number = 0
        self.came_s = self.heard_s = asyncio.get_running_loop().time()
        self.ended = asyncio.Event()
        #: Its place is free.
        self.gone = asyncio.Event()
        self._wake = wake
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()

    @property
    def can_take(self) -> bool:
        return not self._waiting

    def send(self, frames: list[bytes]) -> None:
        self._waiting.extend(frames)
        self._arrived.set()

    def hang_up(self) -> None:
        self.ended.set()

    async def write(self, bluez: Bluez, characteristic: str) -> None:
        """Write what is to be sent, for ever; BluezError."""
        while True:
            self._arrived.clear()
            while self._waiting:
                await bluez.write_command(characteristic, self._waiting[0])
                self._waiting.popleft()
            self._wake()
            await self._arrived.wait()


class Central:
    """Listens now and then, and dials."""

    def __init__(
        self,
        gateway: Gateway,
        bluez: Bluez,
        *,
        max_dialled: int,
        reporter: Reporter,
        random: Callable[[], float],
        service_uuid: str,
        characteristic_uuid: str,
    ) -> None:
        """``random`` returns floats in [0, 1)."""
        self._gateway = gateway
        self._bluez = bluez
        self._max_dialled = max_dialled
        self._reporter = reporter
        self._random = random
        self._service_uuid = service_uuid
        self._characteristic_uuid = characteristic_uuid
        self._dialled: dict[str, _Dialled] = {}
        self._avoided: dict[str, float] = {}

    def number_of(self, device: str) -> int | None:
        """The number of a phone that we dialled; 0 until it is linked."""
        dialled = self._dialled.get(device)
        return None if dialled is None else dialled.number

    async def run(self, adapter_path: str, *, is_heard: Callable[[], bool]) -> None:
        """Listen and dial until cancelled, but only while we are heard; BluezError."""
        if not self._max_dialled:
            return
        async with TaskGroup() as tasks:
            while True:
                await asyncio.sleep(jittered(REST_S, self._random()))
                if not is_heard() or (self._is_full() and self._longest() is None):
                    continue
                device = await self._scan(adapter_path)
                if device is not None and is_heard():
                    await self._make_room()
                    linked = asyncio.Event()
                    tasks.create_task(self._visit(adapter_path, device, linked))
                    # Controllers cannot connect and scan at once.
                    await linked.wait()

    def _is_full(self) -> bool:
        return len(self._dialled) >= self._max_dialled

    def _longest(self) -> _Dialled | None:
        """Whoever has had his place for longest, if that is long enough to give way."""
        longest = min(self._dialled.values(), key=lambda phone: phone.came_s)
        return longest if asyncio.get_running_loop().time() - longest.came_s >= LONG_S else None

    async def _make_room(self) -> None:
        if self._is_full() and (longest := self._longest()) is not None:
            self._reporter.count("gave_way")
            longest.hang_up()
            await longest.gone.wait()

    async def _scan(self, adapter_path: str) -> Device | None:
        """Return the strongest of those heard who may be dialled."""
        now = asyncio.get_running_loop().time()
        self._avoided = {path: until for path, until in self._avoided.items() if until > now}
        heard: set[str] = set()

        def look(event: Event) -> None:
            if isinstance(event, Changed) and event.interface == DEVICE and "RSSI" in event.properties:
                heard.add(event.path)

        try:
            with self._bluez.listening(look):
                await self._bluez.start_discovery(adapter_path, self._service_uuid)
                try:
                    await asyncio.sleep(SCAN_S)
                    known = list(devices(await self._bluez.objects(), adapter_path))
                finally:
                    with contextlib.suppress(BluezError):
                        await self._bluez.stop_discovery(adapter_path)
        except BluezError:
            if not self._bluez.is_running:
                raise
            self._reporter.count("dbus_errors")
            return None
        found = [
            device
            for device in known
            if self._service_uuid in device.uuids
            and device.rssi_dbm is not None
            and not device.is_connected
            and device.path not in self._avoided
        ]
        return max(found, key=lambda device: device.rssi_dbm or 0, default=None)

    async def _visit(self, adapter_path: str, device: Device, linked: asyncio.Event) -> None:
        """Dial a phone and stay until one of us ends it."""
        phone = self._dialled[device.path] = _Dialled(device.path, self._gateway.wake)
        self._reporter.count("dials")
        characteristic = ""

        def look(event: Event) -> None:
            if is_lost(event, device.path):
                phone.ended.set()
            elif isinstance(event, Changed) and event.path == characteristic:
                value = event.properties.get("Value")
                if isinstance(value, bytes):
                    self._heard(phone, value)

        try:
            with self._bluez.listening(look):
                await self._bluez.connect(
                    device.path, link_timeout_s=LINK_TIMEOUT_S, timeout_s=CONNECT_TIMEOUT_S, on_linked=linked.set
                )
                table = characteristics(await self._bluez.objects(), device.path)
                characteristic, mtu_bytes = table.get(self._characteristic_uuid, ("", 0))
                if not characteristic:
                    self._reporter.count("dial_failed")
                    return
                await self._bluez.start_notify(characteristic)
                limit_bytes = frame_bytes(max(mtu_bytes, DEFAULT_MTU_BYTES))
                phone.number = self._gateway.opened(phone, frame_bytes=limit_bytes, can_stream=False)
                await self._stay(phone, characteristic)
        except BluezError:
            self._reporter.count("dial_failed")
        finally:
            self._gateway.closed(phone.number)
            self._avoid(device.path, RETRY_S)
            linked.set()
            # Of an attempt to connect that still runs, only Disconnect is the end.
            with contextlib.suppress(BluezError):
                await self._bluez.disconnect(device.path, timeout_s=_CLOSE_TIMEOUT_S)
            with contextlib.suppress(BluezError):
                await self._bluez.forget(adapter_path, device.path, timeout_s=_CLOSE_TIMEOUT_S)
            self._dialled.pop(device.path, None)
            phone.gone.set()

    async def _stay(self, phone: _Dialled, characteristic: str) -> None:
        work = [
            asyncio.ensure_future(phone.write(self._bluez, characteristic)),
            asyncio.ensure_future(phone.ended.wait()),
            asyncio.ensure_future(self._until_silent(phone)),
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _until_silent(self, phone: _Dialled) -> None:
        loop = asyncio.get_running_loop()
        left_s = SILENT_S
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = phone.heard_s + SILENT_S - loop.time()
        self._reporter.count("idle_ended")
        self._avoid(phone.device, RELAY_S)

    def _heard(self, phone: _Dialled, value: bytes) -> None:
        phone.heard_s = asyncio.get_running_loop().time()
        # A relay compresses no announce. Whatever else it is has to be paid for before it is decompressed.
        with contextlib.suppress(DecodeError):
            packet = decode_packet(b"" if expanded_bytes(value) else value)
            if packet.type == PacketType.ANNOUNCE and decode_announce(packet.payload).is_relay:
                # It is joined to us by better means.
                self._reporter.count("dialled_relay")
                self._avoid(phone.device, RELAY_S)
                phone.hang_up()
                return
        if phone.number:
            self._gateway.received(phone.number, value)

    def _avoid(self, path: str, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        self._avoided[path] = max(self._avoided.get(path, 0.0), until)
        while len(self._avoided) > MAX_AVOIDED:
            del self._avoided[next(iter(self._avoided))]
