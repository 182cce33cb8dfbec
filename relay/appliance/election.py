# SPDX-License-Identifier: GPL-2.0-or-later
"""Who hands out addresses on a segment: one relay, and none where somebody else does.

Every relay asks for offers again and again, and hears those of all others (never its
own). One that hears a server does not serve. Two that serve, because their segments
have just been joined, hear each other; the one with the lower number goes on.

From joined to settled: at most PROBE_S until the next question, SERVER_S until the
answer; with one of them lost, 2 x 8 + 4 = 20 s.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Questions while it is open who serves, and for how long it is.
LISTEN_PROBE_S: Final = 2.0
LISTEN_S: Final = 7.0
#: Questions from then on.
PROBE_S: Final = 8.0
#: A server looks whether the address is free before it offers it (RFC 2131 section 2.2).
SERVER_S: Final = 4.0
#: A server that was not heard for five questions is gone: on a mesh that loses a fifth of
#: what it carries, fewer are lost together several times an hour ...
SILENCE_S: Final = 5 * PROBE_S + SERVER_S
#: ... and of several relays that notice so, the first takes over before the last begins.
TAKEOVER_S: Final = 10.0


class Role(enum.Enum):
    """What this relay is on the segment."""

    LISTENING = "listening"
    SERVING = "serving"
    YIELDING = "yielding"


class Unopposed:
    """The state of a relay on its own access point, where nobody else can serve: as of :class:`Election`."""

    role = Role.SERVING
    deadline_s = math.inf

    def heard_server(self, now: float) -> None:
        """Not believed."""

    def heard_relay(self, number: bytes, now: float) -> None:
        """Not believed."""

    def expire(self, now: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        """Never ask."""
        return False


class Election:
    """The state of one relay on one segment; times are monotonic seconds."""

    def __init__(self, *, number: bytes, now: float, random: Callable[[], float]) -> None:
        """``number``: drawn at each start; ``random`` gives floats in [0, 1)."""
        self._number = number
        self._random = random
        self.role = Role.LISTENING
        # Relays switched on together do not ask together.
        self._probe_s = now + random() * LISTEN_PROBE_S
        self._decide_s = now + LISTEN_S + random() * LISTEN_PROBE_S

    @property
    def deadline_s(self) -> float:
        """When to call :meth:`expire`."""
        return self._probe_s if self.role is Role.SERVING else min(self._probe_s, self._decide_s)

    def heard_server(self, now: float) -> None:
        """Somebody who is no relay of ours serves: a router, or an offer of theirs."""
        self._yield(now)

    def heard_relay(self, number: bytes, now: float) -> None:
        """Another relay serves. One that does not serve leaves it at that, whoever it is."""
        if number == self._number or (self.role is Role.SERVING and self._number < number):
            return
        self._yield(now)

    def expire(self, now: float) -> bool:
        """Note the time; return whether to ask now. Reads :attr:`role` after that."""
        if self.role is not Role.SERVING and now >= self._decide_s:
            self.role = Role.SERVING
        if now < self._probe_s:
            return False
        interval_s = LISTEN_PROBE_S if self.role is Role.LISTENING else PROBE_S
        self._probe_s = now + interval_s * (0.75 + self._random() / 4)
        return True

    def _yield(self, now: float) -> None:
        self.role = Role.YIELDING
        self._decide_s = now + SILENCE_S + self._random() * TAKEOVER_S
