# SPDX-License-Identifier: GPL-2.0-or-later
"""What the relay takes for the time: the operator's word, the system clock's, or nobody's (protocol section 10)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from relay.control.status import ClockRefusedError

if TYPE_CHECKING:
    from relay.core.node import Node


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

    def observe(self, now: float) -> None:
        """Take a reading at ``now`` (monotonic seconds)."""
        if self._operator_offset_s is not None:
            self._node.observe_clock(now=now, wall_s=now + self._operator_offset_s, trusted=True)
        else:
            self._node.observe_clock(now=now, wall_s=time.time(), trusted=self._trust_system_clock)

    def set(self, unix_s: int, now: float) -> None:
        """Take the operator's word for the time, until the next start.

        Earlier mistakes can be corrected, but nothing before the build date is believed.
        """
        least_s = self._node.clock.build_hour * 3600
        if unix_s < least_s:
            raise ClockRefusedError(
                f"that is before {time.strftime('%Y-%m-%d %H:%M', time.gmtime(least_s))} UTC, "
                "when this version of the relay was made; check the year"
            )
        self._operator_offset_s = unix_s - now
        self.observe(now)
