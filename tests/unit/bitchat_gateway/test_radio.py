# SPDX-License-Identifier: GPL-2.0-or-later
"""The adapter of `relay bitchat`: with each address somebody else, also where `relay ble` decides about it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import pytest

from relay.adapters.adapter import CLAIMED_S, IDLE_S
from relay.adapters.info import AdapterInfo
from relay.bitchat_gateway.central import Central
from relay.bitchat_gateway.gateway import Gateway
from relay.bitchat_gateway.peripheral import LONG_S, SILENT_S, Peripheral
from relay.bitchat_gateway.radio import ALONE_S, Adapter
from relay.bluetooth.bluez import ADVERTISING, Changed, InUse
from relay.bluetooth.l2cap import BluetoothAddress
from relay.bluetooth.local import RefusedError
from relay.process.reports import Component, Reporter
from tests.unit.ble import test_adapter
from tests.unit.ble.test_adapter import HCI0, ROTATION_S
from tests.unit.jumping import run
from tests.waiting import until_true

PHONE, OTHER = (f"{HCI0}/dev_00_11_22_33_44_5{number}" for number in (5, 6))


class Bluez(test_adapter.Bluez):
    """What bluetoothd answers, with advertisements of ours and of `relay ble`."""

    def __init__(self):
        super().__init__()
        self.theirs = 0
        self.ours = 0
        self.said_used = []

    async def instances(self, path):
        assert path == HCI0
        return self.theirs + self.ours

    def tell_in_use(self, paths):
        self.said_used.append(paths)

    def others(self, count):
        self.theirs = count
        self.hear(Changed(path=HCI0, interface=ADVERTISING, properties={"ActiveInstances": count + self.ours}))

    def hear(self, event):
        for listener in list(self.listeners):
            listener(event)


class World:
    def __init__(self, *, is_shared):
        self.bluez = Bluez()
        self.said = []
        self.reporter = Reporter(Component.BITCHAT)
        self.gateway = Gateway(
            nickname="relay",
            earliest_ms=0,
            random=lambda: 0.5,
            random_bytes=secrets.token_bytes,
            reporter=self.reporter,
        )
        self.peripheral = Peripheral(self.gateway, max_phones=2, reporter=self.reporter)
        central = Central(
            self.gateway,
            self.bluez,
            max_dialled=0,
            reporter=self.reporter,
            random=lambda: 0.5,
            service_uuid="",
            characteristic_uuid="",
        )
        self.adapter = Adapter(
            info=AdapterInfo(name="hci0", path=HCI0, address=BluetoothAddress("02:00:00:00:00:01")),
            bluez=self.bluez,
            reporter=self.reporter,
            rotation_s=ROTATION_S,
            random=lambda: 0.5,
            on_state=lambda _: None,
            is_shared=is_shared,
            service=self,
            gateway=self.gateway,
            peripheral=self.peripheral,
            central=central,
        )
        self.peripheral.hang_up = self.adapter.hang_up
        self.adapter.tell_open(is_open=True)

    @property
    def now(self):
        return asyncio.get_running_loop().time()

    # -- what LocalService does ------------------------------------------------

    async def offer(self, path):
        assert path == HCI0

    async def advertise(self, _):
        self.bluez.ours = 1
        self.said.append((self.now, self.gateway.mesh.identity.peer_id))

    async def silence(self, _):
        self.bluez.ours = 0
        self.said.append((self.now, None))

    def refresh(self, _):
        pass


def in_world(scenario, *, is_shared):
    async def main():
        world = World(is_shared=is_shared)
        task = asyncio.ensure_future(world.adapter.live())
        try:
            await scenario(world)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert world.bluez.listeners == []

    run(main())


async def until_silent(world):
    await until_true("it hung up", lambda: not world.bluez.ours and not world.gateway.mesh._links, 3)


def test_on_an_adapter_of_its_own_each_epoch_has_another_identity():
    async def scenario(world):
        await asyncio.sleep(2.5 * ROTATION_S)
        peers = [peer for _, peer in world.said]
        assert [peer is None for peer in peers] == [False, True, False, True, False]
        assert len({peer for peer in peers if peer}) == 3
        assert world.bluez.switched == [True, False, True]

    in_world(scenario, is_shared=False)


def test_beside_relay_ble_it_is_heard_and_silent_when_that_is_and_hangs_up_before_the_address_changes():
    async def scenario(world):
        await asyncio.sleep(5)
        assert world.said == [], "relay ble has not begun yet"
        # Who has the adapter switches it off and on for a new address: that is not us.
        assert world.bluez.switched == [True]
        world.bluez.others(1)
        await asyncio.sleep(1)
        world.bluez.connect(PHONE)
        world.peripheral.on_write(PHONE, b"?", 185)
        first = world.gateway.mesh.identity.peer_id
        assert [peer for _, peer in world.said] == [first]
        await asyncio.sleep(1)
        world.bluez.others(0)
        await asyncio.sleep(0)
        await until_silent(world)
        with pytest.raises(RefusedError):
            # As long as it is connected by the old address, it does not get to know who we are next.
            world.peripheral.on_write(PHONE, b"?", 185)
        await asyncio.sleep(3)
        assert world.said[-1][1] is None
        assert world.bluez.disconnected == [PHONE]
        assert len(world.peripheral) == 0
        world.bluez.others(1)
        await asyncio.sleep(1)
        assert world.said[-1][1] not in {None, first}
        # By the new address it may come again.
        world.bluez.connect(PHONE)
        world.peripheral.on_write(PHONE, b"?", 185)

    in_world(scenario, is_shared=True)


def test_with_relay_ble_gone_it_has_epochs_of_its_own_until_that_is_back():
    async def scenario(world):
        world.bluez.others(1)
        await asyncio.sleep(1)
        world.bluez.others(0)
        await asyncio.sleep(ALONE_S - 2)
        assert [peer is None for _, peer in world.said] == [False, True]
        await asyncio.sleep(10)
        assert world.said[-1][1]
        assert world.bluez.switched == [True, False, True], "an address of known age"
        await asyncio.sleep(ROTATION_S + 40)
        assert [peer is None for _, peer in world.said] == [False, True, False, True, False]
        alone = world.said[-1][1]
        world.bluez.others(1)
        await asyncio.sleep(1)
        assert [peer is None for _, peer in world.said[-3:]] == [False, True, False]
        assert world.said[-1][1] != alone

    in_world(scenario, is_shared=True)


def test_without_relay_run_nothing_is_advertised():
    async def scenario(world):
        world.adapter.tell_open(is_open=False)
        await asyncio.sleep(1)
        assert not world.bluez.ours
        world.adapter.tell_open(is_open=True)
        await asyncio.sleep(1)
        assert world.bluez.ours

    in_world(scenario, is_shared=False)


def test_a_connection_of_the_other_program_is_left_alone_and_it_is_told_of_ours():
    async def scenario(world):
        world.bluez.others(1)
        await asyncio.sleep(1)
        world.bluez.connect(PHONE)
        world.bluez.connect(OTHER)
        world.peripheral.on_write(PHONE, b"?", 185)
        for _ in range(10):
            world.bluez.hear(InUse(paths=(OTHER, f"{HCI0}/dev_unknown")))
            world.peripheral.on_write(PHONE, b"?", 185)
            await asyncio.sleep(CLAIMED_S / 2)
        assert world.bluez.disconnected == []
        assert all(paths == [PHONE] for paths in world.bluez.said_used)
        assert len(world.bluez.said_used) > 5
        await asyncio.sleep(CLAIMED_S + IDLE_S + 5)
        assert world.bluez.disconnected == [OTHER]

    in_world(scenario, is_shared=True)


def test_who_says_nothing_is_ended_and_who_was_there_for_long_gives_way():
    async def scenario(world):
        world.bluez.others(1)
        await asyncio.sleep(1)
        silent, first, second, third = (f"{HCI0}/dev_0{number}" for number in range(4))
        for path in (silent, first):
            world.bluez.connect(path)
            world.peripheral.on_write(path, b"?", 185)
        for _ in range(6):
            await asyncio.sleep(SILENT_S / 4)
            world.peripheral.on_write(first, b"?", 185)
        assert world.bluez.disconnected == [silent]
        world.bluez.connect(second)
        world.peripheral.on_write(second, b"?", 185)
        world.bluez.connect(third)
        with pytest.raises(RefusedError):
            world.peripheral.on_write(third, b"?", 185)
        for _ in range(int(LONG_S // 60)):
            await asyncio.sleep(60)
            for path in (first, second):
                world.peripheral.on_write(path, b"?", 185)
        world.bluez.connect(third)
        world.peripheral.on_write(third, b"?", 185)
        await asyncio.sleep(3)
        assert world.bluez.disconnected == [silent, third, first]
        assert world.reporter._counters["gave_way"] == 1

    in_world(scenario, is_shared=True)


def test_who_comes_when_all_places_are_taken_is_refused_and_hung_up_on():
    async def scenario(world):
        world.bluez.others(1)
        await asyncio.sleep(1)
        for number in range(3):
            world.bluez.connect(f"{HCI0}/dev_0{number}")
        for number in range(2):
            world.peripheral.on_write(f"{HCI0}/dev_0{number}", b"?", 185)
        with pytest.raises(RefusedError):
            world.peripheral.on_write(f"{HCI0}/dev_02", b"?", 185)
        await asyncio.sleep(3)
        assert world.bluez.disconnected == [f"{HCI0}/dev_02"]
        assert world.reporter._counters["refused_busy"] == 1

    in_world(scenario, is_shared=True)
