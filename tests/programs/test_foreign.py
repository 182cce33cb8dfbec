# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket for other processes: streams of a kind of their own, and the relay's own processes."""

import asyncio
import json
import random
from contextlib import closing

import pytest

from relay.control.status import read_status
from relay.control.text import status_text
from relay.core.stats import HandshakeFailure, LinkKind
from relay.process.reports import MAX_REPORT_BYTES, Component, Idle, Reporter, decode_news
from relay.run import siblings
from tests.programs.running import Phone, connect, envelope, running
from tests.waiting import until_true

PATIENCE_S = 10
GOOD = {"version": 1, "interface": "hci0", "initiator": False, "slow": True}


async def until(holds):
    await until_true("the status says so", holds, PATIENCE_S)


async def line_of(sock):
    """The next line from a socket; empty at its end."""
    found = b""
    async with asyncio.timeout(10):
        while not found.endswith(b"\n"):
            piece = await asyncio.get_running_loop().sock_recv(sock, 1)
            if not piece:
                return found
            found += piece
    return found[:-1]


def conditions(engine):
    """The names of those that hold."""
    return [one.name for one in engine.status().conditions]


async def report(sock, reporter):
    reporter.connected()
    await asyncio.get_running_loop().sock_sendall(sock, reporter.line(0.0))


def test_streams_of_relay_ble_are_counted_as_such(tmp_path):
    async def run():
        async with running(tmp_path) as (engine, path):
            with closing(await Phone.open(path, slow=True, link="ble")):
                [row] = engine.status().links
                return row

    row = asyncio.run(run())
    assert (row.kind, row.interface, row.clients) == ("ble", "hci0", 1)


def test_what_a_process_reports_is_in_the_status_until_it_is_gone(tmp_path):
    async def run():
        async with running(tmp_path) as (engine, path):
            assert engine.status().components == []
            reporter = Reporter(Component.NET)
            with closing(await connect(path, {"component": "net"})) as sock:
                reporter.count("rejoined", 2)
                reporter.gauge("radios", 1)
                await report(sock, reporter)
                await until(lambda: engine.status().components)
                assert conditions(engine) == ["starting", "net_down", "clock_untrusted"]
                reporter.up = True
                await report(sock, reporter)
                await until(lambda: not engine.status().problems()[1:])
                [row] = engine.status().components
                assert (row.connected, row.up, row.counters) == (True, True, {"rejoined": 2})
                assert row.gauges == {
                    "radios": 1,
                    "radios_up": 0,
                    "mesh_peers": 0,
                    "bridge_ports": 0,
                    "access_points": 0,
                    "access_points_up": 0,
                    "phones": 0,
                    "phones_most": 0,
                }
                assert "Wi-Fi      works, 1 radios" in status_text(engine.status())
            await until(lambda: not engine.status().components[0].connected)
            assert "relay net is gone" in str(engine.status().problems())
            assert engine.status().components[0].counters == {"rejoined": 2}

    asyncio.run(run())


def test_whoever_was_stopped_or_has_nothing_to_work_with_is_no_problem(tmp_path):
    async def run():
        async with running(tmp_path) as (engine, path):
            engine.ready = True
            reporter = Reporter(Component.BLE)
            with closing(await connect(path, {"component": "ble"})) as sock:
                reporter.idle = Idle.NO_ADAPTER
                await report(sock, reporter)
                await until(lambda: engine.status().components and engine.status().components[0].idle)
                assert engine.status().problems() == []
                assert "Bluetooth  no adapter in this machine; one that is plugged in" in status_text(engine.status())
                assert "0 adapters" not in status_text(engine.status())
            await until(lambda: "relay ble is gone" in str(engine.status().problems()))
            with closing(await connect(path, {"component": "ble"})) as sock:
                reporter.up = True
                reporter.count("dials")
                await report(sock, reporter)
                await until(lambda: engine.status().problems() == [])
                reporter.stopped()
                await asyncio.get_running_loop().sock_sendall(sock, reporter.last_line())
            await until(lambda: not engine.status().components[0].connected)
            assert engine.status().problems() == []
            assert (status := engine.status()) == read_status(status.as_dict())
            text = status_text(engine.status())
            assert "Bluetooth  stopped; systemctl start relay-ble, or `relay ble`, starts it again; 1 dials" in text
            with closing(await connect(path, {"component": "ble"})):
                await until(lambda: "relay ble runs and cannot work" in str(engine.status().problems()))

    asyncio.run(run())


