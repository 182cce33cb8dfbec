# SPDX-License-Identifier: GPL-2.0-or-later
"""So much a second, and so much at once: rates, and what is left of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So much a second, and so much at once."""

    per_s: float
    burst: float


class Bucket:
    """What is left of a rate."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = rate.burst
        self._at = now

    def take(self, cost: float, now: float) -> bool:
        """Take ``cost`` if there is so much."""
        self._fill(now)
        if cost > self._left:
            return False
        self._left -= cost
        return True

    def spend(self, cost: float, now: float) -> None:
        """Take ``cost`` even if there is less: what is one piece goes out whole, and the next one waits longer."""
        self._fill(now)
        self._left -= cost

    def open_at(self, now: float) -> float:
        """When there is anything left (monotonic seconds); not later than ``now`` if there is."""
        self._fill(now)
        return now if self._left > 0 else now - self._left / self._rate.per_s + 1e-6

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._left = min(self._rate.burst, self._left + (now - self._at) * self._rate.per_s)
            self._at = now
