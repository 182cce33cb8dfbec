# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether there is a Bluetooth adapter to work with, or was: without one there is nothing to repair."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from relay.process.reports import Idle

#: The kernel's list: bluetoothd is not even started where it is empty.
KERNEL_LIST: Final = Path("/sys/class/bluetooth")


class Presence:
    """What is known since the start of the process."""

    def __init__(self, *, is_wanted: bool, kernel_list: Path = KERNEL_LIST) -> None:
        """``is_wanted``: the operator named an adapter, so that none is a fault."""
        self._is_expected = is_wanted
        self._kernel_list = kernel_list

    def look(self) -> Idle | None:
        """Return why nothing can work, where that is no fault; an adapter that went away is one."""
        self._is_expected = self._is_expected or any(self._kernel_list.glob("hci*"))
        return None if self._is_expected else Idle.NO_ADAPTER
