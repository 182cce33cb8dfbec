# SPDX-License-Identifier: GPL-2.0-or-later
"""Which adapter it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.bluetooth.l2cap import BluetoothAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """An adapter that is up: ``name`` such as hci0, its object's ``path``, and its identity address."""

    name: str
    path: str
    address: BluetoothAddress
