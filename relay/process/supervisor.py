# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts what failed again, later each time, and never all at once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from relay.core.clock import jittered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 60.0
#: After running for so long, the next failure is a new one.
STEADY_S: Final = 60.0


class Backoff:
    """Delays that double, with jitter so that relays switched on together do not stay in step."""

    __slots__ = ("_delay_s", "_first_s", "_max_s", "_random")

    def __init__(
        self, random: Callable[[], float], *, first_s: float = FIRST_DELAY_S, max_s: float = MAX_DELAY_S
    ) -> None:
        """``random`` returns floats in [0, 1)."""
        self._random = random
        self._first_s = first_s
        self._max_s = max_s
        self._delay_s = first_s

    def next(self, *, ran_s: float) -> float:
        """Return how long to wait after a run of ``ran_s`` seconds."""
        if ran_s >= STEADY_S:
            self._delay_s = self._first_s
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._max_s)
        return jittered(delay_s, self._random())


async def supervise(
    name: str,
    start: Callable[[], Awaitable[None]],
    *,
    random: Callable[[], float],
    on_state: Callable[[bool], None],
) -> None:
    """Run ``start`` for ever; ``on_state`` hears True when it runs and False when it failed."""
    loop = asyncio.get_running_loop()
    backoff = Backoff(random)
    while True:
        began = loop.time()
        on_state(True)
        try:
            await start()
        except Exception as error:  # noqa: BLE001 - no link may take the relay down, whatever it raises
            # The text of a network error can hold an address: the type says enough.
            logger.warning("link %s failed (%s), starting it again", name, type(error).__name__)
        on_state(False)
        await asyncio.sleep(backoff.next(ran_s=loop.time() - began))
