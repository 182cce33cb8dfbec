# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a visit to a relay goes on: for as long as it is of use.

Of use to anybody: were it to last longer for what is for us, a relay that keeps one waiting would learn for whom
it has mail.
"""

from typing import Final

MIN_BYTES_PER_S: Final = 200
"""Of envelopes and offers, in the long run, from a relay that has not said that this was all: a bad radio gives five
times as much. One that drips to keep a client waiting is left once its patience is used up."""
MAX_VISIT_PATIENCES: Final = 60
"""And as many in all (an hour): what is left then can wait for the next visit, and for another relay."""


class Patience:
    """What a relay is given time for, in one session or several. Times are of any clock that only goes forward."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s` is how long a relay may owe something, once it has been started."""
        self._patience_s = patience_s
        self._fair_bytes = patience_s * MIN_BYTES_PER_S
        self._brought_bytes = 0
        self._deadline = self._end = 0.0

    def start(self, now: float) -> None:
        """Begin, again too: nothing was owed until now. A visit ends when it would have, however often it breaks."""
        self._deadline = now + self._patience_s
        self._end = self._end or now + MAX_VISIT_PATIENCES * self._patience_s

    def rest(self) -> None:
        """End the visit: what is started next is another one."""
        self._end = 0.0

    def left_s(self, now: float) -> float:
        """Return how long to wait for more; 0 when the patience is over."""
        return max(0.0, min(self._deadline, self._end) - now)

    def is_endless(self, now: float) -> bool:
        """Whether this has gone on for as long as a visit may."""
        return now >= self._end

    def brought(self, wanted_bytes: int, now: float) -> bool:
        """Note what came that was owed; whether that, with what came before, is worth the whole patience again."""
        self._deadline = min(self._deadline + wanted_bytes / MIN_BYTES_PER_S, now + self._patience_s)
        self._brought_bytes += wanted_bytes
        if self._brought_bytes < self._fair_bytes:
            return False
        self._brought_bytes = 0
        return True
