# SPDX-License-Identifier: GPL-2.0-or-later
"""When an adapter's address changes, and the salt with it (docs/ble.md section 2).

The kernel marks a private address as expired ``rotation_s`` after it was made, and
makes another when advertising, scanning or dialling begins next. That must be us,
with a new salt: so all of these stop shortly before, and begin after. (With a
controller that has extended advertising, it makes one at each registration, too: so
each registration has a salt of its own.)
"""

from __future__ import annotations

from typing import Final

#: Silence before the address expires; covers what the call that began the epoch took,
#: and what the kernel takes to stop.
BEFORE_S: Final = 5.0
#: ... and after, for its timers' rounding.
AFTER_S: Final = 1.0


class Epoch:
    """One private address of one adapter."""

    __slots__ = ("_began", "_rotation_s")

    def __init__(self, *, rotation_s: float) -> None:
        """An epoch that has not begun."""
        self._rotation_s = rotation_s
        self._began: float | None = None

    def began(self, now: float) -> None:
        """Advertising began, for the first time in this epoch: the address is no younger."""
        if self._began is None:
            self._began = now

    def silent_at(self, now: float) -> float:
        """When to stop advertising, scanning and dialling, in the seconds of ``now``."""
        return (now if self._began is None else self._began) + self._rotation_s - BEFORE_S

    def over_at(self, now: float) -> float:
        """When the next epoch may begin."""
        return (now if self._began is None else self._began) + self._rotation_s + AFTER_S
