# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays in range of Bluetooth, and streams to one of them (docs/ble.md), for as long as a client lives.

One visit is one Bluetooth connection, on which each session has a stream of its own. It is ended a few
seconds after the last of them: a relay has few places.

Anybody can advertise himself as a relay. So where there are many, those heard again and again over some seconds are
dialled first, several at once if one does not answer soon, and what a dial in vain costs, it costs that kind of
advertiser (relay.bluetooth.kinds).

Who visits again and again need not connect to a relay that says the same as when he was there. What that is
compared with is only what the air said, and only for some minutes: nothing that a relay tells a visitor changes what
that visitor does elsewhere (docs/threat-model.md 3.2).
"""

# ruff: noqa: PLC0415 - clients without Bluetooth have no dbus-next, and need none

import asyncio
import contextlib
import random
import socket
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.links.address import RelayAddress
from relay.links.client_session import Failure, RelayConnectionError
from relay.links.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.bluetooth.bluez import Adapter, Bluez, Device
    from relay.bluetooth.dial import DialError, DialledRelay
    from relay.bluetooth.gatt import Beacon
    from relay.bluetooth.kinds import Failures, Kind

SCAN_S: Final = 8.0
"""Relays advertise about once a second, but not while they connect."""
SETTLE_S: Final = 1.5
"""After the first was heard, for others that are nearer or have news."""
LOOK_S: Final = 0.5
MOST_AT_ONCE: Final = 4
"""Heard at once, more than these are listened to a while longer; and dialled at once. The links of small controllers
are seven."""
SIFTS: Final = 2
"""So often everybody is heard anew then ..."""
SIFT_S: Final = 2.0
"""... for so long: long enough that a relay beside us is heard nearly every time."""
FRESH_S: Final = 15.0
"""For so long bluetoothd keeps a device that was heard; twice that, really."""
LINGER_S: Final = 4.0
"""After the last session: the next one often follows at once."""
CLOSE_S: Final = 6.0
"""For the last bytes of a session, and the 2 s that bluetoothd takes to hang up."""
DIALLING_S: Final = 60.0
"""For all relays that were heard, before the user hears that none can be reached."""
DIAL_S: Final = 12.0
"""For each of them: 3 s as measured, several times that with loss."""
HEAD_START_S: Final = 3.0
"""After that, the next one is dialled beside it."""
MAX_FAILED: Final = 64
"""Remembered of those that were dialled in vain; addresses change every 15 minutes."""
READ_S: Final = 900.0
"""For so long an advertisement is believed to say nothing new: its relay has another address by then."""
ABSENT_S: Final = 180.0
"""... but only while it was heard again and again; a look is made about once a minute."""
MAX_READ: Final = 16
ANYWAY: Final = 0.1
"""Part of the looks at which one visits although nothing is new."""


class MissingPackageError(ClientError):
    """What Bluetooth needs is not installed: no other try will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardRelay:
    """A relay that advertises itself near here; `rssi_dbm` from about -30 (beside it) to -100 (hardly there)."""

    device: "Device"
    beacon: "Beacon"
    rssi_dbm: int
    sightings: int = 1
    """How often it was heard anew."""

    @property
    def kind(self) -> "Kind":
        """With whom it shares the blame for what was dialled in vain."""
        from relay.bluetooth.kinds import kind_of

        return kind_of(is_steady=self.sightings > 1, rssi_dbm=self.rssi_dbm)


@dataclass(slots=True)
class _Read:
    """An advertisement of a relay from which everything was read; times of the event loop."""

    until_s: float
    heard_s: float


