# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays to be looked at in a browser: the real servers of both pages, on a status that a test sets."""

import asyncio
import contextlib
import random
import socket
import threading
from dataclasses import replace
from pathlib import Path

from relay.appliance.portal_page import PortalPage
from relay.appliance.portal_server import serve
from relay.config.run import HttpConfig
from relay.config.settings import Address
from relay.control.status import ComponentStatus, LinkState, LinkStatus, StoreStatus
from relay.core.stats import HandshakeFailure, Rejected, Total
from relay.links.tcp import _UNPLUGGED
from relay.process import shelf
from relay.run.history import SAMPLE_INTERVAL_S, History, Sample
from relay.run.web import StatusServer
from tests.programs.conftest import StandInEngine

TOKEN = "seven green herons"
#: Names as they are where much is plugged in.
NAMES = ("eth0", "wifi0", "wifi1", "hci0", "bat0", "br-mesh", *(f"enx*{number}" for number in range(14)))


def well():
    """One link, one neighbour, a day behind it, and nothing wrong."""
    engine = StandInEngine()
    engine.stats.add(Total.ACCEPTED, 1300)
    engine.stats.add(Total.FORWARDED, 2412)
    link = LinkStatus(
        kind="tcp", interface="eth0", state=LinkState.UP, relays=1, clients=7, bytes_in=18_400_000, bytes_out=9_730_000
    )
    store = StoreStatus(
        envelopes=1234, bytes=5_000_000, max_envelopes=100_000, max_bytes=1 << 30, oldest_age_s=98_000.0
    )
    engine.changes = {"relays": 1, "links": [link], "link_states": {"tcp": "up"}, "store": store}
    engine.set_clock(1_800_000_000)
    return engine


def with_link_down(engine):
    """The same after somebody pulled its cable."""
    link = LinkStatus(kind="tcp", interface="eth0", state=LinkState.DOWN, fault=_UNPLUGGED)
    engine.changes |= {"relays": 0, "links": [link], "link_states": {"tcp": "down"}}


def with_links_down(engine):
    """Of twenty, after somebody pulled two cables and a radio."""
    links = [
        replace(link, state=LinkState.DOWN, relays=0, clients=0) if number in {4, 11} else link
        for number, link in enumerate(engine.changes["links"])
    ]
    trouble = ["wifi1: its radio went away; plug it in again, or name another in mesh_interface"]
    components = [
        replace(row, up=False, troubles=trouble) if row.name == "net" else row for row in engine.changes["components"]
    ]
    engine.changes |= {"relays": 8, "links": links, "components": components, "link_states": {"tcp": "down"}}


def crowded():
    """Twenty links, all parts of an appliance, and much that happened."""
    engine = StandInEngine()
    rng = random.Random(20)
    for reason in (*Rejected, *HandshakeFailure):
        engine.stats.add(reason, rng.randrange(1, 9000))
    links = [
        LinkStatus(
            kind="ble" if name == "hci0" else "tcp", interface=name,
            state=LinkState.UP if number % 3 else LinkState.LISTENING,
            relays=number % 3 and number % 17, clients=number * 7 % 60, bytes_in=number * 31_000_000,
            bytes_out=number * 2_700_000, restarts=number % 2, errors={"replay": number} if number % 5 == 0 else {},
            ended={"goodbye": 40 * number},
        )
        for number, name in enumerate(NAMES)
    ]  # fmt: skip
    components = [
        ComponentStatus(
            name="ble", connected=True, up=True, counters={"rotations": 90, "dials": 12},
            gauges={"adapters": 1, "adapters_up": 1, "clients": 9, "neighbours": 2, "slots_used": 3, "relays_heard": 5},
        ),
        ComponentStatus(
            name="net", connected=True, up=True, gauges={"radios": 2, "radios_up": 2, "phones": 6, "phones_most": 7},
        ),
        ComponentStatus(name="bitchat", connected=True, up=True, gauges={"clients": 6}),
        ComponentStatus(name="board", connected=True, up=True, gauges={"temperature_celsius": 61, "undervoltage": 0}),
    ]  # fmt: skip
    engine.changes = {"relays": 9, "links": links, "components": components, "link_states": {"tcp": "up"}}
    return engine


def a_day(now):
    """Samples of a day that began quietly."""
    rng = random.Random(1)
    history = History(lambda: now)
    held = 40
    for step in range(288):
        held = max(0, held + rng.randint(-30, 38))
        history._samples.append(
            Sample(
                at_s=now - (288 - step) * SAMPLE_INTERVAL_S, envelopes=held, bytes=held * 4000,
                received=rng.randint(0, held * 300), sent=rng.randint(0, held * 200),
            )
        )  # fmt: skip
    history._received, history._sent = 18_300_000, 9_700_000
    return history


@contextlib.contextmanager
def served(*engines, works=None, listing=shelf.LIST):
    """Base URLs of a status server for each engine, and of a portal that reads ``works`` and ``listing``.

    They are in a thread of their own.
    """
    started, urls, loops = threading.Event(), [], []

    async def run():
        stop = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for engine in engines:
                config = HttpConfig(listen=Address("127.0.0.1", 0))
                server = await stack.enter_async_context(StatusServer(engine, config, a_day(90_000.0), token=TOKEN))
                urls.append(f"http://127.0.0.1:{server.port}")
            listening = socket.create_server(("127.0.0.1", 0))
            urls.append(f"http://127.0.0.1:{listening.getsockname()[1]}")
            page = PortalPage("Plaza north", "river lantern 42", works=works or Path("/nonexistent"))
            portal = asyncio.create_task(serve(listening, page, idle_s=3600, lists=(listing,)))
            loops.append((asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()
            portal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await portal

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(10)
    try:
        yield urls
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
