# SPDX-License-Identifier: GPL-2.0-or-later
"""A phone of the radio benchmark: phone.py NAME raw|relay channel|slot up|down BYTES [PSM].

Connects, prints ``ready``, waits for the file /host/go, moves BYTES bytes, and prints how many seconds that took.
``raw`` talks to bench/guests/raw.py, ``relay`` to the product: a session with puts, or with a subscription to
what the relay holds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.guests import raw
from bench.store_input import make_envelopes
from relay.bluetooth import gatt, l2cap
from relay.bluetooth.bluez import Bluez, Changed, adapters, characteristics, devices
from relay.bluetooth.dial import dial
from relay.bluetooth.splice import splice
from relay.core import session as s
from relay.core.envelope import SIZES
from relay.core.messages import Ack, Subscribe
from relay.links.address import RelayAddress
from relay.links.client_session import Connection

if TYPE_CHECKING:
    from relay.bluetooth.bluez import Adapter, Device
    from relay.bluetooth.stream import Stream

GO = Path("/host/go")
PATIENCE_S = 30.0


async def ready() -> float:
    print("ready", flush=True)
    await asyncio.to_thread(_wait_go)
    return time.monotonic()


def _wait_go() -> None:
    while not GO.exists():
        time.sleep(0.005)


async def hear(bluez: Bluez, uuid: str, number: int = 0) -> tuple[Adapter, Device]:
    """Find who offers a service, with the adapter of that number."""
    adapter = sorted(adapters(await bluez.objects()), key=lambda adapter: adapter.path)[number]
    deadline = time.monotonic() + PATIENCE_S
    await bluez.start_discovery(adapter.path, uuid)
    try:
        while time.monotonic() < deadline:
            await asyncio.sleep(0.3)
            for device in devices(await bluez.objects(), adapter.path):
                if uuid in device.uuids and device.rssi_dbm is not None:
                    return adapter, device
    finally:
        await bluez.stop_discovery(adapter.path)
    raise TimeoutError("nobody advertises that")


# -- the product ----------------------------------------------------------------


class OneStream:
    """What `Connection.open` asks of Bluetooth, over a stream that is open already."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._splicing: asyncio.Task[None] | None = None

    async def open(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        self._splicing = asyncio.ensure_future(splice(self._stream, theirs))
        return ours

    def avoid(self) -> None:
        """There is no other one to look for."""

    async def close(self) -> None:
        if self._splicing is not None:
            await asyncio.wait({self._splicing}, timeout=5)


async def through_relay(bluez: Bluez, seed: int, bearer: str, direction: str, size: int) -> float:
    adapter, device = await hear(bluez, gatt.SERVICE_UUID)
    count = -(-size // SIZES[-1])
    own = l2cap.parse_address(adapter.address, adapter.address_type)
    envelopes = make_envelopes(count, len(SIZES) - 1, seed=seed) if direction == "up" else []
    async with (
        dial(bluez, adapter.path, own, device) as relay,
        relay.stream(channel=bearer == "channel") as stream,
    ):
        radio = OneStream(stream)
        connection = await Connection.open(RelayAddress(path=Path("/unused")), bluetooth=radio)
        began = await ready()
        if direction == "up":
            await put(connection, envelopes)
        else:
            await fetch(connection, count)
        seconds = time.monotonic() - began
        await connection.close()
        await radio.close()
    return seconds


async def put(connection: Connection, envelopes: list[bytes]) -> None:
    answered = sent = 0
    while answered < len(envelopes):
        while sent < len(envelopes) and connection.can_put:
            connection.put(envelopes[sent])
            sent += 1
        for event in await connection.events(PATIENCE_S):
            if not isinstance(event, Ack):
                raise RuntimeError(f"not stored: {event}")
            answered += sum(1 for _ in event.numbers())


async def fetch(connection: Connection, count: int) -> None:
    connection.subscribe(Subscribe(prefix_bits=0, prefix=0, follow=False))
    identities: set[bytes] = set()
    while len(identities) < count:
        for event in await connection.events(PATIENCE_S):
            if isinstance(event, s.Envelopes):
                if not identities.isdisjoint(event.items):
                    raise RuntimeError("an envelope came twice")
                identities.update(event.items)
            elif isinstance(event, s.CaughtUp) and len(identities) < count:
                raise RuntimeError(f"only {len(identities)} of {count} envelopes are there")


# -- bare bearers -----------------------------------------------------------------


async def through_channel(bluez: Bluez, direction: str, size: int, psm: int) -> float:
    adapter, device = await hear(bluez, raw.SERVICE)
    await bluez.connect(device.path, timeout_s=PATIENCE_S)
    own = l2cap.parse_address(adapter.address, adapter.address_type)
    sock = await l2cap.connect(own, l2cap.parse_address(device.address, device.address_type), psm)
    # What the product keeps small for the sake of latency, speed alone would not.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    count = -(-size // raw.CHANNEL_FRAME)
    began = await ready()
    sock.setblocking(True)
    await asyncio.to_thread(_move, sock, direction, count)
    seconds = time.monotonic() - began
    sock.close()
    await bluez.disconnect(device.path)
    return seconds


def _move(sock: socket.socket, direction: str, count: int) -> None:
    frame = bytes(raw.CHANNEL_FRAME)
    sock.send(raw.REQUEST.pack(b"U" if direction == "up" else b"D", count))
    if direction == "up":
        for _ in range(count):
            sock.send(frame)
        sock.recv(4096)
    else:
        for _ in range(count):
            sock.recv(4096)


async def through_gatt(bluez: Bluez, direction: str, size: int) -> float:
    _, device = await hear(bluez, raw.SERVICE)
    await bluez.connect(device.path, timeout_s=PATIENCE_S)
    table = characteristics(await bluez.objects(), device.path)
    (slot,) = await bluez.read(table[raw.SLOT][0])
    rx, tx = table[raw.RX][0], table[raw.TX[slot]][0]
    count = -(-size // raw.GATT_FRAME)
    received = acknowledged = 0
    changed = asyncio.Event()

    def look(event: object) -> None:
        nonlocal received, acknowledged
        if (
            isinstance(event, Changed)
            and event.path == tx
            and isinstance(value := event.properties.get("Value"), bytes)
        ):
            if value[:1] == b"A":
                (acknowledged,) = raw.NUMBER.unpack(value[1:])
            else:
                received += 1
            changed.set()

    async def wait() -> None:
        changed.clear()
        async with asyncio.timeout(PATIENCE_S):
            await changed.wait()

    with bluez.listening(look):
        await bluez.start_notify(tx)
        began = await ready()
        await bluez.write_command(rx, raw.REQUEST.pack(b"U" if direction == "up" else b"D", count))
        if direction == "up":
            frame = b"F" + bytes(raw.GATT_FRAME - 1)
            for number in range(count):
                while number - acknowledged >= raw.WINDOW:
                    await wait()
                await bluez.write_command(rx, frame)
            while acknowledged < count:
                await wait()
        else:
            told = 0
            while received < count:
                await wait()
                if received - told >= raw.ACK_EVERY:
                    told = received
                    await bluez.write_command(rx, b"A" + raw.NUMBER.pack(told))
        seconds = time.monotonic() - began
    await bluez.disconnect(device.path)
    return seconds


async def main(name: str, kind: str, bearer: str, direction: str, size: int, psm: int = 0) -> None:
    seed = random.Random(f"{name} {os.getpid()}").getrandbits(32)
    async with await Bluez.open() as bluez:
        if kind == "relay":
            seconds = await through_relay(bluez, seed, bearer, direction, size)
        elif bearer == "channel":
            seconds = await through_channel(bluez, direction, size, psm)
        else:
            seconds = await through_gatt(bluez, direction, size)
    print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], *map(int, sys.argv[5:])))
