# SPDX-License-Identifier: GPL-2.0-or-later
"""What one link has to do with newer software (relay.core.updates)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.core.update_wire import Ask, Offer


class UpdateState:
    """What a link has to do with updates."""

    __slots__ = ("asked", "banned", "given_at", "is_reading", "offer", "offers", "owes", "stalls", "told")

    def __init__(self) -> None:
        #: What this neighbour could give, how often it said so, and whether a piece of its was wrong.
        self.offer: Offer | None = None
        self.offers = 0
        self.banned = False
        self.stalls = 0
        #: Offset and length of the part that it owes us.
        self.owes: tuple[int, int] | None = None
        #: SHA-256 of what it was told of; what it wants of us, and whether that is being read.
        self.told = b""
        self.asked: Ask | None = None
        self.is_reading = False
        self.given_at = 0.0
