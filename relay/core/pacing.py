# SPDX-License-Identifier: GPL-2.0-or-later
"""Links whose rate lets them say no more for now, and when it does again: what live datagrams and updates share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.core.link import Link


class Paced:
    """Links that wait for their rate, and when they may go on (monotonic seconds)."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, Link]] = {}

    def __contains__(self, link: Link) -> bool:
        """Whether a link waits."""
        return link.number in self._waiting

    def add(self, link: Link, open_at: float) -> None:
        """Have a link wait until then."""
        self._waiting[link.number] = (open_at, link)

    def discard(self, link: Link) -> None:
        """It waits no more, if it did."""
        self._waiting.pop(link.number, None)

    @property
    def next_s(self) -> float | None:
        """When the first may go on; None: nobody waits."""
        return min((open_at for open_at, _ in self._waiting.values()), default=None)

    def take_due(self, now: float) -> list[Link]:
        """Return those that may go on now; they wait no more."""
        due = [link for open_at, link in self._waiting.values() if open_at <= now]
        for link in due:
            del self._waiting[link.number]
        return due
