# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: a phone with bitchat, written from the facts about its apps; see tests/unit/bitchat/phones.py.

bitchat_phone.py KIND NAME SOCKET ADAPTER [waits]   KIND: iphone or android

It dials whoever advertises bitchat's service (or waits to be dialled), announces itself, asks and passes on as its app
does, and answers to what it is asked on SOCKET, a line each:

say TEXT           to all; the answer has the time ("at_s": monotonic, the same for all phones of a guest)
tell NAME TEXT     to one, in a Noise session
letter NAME TEXT   to one who is away: sealed, and given to the relay as to any courier
away, back SECONDS its radio is off, and on again; its clock has gone on by so much
flood SECONDS      it sends whatever it can, as fast as it can
talk RATE SECONDS  it says so many short things a second to all
crowd N SECONDS    so many others, further away, announce themselves through it as phones do
state              JSON: what it has shown and refused
"""

import asyncio
import contextlib
import json
import random
import sys
import time

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from relay.bitchat.announce import Identity, decode_announce
from relay.bitchat.courier import DAY_MS, Letter, recipient_tag
from relay.bitchat.gcs import encode_filter
from relay.bitchat.packet import PacketType, make_packet
from relay.bitchat.sync import encode_request_sync
from relay.bluetooth.bluez import Bluez, BluezError, Changed, adapters, characteristics, devices, is_lost
from relay.bluetooth.local import LocalService
from tests.unit.bitchat.phones import ONLY, Android, Iphone

SERVICE = "f47b5e2d-4a9e-4c5a-9b3f-8e1d2c3a4b5c"
CHARACTERISTIC = "a1b2c3d4-e5f6-4a5b-8c9d-0e1f2a3b4c5d"
CONNECT_S = 30.0
LISTEN_S = 10.0
TURN_S = 0.05
#: Phones announce themselves as often.
EVERY_S = 15.0
#: Four times what a relay takes of a phone.
FLOOD_PER_S = 160


class OnTheAir:
    def __init__(self, phone, seed, adapter):
        self.phone = phone
        self.seed = seed
        self.adapter = adapter
        self.began = time.monotonic()
        self.here = asyncio.Event()
        self.here.set()
        self.bluez = None
        self.path = None
        self.socket = None
        self.lost = None
        self.links = 0
        self.shown_at = {}
        self.opened = []
        self.working = None
        self.flooded = 0

    @property
    def now(self):
        return time.monotonic() - self.began

    # -- its link -----------------------------------------------------------------

    async def run(self):
        async with await Bluez.open() as self.bluez:
            adapter = next(found for found in adapters(await self.bluez.objects()) if found.name == self.adapter)
            while True:
                await self.here.wait()
                try:
                    await self.visit(adapter, await self.find(adapter))
                except BluezError as error:
                    print(f"lost: {error}", flush=True)
                await asyncio.sleep(1)

    async def find(self, adapter):
        """Listen, again and again: on a busy machine bluetoothd now and then does not begin, or end, to listen."""
        while True:
            await self.bluez.start_discovery(adapter.path, SERVICE)
            try:
                ended = time.monotonic() + LISTEN_S
                while time.monotonic() < ended:
                    for found in devices(await self.bluez.objects(), adapter.path):
                        if found.rssi_dbm is not None and SERVICE in found.uuids:
                            return found
                    await asyncio.sleep(0.2)
            finally:
                with contextlib.suppress(BluezError):
                    await self.bluez.stop_discovery(adapter.path)

    async def visit(self, adapter, device):
        self.lost = asyncio.get_running_loop().create_future()

        def look(event):
            if is_lost(event, device.path):
                self.end()
            elif isinstance(event, Changed) and event.path.startswith(device.path + "/"):
                value = event.properties.get("Value")
                if isinstance(value, bytes):
                    self.heard(value)

        with self.bluez.listening(look):
            try:
                await self.bluez.connect(device.path, timeout_s=CONNECT_S)
                found = characteristics(await self.bluez.objects(), device.path)
                if CHARACTERISTIC not in found:
                    # Whoever it was is gone again, or starts just now.
                    return
                path, _ = found[CHARACTERISTIC]
                await self.bluez.start_notify(path)
                self.path = path
                self.linked()
                while not self.lost.done():
                    await self.send_due()
                    await asyncio.wait({self.lost}, timeout=TURN_S)
            finally:
                self.path = None
                self.phone.unlink()
                print("unlinked", flush=True)
                with contextlib.suppress(BluezError):
                    await self.bluez.forget(adapter.path, device.path)

    def linked(self):
        self.links += 1
        self.phone.link(ONLY, self.now)
        print("linked", flush=True)

    def end(self):
        if self.lost is not None and not self.lost.done():
            self.lost.set_result(None)

    async def send_due(self):
        for _, frame in self.phone.due(self.now):
            await self.send(frame)

    async def send(self, frame):
        if self.path is not None:
            await self.bluez.write_command(self.path, frame)
        if self.socket is not None:
            self.socket.send(frame)

    # -- as one that waits to be dialled ------------------------------------------

    async def wait(self):
        async with await Bluez.open(with_descriptors=True) as self.bluez:
            adapter = next(found for found in adapters(await self.bluez.objects()) if found.name == self.adapter)
            service = LocalService(self.bluez, self, service_uuid=SERVICE, characteristic_uuid=CHARACTERISTIC)
            with service.on_the_bus():
                await service.offer(adapter.path)
                await service.advertise(adapter.path)
                print("waiting", flush=True)
                while True:
                    await asyncio.sleep(TURN_S)
                    await self.send_due()

    def on_write(self, _device, value, _mtu_bytes):
        self.heard(value)

    def on_subscribed(self, _device, ours, _mtu_bytes):
        self.socket = ours
        self.linked()

    def heard(self, value):
        self.phone.hear(value, self.now)
        for text in self.phone.shown[len(self.shown_at) :]:
            self.shown_at[text] = time.monotonic()

    # -- what the test asks -------------------------------------------------------

    async def asked(self, reader, writer):
        verb, _, rest = (await reader.readline()).decode().rstrip("\n").partition(" ")
        answer = {"ok": self.path is not None or self.socket is not None, "at_s": time.monotonic()}
        if verb == "say":
            self.phone.broadcast(self.phone.say(rest, self.now))
            await self.send_due()
        elif verb == "tell":
            name, _, text = rest.partition(" ")
            self.phone.tell(self.known(name).sender, text, self.now)
        elif verb == "letter":
            self.give_letter(*rest.split(" ", 1))
        elif verb == "away":
            self.here.clear()
            self.end()
        elif verb == "back":
            self.phone.wall_ms += 1000 * int(rest)
            self.here.set()
        elif verb == "flood":
            self.working = asyncio.ensure_future(self.flood(float(rest)))
        elif verb == "talk":
            self.working = asyncio.ensure_future(self.talk(*map(float, rest.split())))
        elif verb == "crowd":
            self.working = asyncio.ensure_future(self.crowd(*map(float, rest.split())))
        else:
            answer |= self.state()
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    def known(self, name):
        return next(packet for packet in self.phone.accepted[::-1] if self.says_to_be(packet, name))

    @staticmethod
    def says_to_be(packet, name):
        return packet.type == PacketType.ANNOUNCE and decode_announce(packet.payload).nickname == name

    def give_letter(self, name, text):
        key = decode_announce(self.known(name).payload).noise_key
        time_ms = self.phone.time_ms(self.now)
        letter = Letter(
            tag=recipient_tag(key, time_ms // DAY_MS),
            expiry_ms=time_ms + DAY_MS - 1000,
            ciphertext=SealedBox(PublicKey(key)).encrypt(text.encode()),
            copies=3,
        )
        packet = self.phone.packet(PacketType.COURIER, letter.encode(), self.now, recipient=self.phone.linked_to)
        self.phone.broadcast(self.phone.identity.sign(packet))

    def open_letters(self):
        box = SealedBox(PrivateKey(self.seed))
        for letter in self.phone.letters[:]:
            self.phone.letters.remove(letter)
            with contextlib.suppress(CryptoError):
                self.opened.append(box.decrypt(letter.ciphertext).decode())

    def state(self):
        self.open_letters()
        phone = self.phone
        return {
            "links": self.links,
            "shown": phone.shown,
            "shown_at": self.shown_at,
            "names": {peer.hex(): name for peer, name in phone.names.items()},
            "refused": [reason for reason, _ in phone.refused] + ["misled"] * len(phone.misled),
            "strangers": len(phone.strangers),
            "linked_to": phone.linked_to.hex() if phone.linked_to else None,
            "private": [[phone.names.get(peer), text] for peer, text in phone.private],
            "letters": self.opened,
            "marks": [phone.id.hex(), phone.identity.noise.public.hex(), phone.identity.signing_public.hex()],
            "flooded": self.flooded,
        }

    # -- as many ------------------------------------------------------------------

    async def talk(self, per_s, seconds):
        began = time.monotonic()
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
            await self.send(self.phone.say(f"{self.phone.name} {number}", self.now).encode())

    async def crowd(self, count, seconds):
        others = [Identity.generate(random.randbytes) for _ in range(int(count))]
        began = time.monotonic()
        for number in range(int(seconds * count / EVERY_S)):
            await asyncio.sleep(max(0.0, began + number * EVERY_S / count - time.monotonic()))
            announce = others[number % len(others)].announce("one of many", self.phone.time_ms(self.now))
            await self.send(announce.with_ttl(6).encode())

    # -- as one that means ill ----------------------------------------------------

    async def flood(self, seconds):
        """Noise packets to nobody, requests, pieces of nothing and identities, over and over."""
        ended, turn = time.monotonic() + seconds, 0
        while time.monotonic() < ended and self.path is not None:
            began = time.monotonic()
            turns = range(turn, turn := turn + int(FLOOD_PER_S * TURN_S))
            sent = await asyncio.gather(*(self.send(self.junk(one)) for one in turns), return_exceptions=True)
            self.flooded += sent.count(None)
            await asyncio.sleep(max(0.0, began + TURN_S - time.monotonic()))

    def junk(self, turn):
        other = {"sender": random.randbytes(8), "timestamp_ms": self.phone.time_ms(self.now) + turn, "ttl": 255}
        match turn % 8:
            case 0:
                someone = Identity.generate(random.randbytes)
                return someone.announce("x", other["timestamp_ms"]).with_ttl(6).encode()
            case 1:
                modulus, data = encode_filter([])
                # Without types, which only iPhones name: the relay would take her for one, and give her letters.
                request = encode_request_sync(7, modulus, data)
                packet = self.phone.packet(PacketType.REQUEST_SYNC, request, self.now + turn / 1000)
                return self.phone.identity.sign(packet).encode()
            case 2:
                piece = random.randbytes(8) + b"\0\0\0\x40\2" + random.randbytes(300)
                return make_packet(PacketType.FRAGMENT, piece, **other).encode()
            case 3:
                return random.randbytes(100)
        return make_packet(PacketType.NOISE_ENCRYPTED, random.randbytes(200), **other).encode()


async def main(kind, name, path, adapter, how="dials"):
    phone = {"iphone": Iphone, "android": Android}[kind](name, int(time.time() * 1000), acts=True)
    air = OnTheAir(phone, name.encode().ljust(32, b"."), adapter)
    server = await asyncio.start_unix_server(air.asked, path)
    async with server:
        await (air.wait() if how == "waits" else air.run())


asyncio.run(main(*sys.argv[1:]))
