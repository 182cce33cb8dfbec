# SPDX-License-Identifier: GPL-2.0-or-later
"""What the light says. One flash pattern at a time: that of the most important thing there is to say.

=========== ===================================================== ==========================
code        the light                                             means
=========== ===================================================== ==========================
panic       flickers, then stays on, then goes out for good       erasing; erased (not on at the end: something is left)
held        on while the button is held                           let go, or it will erase
identify    on, with short gaps, for ten seconds                  "this one here" (`relay board identify`)
starting    half a second on, half a second off                   the relay is not at work (yet)
config      four flashes, a pause                                 relay.toml has a mistake
voltage     five flashes, a pause                                 the power supply or its cable is too weak
card        two long flashes, a pause                             the card is slow, damaged, worn or takes nothing
full        three flashes, a pause                                the store is full
turned_back two long flashes and a short one, a pause             newer software failed; the one before it runs
network     six flashes, a pause                                  Bluetooth, access point, mesh or bridge do not work
wifi        one long flash and two short ones, a pause            the program for Wi-Fi is dead or failing
bluetooth   one long flash and a short one, a pause               the program for Bluetooth is dead or failing
no_country  two flashes, a pause                                  works; no Wi-Fi, for no country is set
clock       one long flash, a pause                               works; has no clock to go by
working     one short flash, a pause                              works
=========== ===================================================== ==========================
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from relay.control.conditions import FULL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay.control.status import Status

#: A pattern: seconds on, seconds off, and so on, for ever.
Pattern = tuple[float, ...]

_FLASH_S: Final = 0.15
_GAP_S: Final = 0.35
#: Nobody takes it for a short one.
_LONG_S: Final = 1.0
#: Long enough that the flashes of one turn can be told from those of the next.
_PAUSE_S: Final = 2.85


class Code(enum.Enum):
    """What can be said, the most important first; the value is its name on the socket."""

    PANIC = "panic"
    ERASED = "erased"
    HELD = "held"
    IDENTIFY = "identify"
    STARTING = "starting"
    CONFIG = "config"
    VOLTAGE = "voltage"
    CARD = "card"
    FULL = "full"
    TURNED_BACK = "turned_back"
    NETWORK = "network"
    WIFI = "wifi"
    BLUETOOTH = "bluetooth"
    NO_COUNTRY = "no_country"
    CLOCK = "clock"
    WORKING = "working"


def _flashes(count: int, *before: float) -> Pattern:
    return (*before, *(_FLASH_S, _GAP_S) * (count - 1), _FLASH_S, _PAUSE_S)


#: A pattern of one number is a steady light.
PATTERNS: Final[dict[Code, Pattern]] = {
    Code.PANIC: (0.05, 0.05),
    Code.ERASED: (1.0,),
    Code.HELD: (1.0,),
    Code.IDENTIFY: (0.9, 0.1),
    Code.STARTING: (0.5, 0.5),
    Code.CONFIG: _flashes(4),
    Code.VOLTAGE: _flashes(5),
    Code.CARD: (_LONG_S, _GAP_S, _LONG_S, _PAUSE_S),
    Code.FULL: _flashes(3),
    Code.TURNED_BACK: _flashes(1, _LONG_S, _GAP_S, _LONG_S, _GAP_S),
    Code.NETWORK: _flashes(6),
    Code.WIFI: _flashes(2, _LONG_S, _GAP_S),
    Code.BLUETOOTH: _flashes(1, _LONG_S, _GAP_S),
    Code.NO_COUNTRY: _flashes(2),
    Code.CLOCK: (_LONG_S, _PAUSE_S),
    Code.WORKING: _flashes(1),
}
#: Of a process that neither works nor says why, by its component's name. One that never reported is in no status.
_DEAD: Final = {"ble": Code.BLUETOOTH, "net": Code.WIFI}
#: Said also by a light that is to stay dark: somebody stands there with a finger on the button.
ALWAYS_SAID: Final = frozenset({Code.PANIC, Code.ERASED, Code.HELD})


def foremost(codes: Iterable[Code], *, dark: bool = False) -> Code | None:
    """The code to show; None is no light. ``dark`` leaves those out that nobody asked for."""
    held = set(codes)
    return next((code for code in Code if code in held and (not dark or code in ALWAYS_SAID)), None)


#: What conditions (relay.control.conditions) the light shows, and how.
_CODES: Final = {
    "store_unwritable": Code.CARD,
    "store_damaged": Code.CARD,
    # Until the next start, as the page says it: who has only the light is to change the card as well.
    "store_mended": Code.CARD,
    "card_slow": Code.CARD,
    "card_worn": Code.CARD,
    "disk_full": Code.FULL,
    "turned_back": Code.TURNED_BACK,
    "no_link": Code.NETWORK,
    "undervoltage": Code.VOLTAGE,
    "clock_untrusted": Code.CLOCK,
    "clock_refused": Code.CLOCK,
    "clock_wrong": Code.CLOCK,
    "clock_disputed": Code.CLOCK,
}


def codes_of(status: Status | None) -> set[Code]:
    """What the light has to say of a relay; None: it does not answer."""
    if status is None or not status.ready:
        return {Code.STARTING}
    holding = {one.name for one in status.conditions}
    codes = {Code.WORKING} | {code for name, code in _CODES.items() if name in holding}
    if status.store.part >= FULL:
        codes.add(Code.FULL)
    for component in status.components:
        if component.troubles:
            codes.add(Code.NETWORK)
        elif f"{component.name}_down" in holding and component.name in _DEAD:
            codes.add(_DEAD[component.name])
    return codes
