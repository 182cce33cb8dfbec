# SPDX-License-Identifier: GPL-2.0-or-later
"""The section [bitchat] of relay.toml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from relay.config import settings
from relay.config.settings import BadValueError, setting

_ADAPTER: Final = re.compile(r"hci\d{1,3}")
#: What both apps show whole.
_MAX_NICKNAME_CHARS: Final = 24


def adapter(value: object) -> str:
    """One adapter by the kernel's name."""
    if not isinstance(value, str) or (value and not _ADAPTER.fullmatch(value)):
        raise BadValueError('write one such as "hci1", or "" for the first; `bluetoothctl list` names them')
    return value


def nickname(value: object) -> str:
    """What phones show."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NICKNAME_CHARS or not value.isprintable():
        raise BadValueError(f"write 1 to {_MAX_NICKNAME_CHARS} characters")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class BitchatConfig:
    """What `relay bitchat` reads; ``adapter`` "": the first that there is."""

    enabled: bool = setting(False, settings.boolean)
    nickname: str = setting("relay", nickname)
    adapter: str = setting("", adapter)
    max_phones: int = setting(8, settings.integer(1, 32))
    max_dialled: int = setting(0, settings.integer(0, 8))
    carry_media: bool = setting(False, settings.boolean)
