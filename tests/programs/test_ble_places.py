# SPDX-License-Identifier: GPL-2.0-or-later
"""All places of Bluetooth are taken by who says nothing: the server of `relay ble`, over slots, and the real engine."""

import asyncio
import contextlib
import random
import socket

import pytest

from relay.ble import server as ble_server
from relay.ble.server import Server
from relay.bluetooth.gatt import NO_SLOT, SLOT_UUID
from relay.bluetooth.slots import Slot
from relay.bluetooth.stream import SlotStream
from relay.core.messages import Hello, Role
from relay.core.session import Session, State
from relay.process.report_connection import report_forever
from relay.process.reports import Component, Reporter
from tests.heard import Heard
from tests.programs.running import envelope, running
from tests.waiting import until_true

MTU = 185
PLACES = 3
#: In place of ten seconds.
SILENT_S = 1.0
PATIENCE_S = 10


class Guest(Heard):
    """A phone in a slot of a GATT server, without the air between."""

    def __init__(self, server, number, slot):
        self.device = f"/org/bluez/hci0/dev_00_00_00_00_00_{number:02X}"
        self.session = Session(
            initiator=True, hello=Hello(role=Role.CLIENT), random_bytes=random.Random(number).randbytes, now=0.0
        )
        self.events = []

        def transmit(frames):
            for frame in frames:
                asyncio.get_running_loop().call_soon(server.on_write, self.device, frame)

        self.stream = SlotStream(Slot(is_central=True, nonce=number, frame_bytes=MTU - 3), transmit)
        slot.append(self.stream)
        self.stream.open()

    async def until(self, holds):
        """Say what there is to be said, and listen, until something holds; False at the stream's end."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while data := self.session.data_to_send():
                    await self.stream.send(data)
                if holds():
                    return True
                if not (data := await self.stream.receive()):
                    return False
                self.events += self.session.receive_data(data, 0.0)

    async def put(self, one):
        """Put an envelope; whether it was acknowledged."""
        before = len(self.acknowledged)
        self.session.put(one)
        return await self.until(lambda: len(self.acknowledged) > before)


class Air:
    """The server, its link to `relay run`, and who is in which slot."""

    def __init__(self, path):
        self.reporter = Reporter(Component.BLE)
        self.hung_up = []
        self.slots = {}
        self.server = Server(
            max_clients=PLACES,
            socket_path=path,
            reporter=self.reporter,
            notify=self.notify,
            hang_up=self.hung_up.append,
        )
        self.server.is_open = True

    def notify(self, slot, values):
        for value in values:
            asyncio.get_running_loop().call_soon(self.slots[slot][-1].frame_received, value)

    async def come(self, number):
        """A phone that takes a place and shakes hands; None where there is none."""
        slot = self.server.on_read(SLOT_UUID, f"/org/bluez/hci0/dev_00_00_00_00_00_{number:02X}", MTU)[0]
        if slot == NO_SLOT:
            return None
        guest = Guest(self.server, number, self.slots.setdefault(slot, []))
        assert await guest.until(lambda: guest.session.state is State.OPEN)
        return guest


@contextlib.asynccontextmanager
async def air(path):
    """A server that runs."""
    made = Air(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)
    listener.bind(f"{path}.channels")
    listener.listen()
    task = asyncio.ensure_future(made.server.run(listener, 0x80))
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        made.server.close_all()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def clients(status):
    return sum(link.clients for link in status.links)


@pytest.fixture
def _hurried(monkeypatch):
    monkeypatch.setattr(ble_server, "SILENT_S", SILENT_S)


@pytest.mark.usefixtures("_hurried")
def test_who_says_nothing_gives_way_to_who_comes_and_it_is_counted(tmp_path):
    async def run():
        rng = random.Random(2)
        async with running(tmp_path) as (engine, path), air(path) as world:
            silent = [await world.come(number) for number in range(PLACES - 1)]
            busy = await world.come(10)
            assert await world.come(11) is None, "there is no place, and nobody has been silent for long"
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            while loop.time() < began_s + 1.1 * SILENT_S:
                assert await busy.put(envelope(rng))
                await asyncio.sleep(SILENT_S / 8)
            for number in range(PLACES - 1):
                newcomer = await world.come(20 + number)
                assert newcomer is not None
                assert await newcomer.put(envelope(rng))
                assert await busy.put(envelope(rng))
            assert world.hung_up == [guest.device for guest in silent]
            for guest in silent:
                assert not await guest.until(lambda: False), "its stream has ended"
            # Those that talk keep their places.
            assert await world.come(30) is None
            await until_true("the sessions have ended", lambda: clients(engine.status()) == PLACES, PATIENCE_S)
            reporting = asyncio.ensure_future(report_forever(path, world.reporter, random=random.random))
            await until_true("it is reported", lambda: engine.status().components, PATIENCE_S)
            [ble] = engine.status().components
            assert (ble.counters["gave_way"], ble.gauges["clients"]) == (PLACES - 1, PLACES)
            reporting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reporting

    asyncio.run(run())
