# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual time: calls in the order of their time, ties in the order of asking."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Scheduler:
    """Runs calls at their virtual time (seconds from the start)."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0
        self._asked = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple]] = []

    def at(self, when_s: float, call: Callable[..., None], *arguments) -> None:
        """Call at a time, at once if that is past."""
        self._asked += 1
        heapq.heappush(self._heap, (max(when_s, self.now), self._asked, call, arguments))

    def after(self, delay_s: float, call: Callable[..., None], *arguments) -> None:
        """Call after a delay."""
        self.at(self.now + delay_s, call, *arguments)

    def run_until(self, end_s: float) -> None:
        """Make every call that is due up to ``end_s``, and those that they ask for."""
        while self._heap and self._heap[0][0] <= end_s:
            self.now, _, call, arguments = heapq.heappop(self._heap)
            self.calls += 1
            call(*arguments)
        self.now = end_s
