# SPDX-License-Identifier: GPL-2.0-or-later
"""What had to leave for others comes back where there is room again (docs/protocol.md sections 9.4 and 10.6).

A flood that displaced mail ends some day: it is purged, it expires. What it displaced
may then return, in the time that was left to it, and never in the place of another: so
each return uses up room that something else left, and relays come to rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.core.log import EntryState

if TYPE_CHECKING:
    from relay.core.admission import Admission
    from relay.core.clock import Clock
    from relay.core.log import AdmittedLog, Entry

#: A neighbour is asked for so many first, for twice as many whenever at least half of
#: them came, and for no more until the next reconciliation otherwise.
FIRST_ASKED: Final = 8
MAX_ASKED: Final = 256
#: Nothing returns into the last part of the store, lest the next newcomer displaces it again.
KEPT_FREE: Final = 1 / 8
#: Entries looked at for one round: bounds the time of a turn.
SCAN_DISPLACED: Final = 4096


class Returns:
    """Decides which displaced envelopes may come back to one log."""

    def __init__(self, log: AdmittedLog, admission: Admission, clock: Clock) -> None:
        self._log = log
        self._admission = admission
        self._clock = clock

    def may_return(self, entry: Entry, now: float) -> bool:
        """Tell whether an envelope was displaced, and would still be here had it not been."""
        stay_s = self._admission.policy.residence_s
        return (
            entry.state is EntryState.DISPLACED
            and self._clock.residence_s(now) - self._log.first_arrived_s(entry.seq) < stay_s
            and not self._clock.expired_by_wall(expiry_hour=entry.header.expiry_hour, now=now)
        )

    def is_wanted(self, identity: bytes, now: float) -> bool:
        """Tell whether to take an envelope of a neighbour though it was admitted before."""
        entry = self._log.find(identity)
        return (
            entry is not None
            and self.may_return(entry, now)
            and not self._log.purged(entry.header)
            and self._admission.has_spare_room(entry.header.size_class, KEPT_FREE)
        )

    def next_wanted(self, below_seq: int, count: int, now: float) -> tuple[list[tuple[bytes, int]], int]:
        """Return (identity, size class) of what to ask for next, the latest first, and below which to go on."""
        wanted: list[tuple[bytes, int]] = []
        units = 0
        for looked, seq in enumerate(self._log.displaced_below(below_seq)):
            entry = self._log.entry(seq)
            if looked == SCAN_DISPLACED or len(wanted) == count or entry is None:
                return wanted, seq + 1
            if not self.is_wanted(entry.identity, now):
                continue
            if not self._admission.has_spare_room(entry.header.size_class, KEPT_FREE, besides=units):
                return wanted, seq + 1
            units += self._admission.policy.units(entry.header.size_class)
            wanted.append((entry.identity, entry.header.size_class))
        return wanted, 0
