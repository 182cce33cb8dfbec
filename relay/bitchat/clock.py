# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of a mesh whose relay has no clock that can be trusted: learned from phones, and used for phones only.

iPhones ignore whoever is two minutes off. A phone's clock is known by its verified announces, for as long as it is
linked to us. It takes three phones on three links for a time of our own, their median; until then each link has the
time of its own phone. Nothing of this moves the relay's clock, by which envelopes live.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

MIN_WITNESSES: Final = 3
"""With fewer, a single liar would be half of all."""
MAX_WITNESSES: Final = 64
"""More links than any adapter has."""
WITNESS_S: Final = 180.0
"""A phone announces itself every 15 to 38 seconds; one that has been silent for so long says nothing of the time."""
MIN_DISPUTING: Final = 5
"""Fewer phones say nothing about a clock to trust: what is told of them tells that they are there."""
DISPUTED_MS: Final = 120_000
"""As far off an iPhone ignores who says so."""
LAST_MS: Final = 4_102_444_800_000
"""2100-01-01: whoever says a later time lies."""


@dataclass(frozen=True, slots=True)
class _Witness:
    identity: bytes
    offset_ms: float
    heard_at: float


class MeshClock:
    """Milliseconds since the Unix epoch, as far as anybody knows them."""

    def __init__(self, *, earliest_ms: int) -> None:
        """``earliest_ms``: when this program was made; whoever says an earlier time lies."""
        self._earliest_ms = earliest_ms
        self._trusted_offset_ms: float | None = None
        self._witnesses: dict[Hashable, _Witness] = {}

    def trust(self, wall_ms: float | None, now: float) -> None:
        """Take a reading of a clock that the operator vouches for; None: there is none (any more)."""
        self._trusted_offset_ms = None if wall_ms is None else wall_ms - 1000 * now

    def hear(self, link: Hashable, identity: bytes, timestamp_ms: int, now: float) -> None:
        """A verified announce came from the phone at the other end of a link."""
        if not self._earliest_ms <= timestamp_ms < LAST_MS:
            return
        # An identity is one witness, however many links it has.
        self._witnesses = {name: witness for name, witness in self._witnesses.items() if witness.identity != identity}
        self._witnesses.pop(link, None)
        if len(self._witnesses) < MAX_WITNESSES:
            self._witnesses[link] = _Witness(identity, timestamp_ms - 1000 * now, now)

    def forget(self, link: Hashable) -> None:
        """A link is closed."""
        self._witnesses.pop(link, None)

    def is_learned(self, now: float) -> bool:
        """Whether there is a time of our own without a clock to trust."""
        return self._trusted_offset_ms is None and self.time_ms(now) is not None

    @property
    def is_trusted(self) -> bool:
        """Whether there is a clock that the operator vouches for."""
        return self._trusted_offset_ms is not None

    def is_disputed(self, now: float) -> bool:
        """Whether phones by far say another time than that clock: iPhones ignore us then, and all seems too old."""
        offsets = self._offsets(now)
        if self._trusted_offset_ms is None or len(offsets) < MIN_DISPUTING:
            return False
        return abs(offsets[(len(offsets) - 1) // 2] - self._trusted_offset_ms) > DISPUTED_MS

    def _offsets(self, now: float) -> list[float]:
        return sorted(witness.offset_ms for witness in self._witnesses.values() if now - witness.heard_at <= WITNESS_S)

    def time_ms(self, now: float, link: Hashable | None = None) -> int | None:
        """Return the time, for a link if one is named; None where nobody has said anything.

        That of the clock to trust; else the median of the phones; else that of this link's phone.
        """
        if self._trusted_offset_ms is not None:
            return int(1000 * now + self._trusted_offset_ms)
        offsets = self._offsets(now)
        if len(offsets) >= MIN_WITNESSES:
            return int(1000 * now + offsets[(len(offsets) - 1) // 2])
        return self._said_by(link, now)

    def phone_ms(self, now: float, link: Hashable) -> int | None:
        """Return what the clock of the phone on a link says, by which it takes and refuses; else the time, or None."""
        said = self._said_by(link, now)
        return self.time_ms(now) if said is None else said

    def _said_by(self, link: Hashable, now: float) -> int | None:
        witness = self._witnesses.get(link)
        if witness is None or now - witness.heard_at > WITNESS_S:
            return None
        return int(1000 * now + witness.offset_ms)
