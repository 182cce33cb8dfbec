# SPDX-License-Identifier: GPL-2.0-or-later
"""Another process and `relay run`: reports one way, news for `relay ble` the other, through restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json

from relay.process.report_connection import MAX_DELAY_S, report_forever
from relay.process.reports import Component, NewsForBle, Reporter, decode_news, encode_news
from tests.unit.jumping import run

FIRST = NewsForBle(news=b"1" * 16)
SECOND = NewsForBle(news=b"2" * 16, known=(b"k" * 16,))


class World:
    def __init__(self, tmp_path):
        self.path = tmp_path / "link.sock"
        self.reporter = Reporter(Component.BLE)
        self.heard = []
        self.lines = []

    async def report(self):
        """What `relay ble` does."""

        def on_away():
            self.heard.append(None)
            self.reporter.count("relay_unreachable")

        await report_forever(
            self.path,
            self.reporter,
            random=lambda: 0.5,
            on_line=lambda line: self.heard.append(decode_news(line)),
            on_away=on_away,
        )

    @contextlib.asynccontextmanager
    async def relay_run(self, answers=(FIRST, SECOND)):
        """`relay run`, for as long as the context lasts; it says the same to whoever comes."""
        writers = []

        async def talk(reader, writer):
            writers.append(writer)
            for answer in answers:
                writer.write(encode_news(answer) if isinstance(answer, NewsForBle) else answer)
            while line := await reader.readline():
                self.lines.append(json.loads(line))
            writer.close()

        async with await asyncio.start_unix_server(talk, self.path):
            yield
            # From Python 3.12 on a server waits for its connections.
            for writer in writers:
                writer.close()


def in_world(tmp_path, scenario):
    async def main():
        world = World(tmp_path)
        task = asyncio.ensure_future(world.report())
        try:
            await scenario(world)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.sleep(0.1)

    run(main())


def test_it_reports_and_hears_the_news(tmp_path):
    async def scenario(world):
        async with world.relay_run():
            await asyncio.sleep(5)
            world.reporter.gauge("clients", 3)
            world.reporter.up = True
            await asyncio.sleep(5)
            assert world.heard[-2:] == [FIRST, SECOND]
            assert world.lines[0] == {"version": 1, "component": "ble"}
            assert [line["up"] for line in world.lines[1:]] == [False, True]
            assert world.lines[-1]["gauges"]["clients"] == 3

    in_world(tmp_path, scenario)


def test_a_process_that_is_told_to_end_says_so_and_one_that_fails_does_not(tmp_path):
    async def scenario(world, *, is_stopped):
        async with world.relay_run():
            world.reporter.up = True
            task = asyncio.ensure_future(world.report())
            await asyncio.sleep(5)
            if is_stopped:
                world.reporter.stopped()
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0.1)
            return world.lines[-1]

    for is_stopped in (False, True):
        folder = tmp_path / str(is_stopped)
        folder.mkdir()

        async def main(folder=folder, is_stopped=is_stopped):
            return await scenario(World(folder), is_stopped=is_stopped)

        last = run(main())
        assert (last["up"], last.get("idle")) == ((False, "stopped") if is_stopped else (True, None))


def test_without_relay_run_there_is_no_news_and_it_tries_again(tmp_path):
    async def scenario(world):
        await asyncio.sleep(300)
        tries = len(world.heard)
        assert set(world.heard) == {None}
        assert 300 / (1.5 * MAX_DELAY_S) <= tries <= 60
        async with world.relay_run():
            await asyncio.sleep(2 * MAX_DELAY_S)
            assert world.heard[-1] == SECOND
            # Whatever was counted meanwhile is told at once.
            assert world.lines[1]["counters"]["relay_unreachable"] == tries

    in_world(tmp_path, scenario)


def test_an_end_or_nonsense_is_the_end_of_the_news(tmp_path):
    async def scenario(world):
        for number, answer in enumerate((b'{"news": 1}\n', b"x" * 100_000)):
            world.path.unlink(missing_ok=True)
            async with world.relay_run(answers=[FIRST, answer]):
                await asyncio.sleep(2 * MAX_DELAY_S)
                assert world.heard[-1] is None, number
                assert FIRST in world.heard
            world.heard.clear()

    in_world(tmp_path, scenario)
