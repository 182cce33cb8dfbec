# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose turn it is: of all who have something to do, whoever had least of the relay's time lately.

Start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996), twice: first between interfaces,
then between the machines of one. Each has a clock that runs while it is served; the slowest
is served next. One that used less than its part goes before all who kept the relay busy, and
can save up no more than its part of a second. All sessions of an address share a clock, so
that 28 of them are one; and all addresses of an interface that of the interface, so that 256
of them are one interface. Those that say nothing take no time: they cost the others nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Final

#: How far a clock may be behind: where 256 addresses of one interface keep the relay busy,
#: somebody who was quiet for so long gets 4 ms at once, for a dozen questions.
SAVED_S: Final = 1.0
#: Addresses whose last session ended and whose clock is ahead: 0.3 MB. Beyond it the
#: one that left first may come again and begin anew.
MAX_LEFT: Final = 1024


@dataclass(slots=True, eq=False)
class _Interface:
    """The time that all addresses of one interface had, and those of them that wait."""

    spent: float
    #: The time that each of its addresses had, in its own count: that of the slowest that was served last.
    now: float = 0.0
    #: Addresses with sessions, and clocks of those that left.
    addresses: int = 0
    clocks: int = 0
    heap: list[tuple[float, int, _Clock]] = field(default_factory=list)
    is_queued: bool = False

    @property
    def saved_s(self) -> float:
        """Return how far one of its addresses may be behind the others."""
        return SAVED_S / max(1, self.addresses)


@dataclass(slots=True, eq=False)
class _Clock:
    """The time that one address had."""

    interface: _Interface
    spent: float
    sessions: int = 0
    #: Those of its sessions that wait, in order, and whether it waits for them.
    waiting: deque[int] = field(default_factory=deque)
    is_queued: bool = False


class Turns:
    """Sessions by number; whoever has something to do is added, and served by :meth:`next`."""

    def __init__(self) -> None:
        self._interfaces: dict[str, _Interface] = {}
        self._clocks: dict[tuple[str, str], _Clock] = {}
        self._of: dict[int, tuple[str, str]] = {}
        self._waiting: set[int] = set()
        #: Addresses without sessions any more, as they left.
        self._left: deque[tuple[str, str]] = deque()
        self._heap: list[tuple[float, int, _Interface]] = []
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
            of = self._interfaces.setdefault(interface, _Interface(self._now))
            of.clocks += 1
            clock = self._clocks[key] = _Clock(of, of.now)
        if not clock.sessions:
            clock.interface.addresses += 1
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
            clock.interface.addresses -= 1
            self._left.append(key)
            self._forget_left()

    def _forget_left(self) -> None:
        while self._left:
            key = self._left[0]
            clock = self._clocks.get(key)
            if clock is not None and not clock.sessions:
                interface = clock.interface
                is_ahead = clock.spent > interface.now or (interface.clocks == 1 and interface.spent > self._now)
                if is_ahead and len(self._left) <= MAX_LEFT:
                    return
                del self._clocks[key]
                interface.clocks -= 1
                if not interface.clocks:
                    del self._interfaces[key[0]]
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
        if not clock.interface.is_queued and (self._served is None or clock.interface is not self._served.interface):
            self._queue_interface(clock.interface)

    def _queue(self, clock: _Clock) -> None:
        clock.spent = max(clock.spent, clock.interface.now - clock.interface.saved_s)
        clock.is_queued = True
        self._queued += 1
        heapq.heappush(clock.interface.heap, (clock.spent, self._queued, clock))

    def _queue_interface(self, interface: _Interface) -> None:
        interface.spent = max(interface.spent, self._now - SAVED_S)
        interface.is_queued = True
        self._queued += 1
        heapq.heappush(self._heap, (interface.spent, self._queued, interface))

    def next(self) -> int | None:
        """Return whose turn it is, None when nobody waits; :meth:`spent` has to follow."""
        while self._heap:
            spent, _, interface = heapq.heappop(self._heap)
            self._now = max(self._now, spent)
            interface.is_queued = False
            while interface.heap:
                spent, _, clock = heapq.heappop(interface.heap)
                interface.now = max(interface.now, spent)
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
            for interface in self._interfaces.values():
                interface.now += seconds / max(1, interface.addresses)
            self._forget_left()

    def spent(self, seconds: float) -> None:
        """Say what the last turn took."""
        clock, self._served = self._served, None
        if clock is None:
            return
        interface = clock.interface
        clock.spent += seconds
        interface.spent += seconds
        if clock.waiting:
            self._queue(clock)
        if interface.heap:
            self._queue_interface(interface)
