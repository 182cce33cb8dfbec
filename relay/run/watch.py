# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operator is told of the last minutes and the last day: kept in memory, and only as counts."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from relay.core.stats import LinkKind

#: "Recent" is this: long enough that a condition does not come and go with each envelope, short enough that one that
#: was mended is seen to be while whoever mended it still stands there.
RECENT_S: Final = 600.0
#: Counts are noted no more often: 41 times a dozen of them.
NOTE_S: Final = 15.0
#: For so long an interface that had a relay is missed: after that whoever took the cable out meant it.
MISSED_S: Final = 86_400.0
#: Interfaces remembered for that; a bus of adapters that come under ever new names gets no more.
MAX_REMEMBERED: Final = 64


class Watch:
    """Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._noted: deque[tuple[float, dict[str, int]]] = deque([(now, {})])
        self._relays_at: dict[tuple[LinkKind, str], float] = {}
        self._near_at: float | None = None

    def note(self, now: float, counts: Mapping[str, int], relays_on: Iterable[tuple[LinkKind, str]]) -> None:
        """Look at the counts since the start, and at where relays are connected now; call as often as is convenient."""
        for key in relays_on:
            self._near_at = self._relays_at[key] = now
        while len(self._relays_at) > MAX_REMEMBERED:
            self._relays_at.pop(min(self._relays_at, key=self._relays_at.__getitem__))
        if now - self._noted[-1][0] >= NOTE_S:
            self._noted.append((now, dict(counts)))
        # The last one that is old enough stays: what came since is recent.
        while len(self._noted) > 1 and self._noted[1][0] <= now - RECENT_S:
            self._noted.popleft()

    def recent(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return how much each count rose within about the last RECENT_S."""
        before = self._noted[0][1]
        return {name: count - before.get(name, 0) for name, count in counts.items()}

    def missed(self, now: float) -> set[tuple[LinkKind, str]]:
        """Return where a relay was connected within the last MISSED_S."""
        return {key for key, at_s in self._relays_at.items() if now - at_s < MISSED_S}

    def alone_s(self, now: float) -> float | None:
        """Return for how long there was no neighbour, 0 while there is one; None before the first."""
        return None if self._near_at is None else now - self._near_at
