# SPDX-License-Identifier: GPL-2.0-or-later
"""The button: held long enough it erases the relay; anything shorter does nothing."""

from __future__ import annotations

import enum


class Press(enum.Enum):
    """What a change or the passing of time means."""

    DOWN = enum.auto()  # somebody began; warn
    LET_GO = enum.auto()  # too soon; nothing happened
    PANIC = enum.auto()  # held for as long as it takes


class Button:
    """Follows the keys of all devices that have a button; times are monotonic seconds."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._down: set[tuple[str, int]] = set()
        self._since_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        """When to call :meth:`expire`; None while nothing is held."""
        return None if self._since_s is None else self._since_s + self._hold_s

    def key(self, device: str, code: int, *, down: bool, now: float) -> Press | None:
        """A key of ``device`` went down or up."""
        if down:
            self._down.add((device, code))
            if len(self._down) == 1 and self._since_s is None:
                self._since_s = now
                return Press.DOWN
            return None
        self._down.discard((device, code))
        return self._released()

    def gone(self, device: str) -> Press | None:
        """``device`` was unplugged: its keys are no longer held."""
        self._down = {key for key in self._down if key[0] != device}
        return self._released()

    def expire(self, now: float) -> Press | None:
        """Say PANIC once, when the deadline has passed."""
        if self._since_s is None or now < self._since_s + self._hold_s:
            return None
        # Not again before it was let go.
        self._since_s = None
        return Press.PANIC

    def _released(self) -> Press | None:
        if self._down or self._since_s is None:
            return None
        self._since_s = None
        return Press.LET_GO
