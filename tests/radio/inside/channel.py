# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: bytes over an LE channel, with nothing of ours but the socket. See test_air.py.

``listen`` advertises, and says what came: ``end BYTES SHA256``, or ``lost``. ``send N SEED`` looks for that, and sends
N bytes: ``sent SECONDS``, or ``lost``. ``hold`` connects, and says ``open`` and then ``lost``.
"""

import asyncio
import contextlib
import hashlib
import random
import sys
import threading
import time

import dbus
import dbus.service
from bluezero import adapter, advertisement, constants
from gi.repository import GLib

from relay.bluetooth import l2cap

SERVICE = "ab07ffff-cc92-439d-ad42-3677ca4805bf"
SERVICE_DATA = "fdaa"
SHOW_AGAIN_MS = 1000
PSM = 0x80
PIECE_BYTES = 500


def say(*words):
    print(*words, flush=True)


class Shown(advertisement.Advertisement):
    """bluezero's, and a signal that has bluetoothd enable it again: the controller stops at each connection."""

    @dbus.service.signal(constants.DBUS_PROP_IFACE, signature="sa{sv}as")
    def PropertiesChanged(self, interface, changed, invalidated):  # noqa: N802 - D-Bus's name
        pass

    def show_again(self):
        data = dbus.Dictionary({SERVICE_DATA: dbus.Array(random.randbytes(4), signature="y")}, signature="sv")
        self.PropertiesChanged(constants.LE_ADVERTISEMENT_IFACE, {"ServiceData": data}, [])
        return True


def listen():
    manager = advertisement.AdvertisingManager(next(iter(adapter.Adapter.available())).address)
    shown = Shown(1, "peripheral")
    shown.service_UUIDs = [SERVICE]
    manager.register_advertisement(shown, {})
    GLib.timeout_add(SHOW_AGAIN_MS, shown.show_again)
    threading.Thread(target=lambda: asyncio.run(accept()), daemon=True).start()
    GLib.MainLoop().run()


async def accept():
    loop = asyncio.get_running_loop()
    listening = l2cap.listen(psm=PSM)
    say("listening")
    async with asyncio.TaskGroup() as group:
        while True:
            sock, _ = await loop.sock_accept(listening)
            group.create_task(receive(sock))


async def receive(sock):
    loop = asyncio.get_running_loop()
    total, digest = 0, hashlib.sha256()
    try:
        expected = int.from_bytes(await loop.sock_recv(sock, 65536))
        while data := await loop.sock_recv(sock, 65536):
            total += len(data)
            digest.update(data)
            if total == expected:
                await loop.sock_sendall(sock, b"all")
    except OSError:
        say("lost", total)
    else:
        say("end", total, digest.hexdigest())
    sock.close()


def find():
    bus = dbus.SystemBus()
    own = dbus.Interface(bus.get_object("org.bluez", "/org/bluez/hci0"), "org.bluez.Adapter1")
    objects = dbus.Interface(bus.get_object("org.bluez", "/"), "org.freedesktop.DBus.ObjectManager")
    for known in [path for path, kinds in objects.GetManagedObjects().items() if "org.bluez.Device1" in kinds]:
        own.RemoveDevice(known)
    own.SetDiscoveryFilter({"Transport": "le"})
    own.StartDiscovery()
    while True:
        for kinds in objects.GetManagedObjects().values():
            device = kinds.get("org.bluez.Device1", {})
            if SERVICE in device.get("UUIDs", []):
                own.StopDiscovery()
                say("found")
                return l2cap.parse_address(str(device["Address"]), str(device["AddressType"]))
        time.sleep(0.05)


async def dial():
    while True:
        try:
            sock = await l2cap.connect(l2cap.ANY, find(), PSM)
        except OSError as error:
            # Somebody else was faster.
            say("again", error)
        else:
            say("open")
            return sock


async def send(total, seed):
    loop = asyncio.get_running_loop()
    sock = await dial()
    content = random.Random(seed).randbytes(total)
    began = time.monotonic()
    try:
        await loop.sock_sendall(sock, total.to_bytes(8))
        for start in range(0, total, PIECE_BYTES):
            await loop.sock_sendall(sock, content[start : start + PIECE_BYTES])
        # Linux may lose what a slow receiver has not read when the channel is closed.
        if await loop.sock_recv(sock, 100) != b"all":
            raise ConnectionResetError
        say("sent", round(time.monotonic() - began, 2))
    except OSError:
        say("lost")
    sock.close()


async def hold():
    sock = await dial()
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_recv(sock, 100)
    say("lost")


if sys.argv[1] == "listen":
    listen()
elif sys.argv[1] == "send":
    asyncio.run(send(int(sys.argv[2]), int(sys.argv[3])))
else:
    asyncio.run(hold())
