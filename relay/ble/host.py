# SPDX-License-Identifier: GPL-2.0-or-later
"""What the process gives to its central half (docs/ble.md section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from relay.bluetooth.bluez import Bluez
    from relay.bluetooth.stream import Stream
    from relay.process.reports import NewsForBle


class CentralHost(Protocol):
    """The process, as the central half of one adapter sees it."""

    @property
    def bluez(self) -> Bluez:
        """The connection to the bus that the whole process shares."""

    @property
    def salt(self) -> bytes | None:
        """The salt that we advertise on this adapter; None: scan and dial nobody now, what is connected may stay."""

    @property
    def news(self) -> NewsForBle | None:
        """Our own news value, and those of the relays with which there is a session; None while `relay run` is away."""

    async def changed(self) -> None:
        """Wait until ``salt`` or ``news`` changes."""

    @property
    def max_neighbours(self) -> int:
        """How many relays may be dialled at once."""

    def dialling(self, device_path: str, *, is_ours: bool) -> None:
        """Say that a device's connection is of our making, lest it be ended as one that nobody uses; or is over."""

    async def serve(self, stream: Stream) -> None:
        """Hand a stream that we dialled to `relay run` until it ends; closes it."""

    def count(self, event: str) -> None:
        """Count an event of relay.process.reports."""

    def heard(self, *, relays: int, neighbours: int) -> None:
        """Say how many relays are heard through this adapter, and how many of them dialled."""
