# SPDX-License-Identifier: GPL-2.0-or-later
"""What one adapter is doing, and what changes that."""

from __future__ import annotations

import enum
from typing import Final


class Phase(enum.Enum):
    """What an adapter is doing."""

    #: There is nothing to work with, or not any more: unplugged, blocked, switched off.
    LOST = enum.auto()
    #: Nothing is served, and the adapter is not to blame: bluetoothd or we are about to begin.
    STOPPED = enum.auto()
    #: The service is offered, and nobody can hear of it yet.
    READY = enum.auto()
    #: It does its work; silence between two epochs is part of that.
    UP = enum.auto()


class Change(enum.Enum):
    """What happened to it."""

    LOST = enum.auto()
    STOPPED = enum.auto()
    SERVED = enum.auto()
    ADVERTISED = enum.auto()
    ADVERTISE_FAILED = enum.auto()


#: Whatever is not here changes nothing.
_NEXT: Final = {
    (Phase.LOST, Change.SERVED): Phase.READY,
    (Phase.STOPPED, Change.LOST): Phase.LOST,
    (Phase.STOPPED, Change.SERVED): Phase.READY,
    (Phase.READY, Change.LOST): Phase.LOST,
    (Phase.READY, Change.STOPPED): Phase.STOPPED,
    (Phase.READY, Change.ADVERTISED): Phase.UP,
    (Phase.UP, Change.LOST): Phase.LOST,
    (Phase.UP, Change.STOPPED): Phase.STOPPED,
    (Phase.UP, Change.ADVERTISE_FAILED): Phase.READY,
}


def after(phase: Phase, change: Change) -> Phase:
    """Return the phase that follows."""
    return _NEXT.get((phase, change), phase)
