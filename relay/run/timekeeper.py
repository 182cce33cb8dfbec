# SPDX-License-Identifier: GPL-2.0-or-later
"""What the relay takes for the time: the operator's word, the system clock's, or nobody's (protocol section 10)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from relay.control.status import ClockRefusedError

if TYPE_CHECKING:
    from relay.core.node import Node

#: Longer than a relay is in use without a new version; by a time beyond it, a mistake or a clock without battery, it
#: would take nothing from anybody.
MAX_YEARS: Final = 20
YEAR_S: Final = 365.25 * 86_400


class Timekeeper:
    """Reads the wall clock for the core, which decides what to make of it."""

    def __init__(self, node: Node, *, trust_system_clock: bool) -> None:
        self._node = node
        self._trust_system_clock = trust_system_clock
        self._operator_offset_s: float | None = None

    @property
    def source(self) -> str:
        """Whose word is taken: "operator", "system" or "none"."""
        if self._operator_offset_s is not None:
            return "operator"
        return "system" if self._trust_system_clock else "none"

    @property
    def is_wanted(self) -> bool:
        """Whether the relay is to go by a clock, if that can be right."""
        return self._operator_offset_s is not None or self._trust_system_clock

    def observe(self, now: float) -> None:
        """Take a reading at ``now`` (monotonic seconds)."""
        if self._operator_offset_s is not None:
            self._node.observe_clock(now=now, wall_s=now + self._operator_offset_s, trusted=True)
        else:
            wall_s = time.time()
            is_trusted = self._trust_system_clock and not self._doubt(wall_s)
            self._node.observe_clock(now=now, wall_s=wall_s, trusted=is_trusted)

    def set(self, unix_s: int, now: float) -> None:
        """Take the operator's word for the time, until the next start.

        Earlier mistakes can be corrected, but nothing is believed that cannot be.
        """
        if doubt := self._doubt(unix_s):
            raise ClockRefusedError(
                f"{doubt}; check the year, and that a number is in seconds: "
                "`relay clock set now` takes this machine's time"
            )
        self._operator_offset_s = unix_s - now
        self.observe(now)

    def _doubt(self, unix_s: float) -> str:
        """Why a time cannot be true, "" if it may be."""
        built_s = self._node.clock.build_hour * 3600
        built = f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(built_s))} UTC, when this version of the relay was made"
        if unix_s < built_s:
            return f"that is before {built}"
        return f"that is more than {MAX_YEARS} years after {built}" if unix_s > built_s + MAX_YEARS * YEAR_S else ""
