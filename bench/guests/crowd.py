# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of one relay at the same time, each with a Bluetooth adapter of its own: crowd.py.

One after the other opens a session, by turns over a channel and over a slot, and talks: who is silent for 10 s gives
way to who comes. Once all have one, or were turned away, each puts an envelope, and then each fetches all of them.
Prints how many were ``served`` all that and how many were told that the relay is ``busy``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

from bench.guests.phone import PATIENCE_S, OneStream, fetch, hear, put
from bench.store_input import make_envelopes
from relay.bluetooth import gatt, l2cap
from relay.bluetooth.bluez import Adapter, Bluez, Device, adapters
from relay.bluetooth.dial import DialError, DialFailure, dial
from relay.links.address import RelayAddress
from relay.links.client_session import Connection

#: Of relay.core.envelope.SIZES, the smallest.
SIZE_CLASS = 0


async def enter(
    bluez: Bluez, number: int, adapter: Adapter, device: Device, resources: contextlib.AsyncExitStack
) -> Connection | None:
    """Open a session from an adapter with the relay that it has heard; None when the relay is busy."""
    own = l2cap.parse_address(adapter.address, adapter.address_type)
    try:
        relay = await resources.enter_async_context(dial(bluez, adapter.path, own, device))
        stream = await resources.enter_async_context(relay.stream(channel=number % 2 == 0))
    except DialError as error:
        if error.failure is not DialFailure.BUSY:
            raise
        return None
    radio = OneStream(stream)
    connection = await Connection.open(RelayAddress(path=Path("/unused")), bluetooth=radio)
    resources.push_async_callback(radio.close)
    resources.push_async_callback(connection.close)
    return connection


async def talk(connection: Connection, until: asyncio.Event) -> None:
    """Ask for what nobody has."""
    while not until.is_set():
        connection.fetch([os.urandom(32)])
        await connection.events(PATIENCE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await until.wait()


async def main() -> None:
    async with await Bluez.open() as bluez, contextlib.AsyncExitStack() as resources:
        count = len(adapters(await bluez.objects()))
        entered = []
        talking = []
        all_came = asyncio.Event()
        heard = asyncio.ensure_future(hear(bluez, gatt.SERVICE_UUID, 0))
        for number in range(count):
            adapter, device = await heard
            if number + 1 < count:
                # Listens while this one dials.
                heard = asyncio.ensure_future(hear(bluez, gatt.SERVICE_UUID, number + 1))
            entered.append(await enter(bluez, number, adapter, device, resources))
            if (connection := entered[-1]) is not None:
                talking.append(asyncio.ensure_future(talk(connection, all_came)))
        all_came.set()
        await asyncio.gather(*talking)
        connections = [connection for connection in entered if connection is not None]
        envelopes = make_envelopes(len(connections), SIZE_CLASS, seed=1)
        async with asyncio.TaskGroup() as tasks:
            for connection, envelope in zip(connections, envelopes, strict=True):
                tasks.create_task(put(connection, [envelope]))
        async with asyncio.TaskGroup() as tasks:
            for connection in connections:
                tasks.create_task(fetch(connection, len(connections)))
        print(json.dumps({"served": len(connections), "busy": count - len(connections)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
