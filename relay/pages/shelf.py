# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of the shelf: what is on offer, with size, sum and QR code; made here for both servers that show it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from relay.pages import qr
from relay.process import shelf
from relay.process.answers import to_the_end
from relay.process.pacer import Pacer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from relay.pages.language import Language
    from relay.pages.render import Pages
    from relay.process.shelf import Entry

#: Pages that are kept, those asked for last: of each language, as the box is called by its address and by a name.
#: 200 kB each at most.
MAX_KEPT: Final = 8
#: Of 64 QR codes a small Pi thinks for a second or two. Whoever calls the box by ever new addresses gets ever new
#: pages, and these wait for as long as Pacer says, but no longer than this.
MAX_REST_S: Final = 2.0


#: Language, how the box was called, and of which state of the lists it was made.
_Key = tuple[str, str, tuple[tuple[int, int], ...]]


class ShelfPage:
    """Makes the page, one at a time, and keeps it until a list changes; nothing is imported for it before that."""

    def __init__(self, pages: Pages, lists: Sequence[Path] = shelf.LISTS, *, home: str = "/") -> None:
        """``home``: path of the participants' page on the same server."""
        self._pages = pages
        self._lists = lists
        self._home = home
        self._kept: dict[_Key, bytes] = {}
        self._making = asyncio.Lock()
        self._pacer = Pacer(time.monotonic)

    async def get(self, host: str, language: Language) -> bytes:
        """The document; ``host``: how the reader called this box, with its port, for the QR codes."""
        key = (language.code, host, await asyncio.to_thread(shelf.changed_at, self._lists))
        if key not in self._kept:
            async with self._making:
                if key not in self._kept:
                    await asyncio.sleep(min(self._pacer.delay_s, MAX_REST_S))
                    await to_the_end(self._make(key, host, language))
        # To the end, where those stand that were asked for last.
        page = self._kept[key] = self._kept.pop(key)
        return page

    def headers(self, language: Language) -> dict[str, str]:
        """The headers of an answer with the page, but for Content-Length."""
        return {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Language": language.code,
            "Content-Security-Policy": self._pages.content_security_policy,
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Vary": "Accept-Language",
        }

    async def _make(self, key: _Key, host: str, language: Language) -> None:
        self._pacer.begin()
        try:
            page = await asyncio.to_thread(self._render, host, language)
        finally:
            self._pacer.end()
        while len(self._kept) >= MAX_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = page

    def _render(self, host: str, language: Language) -> bytes:
        entries = shelf.read_lists(self._lists).values()
        return render(self._pages, language, entries, host, home=self._home).encode()


def render(pages: Pages, language: Language, entries: Iterable[Entry], host: str, *, home: str = "/") -> str:
    """Return the document; blocking, for a thread."""
    files = [(entry, qr.svg(f"http://{host}{entry.path}")) for entry in entries]
    return pages.render("shelf.html", language, {"files": files, "home": home, "is_live": False})
