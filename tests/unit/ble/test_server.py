# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets a place on the relay's Bluetooth, and what others get (docs/ble.md sections 3 to 5)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest

from relay.ble.server import LONG_S, OPEN_TIMEOUT_S, RELAY_PLACES, REOPEN_S, SILENT_S, Server
from relay.bluetooth.gatt import INFO_UUID, NO_SLOT, RELAY_INFO_UUID, SLOT_UUID, SLOTS, TX_UUIDS, decode_info
from relay.bluetooth.l2cap import BluetoothAddress
from relay.bluetooth.slot_frames import CloseReason, Kind, decode_frame, encode_open
from relay.bluetooth.slots import Slot
from relay.bluetooth.stream import SlotStream
from relay.process.reports import Component, Reporter
from tests.unit.jumping import run

MTU = 185
PSM = 0x80


def device(number):
    return f"/org/bluez/hci0/dev_00_00_00_00_00_{number:02X}"


class World:
    """A server, a stand-in for `relay run` that sends back what it gets, and the notifications of each slot."""

    def __init__(self, tmp_path, max_clients=12):
        self.path = tmp_path / "link.sock"
        self.hung_up = []
        self.opened = []
        self.reporter = Reporter(Component.BLE)
        self.server = Server(
            max_clients=max_clients,
            socket_path=self.path,
            reporter=self.reporter,
            notify=self.notify,
            hang_up=self.hung_up.append,
        )
        self.server.is_open = True
        self.server.adapters["00:00:00:00:00:00"] = "hci0"
        self.notified = {slot: [] for slot in range(SLOTS)}
        self.centrals = {}
        self.preambles = []

    def notify(self, slot, values):
        self.notified[slot] += values
        for value in values:
            if slot in self.centrals:
                asyncio.get_running_loop().call_soon(self.centrals[slot].frame_received, value)

    def slot(self, number):
        return self.server.on_read(SLOT_UUID, device(number), MTU)[0]

    def info(self, number):
        return decode_info(self.server.on_read(INFO_UUID, device(number), MTU))

    def central(self, number, nonce=1):
        """The other end of a device's slot."""
        slot = self.slot(number)

        def transmit(frames):
            for frame in frames:
                asyncio.get_running_loop().call_soon(self.server.on_write, device(number), frame)

        self.centrals[slot] = SlotStream(Slot(is_central=True, nonce=nonce, frame_bytes=MTU - 3), transmit)
        self.centrals[slot].open()
        return self.centrals[slot]

    def relay_info(self, number):
        return decode_info(self.server.on_read(RELAY_INFO_UUID, device(number), MTU))

    def channel(self, number, monkeypatch):
        """The other end of a device's channel; the kernel's part of it is a socket of another family."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        own, peer = BluetoothAddress("00:00:00:00:00:00"), BluetoothAddress(f"00:00:00:00:00:{number:02X}")
        monkeypatch.setattr("relay.bluetooth.l2cap.own_address", lambda _: own)
        monkeypatch.setattr("relay.bluetooth.l2cap.peer_address", lambda _: peer)
        monkeypatch.setattr("relay.bluetooth.l2cap.send_mtu_bytes", lambda _: 512)
        monkeypatch.setattr("relay.bluetooth.l2cap.unsent_bytes", lambda _: 0)
        self.server._open_channel(theirs)
        ours.setblocking(False)
        self.opened.append(ours)
        return ours

    def counted(self):
        report = json.loads(self.reporter.line(1e9))
        self.reporter.connected()
        return {name: count for name, count in (report["counters"] | report["gauges"]).items() if count}

    async def relay_run(self, reader, writer):
        self.preambles.append(json.loads(await reader.readline()))
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(4096):
                writer.write(data)
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(str(self.path) + ".channels")
        listener.listen()
        async with await asyncio.start_unix_server(self.relay_run, self.path):
            task = asyncio.ensure_future(self.server.run(listener, PSM))
            await asyncio.sleep(0)
            try:
                yield self
            finally:
                self.server.close_all()
                for sock in self.opened:
                    sock.close()
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await asyncio.sleep(0.1)


def in_world(tmp_path, scenario, **options):
    async def main():
        async with World(tmp_path, **options).running() as world:
            await scenario(world)

    run(main())


async def echoed(central, data):
    await central.send(data)
    got = b""
    while len(got) < len(data):
        part = await central.receive()
        assert part
        got += part
    return got


def test_each_device_has_a_slot_and_a_stream_of_its_own(tmp_path):
    async def scenario(world):
        centrals = [world.central(number) for number in range(SLOTS)]
        blobs = [bytes([number]) * 5000 for number in range(SLOTS)]
        got = await asyncio.gather(*map(echoed, centrals, blobs))
        assert got == blobs
        assert [world.slot(number) for number in range(SLOTS)] == list(range(SLOTS))
        assert (
            world.preambles
            == [{"version": 1, "interface": "hci0", "initiator": False, "slow": True, "link": "ble"}] * SLOTS
        )
        assert world.info(99) == world.info(0)
        assert world.info(0).psm == PSM
        assert world.slot(99) == NO_SLOT
        assert world.counted() == {
            "clients_accepted": SLOTS,
            "slots_given": SLOTS,
            "refused_busy": 1,
            "clients": SLOTS,
            "slots_used": SLOTS,
        }

    in_world(tmp_path, scenario)


def test_who_comes_when_all_places_are_taken_hears_that_it_is_busy(tmp_path):
    async def scenario(world):
        assert (world.slot(0), world.slot(1), world.slot(2)) == (0, 1, NO_SLOT)
        assert world.info(2).is_busy
        assert not world.info(1).is_busy  # it has its place
        world.server.disconnected(device(0))
        assert not world.info(2).is_busy
        assert world.slot(2) == 0

    in_world(tmp_path, scenario, max_clients=2)


def test_nobody_is_served_while_relay_run_is_away(tmp_path):
    async def scenario(world):
        central = world.central(0)
        assert await echoed(central, b"hello") == b"hello"
        world.server.close_all()
        assert await central.receive() == b""
        assert world.info(0).is_busy
        assert world.slot(0) == NO_SLOT

    in_world(tmp_path, scenario)


def test_a_slot_without_an_open_is_given_to_somebody_else(tmp_path):
    async def scenario(world):
        assert world.slot(0) == 0
        await asyncio.sleep(OPEN_TIMEOUT_S - 0.1)
        assert world.slot(1) == 1
        await asyncio.sleep(0.2)
        assert world.slot(2) == 0
        assert world.counted()["slot_unused"] == 1

    in_world(tmp_path, scenario)


def test_a_slot_serves_one_stream_after_the_other(tmp_path):
    async def scenario(world):
        for nonce in range(3):
            central = world.central(0, nonce=nonce)
            assert await echoed(central, b"hello") == b"hello"
            await central.finish()
            await asyncio.sleep(REOPEN_S)
        await asyncio.sleep(OPEN_TIMEOUT_S)
        assert "slots_used" not in world.counted()
        assert "slot_unused" not in world.counted()
        assert len(world.preambles) == 3

    in_world(tmp_path, scenario)


def test_a_central_that_lost_its_memory_begins_anew(tmp_path):
    async def scenario(world):
        assert await echoed(world.central(0, nonce=1), b"hello") == b"hello"
        await asyncio.sleep(REOPEN_S)
        again = world.central(0, nonce=2)
        assert await echoed(again, b"again") == b"again"
        await asyncio.sleep(1)
        assert await echoed(again, b"still") == b"still"

    in_world(tmp_path, scenario)


def test_floods_of_frames_cost_no_streams(tmp_path):
    async def scenario(world):
        world.server.on_write(device(0), encode_open(1, 0, 24))
        assert world.slot(0) == 0
        for value in (b"", b"\xff" * 100, b"\0\0\0data"):
            world.server.on_write(device(0), value)
        for nonce in range(200):
            world.server.on_write(device(0), encode_open(nonce, 0, 24))
        world.server.on_writes_dropped(7)
        await asyncio.sleep(0.1)
        assert len(world.preambles) == 1
        counted = world.counted()
        assert counted["frames_dropped_no_slot"] == 1
        assert counted["frames_dropped_malformed"] == 2
        assert counted["slot_protocol"] == 1 + 199
        assert counted["frames_dropped_beyond_window"] == 7
        # What is sent in return is no more than what came.
        assert len(world.notified[0]) == 1

    in_world(tmp_path, scenario)


def test_a_device_that_leaves_frees_its_slot_and_ends_its_stream(tmp_path):
    async def scenario(world):
        central = world.central(0)
        assert await echoed(central, b"hello") == b"hello"
        world.server.disconnected(device(0))
        assert not world.server.uses(device(0))
        await asyncio.sleep(0.1)
        assert central.ended is CloseReason.END
        assert "clients" not in world.counted()
        world.server.disconnected(device(0))

    in_world(tmp_path, scenario)


def test_without_relay_run_a_stream_ends_at_once(tmp_path):
    async def main():
        world = World(tmp_path)
        async with world.running():
            world.path.unlink()
            central = world.central(0)
            assert await central.receive() == b""
            assert world.counted()["relay_unreachable"] == 1

    run(main())


def test_only_info_and_slot_are_read(tmp_path):
    async def scenario(world):
        with pytest.raises(ValueError, match=TX_UUIDS[0]):
            world.server.on_read(TX_UUIDS[0], device(0), MTU)

    in_world(tmp_path, scenario)


def test_what_goes_on_after_the_end_is_told_so(tmp_path):
    async def scenario(world):
        central = world.central(0)
        assert await echoed(central, b"hello") == b"hello"
        await central.finish()
        await asyncio.sleep(0.1)
        world.notified[0].clear()
        world.server.on_write(device(0), b"\0\1\0data")
        assert [decode_frame(value).kind for value in world.notified[0]] == [Kind.CLOSE]

    in_world(tmp_path, scenario)


# -- when all places are taken ----------------------------------------------


def is_closed(channel):
    try:
        return channel.recv(1) == b""
    except BlockingIOError:
        return False


def test_whoever_is_silent_for_longest_gives_way_and_does_not_come_back_on_that_connection(tmp_path, monkeypatch):
    """Twelve silent sessions held all places for ever."""

    async def scenario(world):
        silent = world.channel(0, monkeypatch)
        await asyncio.sleep(1)
        central = world.central(1)
        assert await echoed(central, b"hello") == b"hello"
        await asyncio.sleep(SILENT_S - 2)
        assert world.info(2).is_busy
        assert world.slot(2) == NO_SLOT
        await asyncio.sleep(1.1)
        assert not world.info(2).is_busy
        assert not is_closed(silent), "nobody came yet"
        assert world.slot(2) != NO_SLOT
        await asyncio.sleep(0.1)
        assert is_closed(silent)
        assert world.hung_up == [device(0)]
        assert await echoed(central, b"still") == b"still"
        # It has to connect anew, which takes it longer than others.
        await asyncio.sleep(SILENT_S)
        assert world.info(0).is_busy
        assert is_closed(world.channel(0, monkeypatch))
        assert world.slot(0) == NO_SLOT
        world.server.disconnected(device(0))
        assert not world.info(0).is_busy
        assert world.counted()["gave_way"] == 1

    in_world(tmp_path, scenario, max_clients=2)


def test_slots_are_given_to_others_as_places_are(tmp_path):
    async def scenario(world):
        for number in range(SLOTS):
            await echoed(world.central(number), b"hello")
        await asyncio.sleep(SILENT_S)
        # There are places, but no slots.
        assert world.slot(20) == 0
        assert world.hung_up == [device(0)]

    in_world(tmp_path, scenario)


def test_whoever_talks_all_the_time_gives_way_after_long(tmp_path):
    async def scenario(world):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        nonce = 0
        while loop.time() < began_s + LONG_S - 6:
            # A stream of its own each time changes nothing.
            nonce += 1
            central = world.central(0, nonce=nonce)
            assert await echoed(central, bytes(200)) == bytes(200)
            assert world.info(1).is_busy
            await central.finish()
            await asyncio.sleep(4)
        assert world.info(1).is_busy
        await asyncio.sleep(7)
        assert not world.info(1).is_busy
        assert world.slot(1) != NO_SLOT
        assert world.hung_up == [device(0)]

    in_world(tmp_path, scenario, max_clients=1)


def test_a_visit_that_goes_on_is_not_cut_short(tmp_path, monkeypatch):
    async def scenario(world):
        fetching = world.channel(0, monkeypatch)
        for second in range(int(LONG_S) - 10):
            fetching.send(bytes(100))
            await asyncio.sleep(1)
            with contextlib.suppress(BlockingIOError):
                fetching.recv(4096)
            assert second < 2 or not world.server._visitors[device(0)].heard_s < second - 5
            assert world.info(1).is_busy

    in_world(tmp_path, scenario, max_clients=1)


def test_phones_leave_the_places_of_relays_alone_and_relays_those_of_phones(tmp_path, monkeypatch):
    async def scenario(world):
        phones = [world.channel(number, monkeypatch) for number in range(2)]
        assert world.info(9).is_busy
        for number in range(10, 10 + RELAY_PLACES):
            info = world.relay_info(number)
            assert (info.is_busy, info.psm, info.slots) == (False, PSM, 0)
            world.channel(number, monkeypatch)
        assert world.relay_info(20).is_busy
        assert is_closed(world.channel(20, monkeypatch))
        assert world.slot(20) == NO_SLOT
        assert world.info(9).is_busy
        assert not any(map(is_closed, phones))
        # Who is in as a phone is no relay by reading that.
        world.relay_info(0)
        world.server.disconnected(device(10))
        assert not world.relay_info(21).is_busy
        assert world.info(9).is_busy
        # Relays give way among themselves.
        world.channel(21, monkeypatch)
        assert world.relay_info(22).is_busy
        await asyncio.sleep(SILENT_S)
        assert not world.relay_info(22).is_busy
        world.channel(22, monkeypatch)
        assert world.hung_up == [device(11)]

    in_world(tmp_path, scenario, max_clients=2)


def test_a_slot_alone_is_no_stream(tmp_path):
    async def scenario(world):
        assert world.slot(0) == 0
        assert world.server.uses(device(0))
        assert not world.server.carries(device(0))
        central = world.central(0)
        await echoed(central, b"hello")
        assert world.server.carries(device(0))
        await central.finish()
        await asyncio.sleep(0.1)
        assert not world.server.carries(device(0))

    in_world(tmp_path, scenario)


def test_nothing_is_remembered_of_who_has_gone(tmp_path, monkeypatch):
    async def scenario(world):
        for number in range(6):
            world.relay_info(number)
            world.channel(number, monkeypatch)
        await asyncio.sleep(SILENT_S)
        world.relay_info(7)
        world.channel(7, monkeypatch)
        for number in range(9):
            world.server.disconnected(device(number))
        for sock in world.opened:
            sock.close()
        await asyncio.sleep(1)
        server = world.server
        assert not any((server._visitors, server._places, server._channels))

    in_world(tmp_path, scenario)
