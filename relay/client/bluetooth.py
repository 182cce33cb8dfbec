# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays in range of Bluetooth, and streams to one of them (docs/ble.md), for as long as a client lives.

One visit is one Bluetooth connection, on which each session has a stream of its own. It is ended a few
seconds after the last of them: a relay has few places.
"""

# ruff: noqa: PLC0415 - clients without Bluetooth have no dbus-next, and need none

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.links.address import RelayAddress
from relay.links.client_session import Failure, RelayConnectionError

if TYPE_CHECKING:
    from relay.bluetooth.bluez import Adapter, Bluez, Device
    from relay.bluetooth.dial import DialError, DialledRelay
    from relay.bluetooth.gatt import Beacon

SCAN_S: Final = 8.0
"""Relays advertise about once a second, but not while they connect."""
SETTLE_S: Final = 1.5
"""After the first was heard, for others that are nearer or have news."""
LOOK_S: Final = 0.5
FRESH_S: Final = 15.0
"""For so long bluetoothd keeps a device that was heard; twice that, really."""
LINGER_S: Final = 4.0
"""After the last session: the next one often follows at once."""
CLOSE_S: Final = 6.0
"""For the last bytes of a session, and the 2 s that bluetoothd takes to hang up."""
DIALLING_S: Final = 60.0
"""For all relays that were heard, before the user hears that none can be reached; each has its share of it."""
DIAL_S: Final = 6.0
"""... but no less than this: 3 s as measured."""
MAX_FAILED: Final = 64
"""Remembered of those that were dialled in vain; addresses change every 15 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardRelay:
    """A relay that advertises itself near here; `rssi_dbm` from about -30 (beside it) to -100 (hardly there)."""

    device: "Device"
    beacon: "Beacon"
    rssi_dbm: int

    def has_news(self, known: Iterable[bytes]) -> bool:
        """Whether something came since it told one of these news values, or it never told one."""
        return not self.beacon.matches(known)


