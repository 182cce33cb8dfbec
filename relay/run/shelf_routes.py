# SPDX-License-Identifier: GPL-2.0-or-later
"""The shelf on the status page's server, for whoever is on the cable; the portal has it on the access point."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from aiohttp import web

from relay.core.stats import Download
from relay.pages.language import choose
from relay.pages.shelf import ShelfPage
from relay.process import shelf
from relay.process.downloads import MAX_DOWNLOAD_S, RETRY_AFTER_S, BusyError, Downloads
from relay.process.http_server import add_headers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from relay.core.stats import Stats
    from relay.pages.render import Pages


class ShelfRoutes:
    """Answers for the files of ``folder``, and of a stick, that ``lists`` name, within the bounds of Downloads."""

    def __init__(
        self, pages: Pages, stats: Stats, folder: Path = shelf.FOLDER, lists: Sequence[Path] = shelf.LISTS
    ) -> None:
        self._lists = lists
        self._pages = pages
        self._downloads = Downloads(folder, stats)
        self._shelf_page = ShelfPage(pages, lists, home="/about")

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer for a path below shelf.PATH, which is taken as it came, and looked up; raise web.HTTPException."""
        return await (self._page(request) if request.path == shelf.PATH else self._file(request))

    async def _page(self, request: web.BaseRequest) -> web.Response:
        language = choose(request.query.get("lang", ""), request.headers.get("Accept-Language", ""))
        page = await self._shelf_page.get(request.host, language)
        return web.Response(body=page, headers=self._shelf_page.headers(language))

    async def _file(self, request: web.BaseRequest) -> web.StreamResponse:
        entry = shelf.find(request.rel_url.raw_path, await asyncio.to_thread(shelf.read_lists, self._lists))
        if entry is None:
            raise web.HTTPNotFound
        part = shelf.piece(entry, request.headers.get("Range", ""), request.headers.get("If-Range", ""))
        response = web.StreamResponse(status=part.status, headers=dict(shelf.headers(entry, part)))
        response.content_length = part.length
        # It is sent before it is returned.
        add_headers(response, self._pages.content_security_policy)
        if request.method == "HEAD" or not part.length:
            await response.prepare(request)
            return response
        try:
            with self._downloads.place(request.remote or ""):
                async with asyncio.timeout(MAX_DOWNLOAD_S), aclosing(self._downloads.blocks(entry, part)) as blocks:
                    async for block in blocks:
                        if not response.prepared:
                            await response.prepare(request)
                        await self._downloads.taken(response.write(block))
        except BusyError:
            return web.Response(status=503, headers={"Retry-After": str(RETRY_AFTER_S)})
        except TimeoutError:
            self._end(request, Download.STALLED)
        except asyncio.CancelledError:
            self._downloads.ended(Download.GONE)
            raise
        except ConnectionError:
            self._end(request, Download.GONE)
        except OSError:
            if not response.prepared:
                self._downloads.ended(Download.UNREADABLE)
                raise web.HTTPNotFound from None
            self._end(request, Download.UNREADABLE)
        else:
            self._downloads.ended(Download.WHOLE)
        return response

    def _end(self, request: web.BaseRequest, how: Download) -> None:
        """Count it, and let go: what is left of the answer would be waited for."""
        self._downloads.ended(how)
        if request.transport is not None:
            request.transport.abort()
