# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: somebody who means ill to a relay on Bluetooth. See test_ble_hostile.py.

``attributes FILE`` (as a program of BlueZ, on the first adapter) subscribes to everybody's notifications and keeps
them in FILE, writes garbage to everything, and opens more channels than it may. ``radio`` (as the driver of the second
adapter, without BlueZ) passes for ten relays a second that never answer, half of them new ones and half of them some
that stay, and floods the relay with connections of ever new addresses, some of which open a channel and stall. Both
go on until they are ended, and print what they have done.
"""

import asyncio
import contextlib
import ctypes
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path

from dbus_next.signature import Variant

from relay.bluetooth import gatt, l2cap, slot_frames
from relay.bluetooth.bluez import CHARACTERISTIC, Bluez, BluezError, Changed, adapters, characteristics, devices
from relay.bluetooth.dial import DialError, dial

SCAN_S = 10.0
CHANNELS = 5
BURST = 300
OPENS = 50
#: By which the one half leaves the other alone.
OUR_SALT = b"bad"


class Shown:
    """Counts, printed at most once a second."""

    def __init__(self):
        self._counts = Counter()
        self._shown_s = 0.0

    def add(self, what, count=1):
        self._counts[what] += count
        if time.monotonic() - self._shown_s >= 1:
            self._shown_s = time.monotonic()
            print(dict(self._counts), flush=True)


# -- by BlueZ -----------------------------------------------------------------


async def attributes(file):
    shown = Shown()
    async with await Bluez.open() as bluez:
        adapter = next(found for found in adapters(await bluez.objects()) if found.name == "hci0")
        own = l2cap.parse_address(adapter.address, adapter.address_type)
        while True:
            try:
                device = await find(bluez, adapter)
                async with dial(bluez, adapter.path, own, device) as relay:
                    shown.add("visits")
                    table = characteristics(await bluez.objects(), device.path)
                    await visit(bluez, own, device, relay, table, shown, file)
            except (DialError, BluezError, OSError) as error:
                shown.add(f"ended by {type(error).__name__} ({error})")


async def find(bluez, adapter):
    """Return a relay that is none of ours."""
    await bluez.start_discovery(adapter.path, gatt.SERVICE_UUID)
    try:
        async with asyncio.timeout(SCAN_S):
            while True:
                for found in devices(await bluez.objects(), adapter.path):
                    beacon = found.manufacturer_data.get(gatt.COMPANY, OUR_SALT)
                    if found.rssi_dbm is not None and not beacon.startswith(OUR_SALT):
                        return found
                await asyncio.sleep(0.2)
    finally:
        await bluez.stop_discovery(adapter.path)


async def visit(bluez, own, device, relay, table, shown, file):
    peer = l2cap.parse_address(device.address, device.address_type)
    rx = table[gatt.RX_UUID][0]

    def look(event):
        if isinstance(event, Changed) and isinstance(value := event.properties.get("Value"), bytes):
            shown.add("notifications heard")
            with file.open("ab") as log:
                log.write(value)

    with bluez.listening(look):
        for uuid in gatt.TX_UUIDS:
            await bluez.start_notify(table[uuid][0])
        # Into whatever stream somebody has in a slot: all kinds of frames, and garbage.
        await burst(bluez, rx, shown, "writes without a slot", forge)
        await write_everywhere(bluez, table, shown)
        psm = gatt.decode_info(await bluez.read(table[gatt.INFO_UUID][0])).psm
        sockets = []
        try:
            for _ in range(CHANNELS):
                with contextlib.suppress(OSError):
                    async with asyncio.timeout(5):
                        sockets.append(await l2cap.connect(own, peer, psm))
                        shown.add("channels")
            # With a channel there is no slot; it is stalled until the relay has enough.
            while (await bluez.read(table[gatt.SLOT_UUID][0]))[0] == gatt.NO_SLOT:
                shown.add("no slot")
                await asyncio.sleep(1)
        finally:
            for sock in sockets:
                sock.close()
        shown.add("slots")
        await burst(bluez, rx, shown, "garbage into a slot", lambda: random.randbytes(random.randint(0, 200)))
        for nonce in range(OPENS):
            await bluez.write_command(rx, slot_frames.encode_open(nonce, 0, 64))
            shown.add("opens")
        await burst(bluez, rx, shown, "frames out of order", lambda: bytes((0, random.randrange(256), 0)) + bytes(200))
        # ... and then nothing, for ever.
        while not relay.is_lost:
            shown.add("seconds stalled in a slot")
            await asyncio.sleep(1)


def forge():
    """Return a frame as if somebody's stream went on or ended; or none at all."""
    numbers = random.randrange(256), random.randrange(256)
    match random.randrange(4):
        case 0:
            return bytes((slot_frames.Kind.DATA, *numbers)) + random.randbytes(100)
        case 1:
            return bytes((slot_frames.Kind.ACK, *numbers))
        case 2:
            return slot_frames.encode_close(numbers[0], slot_frames.CloseReason.END)
    return random.randbytes(random.randint(0, 300))


