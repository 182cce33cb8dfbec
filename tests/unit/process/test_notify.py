# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio
import contextlib
import os
import socket

import pytest

from relay.process.notify import Notifier, run_watchdog
from relay.process.progress import Progress
from tests.unit import jumping


class Manager:
    """A service manager's notification socket."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self):
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode())
        return found

    def close(self):
        self._socket.close()


@pytest.fixture
def manager(tmp_path):
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.close()


@pytest.fixture
def environ(tmp_path):
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid())}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_readiness_status_and_end_are_told(manager, environ):
    notifier = Notifier(environ)
    notifier.ready("2 links,\n3 peers")
    notifier.status("well")
    notifier.stopping()
    ready, status, stopping = manager.heard()
    assert ready == "READY=1\nSTATUS=2 links, 3 peers"
    assert status == "STATUS=well"
    assert stopping.startswith("STOPPING=1\n")


def test_the_abstract_namespace_works():
    name = f"mesh-relay-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    Notifier({"NOTIFY_SOCKET": f"@{name}"}).watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    manager.close()


def test_without_a_manager_nothing_happens():
    Notifier({}).ready("x")
    assert Notifier({"WATCHDOG_USEC": "1000"}).watchdog_timeout_s is None


def test_a_manager_that_is_gone_costs_a_line_in_the_log_and_no_crash(environ, caplog):
    Notifier(environ).watchdog()
    assert "takes no notice" in caplog.text


def test_the_watchdog_of_another_process_is_not_ours(environ):
    assert Notifier(environ).watchdog_timeout_s == 0.03
    assert Notifier(environ | {"WATCHDOG_PID": "1"}).watchdog_timeout_s is None


@pytest.mark.parametrize("usec", ["", "0", "x", "-5"])
def test_a_watchdog_time_that_is_none_is_ignored(environ, usec):
    assert Notifier(environ | {"WATCHDOG_USEC": usec}).watchdog_timeout_s is None


def test_the_watchdog_is_fed_until_a_task_stalls_which_is_then_named(manager, environ, caplog):
    clock = Clock()
    progress = Progress(clock)
    queue = [1]
    progress.register("links", pending=lambda: False)
    store = progress.register("store", pending=lambda: bool(queue), limit_s=10)
    ticks = []

    async def run():
        task = asyncio.create_task(run_watchdog(Notifier(environ), progress, lambda: ticks.append(1)))
        await asyncio.sleep(0.05)
        fed = manager.heard()
        clock.now = 11.0
        await asyncio.sleep(0.05)
        starved = manager.heard()
        store.beat()
        await asyncio.sleep(0.05)
        again = manager.heard()
        task.cancel()
        return fed, starved, again

    fed, starved, again = jumping.run(run())
    assert set(fed) == {"WATCHDOG=1"}
    assert len(fed) >= 2
    assert starved[-1] == "STATUS=no progress in: store"
    assert starved[1:].count("WATCHDOG=1") == 0
    assert {"STATUS=running", "WATCHDOG=1"} == set(again)
    assert len(ticks) >= 6
    assert caplog.text.count("no progress in: store") == 1


def test_a_task_with_nothing_to_do_is_not_stalled_however_long_it_waits():
    clock = Clock()
    progress = Progress(clock)
    work = []
    progress.register("store", pending=lambda: bool(work), limit_s=10)
    clock.now = 1000.0
    assert not progress.check()[0].stalled
    work.append("put")
    clock.now = 1009.0
    assert not progress.check()[0].stalled
    clock.now = 1011.0
    (found,) = progress.check()
    assert (found.name, found.stalled, found.idle_s) == ("store", True, 11.0)


def test_a_task_that_always_has_work_must_beat():
    clock = Clock()
    progress = Progress(clock)
    task = progress.register("expiry", limit_s=10)
    for now in (8.0, 16.0, 24.0):
        clock.now = now
        task.beat()
        assert not progress.check()[0].stalled
    clock.now = 35.0
    assert progress.check()[0].stalled
