# SPDX-License-Identifier: GPL-2.0-or-later
"""The one thing that can be changed by the pages, the clock: by who knows the token, from our own page."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from aiohttp import web

from relay.control.status import ClockRefusedError
from relay.core.stats import HttpRefused
from relay.process.http_server import text
from relay.run.access import Access
from relay.run.page import OFFSETS

if TYPE_CHECKING:
    from relay.control.status import Engine
    from relay.run.access import Gate

FORM_TIMEOUT_S: Final = 5.0
_MAX_FORM_FIELDS: Final = 8


class ClockForm:
    """Takes the form, and says what came of it by a word of relay.run.page.SAID."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self._engine = engine
        self._gate = gate

    async def take(self, request: web.BaseRequest, address: str) -> str | web.Response:
        """Take the operator's word for the time; return the word, or the answer to what is no form of ours.

        Raise web.HTTPException.
        """
        if not _is_same_origin(request):
            self._engine.stats.add(HttpRefused.ORIGIN)
            return text(403, "Only this relay's own page may ask for that.")
        if request.content_type != "application/x-www-form-urlencoded":
            raise web.HTTPUnsupportedMediaType
        try:
            async with asyncio.timeout(FORM_TIMEOUT_S):
                form = parse_qs(await request.text(), max_num_fields=_MAX_FORM_FIELDS)
        except (ValueError, LookupError) as error:
            raise web.HTTPBadRequest from error
        except TimeoutError as error:
            raise web.HTTPRequestTimeout from error
        return self._set(address, {name: values[0] for name, values in form.items()})

    def _set(self, address: str, form: dict[str, str]) -> str:
        access = self._gate.check(address, form.get("token", ""))
        if access is not Access.ADMITTED:
            self._engine.stats.add(access.refusal)
            return "guesses" if access is Access.TOO_MANY else "token"
        try:
            self._engine.set_clock(_unix_s(form.get("time", ""), form.get("offset", "")))
        except ValueError:
            return "time"
        except ClockRefusedError:
            return "early"
        return "clock"


def _is_same_origin(request: web.BaseRequest) -> bool:
    """Whether our own page asks; browsers say so with each form (Fetch standard), and nothing else may."""
    origin = request.headers.get("Origin", "")
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    return origin in {f"http://{request.host}", f"https://{request.host}"} and site == "same-origin"


def _unix_s(moment_text: str, offset: str) -> int:
    """Seconds since 1970 of a local time as forms have it, and its minutes from UTC; raise ValueError."""
    moment = datetime.fromisoformat(moment_text)
    minutes = int(offset)
    if moment.tzinfo is not None or not OFFSETS[0] <= minutes <= OFFSETS[-1]:
        raise ValueError("not a local time, or no such zone")
    try:
        return int((moment.replace(tzinfo=UTC) - timedelta(minutes=minutes)).timestamp())
    except OverflowError as error:
        raise ValueError("beyond the calendar") from error
