# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a visit to a relay goes on: for as long as it is of use."""

from typing import Final

from relay.core.envelope import SIZES

FAIR_BYTES: Final = SIZES[-1]
"""Of what it owes, a relay has to give this much before patience ends (a minute): one large envelope, where the
slowest radio carries a hundred. Less is a relay that keeps one waiting by giving little."""
MAX_VISIT_PATIENCES: Final = 30
"""And this much longer (half an hour) in all, while nothing of it is for us: then whatever there is can wait for the
next visit, and for another relay."""


class Patience:
    """What a relay is given time for. Times are of any clock that only goes forward."""

    def __init__(self, patience_s: float, now: float) -> None:
        """Begin now: `patience_s` is how long a relay may owe something."""
        self._patience_s = patience_s
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin anew: nothing was owed until now."""
        self._deadline = now + self._patience_s
        self._end = now + MAX_VISIT_PATIENCES * self._patience_s
        self._owed_bytes = FAIR_BYTES

    def left_s(self, now: float) -> float:
        """Return how long to wait for more; 0 when the patience is over."""
        return max(0.0, min(self._deadline, self._end) - now)

    def brought(self, wanted_bytes: int, now: float, *, is_ours: bool) -> bool:
        """Note what came that was owed, and whether something of it was for us; whether that gave more time."""
        if is_ours:
            self.restart(now)
            return True
        self._owed_bytes -= wanted_bytes
        if self._owed_bytes > 0:
            return False
        self._owed_bytes = FAIR_BYTES
        self._deadline = now + self._patience_s
        return now < self._end
