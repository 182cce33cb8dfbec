# SPDX-License-Identifier: GPL-2.0-or-later
"""How another process of the relay keeps `relay run` informed (docs/links.md section 3)."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from relay.core.errors import DecodeError
from relay.process.link_socket import component_preamble
from relay.process.memory import memory_bytes
from relay.process.reports import MAX_NEWS_LINE_BYTES, MEMORY
from relay.process.supervisor import keep_trying

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relay.process.reports import Reporter

logger = logging.getLogger(__name__)

#: `relay run` may be away for days; a connection to nobody costs nothing.
MAX_DELAY_S: Final = 10.0


async def report_forever(
    path: Path,
    reporter: Reporter,
    *,
    random: Callable[[], float],
    on_line: Callable[[bytes], None] | None = None,
    on_away: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Report to `relay run` at ``path`` for ever, which may come and go.

    ``on_line`` hears each of its lines, without the line feed, and may raise DecodeError; ``on_away`` each time that
    it is not there, or no more.
    """
    loop = asyncio.get_running_loop()
    is_away = False

    async def attempt() -> None:
        nonlocal is_away
        began = loop.time()
        try:
            await report(path, reporter, on_line)
        except (OSError, DecodeError) as error:
            if not is_away:
                # Once: it can take hours until someone starts the relay.
                logger.warning("relay run does not answer (%s), trying again", type(error).__name__)
        is_away = loop.time() - began < MAX_DELAY_S
        on_away()

    await keep_trying(attempt, random=random, max_s=MAX_DELAY_S)


async def report(
    path: Path,
    reporter: Reporter,
    on_line: Callable[[bytes], None] | None = None,
) -> None:
    """Connect to link.sock at ``path`` and report until the connection ends; raise OSError, DecodeError.

    ``on_line`` hears each line of `relay run`, without its line feed.
    """
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_unix_connection(path, limit=MAX_NEWS_LINE_BYTES)
    changed = asyncio.Event()
    listening = loop.create_task(_listen(reader, on_line))
    listening.add_done_callback(lambda _: changed.set())
    reporter.on_change = changed.set
    try:
        writer.write(component_preamble(reporter.component))
        reporter.connected()
        while not listening.done():
            changed.clear()
            if reporter.is_due(loop.time()):
                reporter.measured(MEMORY, memory_bytes())
            if (line := reporter.line(loop.time())) is not None:
                writer.write(line)
                await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(reporter.next_s()):
                    await changed.wait()
        listening.result()
    finally:
        listening.cancel()
        if (line := reporter.last_line()) is not None:
            writer.write(line)
        writer.close()
        # What it failed with was raised, or came after what was.
        await asyncio.gather(listening, return_exceptions=True)


async def _listen(reader: asyncio.StreamReader, on_line: Callable[[bytes], None] | None) -> None:
    try:
        while line := await reader.readline():
            if on_line is not None:
                on_line(line.rstrip(b"\n"))
    except ValueError as error:
        raise DecodeError("relay run sent too long a line") from error
