# SPDX-License-Identifier: GPL-2.0-or-later
"""By what phones with bitchat find each other: one GATT service with one characteristic."""

from __future__ import annotations

from typing import Final

SERVICE_UUID: Final = "f47b5e2d-4a9e-4c5a-9b3f-8e1d2c3a4b5c"
CHARACTERISTIC_UUID: Final = "a1b2c3d4-e5f6-4a5b-8c9d-0e1f2a3b4c5d"
"""Written and notified: each value is a packet, or of what goes to iPhones a part of one."""
