# SPDX-License-Identifier: GPL-2.0-or-later
"""One adapter through its life: switched on, advertising with address and salt changing together, blocked, back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import statistics
from collections import Counter

import pytest

from relay.adapters.adapter import ALIAS, CROWDED_IDLE_S, IDLE_S, MOST_IDLE, REARM_S
from relay.adapters.epoch import AFTER_S, BEFORE_S, MOST_MORE_S, MOST_SHARE, Epoch
from relay.adapters.info import AdapterInfo
from relay.ble.adapter import Adapter
from relay.bluetooth.bluez import ADAPTER, DEVICE, BluezError, BluezFailure, Changed
from relay.bluetooth.gatt import decode_beacon
from relay.bluetooth.l2cap import BluetoothAddress
from relay.process.reports import Component, NewsForBle, Reporter
from tests.unit.jumping import run

HCI0 = "/org/bluez/hci0"
PHONE = f"{HCI0}/dev_00_11_22_33_44_55"
NEWS = NewsForBle(news=b"n" * 16)
MORE = NewsForBle(news=b"m" * 16)
ROTATION_S = 900.0


class Bluez:
    """What bluetoothd answers about one adapter."""

    def __init__(self):
        self.is_running = True
        self.is_blocked = False
        self.properties = {"Address": "02:00:00:00:00:01", "AddressType": "public", "Powered": False}
        self.devices = {}
        self.listeners = []
        self.switched = []
        self.disconnected = []

    @contextlib.contextmanager
    def listening(self, listener):
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    async def objects(self):
        return {HCI0: {ADAPTER: dict(self.properties)}} | {
            path: {DEVICE: dict(properties)} for path, properties in self.devices.items()
        }

    async def set_property(self, path, name, value):
        assert path == HCI0
        if name == "Powered" and value and self.is_blocked:
            raise BluezError(BluezFailure.REFUSED, "Set")
        if name == "Powered":
            self.switched.append(value)
        self.tell(**{name: value})

    async def disconnect(self, path):
        self.disconnected.append(path)
        self.connect(path, is_connected=False)

    def tell(self, **properties):
        self.properties |= properties
        for listener in list(self.listeners):
            listener(Changed(path=HCI0, interface=ADAPTER, properties=properties))

    def connect(self, path, *, is_connected=True, is_paired=False):
        self.devices[path] = {"Connected": is_connected, "Paired": is_paired}
        for listener in list(self.listeners):
            listener(Changed(path=path, interface=DEVICE, properties={"Connected": is_connected}))


class Air:
    """What was advertised when; ``None`` for silence."""

    def __init__(self):
        self.said = []
        self.registered = 0
        self.failures = 0

    def note(self, what, beacon=None):
        self.said.append((asyncio.get_running_loop().time(), what, beacon))

    async def register_service(self, path):
        assert path == HCI0
        self.registered += 1

    async def advertise(self, _, beacon):
        if self.failures:
            self.failures -= 1
            raise OSError
        self.note("advertise", beacon)

    def refresh(self, _, beacon):
        self.note("refresh", beacon)

    async def silence(self, _):
        self.note("silence")

    def verbs(self):
        return [what for _, what, _ in self.said]


class Server:
    """Which devices have a stream."""

    def __init__(self):
        self.users = set()
        self.gone = []

    def carries(self, device):
        return device in self.users

    def has_channels(self, path):
        return any(device.startswith(path) for device in self.users)

    def disconnected(self, device):
        self.gone.append(device)


class World:
    def __init__(self):
        self.bluez, self.air, self.server = Bluez(), Air(), Server()
        self.reporter = Reporter(Component.BLE)
        self.states = []
        numbers = itertools.count()
        self.adapter = Adapter(
            info=AdapterInfo(name="hci0", path=HCI0, address=BluetoothAddress("02:00:00:00:00:01")),
            bluez=self.bluez,
            server=self.server,
            reporter=self.reporter,
            rotation_s=ROTATION_S,
            max_neighbours=0,
            random=lambda: 0.5,
            random_bytes=lambda size: next(numbers).to_bytes(size, "big"),
            on_state=self.states.append,
        )
        self.adapter.tell_news(NEWS)

    def counted(self, name):
        return self.reporter._counters[name]


def in_world(scenario):
    async def main():
        world = World()
        task = asyncio.ensure_future(world.adapter.run(world.air))
        try:
            await scenario(world)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert world.bluez.listeners == []
        assert not world.adapter.is_up
        assert world.adapter.salt is None

    run(main())


def test_it_is_switched_on_with_a_new_address_and_a_name_that_says_nothing():
    async def scenario(world):
        await asyncio.sleep(1)
        assert world.adapter.is_up
        # On, then off and on again: nobody knows how old the address was.
        assert world.bluez.switched == [True, False, True]
        assert {name: world.bluez.properties[name] for name in ("Alias", "Discoverable", "Pairable")} == {
            "Alias": ALIAS,
            "Discoverable": False,
            "Pairable": False,
        }
        assert world.air.verbs() == ["advertise"]
        assert world.states == [True]

    in_world(scenario)


def test_somebody_who_is_connected_is_not_thrown_out_for_a_new_address():
    async def scenario(world):
        world.bluez.properties["Powered"] = True
        world.bluez.devices[PHONE] = {"Connected": True}
        await asyncio.sleep(1)
        assert world.adapter.is_up
        assert world.bluez.switched == []

    in_world(scenario)


def test_address_and_salt_change_together_with_silence_between():
    async def scenario(world):
        salts = []

        async def note():
            while True:
                salts.append((asyncio.get_running_loop().time(), world.adapter.salt))
                await world.adapter.changed()

        noting = asyncio.ensure_future(note())
        await asyncio.sleep(2.6 * ROTATION_S)
        noting.cancel()
        assert world.air.verbs() == ["advertise", "silence", "advertise", "silence", "advertise"]
        times = [when for when, _, _ in world.air.said]
        assert times[1] - times[0] == pytest.approx(ROTATION_S - BEFORE_S - MOST_MORE_S / 2)
        assert times[2] - times[0] == pytest.approx(ROTATION_S + AFTER_S + MOST_MORE_S / 2)
        beacons = [beacon for _, _, beacon in world.air.said if beacon]
        assert len({decode_beacon(beacon).salt for beacon in beacons}) == 3
        assert len({decode_beacon(beacon).digest for beacon in beacons}) == 3
        # The central half is told: no scanning and dialling in the silence, either.
        told = [salt for _, salt in salts]
        assert [salt for salt in told if salt] == [decode_beacon(beacon).salt for beacon in beacons]
        assert told.count(None) >= 2
        assert world.counted("rotations") == 2

    in_world(scenario)


@pytest.mark.parametrize("rotation_s", [30.0, 900.0, 86_400.0])
def test_epochs_and_the_silence_between_them_are_of_random_length_within_the_kernels_time(rotation_s):
    draw = random.Random(1)
    ends, lengths = [], []
    for _ in range(200):
        epoch = Epoch(rotation_s=rotation_s, random=draw.random)
        epoch.began(0.0)
        ends.append(epoch.silent_at(1.0))
        lengths.append(epoch.over_at(1.0))
        assert rotation_s / 3 <= ends[-1] <= rotation_s - BEFORE_S
        assert rotation_s + AFTER_S <= lengths[-1] <= rotation_s + AFTER_S + MOST_MORE_S
    # Whoever counts in seconds finds hardly any length twice as often as the others.
    for found in (ends, lengths):
        (_, most), *_ = Counter(map(round, found)).most_common(1)
        assert most < 2.5 * len(found) / min(MOST_MORE_S, MOST_SHARE * rotation_s) + 5
    assert abs(statistics.correlation(ends, lengths)) < 0.3


def test_other_news_change_the_digest_and_not_the_salt():
    async def scenario(world):
        await asyncio.sleep(1)
        world.adapter.tell_news(MORE)
        await asyncio.sleep(1)
        assert world.air.verbs() == ["advertise", "refresh"]
        first, second = (decode_beacon(beacon) for _, _, beacon in world.air.said)
        assert first.salt == second.salt
        assert (first.matches([NEWS.news]), second.matches([MORE.news])) == (True, True)

    in_world(scenario)


def test_while_relay_run_is_away_it_is_silent_and_then_has_another_salt():
    async def scenario(world):
        await asyncio.sleep(1)
        world.adapter.tell_news(None)
        await asyncio.sleep(1)
        assert world.adapter.salt is None
        world.adapter.tell_news(NEWS)
        await asyncio.sleep(1)
        assert world.air.verbs() == ["advertise", "silence", "advertise"]
        assert world.air.said[0][2] != world.air.said[2][2]

    in_world(scenario)


def test_a_connection_stops_advertising_so_that_it_is_begun_again():
    async def scenario(world):
        await asyncio.sleep(1)
        world.bluez.connect(PHONE)
        await asyncio.sleep(REARM_S + 0.1)
        assert world.air.verbs() == ["advertise", "refresh"]
        assert world.air.said[0][2] == world.air.said[1][2]
        world.bluez.connect(PHONE, is_connected=False)
        assert world.server.gone == [PHONE]

    in_world(scenario)


def test_a_connection_without_a_stream_is_ended():
    async def scenario(world):
        await asyncio.sleep(1)
        keyboard, dialled, client = (f"{HCI0}/dev_00_00_00_00_00_0{number}" for number in (1, 2, 3))
        world.bluez.connect(PHONE)
        world.bluez.connect(keyboard, is_paired=True)
        world.bluez.connect(client)
        world.adapter.dialling(dialled, is_ours=True)
        world.bluez.connect(dialled)
        world.server.users.add(client)
        await asyncio.sleep(IDLE_S / 2)
        assert world.bluez.disconnected == []
        await asyncio.sleep(IDLE_S)
        assert world.bluez.disconnected == [PHONE]
        world.adapter.dialling(dialled, is_ours=False)
        await asyncio.sleep(1.5 * IDLE_S)
        assert world.bluez.disconnected == [PHONE, dialled]
        assert world.counted("idle_ended") == 2
        assert world.counted("connections") == 4

    in_world(scenario)


def test_many_connections_without_a_stream_are_ended_sooner_and_those_that_gave_way_at_once():
    """A radio that connects and says nothing would take all links that the controller has."""

    async def scenario(world):
        await asyncio.sleep(1)
        silent = [f"{HCI0}/dev_00_00_00_00_00_{number:02X}" for number in range(8)]
        for path in silent:
            world.bluez.connect(path)
            await asyncio.sleep(0.1)
        await asyncio.sleep(CROWDED_IDLE_S - 1)
        assert world.bluez.disconnected == []
        await asyncio.sleep(3)
        assert world.bluez.disconnected == silent[: len(silent) - MOST_IDLE]
        world.server.users.update(silent[-2:])
        await asyncio.sleep(IDLE_S)
        assert world.bluez.disconnected == silent[:-2]
        world.server.users.clear()
        world.adapter.hang_up(silent[-1])
        await asyncio.sleep(3)
        assert world.bluez.disconnected == [*silent[:-2], silent[-1]]

    in_world(scenario)


def test_blocked_by_rfkill_it_waits_and_comes_back():
    async def scenario(world):
        await asyncio.sleep(1)
        world.bluez.is_blocked = True
        world.bluez.tell(Powered=False)
        await asyncio.sleep(60)
        assert not world.adapter.is_up
        assert world.counted("adapter_blocked") == 1
        world.bluez.is_blocked = False
        await asyncio.sleep(10)
        assert world.adapter.is_up
        assert world.states == [True, False, True]
        assert world.air.said[0][2] != world.air.said[-1][2]

    in_world(scenario)


def test_advertising_that_fails_is_tried_again():
    async def scenario(world):
        world.air.failures = 3
        await asyncio.sleep(60)
        assert world.adapter.is_up
        assert world.counted("advertise_failed") == 3

    in_world(scenario)


@pytest.mark.parametrize("is_alive", [True, False])
def test_after_bluetoothd_was_lost_the_address_is_new_unless_connections_lived_on(is_alive):
    async def main():
        world = World()
        for _ in range(2):
            task = asyncio.ensure_future(world.adapter.run(world.air))
            await asyncio.sleep(100)
            if is_alive:
                world.server.users.add(PHONE)
                world.bluez.devices[PHONE] = {"Connected": True}
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            world.adapter.bluetoothd_lost()
        assert world.bluez.switched[3:] == ([] if is_alive else [False, True])
        assert world.states == [True], "the adapter was not to blame"
        began = asyncio.get_running_loop().time()
        task = asyncio.ensure_future(world.adapter.run(world.air))
        await asyncio.sleep(ROTATION_S)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        silences = [when - began for when, what, _ in world.air.said if what == "silence" and when > began]
        assert silences[0] == pytest.approx(ROTATION_S - BEFORE_S - MOST_MORE_S / 2 - (200 if is_alive else 0), abs=1)

    run(main())


def test_without_bluetoothd_it_says_so():
    async def main():
        world = World()

        async def refuse(*_, **__):
            world.bluez.is_running = False
            raise BluezError(BluezFailure.NO_BLUEZ, "Set")

        world.bluez.set_property = refuse
        with pytest.raises(BluezError):
            await world.adapter.run(world.air)

    run(main())
