# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection on which `relay run` hears how Bluetooth does, and tells the news (docs/links.md, section 3)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.process.reporting import report
from relay.process.reports import decode_news
from relay.process.supervisor import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relay.process.reports import NewsForBle, Reporter

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
                await report(self._path, self._reporter, self._heard)
            except (OSError, DecodeError) as error:
                if not is_away:
                    # Once: it can take hours until someone starts the relay.
                    logger.warning("relay run does not answer (%s), trying again", type(error).__name__)
            is_away = loop.time() - began < MAX_DELAY_S
            self._on_news(None)
            self._reporter.count("relay_unreachable")
            await asyncio.sleep(backoff.next(ran_s=loop.time() - began))

    def _heard(self, line: bytes) -> None:
        self._on_news(decode_news(line))
