# SPDX-License-Identifier: GPL-2.0-or-later
"""Sending files of the shelf: bounded in number, in airtime, and in how long somebody may take over it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Final

from relay.core.stats import Download, Stats
from relay.process.rate import Rate
from relay.process.shelf import STICK_SOCKET, open_entry
from relay.process.stick_request import StickRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from relay.process.shelf import Entry, Piece

#: Of all downloads of a server together, bytes a second: 4 Mbit/s, which is a tenth to a fifth of the air of an access
#: point on 2.4 GHz (20 MHz, phones some metres away). Messages need what is left.
RATE_BYTES_PER_S: Final = 500_000
#: At once. With 16 KiB in memory and some 200 KiB in the kernel for each: 2 MiB.
MAX_DOWNLOADS: Final = 8
MAX_DOWNLOADS_PER_ADDRESS: Final = 2
BLOCK_BYTES: Final = 16 * 1024
#: One who takes no block within that time has gone, or is no phone: a block in 20 s are 800 bytes a second.
STALL_S: Final = 20.0
#: And nobody has a place for longer than that, as slow as he may be; he goes on from where he was.
MAX_DOWNLOAD_S: Final = 1800.0
#: After each block a download rests for so many times as long as its reader took to take it. A phone at the edge of the
#: network's reach has 1 Mbit/s, and would fill the air with less than RATE_BYTES_PER_S; so it gets a quarter of it.
REST: Final = 3.0
MAX_REST_S: Final = 10.0
#: What the kernel keeps for a reader; more, and how long he takes would be seen too late.
SEND_BUFFER_BYTES: Final = 64 * 1024
#: A stick that gives nothing for so long is of no use to anybody; the kernel asks one again for longer than that.
STICK_TIMEOUT_S: Final = 20.0
#: What one whom there is no place for is told to wait, in seconds.
RETRY_AFTER_S: Final = 30


class BusyError(Exception):
    """There is no place now."""


class Downloads:
    """The places and the rate; how downloads ended is counted in ``stats``."""

    def __init__(
        self,
        folder: Path,
        stats: Stats | None = None,
        *,
        stick: Path = STICK_SOCKET,
        rate: float = RATE_BYTES_PER_S,
        stall_s: float = STALL_S,
    ) -> None:
        """``rate`` in bytes a second, ``stick`` socket of `relay stick`; without ``stats`` it has counts of its own."""
        self.stats = stats or Stats()
        self._folder = folder
        self._stick = stick
        #: Its own: a card that hangs would take all those that pages and lists are made in.
        self._card = ThreadPoolExecutor(max_workers=1)
        self._bytes = Rate(rate)
        self.stall_s = stall_s
        self._by_address: Counter[str] = Counter()

    def ended(self, how: Download) -> None:
        """Count the end of a download, or that it did not begin."""
        self.stats.add(how)

    def __len__(self) -> int:
        return self._by_address.total()

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Have a place; raise BusyError where there is none for ``address``."""
        refusal = None
        if self._by_address[address] >= MAX_DOWNLOADS_PER_ADDRESS:
            refusal = Download.GREEDY
        elif len(self) >= MAX_DOWNLOADS:
            refusal = Download.BUSY
        if refusal:
            self.ended(refusal)
            raise BusyError
        self._by_address[address] += 1
        try:
            yield
        finally:
            self._by_address[address] -= 1
            # Only those that are there.
            self._by_address += Counter()

    async def taken(self, drained: Awaitable[object]) -> None:
        """Wait until the reader took what was sent, and rest; raise TimeoutError when he takes too long."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(self.stall_s):
            await drained
        await asyncio.sleep(min(REST * (loop.time() - began), MAX_REST_S))

    async def blocks(self, entry: Entry, part: Piece) -> AsyncGenerator[bytes, None]:
        """The bytes, no faster than all downloads together may be; raise OSError where they cannot be had."""
        async with aclosing(self._from_stick(entry, part) if entry.stick else self._from_card(entry, part)) as blocks:
            async for block in blocks:
                await self._bytes.turn(len(block))
                yield block

    async def _from_stick(self, entry: Entry, part: Piece) -> AsyncGenerator[bytes, None]:
        """From `relay stick`, which alone has it mounted: a stick that hangs holds that process, and not this one."""
        writer = None
        try:
            async with asyncio.timeout(STICK_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._stick, limit=BLOCK_BYTES)
            writer.write(StickRequest(name=entry.name, start=part.start, length=part.length).encode())
            left = part.length
            while left > 0:
                async with asyncio.timeout(STICK_TIMEOUT_S):
                    block = await reader.read(min(BLOCK_BYTES, left))
                if not block:
                    raise OSError("the file ends early")  # noqa: TRY301 - one kind for all that a stick does
                yield block
                left -= len(block)
        except OSError as error:
            # As none of those by which the reader's own end is known (TimeoutError, ConnectionError).
            raise OSError("the stick was pulled out, or does not answer") from error
        finally:
            if writer is not None:
                writer.transport.abort()

    async def _from_card(self, entry: Entry, part: Piece) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        descriptor = await self._open(entry)
        try:
            at, end = part.start, part.start + part.length
            while at < end:
                # In a thread: a worn card takes seconds, and phones' checks are answered by this loop.
                wanted = min(BLOCK_BYTES, end - at)
                block = await loop.run_in_executor(self._card, os.pread, descriptor, wanted, at)
                if not block:
                    raise OSError("the file ends early")
                yield block
                at += len(block)
        finally:
            # Behind a block that is being read for who has gone: its number might be another file's by then.
            self._card.submit(os.close, descriptor)

    async def _open(self, entry: Entry) -> int:
        opening = self._card.submit(open_entry, self._folder, entry)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            # Who asked has gone, and the card opens it all the same: it would stay open for ever.
            opening.add_done_callback(_close_opened)
            raise


def _close_opened(opening: Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())
