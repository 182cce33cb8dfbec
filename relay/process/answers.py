# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers to operators and participants: made one after the other, once for all who ask at the same time, and paced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from relay.process.pacer import Pacer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

#: An answer is given again to whoever asks so soon after, so that floods make no work.
ANSWER_AGE_S: Final = 0.2
#: An answer is made in a thread, which takes turns with the loop. Then others rest for as long as Pacer says, but no
#: longer than this: the first page takes a Raspberry Pi a second, and is not held against those who ask next.
MAX_REST_S: Final = 0.1


async def to_the_end(work: Coroutine[Any, Any, Any]) -> Any:
    """Return what ``work`` does, and wait for it also where whoever asked has gone.

    A thread cannot be stopped. If who asks and goes freed its place, he could have any number of them at work.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            # Looked at, or asyncio would log it.
            task.exception()
        raise


class Answers:
    """Those of one kind; kinds do not wait for each other: a page that is slow holds up no scrape."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` in monotonic seconds."""
        self._clock = clock
        self._making = asyncio.Lock()
        self._pacer = Pacer(clock)
        self._made: dict[Hashable, tuple[float, Any]] = {}

    def clear(self) -> None:
        """Something changed: make all of them anew."""
        self._made.clear()

    async def get(self, key: Hashable, look: Callable[[], Any], draw: Callable[[Any], Any] | None = None) -> Any:
        """Return what ``look`` returns, or returned just now; ``draw`` makes the answer of that, in a thread."""
        async with self._making:
            now = self._clock()
            self._made = {known: row for known, row in self._made.items() if now - row[0] < ANSWER_AGE_S}
            if key not in self._made:
                # Others have been answered, and the loop has had its time, however much is asked.
                await asyncio.sleep(min(self._pacer.delay_s, MAX_REST_S))
                return await to_the_end(self._make(key, look, draw))
            return self._made[key][1]

    async def _make(self, key: Hashable, look: Callable[[], Any], draw: Callable[[Any], Any] | None) -> Any:
        self._pacer.begin()
        try:
            made = look()
            if draw is not None:
                made = await asyncio.to_thread(draw, made)
        finally:
            self._pacer.end()
        self._made[key] = (self._clock(), made)
        return made