def test_relay_ble_hears_what_to_advertise_and_a_later_connection_takes_the_place_of_the_first(tmp_path):
    async def run():
        async with running(tmp_path) as (engine, path):
            with closing(await connect(path, {"component": "ble"})) as first:
                told = decode_news(await line_of(first))
                assert (told.news, told.known) == (engine.node.news, ())
                with closing(await Phone.open(path, slow=False)) as phone:
                    phone.session.put(envelope(random.Random(1)))
                    await phone.flush()
                    again = decode_news(await line_of(first))
                assert again.news == engine.node.news != told.news
                with closing(await connect(path, {"component": "ble"})) as second:
                    assert decode_news(await line_of(second)).news == engine.node.news
                    assert await line_of(first) == b"", "the first is closed"
                    assert engine.status().components[0].connected
                    await report(second, reporter := Reporter(Component.BLE))
                    reporter.up = True
                    await report(second, reporter)
                    await until(lambda: engine.status().components[0].up)
                    assert engine._link_states[LinkKind.BLE, "all"].up
                await until(lambda: not engine._link_states[LinkKind.BLE, "all"][0])

    asyncio.run(run())


def test_a_process_that_does_not_read_gets_the_latest_only(tmp_path):
    async def run():
        async with running(tmp_path) as (engine, path):
            with closing(await connect(path, {"component": "ble"})) as sock:
                await until(lambda: engine._components.wants_news)
                values = []
                for number in range(20_000):
                    engine.node._news.value = number.to_bytes(16)
                    engine._process()
                    values.append(engine.node.news)
                read = [decode_news(await line_of(sock)).news]
                while read[-1] != values[-1]:
                    read.append(decode_news(await line_of(sock)).news)
                return len(read)

    assert asyncio.run(run()) < 10_000


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        Reporter(Component.NET).line(0.0) * 17,
        b'{"up":true,"counters":{"x":1},"gauges":{}}\n',
        b" " * MAX_REPORT_BYTES,
    ],
)
def test_a_report_that_is_none_ends_the_connection_with_a_word_and_is_counted(tmp_path, line):
    async def run():
        async with running(tmp_path) as (engine, path):
            with closing(await connect(path, {"component": "net"})) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, line)
                assert "error" in json.loads(await line_of(sock))
                assert await line_of(sock) == b""
            assert engine.stats.get(HandshakeFailure.BAD_PREAMBLE) == 1
            assert not engine.status().components[0].connected

    asyncio.run(run())


def test_a_process_that_hangs_counts_as_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(siblings, "SILENT_S", 0.2)

    async def run():
        async with running(tmp_path) as (engine, path):
            with closing(await connect(path, {"component": "board"})) as sock:
                for _ in range(5):
                    await report(sock, Reporter(Component.BOARD))
                    await asyncio.sleep(0.1)
                assert engine.status().components[0].connected
                assert await line_of(sock) == b""
                await until(lambda: not engine.status().components[0].connected)

    asyncio.run(run())


def test_no_stream_takes_the_name_and_with_it_the_share_of_a_network_interface(tmp_path):
    async def run():
        async with running(tmp_path, own_interfaces=["usb0"]) as (engine, path):
            for name in ("lo", "usb0"):
                with closing(await connect(path, GOOD | {"interface": name})) as sock:
                    assert "network interface" in json.loads(await line_of(sock))["error"]
            assert engine.stats.get(HandshakeFailure.BAD_PREAMBLE) == 2
            assert engine.status().links == []
            with closing(await Phone.open(path, slow=False)):
                assert [row.interface for row in engine.status().links] == ["hci0"]

    asyncio.run(run())
