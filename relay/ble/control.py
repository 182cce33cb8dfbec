# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection on which `relay run` hears how Bluetooth does, and tells the news (docs/links.md, section 3)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.links.components import MAX_NEWS_LINE_BYTES, REPORT_LEAST_S, decode_news
from relay.service.supervisor import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relay.links.components import NewsForBle, Reporter

logger = logging.getLogger(__name__)

MAX_DELAY_S: Final = 10.0


class Control:
    """Keeps that connection. ``on_news`` hears None while `relay run` is away."""

    def __init__(
        self,
        *,
        path: Path,
        reporter: Reporter,
        on_news: Callable[[NewsForBle | None], None],
        random: Callable[[], float],
    ) -> None:
        """``path``: link.sock of `relay run`; ``random`` returns floats in [0, 1)."""
        self._path = path
        self._reporter = reporter
        self._on_news = on_news
        self._random = random

    async def run(self) -> None:
        """Connect again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._random, max_s=MAX_DELAY_S)
        is_away = False
        while True:
            began = loop.time()
            try:
                await self._connected()
            except* (OSError, DecodeError) as errors:
                if not is_away:
                    # Once: it can take hours until someone starts the relay.
                    logger.warning("relay run does not answer (%s), trying again", type(errors.exceptions[0]).__name__)
            is_away = loop.time() - began < MAX_DELAY_S
            self._on_news(None)
            self._reporter.count("relay_unreachable")
            await asyncio.sleep(backoff.next(ran_s=loop.time() - began))

    async def _connected(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_NEWS_LINE_BYTES)
        try:
            writer.write(self._reporter.preamble())
            self._reporter.connected()
            async with asyncio.TaskGroup() as tasks:
                work = {tasks.create_task(self._report(writer)), tasks.create_task(self._listen(reader))}
                await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for task in work:
                    task.cancel()
        finally:
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._on_news(decode_news(line.rstrip(b"\n")))
        except ValueError as error:
            raise DecodeError("relay run sent too long a line") from error

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if (line := self._reporter.line(loop.time())) is not None:
                writer.write(line)
                await writer.drain()
            await asyncio.sleep(REPORT_LEAST_S)
