# SPDX-License-Identifier: GPL-2.0-or-later
"""The shelf on port 80 of the access point: which requests are for it, and its answers (relay.process.shelf)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from relay.core.stats import Download
from relay.pages.language import choose
from relay.process import shelf
from relay.process.downloads import MAX_DOWNLOAD_S, RETRY_AFTER_S, BusyError, Downloads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from relay.pages.shelf import ShelfPage
    from relay.process.shelf import Entry

_REASONS: Final = {
    200: "OK",
    206: "Partial Content",
    301: "Moved Permanently",
    404: "Not Found",
    416: "Range Not Satisfiable",
    503: "Service Unavailable",
}
#: On their way at once, to phones that take them slowly: 7 MB.
MAX_PAGES_OUT: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfRequest:
    """A request for a path of the shelf, with what of its headers matters.

    ``language``: chosen by hand; ``head``: without a body.
    """

    host: str
    path: str
    language: str = ""
    head: bool = False
    wanted_range: str = ""
    if_range: str = ""
    if_none_match: str = ""
    accept_language: str = ""


def is_for_shelf(path: str) -> bool:
    """Whether a path, without its query, is one of the shelf's."""
    return path == shelf.PATH.rstrip("/") or path.startswith(shelf.PATH)


class Reader(Protocol):
    """The other side of a connection; ``address`` is its address."""

    address: str

    def write(self, data: bytes) -> None:
        """Send, or keep until it can be sent."""

    async def drained(self) -> None:
        """Return once there is room for more; raise ConnectionError when the reader is gone."""


class ShelfServer:
    """Answers for the files of ``downloads`` that ``lists`` name, and with their page."""

    def __init__(self, downloads: Downloads, page: ShelfPage, lists: Sequence[Path] = shelf.LISTS) -> None:
        self.downloads = downloads
        self._page = page
        self._lists = lists
        self._pages_out = 0

    async def answer(self, request: ShelfRequest, reader: Reader) -> None:
        """Send the whole answer; who is too slow, or goes, is counted and left."""
        try:
            if request.path == shelf.PATH:
                await self._send_page_in_turn(request, reader)
                return
            entry = shelf.find(request.path, await asyncio.to_thread(shelf.read_lists, self._lists))
            if entry is not None:
                await self._send_file(request, entry, reader)
            elif request.path == shelf.PATH.rstrip("/"):
                reader.write(_head(301, [("Location", shelf.PATH)]))
            else:
                reader.write(_head(404, []))
        except ConnectionError:
            self.downloads.ended(Download.GONE)
        except asyncio.CancelledError:
            self.downloads.ended(Download.GONE)
            raise

    async def _send_page_in_turn(self, request: ShelfRequest, reader: Reader) -> None:
        if self._pages_out >= MAX_PAGES_OUT:
            self.downloads.ended(Download.BUSY)
            reader.write(_head(503, [("Retry-After", str(RETRY_AFTER_S))]))
            return
        self._pages_out += 1
        try:
            await self._send_page(request, reader)
            async with asyncio.timeout(self.downloads.stall_s):
                await reader.drained()
        except TimeoutError:
            self.downloads.ended(Download.STALLED)
        finally:
            self._pages_out -= 1

    async def _send_page(self, request: ShelfRequest, reader: Reader) -> None:
        language = choose(request.language, request.accept_language)
        body = await self._page.get(request.host, language)
        headers = [*self._page.headers(language).items(), ("Content-Length", str(len(body)))]
        reader.write(_head(200, headers) + (b"" if request.head else body))

    async def _send_file(self, request: ShelfRequest, entry: Entry, reader: Reader) -> None:
        part = shelf.piece(entry, request.wanted_range, request.if_range)
        head = _head(part.status, [*shelf.headers(entry, part), ("Content-Length", str(part.length))])
        if request.head or part.length == 0:
            reader.write(head)
            return
        try:
            with self.downloads.place(reader.address):
                await self._send_blocks(head, self.downloads.blocks(entry, part), reader)
        except BusyError:
            reader.write(_head(503, [("Retry-After", str(RETRY_AFTER_S)), ("Content-Length", "0")]))

    async def _send_blocks(self, head: bytes, blocks: AsyncGenerator[bytes, None], reader: Reader) -> None:
        ended = self.downloads.ended
        try:
            async with asyncio.timeout(MAX_DOWNLOAD_S), contextlib.aclosing(blocks):
                async for block in blocks:
                    reader.write(head + block)
                    head = b""
                    try:
                        await self.downloads.taken(reader.drained())
                    except TimeoutError:
                        ended(Download.STALLED)
                        return
                ended(Download.WHOLE)
        except TimeoutError:
            ended(Download.TOO_LONG)
        except ConnectionError:
            raise
        except OSError:
            ended(Download.UNREADABLE)
            if head:
                reader.write(_head(404, []))


def _head(status: int, headers: list[tuple[str, str]]) -> bytes:
    if not any(name == "Content-Length" for name, _ in headers):
        headers = [*headers, ("Content-Length", "0")]
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
