# SPDX-License-Identifier: GPL-2.0-or-later
"""When envelopes leave, and when their identities are forgotten (docs/protocol.md section 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.core.stats import Dropped, Histogram, Total

if TYPE_CHECKING:
    from relay.core.clock import Clock
    from relay.core.log import AdmittedLog
    from relay.core.stats import Stats

#: Without a clock an identity is remembered for so many residences. With two, three
#: relays that met in turn every 0.9 residence kept 20 of 20 envelopes alive for ever:
#: the first had forgotten when the third still held. With four it takes six relays.
FORGET_RESIDENCES: Final = 4
#: Entries that leave at a time, at most: 15 ms of work here.
RETIRED: Final = 2048
#: Identities that are forgotten early beyond those that have to be: 5 ms of work here.
TRIMMED: Final = 1024


class Retention:
    """Finds what has to leave a log."""

    def __init__(self, log: AdmittedLog, clock: Clock, stats: Stats, *, residence_s: float, max_admitted: int) -> None:
        """``residence_s``: stay of an envelope without a trusted clock.

        ``max_admitted`` bounds the identities remembered, held or gone, 85 bytes
        each; beyond it the oldest that are gone are forgotten early.
        """
        self._log = log
        self._clock = clock
        self._stats = stats
        self._residence_s = residence_s
        self._max_admitted = max_admitted
        #: Whether :meth:`retire` left something for the next time.
        self.has_more = False

    def retire(self, now: float) -> tuple[list[int], list[int]]:
        """Change the log; return sequence numbers whose body leaves and those that are forgotten.

        No more than some at a time: in a town what expires in one hour would else hold everything else up.
        """
        residence_s = self._clock.residence_s(now)
        hour = self._clock.hour(now)
        due = self._log.due(
            hour=hour,
            by_hour_from_s=self._clock.era_start_s,
            drop_before_s=residence_s - self._residence_s,
            forget_before_s=residence_s - FORGET_RESIDENCES * self._residence_s,
            most=RETIRED,
        )
        self.has_more = not due.is_all
        for seq in due.drop:
            self._stats.observe(Histogram.RESIDENCE_S, residence_s - self._log.arrived_s(seq))
            self._log.drop_body(seq)
        self._stats.add(Total.EXPIRED, len(due.drop))
        for seq in due.forget:
            self._log.forget(seq)
        return due.drop, due.forget + self.trim()

    def trim(self) -> list[int]:
        """Forget the oldest that are gone while there are too many; return their sequence numbers.

        Some more than needed, so that a flood costs a walk over the blocks of the log now
        and then and not with every batch.
        """
        excess = len(self._log) - self._max_admitted
        if excess <= 0:
            return []
        early = self._log.oldest_gone(excess + min(self._max_admitted // 16, TRIMMED))
        for seq in early:
            self._log.forget(seq)
        self._stats.add(Dropped.ADMITTED_FULL, len(early))
        return early
