# SPDX-License-Identifier: GPL-2.0-or-later
"""How another process of the relay keeps `relay run` informed (docs/links.md section 3)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from relay.core.errors import DecodeError
from relay.process.reports import MAX_NEWS_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relay.process.reports import Reporter


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
        writer.write(reporter.preamble())
        reporter.connected()
        while not listening.done():
            changed.clear()
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
