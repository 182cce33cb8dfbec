# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether there is anything new here (docs/protocol.md section 6.11, docs/ble.md section 2).

A relay that was told the value recognises it in an advertisement, and need not connect
while it is the same; to everybody else the advertisement is random.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

NEWS_BYTES: Final = 16
SALT_BYTES: Final = 3
#: A chance match has one in 16.7 million; more does not fit a legacy advertisement
#: beside a 128-bit service.
DIGEST_BYTES: Final = 3
_LABEL: Final = b"mesh-relay/1 news"
#: A busy relay renews no more often: each renewal costs 38 bytes a session, and one
#: change of the advertisement.
RENEW_INTERVAL_S: Final = 30.0
#: A value lives no longer than between half and three halves of this, drawn for each, from when it was first told:
#: by that of a relay that nobody uses, whoever was told it would follow it for days.
MEAN_LIFE_S: Final = 3600.0
_DRAW_BYTES: Final = 4


def news_digest(value: bytes, salt: bytes) -> bytes:
    """Return the 3 bytes that stand beside ``salt`` (3 bytes) in an advertisement, for a 16-byte ``value``."""
    return hmac.digest(value, _LABEL + salt, "sha256")[:DIGEST_BYTES]


class NewsValue:
    """The value of one relay. It stays while nothing is admitted, for an hour or so; a restart draws another."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self.value = random_bytes(NEWS_BYTES)
        self._next_s = 0.0
        self._is_told = False
        #: When it is to be drawn anew, in monotonic seconds; None while nothing was admitted since it was drawn, and
        #: nobody knows it.
        self.due: float | None = None

    def admitted(self, now: float) -> None:
        """Note that envelopes were committed; :meth:`renew` follows, at ``due`` at the latest."""
        self._renew_at(max(now, self._next_s))

    def told(self, now: float) -> None:
        """Note that somebody knows the value now; from the first on it lives for so long."""
        if not self._is_told:
            self._is_told = True
            share = int.from_bytes(self._random_bytes(_DRAW_BYTES)) / 256**_DRAW_BYTES
            self._renew_at(now + MEAN_LIFE_S * (0.5 + share))

    def _renew_at(self, when_s: float) -> None:
        self.due = when_s if self.due is None else min(self.due, when_s)

    def renew(self, now: float) -> bool:
        """Draw the value anew if that is due; whether it was."""
        if self.due is None or now < self.due:
            return False
        self.value = self._random_bytes(NEWS_BYTES)
        self._next_s = now + RENEW_INTERVAL_S
        self._is_told = False
        self.due = None
        return True
