# SPDX-License-Identifier: GPL-2.0-or-later
"""What was seen and not shown, each with its reason."""

from __future__ import annotations

import enum


class Passed(enum.StrEnum):
    """Why a frame, or a part of it, led to no event."""

    OTHER = "other"
    """Somebody else's traffic, or a part of ours that carries no stream."""
    UNDISSECTED = "undissected"
    """No value of its format: damaged, forged, or of a kind that is not known here."""
    CUT = "cut"
    """Captured shorter than it was on the air."""
    BAD_CHECKSUM = "bad_checksum"
    """The receiver marked it as damaged."""
    ENCRYPTED_WIFI = "encrypted_wifi"
    """802.11 data under a key of the segment (SAE, WPA)."""
    BATMAN = "batman"
    """batman-adv's own: originator messages, broadcasts, fragments."""
    WIFI_MANAGEMENT = "wifi_management"
    """802.11 frames that carry no data."""
    FRAGMENT = "fragment"
    """A piece of an IP packet, or of an L2CAP packet whose start was not captured."""
    OUT_OF_WINDOW = "out_of_window"
    """A TCP segment that cannot belong where its numbers say."""
    NO_DIRECTION = "no_direction"
    """Which side sent it cannot be told from this capture."""
    STREAMS_FULL = "streams_full"
    """A stream that had to make room for a newer one."""
    CONNECTIONS_FULL = "connections_full"
    """A Bluetooth connection that had to make room for a newer one."""
    KERNEL = "kernel"
    """Frames that came faster than they could be read."""


class Counts:
    """Numbers by reason."""

    def __init__(self) -> None:
        self._numbers: dict[Passed, int] = {}

    def add(self, reason: Passed, number: int = 1) -> None:
        """Count one more."""
        self._numbers[reason] = self._numbers.get(reason, 0) + number

    def __getitem__(self, reason: Passed) -> int:
        return self._numbers.get(reason, 0)

    def as_dict(self) -> dict[str, int]:
        """All that happened at all."""
        return {reason.value: self._numbers[reason] for reason in Passed if reason in self._numbers}
