# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay as the pages see it: one picture of it for all who look within a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.process.answers import ANSWER_AGE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.control.status import Engine, Status
    from relay.core.stats import Stats


class Recent:
    """``engine``, whose status is made anew no sooner than ANSWER_AGE_S after the last (implements Engine)."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        """``clock`` in monotonic seconds."""
        self._engine = engine
        self._clock = clock
        self._seen: Status | None = None
        self._seen_s = 0.0

    @property
    def stats(self) -> Stats:
        """The counts since start."""
        return self._engine.stats

    def status(self) -> Status:
        """The last picture, or a fresh one."""
        now = self._clock()
        if self._seen is None or now - self._seen_s >= ANSWER_AGE_S:
            self._seen, self._seen_s = self._engine.status(), now
        return self._seen

    def set_clock(self, unix_s: int) -> None:
        """Take the operator's word for the time; raise ClockRefusedError."""
        self._engine.set_clock(unix_s)
        self._seen = None
