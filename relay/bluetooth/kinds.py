# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of advertisers (docs/ble.md section 2): what a dial in vain costs, it costs all that are alike.

Anybody can advertise himself as a relay, with another address each time. Whoever dials one after the other then
dials none but these. So those dialled in vain are counted by what somebody with one transmitter can hardly change:
whether they were heard over some seconds, and how strong they are. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Two advertisements from one place differ by less, mostly.
STRENGTH_DB: Final = 12
#: Of a failure half is forgotten after so long, three quarters after twice that.
HALF_S: Final = 60.0
#: Strengths are of 8 bits: so many kinds at most, 200 bytes each.
MAX_KINDS: Final = 2 * (256 // STRENGTH_DB + 2)


@dataclass(frozen=True, slots=True)
class Kind:
    """What some advertisers have in common."""

    is_steady: bool
    """Heard again after some seconds, under the same address."""
    strength: int


def kind_of(*, is_steady: bool, rssi_dbm: int | None) -> Kind:
    """Return the kind of an advertiser; `rssi_dbm` None: BlueZ did not say."""
    return Kind(is_steady, max(-128, min(127, rssi_dbm if rssi_dbm is not None else -128)) // STRENGTH_DB)


class Failures:
    """How many of each kind were dialled in vain lately."""

    def __init__(self) -> None:
        self._counts: dict[Kind, tuple[float, float]] = {}

    def note(self, kind: Kind, now: float) -> None:
        """Note one."""
        self._counts[kind] = (self._left(kind, now) + 1.0, now)

    def of(self, kind: Kind, now: float) -> int:
        """Return how many there were, with those of a while ago counting less."""
        return round(self._left(kind, now))

    def total(self, now: float) -> int:
        """Return that of all kinds together."""
        return round(sum(self._left(kind, now) for kind in self._counts))

    def _left(self, kind: Kind, now: float) -> float:
        count, noted_s = self._counts.get(kind, (0.0, now))
        return float(count * 0.5 ** ((now - noted_s) / HALF_S))
