# SPDX-License-Identifier: GPL-2.0-or-later
"""The central half of one adapter: listens for other relays now and then, dials those it should, hands over streams.

Whom to dial is the business of `relay.ble.neighbours`. Listening takes air from phones and from our own
connections, so it is short; while connecting there is none, since controllers cannot do both.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Final

from relay.ble.neighbours import End, Neighbours
from relay.bluetooth import gatt
from relay.bluetooth.bluez import (
    ADAPTER,
    DEVICE,
    Added,
    BluezError,
    BluezFailure,
    Changed,
    Owner,
    Removed,
    device,
    devices,
)
from relay.bluetooth.dial import DialError, DialFailure, dial
from relay.core.clock import jittered
from relay.core.errors import DecodeError
from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from relay.adapters.info import AdapterInfo
    from relay.ble.host import CentralHost
    from relay.bluetooth.bluez import Device, Event, Properties
    from relay.bluetooth.dial import DialledRelay
    from relay.bluetooth.stream import Stream

#: Relays advertise about once a second (BlueZ's default is 1.28 s), and some of that is lost.
SCAN_S: Final = 4.0
#: Between two scans, give or take a half, so that relays which listen at the same times do not stay in step. With a
#: scan and the 3 s that it takes to connect, at the worst just less than GRACE_S: the other side does not cross us.
REST_S: Final = 8.0
#: Instead, with as many sessions as there may be: only to find out who waits for one.
FULL_REST_S: Final = 60.0
#: Instead, after a neighbour was lost: it is likely to be there again, or another one is worth its place.
SHORT_REST_S: Final = 3.0
#: A session that ended so soon was not wanted: `relay run` had another one with that relay, or it and we do not
#: share a secret.
UNWANTED_S: Final = 10.0
#: The kernel tells us that a connection is lost, and bluetoothd a little later.
NOTICE_S: Final = 0.5

_ENDS: Final = {
    DialFailure.TIMEOUT: (End.UNREACHABLE, "dial_timeout"),
    DialFailure.FAILED: (End.UNREACHABLE, "dial_failed"),
    DialFailure.BUSY: (End.BUSY, "dial_busy"),
    DialFailure.UNUSABLE: (End.UNUSABLE, "dial_failed"),
}


async def run_central(adapter: AdapterInfo, host: CentralHost) -> None:
    """Listen and dial until cancelled; raise BluezError when bluetoothd or the adapter is gone."""
    await _Central(adapter, host).run()


class _Central:
    def __init__(self, adapter: AdapterInfo, host: CentralHost) -> None:
        self._adapter = adapter
        self._host = host
        self._bluez = host.bluez
        self._loop = asyncio.get_running_loop()
        # Nothing secret depends on it.
        self._random = random.Random().random  # noqa: S311
        self._neighbours = Neighbours(max_neighbours=host.max_neighbours, random=self._random)
        self._neighbour_lost = asyncio.Event()
        self._streams: dict[str, Stream] = {}
        self._giving_way: set[str] = set()
        self._bluez_lost: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        try:
            with self._bluez.listening(self._on_event):
                await self._look_around()
                async with TaskGroup() as tasks:
                    tasks.create_task(self._watch())
                    while True:
                        await self._turn(tasks)
        except ExceptionGroup as group:
            # One is enough to say what happened; the others followed from it.
            raise group.exceptions[0] from None

    async def _watch(self) -> None:
        """End everything when bluetoothd is gone: its objects, and all that refers to them, are."""
        await self._bluez_lost
        raise BluezError(BluezFailure.NO_BLUEZ, "watch")

    async def _look_around(self) -> None:
        """Learn who is connected, and have bluetoothd forget relays that an earlier process dialled."""
        for known in devices(await self._bluez.objects(), self._adapter.path):
            if known.is_connected:
                self._neighbours.connected(known.path, is_connected=True)
            elif gatt.SERVICE_UUID in known.uuids and not known.is_paired:
                with contextlib.suppress(BluezError):
                    await self._bluez.forget(self._adapter.path, known.path)

    async def _turn(self, tasks: TaskGroup) -> None:
        """Listen, dial the neighbours that are due, or rest."""
        news = self._host.news
        if news is not None:
            self._neighbours.news(news.news, news.known, self._loop.time())
        if self._host.salt is None or news is None:
            await self._host.changed()
            return
        await self._scan()
        chosen = self._choose()
        self._tell()
        if chosen:
            await self._dial(chosen, tasks)
        else:
            await self._rest()

    async def _dial(self, chosen: list[str], tasks: TaskGroup) -> None:
        """Dial some, all at once; return when we may scan again."""
        salt = self._host.salt
        linked = {path: asyncio.Event() for path in chosen}
        visits = {path: tasks.create_task(self._visit(path, linked[path])) for path in chosen}
        changed = asyncio.ensure_future(self._host.changed())
        try:
            while not all(event.is_set() for event in linked.values()):
                waiting = [asyncio.ensure_future(event.wait()) for event in linked.values() if not event.is_set()]
                await asyncio.wait({changed, *waiting}, return_when=asyncio.FIRST_COMPLETED)
                for waiter in waiting:
                    waiter.cancel()
                if self._host.salt != salt:
                    # Whoever dials after the address has expired has another one, and this is not the time for it.
                    for path in chosen:
                        if not linked[path].is_set():
                            visits[path].cancel()
                if changed.done():
                    changed = asyncio.ensure_future(self._host.changed())
        finally:
            changed.cancel()

    def _choose(self) -> list[str]:
        salt = self._host.salt
        if salt is None:  # it ended while we listened
            return []
        leaving = self._neighbours.give_way(salt, self._loop.time())
        if leaving is not None and leaving not in self._giving_way:
            self._giving_way.add(leaving)
            self._host.count("neighbour_gave_way")
            self._streams[leaving].close()
        return self._neighbours.choose(salt, self._loop.time())

    async def _rest(self) -> None:
        rest_s = FULL_REST_S if self._neighbours.is_full else REST_S
        try:
            async with asyncio.timeout(jittered(rest_s, self._random())):
                await self._neighbour_lost.wait()
        except TimeoutError:
            return
        self._neighbour_lost.clear()
        await asyncio.sleep(SHORT_REST_S)

    async def _scan(self) -> None:
        """Listen for a while, or until the address is about to change."""
        salt = self._host.salt
        try:
            await self._bluez.start_discovery(self._adapter.path, gatt.SERVICE_UUID)
        except BluezError:
            # Somebody else's connection is being made, say. What we have goes on, and so does the time.
            self._host.count("dbus_errors")
            await asyncio.sleep(SHORT_REST_S)
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCAN_S):
                    while self._host.salt == salt:
                        await self._host.changed()
        finally:
            # With the adapter gone there is nothing to stop.
            with contextlib.suppress(BluezError):
                await self._bluez.stop_discovery(self._adapter.path)

    # -- what BlueZ hears -----------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case Owner():
                if not self._bluez_lost.done():
                    self._bluez_lost.set_result(None)
            case Added(path=path, interfaces=interfaces) if DEVICE in interfaces:
                self._heard(path, interfaces[DEVICE])
            case Changed(path=path, interface=interface, properties=properties) if interface == DEVICE:
                self._heard(path, properties)
            case Removed(path=path, interfaces=interfaces) if DEVICE in interfaces:
                self._neighbours.gone(path)
            case Removed(path=self._adapter.path, interfaces=interfaces) if ADAPTER in interfaces:
                if not self._bluez_lost.done():
                    self._bluez_lost.set_result(None)

    def _heard(self, path: str, properties: Properties) -> None:
        """Take what an object says anew about a device; devices of other adapters are others' business."""
        if not path.startswith(f"{self._adapter.path}/"):
            return
        news_of = device(path, properties)
        if "Connected" in properties:
            self._neighbours.connected(path, is_connected=news_of.is_connected)
        if gatt.COMPANY in news_of.manufacturer_data:
            with contextlib.suppress(DecodeError):
                beacon = gatt.decode_beacon(news_of.manufacturer_data[gatt.COMPANY])
                if not self._neighbours.heard(path, beacon, self._loop.time(), rssi_dbm=news_of.rssi_dbm):
                    self._host.count("heard_full")
        elif news_of.rssi_dbm is not None:
            self._neighbours.heard_again(path, self._loop.time(), rssi_dbm=news_of.rssi_dbm)

    # -- dialling -----------------------------------------------------------------------

    async def _visit(self, path: str, linked: asyncio.Event) -> None:
        """Dial a neighbour and stay until the session ends. `linked` is set once we may scan again."""
        began_s = self._loop.time()
        end = End.UNREACHABLE
        self._host.count("dials")
        self._host.dialling(path, is_ours=True)
        try:
            found = await self._device(path)
            async with dial(
                self._bluez, self._adapter.path, self._adapter.address, found, as_relay=True, on_linked=linked.set
            ) as neighbour:
                async with neighbour.stream() as stream:
                    began_s = self._loop.time()
                    if not self._neighbours.entered(path, began_s):
                        end = End.GAVE_WAY
                        return
                    self._streams[path] = stream
                    await self._host.serve(stream)
                end = await self._why_over(path, neighbour, ran_s=self._loop.time() - began_s)
                if end is not End.GAVE_WAY:
                    self._host.count("neighbour_duplicate" if end is End.TURNED_AWAY else "neighbour_lost")
        except DialError as error:
            end, counter = _ENDS[error.failure]
            self._host.count(counter)
        except asyncio.CancelledError:
            end = End.CLOSED
            raise
        finally:
            self._streams.pop(path, None)
            self._giving_way.discard(path)
            self._neighbours.ended(path, end, self._loop.time(), ran_s=self._loop.time() - began_s)
            self._host.dialling(path, is_ours=False)
            linked.set()
            self._neighbour_lost.set()
            self._tell()

    async def _why_over(self, path: str, neighbour: DialledRelay, *, ran_s: float) -> End:
        """Tell a session that nobody wanted from one that was lost."""
        if path in self._giving_way:
            return End.GAVE_WAY
        if ran_s >= UNWANTED_S or self._host.news is None:
            return End.CLOSED
        await asyncio.sleep(NOTICE_S)
        return End.UNREACHABLE if neighbour.is_lost else End.TURNED_AWAY

    async def _device(self, path: str) -> Device:
        try:
            objects = await self._bluez.objects()
            return device(path, objects[path][DEVICE])
        except (BluezError, KeyError):
            raise DialError(DialFailure.FAILED, "the relay is no longer heard") from None

    def _tell(self) -> None:
        self._host.heard(relays=len(self._neighbours), neighbours=self._neighbours.dialled)
