# SPDX-License-Identifier: GPL-2.0-or-later
"""Time without a clock that can be trusted (docs/protocol.md section 10).

Three times are kept apart: ``now``, the monotonic seconds of this process;
*residence*, seconds that this relay has been switched on in all its life, saved
now and then, which never jumps; and the wall hour, believed only when the
operator vouches for it. No peer can move any of them.
"""

from __future__ import annotations

from typing import Final

from relay.core.envelope import MAX_LIFETIME_HOURS

HOUR_S: Final = 3600
#: A wall clock that moves by more than this against the monotonic one was set.
STEP_S: Final = HOUR_S
#: Sender and relay may disagree by so much before a full lifetime is refused.
SKEW_HOURS: Final = 2
LAST_HOUR: Final = 0xFFFF_FFFF


def jittered(seconds: float, draw: float, *, spread: float = 0.5) -> float:
    """Return a time, give or take a part of it, so that relays which began together do not stay in step.

    ``draw`` is random, in [0, 1); ``spread`` is that part, at most 1.
    """
    return seconds * (1 - spread + 2 * spread * draw)


class Clock:
    """What this relay knows about time."""

    __slots__ = (
        "_era_offset_s",
        "_era_start_s",
        "_offset_s",
        "_start_now",
        "_start_residence_s",
        "build_hour",
        "trusted",
    )

    def __init__(self, *, now: float, build_hour: int, residence_s: float = 0.0) -> None:
        """``build_hour``: when this program was made.

        ``residence_s``: the residence saved last; the time since then is lost,
        so envelopes stay longer rather than shorter. The last trusted hour is not
        kept: what is refused by it would tell this relay from all others.
        """
        self.trusted = False
        self.build_hour = build_hour
        self._start_now = now
        self._start_residence_s = residence_s
        self._era_start_s = residence_s
        self._offset_s: float | None = None
        self._era_offset_s: float | None = None

    def observe(self, *, now: float, wall_s: float, trusted: bool) -> None:
        """Take a reading of the wall clock (Unix seconds) and whether it is trusted.

        A step of over an hour, at once or by and by, begins a new era, and so does
        the first reading: what was admitted before no longer leaves by the wall
        clock, only at the end of its residence.
        """
        offset_s = wall_s - now
        if self._era_offset_s is None or abs(offset_s - self._era_offset_s) > STEP_S:
            self._era_offset_s = offset_s
            self._era_start_s = self.residence_s(now)
        self._offset_s = offset_s
        self.trusted = trusted

    def residence_s(self, now: float) -> float:
        """Seconds that this relay has run, over all restarts."""
        return self._start_residence_s + (now - self._start_now)

    def hour(self, now: float) -> int | None:
        """Whole hours since the Unix epoch, or None without a trusted clock."""
        if not self.trusted or self._offset_s is None:
            return None
        hour = int((now + self._offset_s) // HOUR_S)
        return min(max(0, hour), LAST_HOUR - MAX_LIFETIME_HOURS - SKEW_HOURS)

    def unix_s(self, now: float) -> float | None:
        """Seconds since the Unix epoch, or None without a trusted clock."""
        return now + self._offset_s if self.trusted and self._offset_s is not None else None

    def window(self, now: float) -> tuple[int, int]:
        """First and last expiry hour accepted."""
        hour = self.hour(now)
        if hour is None:
            return self.build_hour, LAST_HOUR
        return hour + 1, hour + MAX_LIFETIME_HOURS + SKEW_HOURS

    def expired_by_wall(self, *, expiry_hour: int, now: float) -> bool:
        """Tell whether a trusted clock says that ``expiry_hour`` has come."""
        hour = self.hour(now)
        return hour is not None and expiry_hour <= hour

    @property
    def era_start_s(self) -> float:
        """Residence time since which the wall clock made no step: it deletes nothing older."""
        return self._era_start_s