async def burst(bluez, path, shown, what, make):
    for _ in range(BURST):
        await bluez.write_command(path, make())
        shown.add(what)


async def write_everywhere(bluez, table, shown):
    for path, _ in table.values():
        for kind in ("request", "command"):
            for size in (0, 1, 20, 600):
                options = {"type": Variant("s", kind)}
                try:
                    await bluez.call(path, CHARACTERISTIC, "WriteValue", "aya{sv}", random.randbytes(size), options)
                    shown.add("writes taken")
                except BluezError:
                    shown.add("writes refused")


# -- by a radio of our own (Core Specification 4.E.7) ------------------------------

BTPROTO_HCI, HCI_CHANNEL_USER, DEVICE = 1, 1, 1
COMMAND, ACL, EVENT = 1, 2, 4
RESET, DISCONNECT, EVENT_MASK, LE_EVENT_MASK, LE_RANDOM_ADDRESS = 0x0C03, 0x0406, 0x0C01, 0x2001, 0x2005
SET_ADDRESS, SET_PARAMETERS, SET_DATA, ENABLE = 0x2035, 0x2036, 0x2037, 0x2039
SCAN_PARAMETERS, SCAN_ENABLE, CREATE_CONNECTION, CANCEL_CONNECTION = 0x2041, 0x2042, 0x2043, 0x200E
DISCONNECTED, COMMAND_COMPLETE, COMMAND_STATUS, LE_META, CONNECTED, CONNECTED_ENHANCED, REPORT = (
    0x05,
    0x0E,
    0x0F,
    0x3E,
    0x01,
    0x0A,
    0x0D,
)
CENTRAL = 0
#: To the relay's answer to a connection request; it has another address by then, or none.
DIAL_S = 5.0
#: How long a connection is stalled, at most.
STALL_S = 2.0
#: The first number that Linux gives, so most likely the relay's.
PSM_TRIED = 0x80
SERVICE = bytes.fromhex(gatt.SERVICE_UUID.replace("-", ""))[::-1]
#: Of 0.625 ms: the shortest there is.
ADVERTISING_INTERVAL = (32).to_bytes(3, "little")
#: Each relay is on the air for so long.
RELAY_S = 0.1
#: Those that stay.
RELAYS = 5