class Bluetooth:
    """The Bluetooth of this device; nothing of it is opened before the first call."""

    def __init__(self, address: RelayAddress) -> None:
        """`address` names the adapter, or any."""
        self._address = address
        self._resources = contextlib.AsyncExitStack()
        self._bluez: Bluez | None = None
        self._heard: list[HeardRelay] = []
        self._heard_at = 0.0
        self.is_connected = False
        """Whether a visit is under way."""
        #: How often what advertises at these addresses (as bluetoothd names them) was no relay that could be used.
        self._failures: dict[str, int] = {}
        self._visited = ""
        self._is_avoided = False
        #: Controllers cannot scan and connect at once.
        self._radio = asyncio.Lock()
        #: As many as sessions are opened at once: few.
        self._requests: asyncio.Queue[_Request | None] = asyncio.Queue()
        self._serving: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the connection and leave the bus. No session may be open or asked for."""
        if self._serving is not None:
            # Goodbyes may still be on their way to the radio.
            self._requests.put_nowait(None)
            await asyncio.wait({self._serving}, timeout=CLOSE_S)
            self._serving.cancel()
            await asyncio.wait({self._serving})
        await self._resources.aclose()

    # -- listening --------------------------------------------------------------

    async def scan(self, *, timeout_s: float = SCAN_S, settle_s: float = SETTLE_S) -> list[HeardRelay]:
        """Return the relays heard, the nearest first; RelayConnectionError when nothing can be heard here.

        Listens for `timeout_s`, but no longer than `settle_s` after the first.
        """
        async with self._radio:
            await self._scan(timeout_s, settle_s)
            return self._heard

    async def has_news(self, known: Iterable[bytes]) -> bool:
        """Whether a relay near here has something new for who was told these values, and prefer it from now on.

        RelayConnectionError when there is no relay.
        """
        async with self._radio:
            if self.is_connected:
                return True
            await self._scan(SCAN_S, SETTLE_S)
        if not self._heard:
            raise self._unreachable(_NONE_HEARD)
        values = list(known)
        self._heard.sort(key=lambda heard: not heard.has_news(values))
        return self._heard[0].has_news(values)

    async def _scan(self, timeout_s: float, settle_s: float) -> None:
        bluez, adapter = await self._open()
        from relay.bluetooth import gatt
        from relay.bluetooth.bluez import BluezError

        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        self._heard = []
        try:
            await bluez.start_discovery(adapter.path, gatt.SERVICE_UUID)
            try:
                while loop.time() < until:
                    await asyncio.sleep(LOOK_S)
                    is_first = not self._heard
                    self._heard = await _look(bluez, adapter)
                    if is_first and self._heard:
                        until = min(until, loop.time() + settle_s)
            finally:
                with contextlib.suppress(BluezError):
                    await bluez.stop_discovery(adapter.path)
        except BluezError as error:
            raise self._unreachable(f"this device cannot listen ({error})") from error
        self._heard_at = loop.time()

    async def _open(self) -> "tuple[Bluez, Adapter]":
        """Return the bus and the adapter; RelayConnectionError with the remedy when there is none."""
        try:
            from relay.bluetooth.bluez import Bluez, BluezError, adapters
        except ModuleNotFoundError as error:
            raise self._unreachable("the Python package dbus-next is missing; install it (pip, extra ble)") from error

        try:
            if self._bluez is None:
                self._bluez = await self._resources.enter_async_context(await Bluez.open())
            found = adapters(await self._bluez.objects())
        except BluezError as error:
            raise self._unreachable("bluetoothd does not run here; start it with: systemctl start bluetooth") from error
        named = [adapter for adapter in found if self._address.adapter in {"", adapter.name}]
        powered = next((adapter for adapter in named if adapter.is_powered), None)
        if powered is not None:
            return self._bluez, powered
        if named:
            raise self._unreachable("the adapter is switched off; switch it on with: bluetoothctl power on")
        raise self._unreachable("this device has no such adapter; see: bluetoothctl list")

    # -- talking ------------------------------------------------------------------

    async def open(self) -> socket.socket:
        """Return a stream to a relay, as a non-blocking socket; RelayConnectionError.

        It waits until the stream before it has ended: a relay has one slot for each of us.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        request = _Request(theirs)
        self._requests.put_nowait(request)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.ensure_future(self._serve())
        try:
            await request.opened
        except BaseException:
            ours.close()
            raise
        return ours

    def avoid(self) -> None:
        """Leave what we are connected to, since there is no session with it, and try others before it."""
        self._is_avoided = True
        self._note_failure(self._visited)

    def _note_failure(self, path: str) -> None:
        count = self._failures.pop(path, 0)
        if len(self._failures) >= MAX_FAILED:
            del self._failures[next(iter(self._failures))]
        self._failures[path] = count + 1

    async def _serve(self) -> None:
        """Open what is asked for, until nothing was for a while."""
        request = await self._next()
        while request is not None:
            request = await self._visit(request)

    async def _next(self) -> "_Request | None":
        """Return the next request; None when none came for a while, or none will any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                return await self._requests.get()
        return None

    async def _visit(self, first: "_Request") -> "_Request | None":
        """Dial a relay and carry sessions until no more come; return the one that needs another connection."""
        from relay.bluetooth.dial import DialError
        from relay.bluetooth.splice import splice

        request: _Request | None = first
        try:
            async with self._dialled() as relay:
                while request is not None:
                    try:
                        async with relay.stream() as stream:
                            request.succeeded()
                            await splice(stream, request.socket)
                    except DialError:
                        if request is first:
                            raise
                        return request  # the connection was lost since the last one
                    if self._is_avoided:
                        break
                    request = await self._next()
        except DialError as error:
            first.failed(self._dial_failed(error))
        except RelayConnectionError as error:
            first.failed(error)
        finally:
            first.dropped()
        # What came while the connection was ended needs another one.
        return None if self._requests.empty() else self._requests.get_nowait()

    @contextlib.asynccontextmanager
    async def _dialled(self) -> "AsyncIterator[DialledRelay]":
        """Connect to the first relay that lets us; DialError of the last that did not, RelayConnectionError."""
        async with contextlib.AsyncExitStack() as stack:
            async with self._radio:
                if not self._heard or asyncio.get_running_loop().time() - self._heard_at > FRESH_S:
                    await self._scan(SCAN_S, SETTLE_S)
                relay = await self._dial_any(stack)
                self.is_connected = True
            try:
                yield relay
            finally:
                self.is_connected = False

    async def _dial_any(self, stack: contextlib.AsyncExitStack) -> "DialledRelay":
        """Dial who was heard, those first that never failed: anybody can advertise himself as a relay."""
        from relay.bluetooth import l2cap
        from relay.bluetooth.dial import DialError, DialFailure, dial

        candidates = sorted(self._heard, key=lambda heard: self._failures.get(heard.device.path, 0))
        self._heard = []
        if not candidates:
            raise self._unreachable(_NONE_HEARD)
        bluez, adapter = await self._open()
        own = l2cap.parse_address(adapter.address, adapter.address_type)
        loop = asyncio.get_running_loop()
        until = loop.time() + DIALLING_S
        failed = DialError(DialFailure.TIMEOUT, "no relay answers in time")
        for index, heard in enumerate(candidates):
            left_s = until - loop.time()
            if left_s <= 0:
                break
            try:
                async with asyncio.timeout(max(DIAL_S, left_s / (len(candidates) - index))):
                    relay = await stack.enter_async_context(dial(bluez, adapter.path, own, heard.device))
            except DialError as error:
                failed = error
            except TimeoutError:
                pass
            else:
                self._visited, self._is_avoided = heard.device.path, False
                return relay
            self._note_failure(heard.device.path)
        raise failed

    def _unreachable(self, why: str) -> RelayConnectionError:
        return RelayConnectionError(Failure.UNREACHABLE, self._address, f"Bluetooth: {why}")

    def _dial_failed(self, error: "DialError") -> RelayConnectionError:
        from relay.bluetooth.dial import DialFailure

        match error.failure:
            case DialFailure.BUSY:
                failure, text = Failure.BUSY, "the relays near here are busy; try again in a minute"
            case DialFailure.UNUSABLE:
                failure, text = Failure.VERSION, f"{error}; update this program or the relay"
            case _:
                failure, text = Failure.UNREACHABLE, "no relay that was heard can be reached; go nearer and try again"
        return RelayConnectionError(failure, self._address, f"Bluetooth: {text}")


_NONE_HEARD: Final = "no relay is in range, which is some ten metres; go nearer and try again"


class _Request:
    """A session that wants a stream."""

    def __init__(self, theirs: socket.socket) -> None:
        self.socket = theirs
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def succeeded(self) -> None:
        """The socket is the stream from now on, and closed at its end."""
        if not self.opened.done():
            self.opened.set_result(None)

    def failed(self, error: RelayConnectionError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
        self.socket.close()

    def dropped(self) -> None:
        """Nothing more is done for it, whatever became of it."""
        self.opened.cancel()
        self.socket.close()


async def _look(bluez: "Bluez", adapter: "Adapter") -> list[HeardRelay]:
    from relay.bluetooth import gatt
    from relay.bluetooth.bluez import devices

    found = []
    for device in devices(await bluez.objects(), adapter.path):
        # Without a strength it was heard in an earlier scan.
        if gatt.SERVICE_UUID in device.uuids and device.rssi_dbm is not None and not device.is_connected:
            with contextlib.suppress(DecodeError):
                beacon = gatt.decode_beacon(device.manufacturer_data.get(gatt.COMPANY, b""))
                found.append(HeardRelay(device=device, beacon=beacon, rssi_dbm=device.rssi_dbm))
    return sorted(found, key=lambda heard: -heard.rssi_dbm)
