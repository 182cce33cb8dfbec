# SPDX-License-Identifier: GPL-2.0-or-later
"""Which long-running tasks make progress.

A task with nothing to do proves nothing by waking up, and waking it costs power.
So a task is stalled only when it has work pending and has not beaten for its
limit; that the loop itself runs is proven by the watchdog's own timer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """``idle_s``: seconds since the task last proved that it makes progress."""

    name: str
    idle_s: float
    stalled: bool = False


class Task:
    """One registered task: call beat() whenever a piece of work is done."""

    __slots__ = ("_beats", "_limit_s", "_pending", "_seen", "_since", "name")

    def __init__(self, name: str, limit_s: float, pending: Callable[[], bool], now: float) -> None:
        self.name = name
        self._limit_s = limit_s
        self._pending = pending
        self._beats = 0
        self._seen = 0
        self._since = now

    def beat(self) -> None:
        """Note progress; cheap enough for every piece of work."""
        self._beats += 1

    def check(self, now: float) -> TaskStatus:
        """Say how long the task has had work without doing any."""
        if self._beats != self._seen or not self._pending():
            self._seen = self._beats
            self._since = now
        idle_s = max(0.0, now - self._since)
        return TaskStatus(name=self.name, idle_s=round(idle_s, 3), stalled=idle_s > self._limit_s)


class Progress:
    """All tasks of one relay; ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tasks: list[Task] = []

    def register(
        self, name: str, *, pending: Callable[[], bool] = lambda: True, limit_s: float = DEFAULT_LIMIT_S
    ) -> Task:
        """Watch a task from now on.

        ``pending`` says whether it has something to do (a queue that is not empty);
        without it the task must beat at least every ``limit_s``.
        """
        task = Task(name, limit_s, pending, self._clock())
        self._tasks.append(task)
        return task

    def check(self) -> list[TaskStatus]:
        """The state of every task, in order of registration."""
        now = self._clock()
        return [task.check(now) for task in self._tasks]
