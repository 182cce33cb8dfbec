# SPDX-License-Identifier: GPL-2.0-or-later
"""How much is sent and received on one interface, where the operator bounds it (docs/protocol.md section 5)."""

from __future__ import annotations

from typing import Final

from relay.core.rate import Bucket, Rate

#: What was not used may be used later, up to so many seconds' worth at once.
BURST_S: Final = 0.25
#: Who sends to us stops once that takes the air for so long ahead: a message comes in whole meanwhile, and its
#: answer waits for nobody.
AHEAD_S: Final = 0.5
#: Of the air, live datagrams get one part in so many at most, also while nothing else is said: what comes then waits
#: for nothing but what is under way.
LIVE_PART: Final = 4


class Airtime:
    """The budget that all links of an interface share; who was served longest ago goes first."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        #: What is left of the part of live datagrams, of all links together.
        self.live_bytes = Bucket(Rate(per_s=bytes_per_s / LIVE_PART, burst=bytes_per_s / LIVE_PART), 0.0)
        self._open_at = 0.0
        #: Numbers of links that used it, the last served last, and those that wait for it.
        self._links: dict[int, None] = {}
        self._waiting: set[int] = set()

    def admits(self, link: int, now: float) -> bool:
        """Whether a link may send now; one that may not waits."""
        self._links.setdefault(link)
        if self._open_at <= now:
            self._waiting.discard(link)
            return True
        self._waiting.add(link)
        return False

    def admits_more(self, link: int, now: float) -> bool:
        """Whether a link may be read from; one that may not waits for its turn as if it had something to send."""
        return self._open_at <= now + AHEAD_S or self.admits(link, now)

    def spent(self, link: int, count: int, now: float) -> float:
        """Take account of bytes sent, those that could not wait included, or received; return the seconds they take."""
        taken_s = count / self.bytes_per_s
        if count:
            self._open_at = max(self._open_at, now - BURST_S) + taken_s
            self._links.pop(link, None)
            self._links[link] = None
        return taken_s

    @property
    def next_s(self) -> float | None:
        """When those who wait may go on (monotonic seconds)."""
        return self._open_at if self._waiting else None

    def take_due(self, now: float) -> list[int]:
        """Return those who waited and may go on, in the order of their turns."""
        if self._open_at > now:
            return []
        due = [link for link in self._links if link in self._waiting]
        self._waiting.clear()
        return due

    def forget(self, link: int) -> None:
        """The link is gone."""
        self._links.pop(link, None)
        self._waiting.discard(link)
