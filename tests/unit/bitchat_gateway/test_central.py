# SPDX-License-Identifier: GPL-2.0-or-later
"""Phones that we dial: few at a time, none again and again, and no relays."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter

from relay.bitchat import packet
from relay.bitchat.announce import Identity
from relay.bitchat.packet import PacketType, make_packet
from relay.bitchat_gateway.central import RELAY_S, REST_S, RETRY_S, SCAN_S, Central
from relay.bitchat_gateway.gateway import Gateway
from relay.bitchat_gateway.peripheral import LONG_S, SILENT_S
from relay.bluetooth.bluez import CHARACTERISTIC, DEVICE, BluezError, BluezFailure, Changed
from relay.process.reports import Component, Reporter
from tests.unit.bitchat.phones import Android
from tests.unit.ble.test_adapter import HCI0
from tests.unit.jumping import run

SERVICE, VALUE = "f47b", "a1b2"
TURN_S = 1.5 * REST_S + SCAN_S


class Bluez:
    """Devices that advertise bitchat, some of which cannot be dialled."""

    def __init__(self):
        self.is_running = True
        self.listeners = []
        self.devices = {}
        self.unreachable = set()
        self.dials = Counter()
        self.written = []
        self.is_scanning = False

    @contextlib.contextmanager
    def listening(self, listener):
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    def hear(self, event):
        for listener in list(self.listeners):
            listener(event)

    def advertise(self, number, rssi_dbm=-50):
        path = f"{HCI0}/dev_{number:02X}"
        self.devices[path] = {"UUIDs": [SERVICE], "RSSI": rssi_dbm, "Connected": False}
        return path

    async def objects(self):
        found = {path: {DEVICE: dict(properties)} for path, properties in self.devices.items()}
        return found | {f"{path}/c": {CHARACTERISTIC: {"UUID": VALUE, "MTU": 185}} for path in self.devices}

    async def start_discovery(self, _, uuid):
        assert uuid == SERVICE
        self.is_scanning = True

    async def stop_discovery(self, _):
        self.is_scanning = False

    async def connect(self, path, *, on_linked, **_):
        assert not self.is_scanning, "controllers cannot do both"
        self.dials[path] += 1
        if path in self.unreachable:
            raise BluezError(BluezFailure.TIMEOUT, "Connect")
        self.devices[path]["Connected"] = True
        on_linked()

    async def start_notify(self, path):
        pass

    async def write_command(self, path, value):
        self.written.append((path, value))

    async def disconnect(self, path, **_):
        self.devices[path]["Connected"] = False

    async def forget(self, _, path, **__):
        pass

    def say(self, path, value):
        self.hear(Changed(path=f"{path}/c", interface=CHARACTERISTIC, properties={"Value": value}))

    def connected(self):
        return {path for path, properties in self.devices.items() if properties["Connected"]}


class World:
    def __init__(self):
        self.bluez = Bluez()
        self.reporter = Reporter(Component.BITCHAT)
        self.gateway = Gateway(
            nickname="relay",
            earliest_ms=0,
            random=lambda: 0.5,
            random_bytes=secrets.token_bytes,
            reporter=self.reporter,
        )
        self.is_heard = True
        self.central = Central(
            self.gateway,
            self.bluez,
            max_dialled=2,
            reporter=self.reporter,
            random=lambda: 0.5,
            service_uuid=SERVICE,
            characteristic_uuid=VALUE,
        )

    def counted(self, name):
        return self.reporter._counters[name]


def in_world(scenario):
    async def main():
        world = World()
        tasks = [
            asyncio.ensure_future(world.central.run(HCI0, is_heard=lambda: world.is_heard)),
            asyncio.ensure_future(world.gateway.run()),
        ]
        try:
            await scenario(world)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert world.bluez.listeners == []
        assert world.bluez.connected() == set()

    run(main())


def test_the_strongest_are_dialled_and_no_more_than_may_be_and_packets_go_both_ways():
    async def scenario(world):
        far, near, nearest = (world.bluez.advertise(number, rssi) for number, rssi in ((1, -90), (2, -60), (3, -40)))
        await asyncio.sleep(3 * TURN_S)
        assert world.bluez.connected() == {near, nearest}
        assert world.bluez.dials[far] == 0
        ana = Android("ana", 1_900_000_000_000)
        world.bluez.say(nearest, ana.announce(asyncio.get_running_loop().time()))
        await asyncio.sleep(3)
        assert f"{nearest}/c" in {path for path, _ in world.bluez.written}
        assert all(len(value) <= 182 for _, value in world.bluez.written)
        assert world.central.number_of(nearest)

        world.gateway.become_another()
        await asyncio.sleep(1)
        assert world.bluez.connected() == set()
        assert world.central.number_of(nearest) is None

    in_world(scenario)


def test_who_cannot_be_dialled_is_left_for_a_while_so_that_others_have_their_turn():
    async def scenario(world):
        near, far = world.bluez.advertise(1, -40), world.bluez.advertise(2, -80)
        world.bluez.unreachable.add(near)
        await asyncio.sleep(2 * TURN_S)
        assert world.bluez.connected() == {far}
        assert world.bluez.dials[near] == 1
        await asyncio.sleep(RETRY_S + TURN_S)
        assert 2 <= world.bluez.dials[near] <= 3
        assert world.counted("dial_failed") == world.bluez.dials[near]

    in_world(scenario)


def test_another_relay_is_hung_up_on_and_not_dialled_again():
    async def scenario(world):
        path = world.bluez.advertise(1)
        await asyncio.sleep(TURN_S)
        assert world.bluez.connected() == {path}
        relay = Identity.generate(secrets.token_bytes)
        world.bluez.say(path, relay.announce("relay", 1_900_000_000_000, is_relay=True).encode())
        await asyncio.sleep(1)
        assert world.bluez.connected() == set()
        await asyncio.sleep(5 * TURN_S)
        assert world.bluez.dials[path] == 1
        assert world.counted("dialled_relay") == 1

    in_world(scenario)


def test_who_is_dialled_and_says_nothing_holds_no_place():
    async def scenario(world):
        mute = [world.bluez.advertise(number, -30) for number in (1, 2)]
        await asyncio.sleep(3 * TURN_S)
        assert world.bluez.connected() == set(mute)
        late = world.bluez.advertise(3, -90)
        await asyncio.sleep(SILENT_S - TURN_S / 2)
        assert world.bluez.connected() == {late}
        assert world.counted("idle_ended") == 2
        # For as long as a phone speaks it stays; who said nothing is not dialled again for long.
        world.bluez.say(late, Android("ana", 1_900_000_000_000).announce(0))
        await asyncio.sleep(RELAY_S / 2)
        assert [world.bluez.dials[path] for path in mute] == [1, 1]

    in_world(scenario)


def test_who_was_dialled_long_ago_gives_way_to_who_waits_and_to_nobody_else():
    async def scenario(world):
        first = [world.bluez.advertise(number, -30) for number in (1, 2)]
        await asyncio.sleep(3 * TURN_S)

        async def talk(seconds):
            ended = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < ended:
                for path in world.bluez.connected():
                    world.bluez.say(path, b"something")
                await asyncio.sleep(50)

        await talk(LONG_S + 100)
        assert world.bluez.connected() == set(first)
        late = world.bluez.advertise(3, -90)
        await talk(100)
        assert late in world.bluez.connected()
        assert len(world.bluez.connected()) == 2
        assert world.counted("gave_way") >= 1

    in_world(scenario)


def test_a_dialled_phone_s_bombs_are_not_decompressed_before_they_are_paid_for(monkeypatch):
    async def scenario(world):
        path = world.bluez.advertise(1)
        await asyncio.sleep(TURN_S)
        bomb = make_packet(
            PacketType.ANNOUNCE, bytes(900_000), sender=bytes(8), timestamp_ms=1, version=2, compress=True
        ).encode()
        began = []
        decompress = packet._inflate
        monkeypatch.setattr(packet, "_inflate", lambda *values: began.append(1) or decompress(*values))
        for _ in range(50):
            world.bluez.say(path, bomb)
        assert began == []

    in_world(scenario)


def test_while_we_are_silent_nobody_is_listened_for():
    async def scenario(world):
        world.is_heard = False
        world.bluez.advertise(1)
        await asyncio.sleep(5 * TURN_S)
        assert not world.bluez.dials

    in_world(scenario)