class Bluetooth:
    """The Bluetooth of this device; nothing of it is opened before the first call."""

    def __init__(self, address: RelayAddress) -> None:
        """`address` names the adapter, or any."""
        self._address = address
        self._draw = random.SystemRandom().random
        self._resources = contextlib.AsyncExitStack()
        self._bluez: Bluez | None = None
        self._heard: list[HeardRelay] = []
        self._heard_at = 0.0
        self.is_connected = False
        """Whether a visit is under way."""
        #: How often what advertises at these addresses (as bluetoothd names them) was no relay that could be used.
        self._failures: dict[str, int] = {}
        self._failed_kinds: Failures | None = None
        self._visited: HeardRelay | None = None
        #: Those visited since it was last asked whether a visit is due.
        self._visits: list[HeardRelay] = []
        self._read: dict[tuple[str, Beacon], _Read] = {}
        self._leaving: set[asyncio.Task[None]] = set()
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
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=CLOSE_S)
        await self._resources.aclose()

    # -- listening --------------------------------------------------------------

    async def scan(self, *, timeout_s: float = SCAN_S, settle_s: float = SETTLE_S) -> list[HeardRelay]:
        """Return the relays heard, the nearest first; RelayConnectionError when nothing can be heard here.

        Listens for `timeout_s`, but no longer than `settle_s` after the first.
        """
        async with self._radio:
            await self._scan(timeout_s, settle_s)
            return self._heard

    async def is_visit_due(self) -> bool:
        """Whether a relay near here may have something new since `was_read`, or it is time anyway.

        RelayConnectionError when there is no relay.
        """
        async with self._radio:
            if self.is_connected:
                return True
            await self._scan(SCAN_S, SETTLE_S)
        if not self._heard:
            raise self._unreachable(_NONE_HEARD)
        now = asyncio.get_running_loop().time()
        self._visits.clear()
        is_due = any(self._is_new(heard) for heard in self._heard) or self._draw() < ANYWAY
        for heard in self._heard:
            if not self._is_new(heard):
                self._read[_said(heard)].heard_s = now
        return is_due

    def was_read(self) -> None:
        """Note that everything was read from whoever was visited since `is_visit_due`."""
        # Of several none has told everything.
        if len(self._visits) == 1:
            (heard,) = self._visits
            self._read[_said(heard)] = _Read(self._heard_at + READ_S, self._heard_at)
            while len(self._read) > MAX_READ:
                del self._read[next(iter(self._read))]

    def _is_new(self, heard: HeardRelay) -> bool:
        """Whether it says what it did not say when everything was read from it."""
        now = asyncio.get_running_loop().time()
        read = self._read.get(_said(heard))
        return read is None or now >= read.until_s or now - read.heard_s >= ABSENT_S

    async def _scan(self, timeout_s: float, settle_s: float) -> None:
        bluez, adapter = await self._open()
        from relay.bluetooth.bluez import BluezError

        loop = asyncio.get_running_loop()
        self._heard = []
        try:
            heard = await self._listen(bluez, adapter, timeout_s, settle_s)
            # Many at once are hardly all what they say.
            if settle_s < timeout_s and len(heard) > MOST_AT_ONCE:
                heard = await self._sift(bluez, adapter, heard)
        except BluezError as error:
            raise self._unreachable(f"this device cannot listen ({error})") from error
        self._heard = heard
        self._heard_at = loop.time()

    async def _sift(self, bluez: "Bluez", adapter: "Adapter", heard: list[HeardRelay]) -> list[HeardRelay]:
        """Listen anew, some times, and return all with how often they were heard."""
        found = {one.device.path: one for one in heard}
        for _ in range(SIFTS):
            # Looked at once: with many around that is work.
            for one in await self._listen(bluez, adapter, SIFT_S, SIFT_S, look_s=SIFT_S):
                before = found.get(one.device.path)
                found[one.device.path] = replace(one, sightings=1 + (before.sightings if before else 0))
        return sorted(found.values(), key=lambda one: -one.rssi_dbm)

    async def _listen(
        self, bluez: "Bluez", adapter: "Adapter", timeout_s: float, settle_s: float, *, look_s: float = LOOK_S
    ) -> list[HeardRelay]:
        from relay.bluetooth import gatt
        from relay.bluetooth.bluez import BluezError

        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        heard: list[HeardRelay] = []
        await bluez.start_discovery(adapter.path, gatt.SERVICE_UUID)
        try:
            while loop.time() < until:
                await asyncio.sleep(look_s)
                is_first = not heard
                heard = await _look(bluez, adapter)
                if is_first and heard:
                    until = min(until, loop.time() + settle_s)
        finally:
            with contextlib.suppress(BluezError):
                await bluez.stop_discovery(adapter.path)
        return heard

    async def _open(self) -> "tuple[Bluez, Adapter]":
        """Return the bus and the adapter; RelayConnectionError or MissingPackageError with the remedy."""
        try:
            from relay.bluetooth.bluez import Bluez, BluezError, adapters
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"Bluetooth: the Python package dbus-next is missing; install it with: {sys.executable} -m pip install "
                "dbus-next"
            ) from error

        try:
            if self._bluez is None:
                self._bluez = await self._resources.enter_async_context(await Bluez.open())
            found = adapters(await self._bluez.objects())
        except BluezError as error:
            raise self._unreachable(
                "bluetoothd does not run here; install it (Debian's package bluez), or start it with: "
                "systemctl start bluetooth"
            ) from error
        named = [adapter for adapter in found if self._address.adapter in {"", adapter.name}]
        powered = next((adapter for adapter in named if adapter.is_powered), None)
        if powered is not None:
            return self._bluez, powered
        if named:
            raise self._unreachable("the adapter is switched off; switch it on with: bluetoothctl power on")
        raise self._unreachable("this device has no such adapter; see: bluetoothctl list")

    # -- talking ------------------------------------------------------------------

    async def open(self) -> socket.socket:
        """Return a stream to a relay, as a non-blocking socket; RelayConnectionError, MissingPackageError.

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
        if self._visited is not None:
            self._note_failure(self._visited)

    def _note_failure(self, heard: HeardRelay) -> None:
        path = heard.device.path
        count = self._failures.pop(path, 0)
        if len(self._failures) >= MAX_FAILED:
            del self._failures[next(iter(self._failures))]
        self._failures[path] = count + 1
        self._kinds().note(heard.kind, asyncio.get_running_loop().time())

    def _kinds(self) -> "Failures":
        from relay.bluetooth.kinds import Failures

        self._failed_kinds = self._failed_kinds or Failures()
        return self._failed_kinds

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
        again = None
        try:
            async with self._radio:
                # Says what is missing before anything is imported that needs it.
                await self._open()
            again = await self._carry(first)
        except (RelayConnectionError, MissingPackageError) as error:
            first.failed(error)
        finally:
            first.dropped()
        # What came while the connection was ended needs another one.
        return self._requests.get_nowait() if again is None and not self._requests.empty() else again

    async def _carry(self, first: "_Request") -> "_Request | None":
        """Do so on a device that has Bluetooth; RelayConnectionError."""
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
            raise self._dial_failed(error) from error
        return None

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
        """Dial who was heard, the best first, and the next beside it if that takes long; whoever answers is it."""
        from relay.bluetooth.dial import DialError, DialFailure

        if not self._heard:
            raise self._unreachable(_NONE_HEARD)
        loop = asyncio.get_running_loop()
        until = loop.time() + DIALLING_S
        failed = DialError(DialFailure.TIMEOUT, "no relay answers in time")
        dialling: dict[asyncio.Task[tuple[DialledRelay, contextlib.AsyncExitStack]], HeardRelay] = {}
        try:
            while loop.time() < until and (self._heard or dialling):
                if self._heard and len(dialling) < MOST_AT_ONCE:
                    heard = self._next_to_dial([one.kind for one in dialling.values()])
                    dialling[asyncio.ensure_future(self._dial(heard))] = heard
                has_more = bool(self._heard) and len(dialling) < MOST_AT_ONCE
                wait_s = min(until - loop.time(), HEAD_START_S if has_more else DIALLING_S)
                done, _ = await asyncio.wait(dialling, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    heard = dialling.pop(task)
                    try:
                        relay, connection = task.result()
                    except DialError as error:
                        failed = error
                        self._note_failure(heard)
                        continue
                    await stack.enter_async_context(connection)
                    self._visited, self._is_avoided = heard, False
                    self._visits.append(heard)
                    return relay
        finally:
            self._heard = []
            for task in dialling:
                self._leave(task)
        raise failed

    def _next_to_dial(self, kinds: "list[Kind]") -> HeardRelay:
        """Take the best of those heard; `kinds`: of those that are being dialled."""
        now = asyncio.get_running_loop().time()

        def rank(heard: HeardRelay) -> tuple[int, bool, bool, int]:
            in_vain = self._kinds().of(heard.kind, now) + kinds.count(heard.kind)
            in_vain += self._failures.get(heard.device.path, 0)
            return in_vain, heard.sightings < 2, not self._is_new(heard), -heard.rssi_dbm

        best = min(self._heard, key=rank)
        self._heard.remove(best)
        return best

    async def _dial(self, heard: HeardRelay) -> "tuple[DialledRelay, contextlib.AsyncExitStack]":
        """Connect; what is returned with the relay ends the connection. DialError."""
        from relay.bluetooth import l2cap
        from relay.bluetooth.dial import DialError, DialFailure, dial

        bluez, adapter = await self._open()
        own = l2cap.parse_address(adapter.address, adapter.address_type)
        async with contextlib.AsyncExitStack() as connection:
            try:
                async with asyncio.timeout(DIAL_S):
                    relay = await connection.enter_async_context(dial(bluez, adapter.path, own, heard.device))
            except TimeoutError:
                raise DialError(DialFailure.TIMEOUT, "the relay does not answer in time") from None
            return relay, connection.pop_all()

    def _leave(self, dialling: "asyncio.Task[tuple[DialledRelay, contextlib.AsyncExitStack]]") -> None:
        """Give up a dial, which takes a moment; or hang up, if it was done just now."""

        async def leave() -> None:
            dialling.cancel()
            await asyncio.wait({dialling})
            if not dialling.cancelled() and dialling.exception() is None:
                await dialling.result()[1].aclose()

        leaving = asyncio.ensure_future(leave())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

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

    def failed(self, error: ClientError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
        self.socket.close()

    def dropped(self) -> None:
        """Nothing more is done for it, whatever became of it."""
        self.opened.cancel()
        self.socket.close()


def _said(heard: HeardRelay) -> "tuple[str, Beacon]":
    """What it said, and under which address."""
    return heard.device.address, heard.beacon


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
