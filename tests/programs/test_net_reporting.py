# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay net` tells `relay run`, over a real socket; and how it waits for changes."""

import asyncio
import json

import pytest

from relay.net.changes import Changes
from relay.net.net_report import Reporting
from relay.process.report_connection import report_forever

TIMEOUT_S = 20.0


def run(work):
    async def bounded():
        async with asyncio.timeout(TIMEOUT_S):
            return await work()

    return asyncio.run(bounded())


def test_reports_follow_what_happens_and_a_relay_that_restarts(tmp_path):
    async def work():
        reporting = Reporting()
        connections = asyncio.Queue()
        path = tmp_path / "link.sock"

        async def serve():
            return await asyncio.start_unix_server(
                lambda reader, writer: connections.put_nowait((reader, writer)), path
            )

        task = asyncio.create_task(report_forever(path, reporting.reporter, random=lambda: 0.0))
        reporting.radio("a", None)
        reporting.radio("b", 3)
        seen = []
        for _ in range(2):
            server = await serve()
            reader, writer = await connections.get()
            assert json.loads(await reader.readline()) == {"version": 1, "component": "net"}
            seen.append(json.loads(await reader.readline()))
            reporting.radio("a", 1)
            reporting.count("rejoined")
            seen.append(json.loads(await reader.readline()))
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
            path.unlink(missing_ok=True)
        task.cancel()
        await asyncio.wait([task])
        return seen

    first, second, third, fourth = run(work)
    assert not first["up"]
    assert {name: first["gauges"][name] for name in ("radios", "radios_up", "mesh_peers")} == {
        "radios": 2,
        "radios_up": 1,
        "mesh_peers": 3,
    }
    assert second["up"]
    assert second["gauges"]["mesh_peers"] == 4
    # Totals since the start of the process, whoever listens.
    assert [report["counters"]["rejoined"] for report in (first, second, third, fourth)] == [0, 1, 1, 2]


def test_a_process_that_is_told_to_end_says_so(tmp_path):
    async def work():
        reporting = Reporting()
        lines = asyncio.Queue()
        path = tmp_path / "link.sock"

        async def serve(reader, writer):
            while line := await reader.readline():
                lines.put_nowait(json.loads(line))
            writer.close()

        async with await asyncio.start_unix_server(serve, path):
            task = asyncio.create_task(report_forever(path, reporting.reporter, random=lambda: 0.0))
            await lines.get()
            first = await lines.get()
            reporting.stopped()
            task.cancel()
            await asyncio.wait([task])
            return first.get("idle"), await lines.get()

    idle, last = run(work)
    assert idle is None
    assert (last["up"], last["idle"]) == (False, "stopped")


def test_a_name_that_nobody_knows_is_a_bug_here():
    with pytest.raises(KeyError):
        Reporting().count("no such event")


def test_a_change_between_looking_and_waiting_is_not_missed():
    async def work():
        changes = Changes()
        seen = changes.count
        changes.note()
        return await changes.after(seen, TIMEOUT_S), await changes.after(changes.count, 0.01)

    assert run(work) == (True, False)


def test_a_storm_of_changes_is_a_few_looks():
    async def work():
        changes = Changes()

        async def storm():
            while True:
                changes.note()
                await asyncio.sleep(0)

        task = asyncio.create_task(storm())
        loop = asyncio.get_running_loop()
        began, looks = loop.time(), 0
        while loop.time() - began < 1.0:
            await changes.after(changes.count, TIMEOUT_S)
            looks += 1
        task.cancel()
        return looks

    assert run(work) <= 5
