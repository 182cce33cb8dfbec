# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: a phone with bitchat, written from the facts about its apps; see tests/unit/bitchat/phones.py.

bitchat_phone.py KIND NAME SOCKET [waits]   KIND: iphone or android

It dials whoever advertises bitchat's service (or waits to be dialled), announces itself there, and again every few
seconds, and answers to what it is asked on SOCKET, a line each: ``say TEXT``, ``sync``, ``state`` (JSON: what it has
shown and refused).
"""

import asyncio
import contextlib
import json
import sys
import time

from relay.bluetooth.bluez import Bluez, BluezError, Changed, adapters, characteristics, devices, is_lost
from relay.bluetooth.local import LocalService
from tests.unit.bitchat.phones import Android, Iphone

SERVICE = "f47b5e2d-4a9e-4c5a-9b3f-8e1d2c3a4b5c"
CHARACTERISTIC = "a1b2c3d4-e5f6-4a5b-8c9d-0e1f2a3b4c5d"
ANNOUNCE_S = 4.0
CONNECT_S = 30.0


class OnTheAir:
    def __init__(self, phone):
        self.phone = phone
        self.began = time.monotonic()
        self.bluez = None
        self.path = None
        self.socket = None
        self.links = 0

    @property
    def now(self):
        return time.monotonic() - self.began

    # -- its link -----------------------------------------------------------------

    async def run(self):
        async with await Bluez.open() as self.bluez:
            adapter = next(found for found in adapters(await self.bluez.objects()) if found.name == "hci0")
            while True:
                try:
                    await self.visit(adapter, await self.find(adapter))
                except BluezError as error:
                    print(f"lost: {error}", flush=True)
                    await asyncio.sleep(1)

    async def find(self, adapter):
        await self.bluez.start_discovery(adapter.path, SERVICE)
        try:
            while True:
                for found in devices(await self.bluez.objects(), adapter.path):
                    if found.rssi_dbm is not None and SERVICE in found.uuids:
                        return found
                await asyncio.sleep(0.2)
        finally:
            await self.bluez.stop_discovery(adapter.path)

    async def visit(self, adapter, device):
        lost = asyncio.get_running_loop().create_future()

        def look(event):
            if is_lost(event, device.path) and not lost.done():
                lost.set_result(None)
            elif isinstance(event, Changed) and isinstance(value := event.properties.get("Value"), bytes):
                self.heard(value)

        with self.bluez.listening(look):
            try:
                await self.bluez.connect(device.path, timeout_s=CONNECT_S)
                path, _ = characteristics(await self.bluez.objects(), device.path)[CHARACTERISTIC]
                await self.bluez.start_notify(path)
                self.path = path
                self.links += 1
                print("linked", flush=True)
                while not lost.done():
                    await self.send(self.phone.announce(self.now))
                    await asyncio.wait({lost}, timeout=ANNOUNCE_S)
            finally:
                self.path = None
                self.phone.linked_to = None
                print("unlinked", flush=True)
                with contextlib.suppress(BluezError):
                    await self.bluez.forget(adapter.path, device.path)

    async def send(self, frame):
        if self.path is not None:
            await self.bluez.write_command(self.path, frame)
        if self.socket is not None:
            self.socket.send(frame)

    # -- as one that waits to be dialled ------------------------------------------

    async def wait(self):
        async with await Bluez.open(with_descriptors=True) as self.bluez:
            adapter = next(found for found in adapters(await self.bluez.objects()) if found.name == "hci0")
            service = LocalService(self.bluez, self, service_uuid=SERVICE, characteristic_uuid=CHARACTERISTIC)
            with service.on_the_bus():
                await service.offer(adapter.path)
                await service.advertise(adapter.path)
                print("waiting", flush=True)
                while True:
                    await asyncio.sleep(ANNOUNCE_S)
                    await self.send(self.phone.announce(self.now))

    def on_write(self, _device, value, _mtu_bytes):
        self.heard(value)

    def on_subscribed(self, _device, ours, _mtu_bytes):
        self.socket = ours
        self.links += 1

    def heard(self, value):
        self.phone.hear(value, self.now)

    # -- what the test asks -------------------------------------------------------

    async def asked(self, reader, writer):
        verb, _, rest = (await reader.readline()).decode().rstrip("\n").partition(" ")
        answer = {"ok": self.path is not None or self.socket is not None}
        if verb == "say":
            await self.send(self.phone.say(rest, self.now).encode())
        elif verb == "sync":
            await self.send(self.phone.sync(self.now))
        else:
            answer |= {
                "links": self.links,
                "shown": self.phone.shown,
                "names": {peer.hex(): name for peer, name in self.phone.names.items()},
                "refused": [reason for reason, _ in self.phone.refused],
                "strangers": len(self.phone.strangers),
                "linked_to": self.phone.linked_to.hex() if self.phone.linked_to else None,
            }
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()


async def main(kind, name, path, how="dials"):
    phone = {"iphone": Iphone, "android": Android}[kind](name, int(time.time() * 1000))
    air = OnTheAir(phone)
    server = await asyncio.start_unix_server(air.asked, path)
    async with server:
        await (air.wait() if how == "waits" else air.run())


asyncio.run(main(*sys.argv[1:]))
