# SPDX-License-Identifier: GPL-2.0-or-later
"""When an adapter's address changes, and the salt with it (docs/ble.md section 2).

The kernel marks a private address as expired ``rotation_s`` after it was made, and
makes another when advertising, scanning or dialling begins next. That must be us,
with a new salt: so all of these stop before, and begin after. (With a controller that
has extended advertising, it makes one at each registration, too: so each registration
has a salt of its own.)

How long before and how long after is drawn anew for each epoch: epochs of one length
would join a relay's addresses by their rhythm alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Least silence before the address expires; covers what the call that began the epoch took,
#: and what the kernel takes to stop.
BEFORE_S: Final = 5.0
#: ... and after, for its timers' rounding.
AFTER_S: Final = 1.0
#: At most so much more silence, at each end: 66 s in all on average, a fifteenth of the time, in which nobody
#: finds this relay. More would join no fewer addresses of a relay that is alone (docs/threat-model.md 3.1).
MOST_MORE_S: Final = 60.0
#: ... but no more than this share of an epoch each, where it is a short one.
MOST_SHARE: Final = 1 / 3


class Epoch:
    """One private address of one adapter."""

    __slots__ = ("_after_s", "_before_s", "_began", "_rotation_s")

    def __init__(self, *, rotation_s: float, random: Callable[[], float]) -> None:
        """An epoch that has not begun. ``random`` returns floats in [0, 1) that nobody can guess."""
        most_s = min(MOST_MORE_S, MOST_SHARE * rotation_s)
        self._rotation_s = rotation_s
        self._before_s = BEFORE_S + most_s * random()
        self._after_s = AFTER_S + most_s * random()
        self._began: float | None = None

    def began(self, now: float) -> None:
        """Advertising began, for the first time in this epoch: the address is no younger."""
        if self._began is None:
            self._began = now

    def silent_at(self, now: float) -> float:
        """When to stop advertising, scanning and dialling, in the seconds of ``now``."""
        return (now if self._began is None else self._began) + self._rotation_s - self._before_s

    def over_at(self, now: float) -> float:
        """When the next epoch may begin."""
        return (now if self._began is None else self._began) + self._rotation_s + self._after_s