class Radio:
    """An adapter that nobody but us drives."""

    def __init__(self):
        self._sock = socket.socket(l2cap.AF_BLUETOOTH, socket.SOCK_RAW, BTPROTO_HCI)
        address = struct.pack("<HHH", l2cap.AF_BLUETOOTH, DEVICE, HCI_CHANNEL_USER)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.bind(self._sock.fileno(), address, len(address)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._shown = Shown()
        self._staying = [(random_address(), random.randbytes(3)) for _ in range(RELAYS)]
        self._passed_for = 0
        self._next_relay_s = 0.0
        self._relay = None
        self._link = None
        #: Until when to dial, or to stay connected.
        self._until_s = 0.0

    def run(self):
        self._order(RESET)
        self._order(EVENT_MASK, "Q", (1 << 64) - 1)
        self._order(LE_EVENT_MASK, "Q", (1 << 64) - 1)
        self._order(SCAN_PARAMETERS, "BBBBHH", 1, 0, 1, 0, 0x60, 0x60)
        self._order(SCAN_ENABLE, "BBHH", 1, 0, 0, 0)
        while True:
            if time.monotonic() >= self._next_relay_s:
                self._next_relay_s = time.monotonic() + RELAY_S
                self._advertise()
            if select.select([self._sock], [], [], RELAY_S / 4)[0]:
                packet = self._sock.recv(2048)
                # Nothing that anybody says on a connection is answered.
                if packet[0] == EVENT:
                    self._handle(packet[1], packet[3:])
            self._attack(time.monotonic())

    def _order(self, opcode, layout="", *values):
        parameters = struct.pack("<" + layout, *values)
        self._sock.send(struct.pack("<BHB", COMMAND, opcode, len(parameters)) + parameters)

    def _advertise(self):
        """Be another relay: by turns one that was there before, and one with an address and news of its own."""
        self._passed_for += 1
        self._shown.add("relays")
        fresh = random_address(), random.randbytes(3)
        address, digest = self._staying[self._passed_for // 2 % RELAYS] if self._passed_for % 2 else fresh
        self._order(ENABLE, "BBBHB", 0, 1, 0, 0, 0)
        self._order(
            SET_PARAMETERS, "BH3s3sBBB6sBBBBBBB",
            0, 0x13, ADVERTISING_INTERVAL, ADVERTISING_INTERVAL, 7, 1, 0, bytes(6), 0, 0x7F, 1, 0, 1, 0, 0,
        )  # fmt: skip
        self._order(SET_ADDRESS, "B6s", 0, address)
        data = b"\x02\x01\x06\x11\x07" + SERVICE + struct.pack("<BBH", 9, 0xFF, gatt.COMPANY)
        data += OUR_SALT + digest
        self._order(SET_DATA, f"BBBB{len(data)}s", 0, 3, 1, len(data), data)
        self._order(ENABLE, "BBBHB", 1, 1, 0, 0, 0)

    def _handle(self, code, event):
        if code == DISCONNECTED and struct.unpack_from("<H", event, 1)[0] == self._link:
            self._link, self._until_s = None, 0.0
        elif (code == COMMAND_STATUS and event[0]) or (code == COMMAND_COMPLETE and event[3]):
            # Refused: dial whoever is heard next.
            self._relay, self._until_s = None, 0.0
        elif code == LE_META and event[0] == REPORT:
            self._heard(event[1:])
        elif code == LE_META and event[0] in (CONNECTED, CONNECTED_ENHANCED):
            status, handle, role = struct.unpack_from("<BHB", event, 1)
            if status:
                self._until_s = 0.0
            elif role == CENTRAL:
                self._connected(handle)
            else:
                self._shown.add("dialled by somebody")

    def _heard(self, reports):
        offset = 1
        for _ in range(reports[0]):
            kind, address, length = reports[offset + 2], reports[offset + 3 : offset + 9], reports[offset + 23]
            offset += 24 + length
            if SERVICE in reports[offset - length : offset]:
                self._relay = (kind, address)

    def _connected(self, handle):
        self._shown.add("connections")
        self._link = handle
        self._until_s = time.monotonic() + random.uniform(0, STALL_S)
        # A channel, and never a byte in it (Core Specification 3.A.4.22).
        request = struct.pack("<HHBBHHHHHH", 18, 5, 0x14, 1, 10, PSM_TRIED, 0x40, 512, 64, 10)
        self._sock.send(struct.pack("<BHH", ACL, handle, len(request)) + request)

    def _attack(self, now):
        if now < self._until_s:
            return
        if self._link is not None:
            self._until_s = now + DIAL_S
            self._order(DISCONNECT, "HB", self._link, 0x13)
        elif self._until_s:
            # Its address is another one now; what comes of this says the controller.
            self._relay, self._until_s = None, now + DIAL_S
            self._order(CANCEL_CONNECTION)
        elif self._relay is not None:
            self._until_s = now + DIAL_S
            self._order(LE_RANDOM_ADDRESS, "6s", random_address())
            self._order(CREATE_CONNECTION, "BBB6sBHHHHHHHH", 0, 1, *self._relay, 1, 0x60, 0x60, 24, 40, 0, 42, 0, 0)


def random_address():
    """A resolvable private one, as phones have."""
    address = bytearray(random.randbytes(6))
    address[5] = address[5] & 0x3F | 0x40
    return bytes(address)


if sys.argv[1] == "attributes":
    asyncio.run(attributes(Path(sys.argv[2])))
else:
    Radio().run()
