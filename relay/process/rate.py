# SPDX-License-Identifier: GPL-2.0-or-later
"""So much a second for all who ask, in the order in which they came; who goes takes nothing from those behind him."""

from __future__ import annotations

import asyncio
from typing import Final

#: What may be taken at once after a rest, so that two who come together do not wait for each other.
BURST: Final = 2


class Rate:
    """Hands out ``per_s`` a second.

    A turn is paid for when it comes. Were it paid for when it is asked for, whoever asks and goes a thousand times a
    second would leave the bill to those who stay.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._queue = asyncio.Lock()
        #: When all that was handed out is used up (seconds of the loop).
        self._used_up_s = 0.0

    async def turn(self, amount: float = 1.0) -> None:
        """Wait until ``amount`` can be had, behind those who asked before."""
        loop = asyncio.get_running_loop()
        async with self._queue:
            ahead_s = self._used_up_s - loop.time() - (BURST - 1) * amount / self._per_s
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            self._used_up_s = max(self._used_up_s, loop.time()) + amount / self._per_s
