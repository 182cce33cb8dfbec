# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose turn it is: of all who have something to do, whoever had least of the relay's time lately.

Start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996). Each machine on a segment
has a clock that runs while it is served; the slowest is served next. One that used
less than its part goes before all who kept the relay busy, and can save up no more than
its part of a second. All sessions of an address share a clock, so that 28 of them are
one; and it runs faster the more addresses its interface has, so that 256 of them are
one interface.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from typing import Final

#: How far a clock may be behind: where 256 addresses of one interface keep the relay busy,
#: somebody who was quiet for so long gets 4 ms at once, for a dozen questions.
SAVED_S: Final = 1.0
#: Addresses whose last session ended and whose clock is ahead: 0.3 MB. Beyond it the
#: one that left first may come again and begin anew.
MAX_LEFT: Final = 1024


class _Clock:
    """The time that one address had."""

    __slots__ = ("interface", "is_queued", "sessions", "spent", "waiting")

    def __init__(self, interface: str, now: float) -> None:
        self.interface = interface
        self.spent = now
        self.sessions = 0
        #: Those of its sessions that wait, in order, and whether it waits for them.
        self.waiting: deque[int] = deque()
        self.is_queued = False


class Turns:
    """Sessions by number; whoever has something to do is added, and served by :meth:`next`."""

    def __init__(self) -> None:
        self._clocks: dict[tuple[str, str], _Clock] = {}
        self._of: dict[int, tuple[str, str]] = {}
        self._waiting: set[int] = set()
        #: Addresses with sessions, by interface; and those without any more, as they left.
        self._addresses: Counter[str] = Counter()
        self._left: deque[tuple[str, str]] = deque()
        self._heap: list[tuple[float, int, _Clock]] = []
        self._queued = 0
        self._now = 0.0
        self._served: _Clock | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, number: int, interface: str, peer: str) -> None:
        """Take in a session; one whose ``peer`` is not known ("") is alone with its clock."""
        key = (interface, peer or f"#{number}")
        clock = self._clocks.get(key)
        if clock is None:
            clock = self._clocks[key] = _Clock(interface, self._now)
        if not clock.sessions:
            self._addresses[interface] += 1
        clock.sessions += 1
        self._of[number] = key

    def close(self, number: int) -> None:
        """Forget a session. A clock that is ahead stays, or whoever comes again would begin anew."""
        key = self._of.pop(number, None)
        if key is None:
            return
        clock = self._clocks[key]
        if number in self._waiting:
            self._waiting.discard(number)
            clock.waiting.remove(number)
        clock.sessions -= 1
        if not clock.sessions:
            self._addresses[clock.interface] -= 1
            self._left.append(key)
            self._forget_left()

    def _forget_left(self) -> None:
        while self._left:
            clock = self._clocks.get(self._left[0])
            if clock is not None and not clock.sessions:
                if clock.spent > self._now and len(self._left) <= MAX_LEFT:
                    return
                del self._clocks[self._left[0]]
            self._left.popleft()

    def add(self, number: int) -> None:
        """Let a session have its turn."""
        key = self._of.get(number)
        if key is None or number in self._waiting:
            return
        clock = self._clocks[key]
        self._waiting.add(number)
        clock.waiting.append(number)
        if not clock.is_queued and clock is not self._served:
            self._queue(clock)

    def _queue(self, clock: _Clock) -> None:
        clock.spent = max(clock.spent, self._now - SAVED_S)
        clock.is_queued = True
        self._queued += 1
        heapq.heappush(self._heap, (clock.spent, self._queued, clock))

    def next(self) -> int | None:
        """Return whose turn it is, None when nobody waits; :meth:`spent` has to follow."""
        while self._heap:
            spent, _, clock = heapq.heappop(self._heap)
            self._now = max(self._now, spent)
            clock.is_queued = False
            if clock.waiting:
                number = clock.waiting.popleft()
                self._waiting.discard(number)
                self._served = clock
                return number
        return None

    def rest(self, seconds: float) -> None:
        """Say for how long nobody had anything to do: all could have had that time."""
        if not self._heap:
            self._now += seconds

    def spent(self, seconds: float) -> None:
        """Say what the last turn took."""
        clock, self._served = self._served, None
        if clock is None:
            return
        clock.spent += seconds * max(1, self._addresses[clock.interface])
        if clock.waiting:
            self._queue(clock)
