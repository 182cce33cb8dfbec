# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay as far as its operator's side sees it: real counts, a status that tests set."""

import asyncio
import threading
from dataclasses import replace

import pytest

from relay.control.conditions import with_conditions
from relay.control.status import (
    ClockRefusedError,
    ClockStatus,
    LinkState,
    LinkStatus,
    QueueName,
    QueueStatus,
    Status,
    StoreStatus,
    TaskStatus,
)
from relay.core.stats import LinkKind, Rejected, SessionError, Stats, Total
from relay.run.control_server import ControlServer

BUILD_S = 1_700_000_000


class StandInEngine:
    """Implements relay.control.status.Engine without a network."""

    def __init__(self):
        self.stats = Stats()
        self.clock = ClockStatus()
        self.changes = {}

    def status(self):
        status = Status(
            version="0.1.0",
            uptime_s=93_784.0,
            ready=True,
            clock=self.clock,
            store=StoreStatus(
                envelopes=1234,
                bytes=5_000_000,
                max_envelopes=100_000,
                max_bytes=1 << 30,
                oldest_age_s=7200.0,
                admitted=2000,
                price_bits={"eth0": 0, "mesh0": 3},
            ),
            relays=2,
            link_states={"tcp": "up", "dnssd": "discovering", "unix": "up"},
            links=[
                LinkStatus(
                    kind="tcp",
                    interface="eth0",
                    state=LinkState.UP,
                    relays=2,
                    clients=7,
                    bytes_in=1 << 20,
                    bytes_out=4096,
                ),
                LinkStatus(
                    kind="tcp", interface="mesh0", relays=1, ended={"goodbye": 18}, errors={"replay": 2}, restarts=1
                ),
                LinkStatus(kind="dnssd", interface="eth0", state=LinkState.DISCOVERING),
                LinkStatus(kind="unix", interface="other", clients=1),
            ],
            queues=[QueueStatus(name=QueueName.COMMIT, length=3, capacity=1024)],
            totals=self.stats.totals(),
            tasks=[TaskStatus(name="store", idle_s=0.5)],
        )
        return with_conditions(replace(status, **self.changes))

    def set_clock(self, unix_s):
        if unix_s < BUILD_S:
            raise ClockRefusedError("that is before this relay was built")
        self.clock = ClockStatus(trusted=True, source="operator", hour=unix_s // 3600)


@pytest.fixture
def engine():
    made = StandInEngine()
    made.stats.add(Total.ACCEPTED, 1300)
    made.stats.add(Rejected.UNDERPAID, 7)
    link = made.stats.link(LinkKind.TCP, "eth0")
    link.bytes_in += 1 << 20
    link.error(SessionError.GARBAGE_FRAME)
    for reason in (*[SessionError.GOODBYE] * 14, SessionError.CONNECTION_LOST, SessionError.CONNECT_FAILED):
        link.error(reason)
    made.stats.link(LinkKind.TCP, "mesh0").bytes_in += 1
    return made


@pytest.fixture
def control(engine, tmp_path):
    """The path of a control socket that answers for `engine`, served from a thread of its own."""
    path = tmp_path / "control.sock"
    started = threading.Event()
    loops = []

    async def serve():
        stop = asyncio.Event()
        async with ControlServer(engine, path, 0o600):
            loops.append((asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(5)
    yield path
    loop, stop = loops[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(5)
    assert not thread.is_alive()
