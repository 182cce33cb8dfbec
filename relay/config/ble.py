# SPDX-License-Identifier: GPL-2.0-or-later
"""The section [ble] of relay.toml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from relay.config import settings
from relay.config.settings import BadValueError, setting

_ADAPTER: Final = re.compile(r"hci\d{1,3}")
#: Kernel's default of how long a private address is used (rpa_timeout in its debugfs).
DEFAULT_ROTATION_S: Final = 900


def adapters(value: object) -> tuple[str, ...]:
    """A list of adapters by the kernel's names."""
    remedy = 'write a list such as ["hci0"], or [] for all; `bluetoothctl list` and `hciconfig` name them'
    if not isinstance(value, list) or not all(isinstance(item, str) and _ADAPTER.fullmatch(item) for item in value):
        raise BadValueError(remedy)
    return tuple(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class BleConfig:
    """What `relay ble` reads; no ``adapters`` means all, those to come included."""

    enabled: bool = setting(True, settings.boolean)
    adapters: tuple[str, ...] = setting((), adapters)
    max_clients: int = setting(12, settings.integer(1, 64))
    max_neighbours: int = setting(3, settings.integer(0, 16))
    rotation_s: int = setting(DEFAULT_ROTATION_S, settings.integer(30, 86_400))
