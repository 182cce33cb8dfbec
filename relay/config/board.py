# SPDX-License-Identifier: GPL-2.0-or-later
"""The section [board] of relay.toml."""

from __future__ import annotations

from dataclasses import dataclass

from relay.config import settings
from relay.config.settings import setting

#: Shorter, and who brushes against it, or a bag with the box in it, could do it; longer, and who has to run lets go.
PANIC_HOLD_S = range(3, 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardConfig:
    """Light and button."""

    #: false keeps the light dark, for boxes that nobody is to see; but for the button's answer.
    led: bool = setting(True, settings.boolean)
    #: false: the button does nothing. Whoever can reach one can erase the relay by it.
    panic_button: bool = setting(True, settings.boolean)
    panic_hold_s: int = setting(5, settings.integer(PANIC_HOLD_S.start, PANIC_HOLD_S.stop - 1))
