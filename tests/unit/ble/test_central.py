# SPDX-License-Identifier: GPL-2.0-or-later
"""The central half of an adapter, with whoever is on the air in place of BlueZ and of `relay.bluetooth.dial`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

import pytest

from relay.adapters.info import AdapterInfo
from relay.ble.central import FULL_REST_S, run_central
from relay.ble.neighbours import TENURE_S
from relay.bluetooth import gatt
from relay.bluetooth.bluez import DEVICE, BluezError, BluezFailure, Changed
from relay.bluetooth.dial import LINK_TIMEOUT_S, DialError, DialFailure
from relay.bluetooth.l2cap import BluetoothAddress
from relay.process.reports import NewsForBle
from tests.unit.jumping import run

HCI0 = "/org/bluez/hci0"
OWN_SALT = b"\xff\xff\xff"
ADVERTISE_S = 1.3
#: Of one that lets everybody connect, and never answers.
MUTE_S = 20.0


class Stream:
    """A session; ends when somebody closes it."""

    def __init__(self, name):
        self.name = name
        self.ended = asyncio.Event()

    def close(self):
        self.ended.set()


class World:
    """The air, BlueZ, and the process around the central half."""

    max_neighbours = 3

    def __init__(self, monkeypatch):
        self.bluez = self
        self.salt = OWN_SALT
        self.news = NewsForBle(news=bytes(16))
        self.counted = Counter()
        #: Those that answer, those that let one connect, and those that are heard and not there.
        self.honest, self.mute, self.absent = [], [], []
        self.fresh_a_s = 0
        self.is_stubborn = False
        self.sessions = {}
        self.dialling_now = set()
        self.cancelled = []
        self.discoveries = []
        self.met_s = {}
        self._listeners = []
        self._known = set()
        self._draw = random.Random(1)
        self._discovery = None
        self._waiting = []
        monkeypatch.setattr("relay.ble.central.dial", self.dial)

    # -- BlueZ -----------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self, listener):
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    async def objects(self):
        return {path: {DEVICE: {"Address": path, "AddressType": "random"}} for path in self._known}

    async def start_discovery(self, _, uuid):
        assert uuid == gatt.SERVICE_UUID
        self.discoveries.append(asyncio.get_running_loop().time())
        if self.is_stubborn:
            raise BluezError(BluezFailure.REFUSED, "StartDiscovery")
        self._discovery = asyncio.ensure_future(self._discover())

    async def stop_discovery(self, _):
        self._discovery.cancel()

    async def _discover(self):
        while True:
            fresh = [f"{HCI0}/{self._draw.randbytes(4).hex()}" for _ in range(int(self.fresh_a_s * ADVERTISE_S))]
            for path in [*fresh, *self.honest, *self.mute, *self.absent]:
                self._known.add(path)
                own = random.Random(path)
                beacon = gatt.make_beacon(own.randbytes(16), own.randbytes(3)).encode()
                properties = {"ManufacturerData": {gatt.COMPANY: beacon}, "RSSI": -60}
                for listener in self._listeners:
                    listener(Changed(path=path, interface=DEVICE, properties=properties))
            await asyncio.sleep(ADVERTISE_S)

    @contextlib.asynccontextmanager
    async def dial(self, _bluez, _adapter, _own, device, *, as_relay, on_linked):
        assert as_relay
        path = device.path
        try:
            if path in self.honest or path in self.mute:
                await asyncio.sleep(1)
                on_linked()
                if path in self.mute:
                    await asyncio.sleep(MUTE_S)
                    raise DialError(DialFailure.TIMEOUT, "it does not answer")
            else:
                await asyncio.sleep(LINK_TIMEOUT_S)
                raise DialError(DialFailure.TIMEOUT, "nobody there")
        except asyncio.CancelledError:
            self.cancelled.append(path)
            raise
        yield Neighbour(path)

    # -- the process -------------------------------------------------------------

    async def changed(self):
        self._waiting.append(asyncio.get_running_loop().create_future())
        await self._waiting[-1]

    def change(self, salt):
        self.salt = salt
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def dialling(self, path, *, is_ours):
        (self.dialling_now.add if is_ours else self.dialling_now.discard)(path)

    async def serve(self, stream):
        loop = asyncio.get_running_loop()
        self.met_s.setdefault(stream.name, loop.time())
        self.sessions[stream.name] = stream
        await stream.ended.wait()
        del self.sessions[stream.name]

    def count(self, event):
        self.counted[event] += 1

    def heard(self, *, relays, neighbours):
        pass


class Neighbour:
    is_lost = False

    def __init__(self, path):
        self._path = path

    @contextlib.asynccontextmanager
    async def stream(self):
        yield Stream(self._path)


def in_world(monkeypatch, scenario):
    async def main():
        world = World(monkeypatch)
        info = AdapterInfo(name="hci0", path=HCI0, address=BluetoothAddress("02:00:00:00:00:01"))

        task = asyncio.ensure_future(run_central(info, world))
        try:
            await scenario(world)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if world._discovery is not None:
                world._discovery.cancel()
        assert not world._listeners
        assert not world.dialling_now

    run(main())


def named(*names):
    return [f"{HCI0}/{name}" for name in names]


def test_two_relays_meet_at_once_when_nobody_else_is_there(monkeypatch):
    async def scenario(world):
        world.honest = named("honest")
        await asyncio.sleep(8)
        assert list(world.sessions) == world.honest

    in_world(monkeypatch, scenario)


@pytest.mark.parametrize("fresh_a_s", [10, 40])
@pytest.mark.parametrize("mute", [0, 6])
def test_ten_false_relays_a_second_do_not_keep_two_from_meeting(monkeypatch, fresh_a_s, mute):
    """It took them over 240 s, and 8 in quiet."""

    async def scenario(world):
        world.fresh_a_s = fresh_a_s
        world.mute = named(*(f"mute{number}" for number in range(mute)))
        await asyncio.sleep(60)
        began = asyncio.get_running_loop().time()
        world.honest = named("honest")
        await asyncio.sleep(120)
        assert world.sessions.keys() == set(world.honest)
        assert world.met_s[world.honest[0]] - began < 90
        # It never stopped listening for long, though some let it connect and do not answer.
        pauses = [later - one for one, later in zip(world.discoveries, world.discoveries[1:], strict=False)]
        assert max(pauses) < 30

    in_world(monkeypatch, scenario)


def test_sessions_go_on_while_bluetoothd_does_not_want_to_listen(monkeypatch):
    async def scenario(world):
        world.honest = named("one")
        await asyncio.sleep(20)
        world.is_stubborn = True
        await asyncio.sleep(60)
        assert list(world.sessions) == world.honest
        assert 2 < world.counted["dbus_errors"] < 30
        world.is_stubborn = False
        world.honest += named("two")
        await asyncio.sleep(30)
        assert world.sessions.keys() == set(world.honest)

    in_world(monkeypatch, scenario)


def test_no_dial_goes_on_when_the_address_is_about_to_change(monkeypatch):
    async def scenario(world):
        world.absent = named("absent")
        while not world.dialling_now:  # noqa: ASYNC110 - it jumps
            await asyncio.sleep(0.5)
        world.change(None)
        await asyncio.sleep(0.1)
        assert world.cancelled == world.absent
        discoveries = len(world.discoveries)
        await asyncio.sleep(60)
        assert len(world.discoveries) == discoveries
        assert not world.dialling_now
        # It is no fault of whoever was dialled.
        world.honest, world.absent = world.absent, []
        world.change(b"\xff\xff\xfe")
        await asyncio.sleep(8)
        assert list(world.sessions) == world.honest

    in_world(monkeypatch, scenario)


def test_three_that_never_hang_up_are_not_all_for_ever(monkeypatch):
    async def scenario(world):
        world.honest = named("false1", "false2", "false3")
        await asyncio.sleep(30)
        assert world.sessions.keys() == set(world.honest)
        world.honest += named("honest")
        await asyncio.sleep(TENURE_S + 2 * FULL_REST_S)
        assert named("honest")[0] in world.met_s
        assert len(world.sessions) == 3
        assert world.counted["neighbour_gave_way"] >= 1
        # All four have turns.
        seen = Counter()
        for _ in range(30):
            await asyncio.sleep(60)
            seen.update(list(world.sessions))
        assert all(seen[path] >= 10 for path in world.honest), seen

    in_world(monkeypatch, scenario)
