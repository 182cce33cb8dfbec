# SPDX-License-Identifier: GPL-2.0-or-later
"""Light, voltage and other sensors in /sys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

SYS: Final = Path("/sys")
#: The green light of a Raspberry Pi, as kernels have called it.
_LIGHTS: Final = ("ACT", "led0", "mesh-relay")
#: Named by drivers/hwmon/raspberrypi-hwmon.c, which asks the firmware every 2 s. The alarm
#: stands until it asks again, then it is about the next two seconds.
_VOLTAGE: Final = "rpi_volt"
_ALARM: Final = "in0_lcrit_alarm"
_HEX: Final = re.compile("0x[0-9a-fA-F]{1,8}")
_DECIMAL: Final = re.compile("-?[0-9]{1,12}")


class Led:
    """One light of the LED class; taken over from whatever the kernel shows with it."""

    def __init__(self, folder: Path) -> None:
        """Raise OSError when it is not ours to switch."""
        self._brightness = folder / "brightness"
        self._on = (folder / "max_brightness").read_text().strip() or "1"
        trigger = folder / "trigger"
        if trigger.exists():
            trigger.write_text("none")
        self.switch(on=False)

    def switch(self, *, on: bool) -> None:
        """On or off; raise OSError once it is gone."""
        self._brightness.write_text(self._on if on else "0")


def find_led(sys: Path = SYS) -> Path | None:
    """The folder of the board's light, if it has one."""
    folders = [sys / "class" / "leds" / name for name in _LIGHTS]
    return next((folder for folder in folders if folder.exists()), None)


def is_undervoltage(sys: Path = SYS) -> bool | None:
    """Whether the supply was below 4.63 V in the last two seconds or so; None where nothing measures it."""
    for folder in (sys / "class" / "hwmon").glob("hwmon*"):
        if _text(folder / "name") == _VOLTAGE and (alarm := _text(folder / _ALARM)):
            return alarm == "1"
    return None


def read_sensors(sys: Path = SYS) -> dict[str, int | None]:
    """What the board's sensors say, by their names in relay.process.reports.GAUGES; None of what is not there."""
    milli = [_number(zone / "temp") for zone in (sys / "class" / "thermal").glob("thermal_zone*")]
    hottest = max((value for value in milli if value is not None), default=None)
    return {
        "temperature_celsius": None if hottest is None else hottest // 1000,
        **_card(sys),
        **_power(sys),
    }


def _card(sys: Path) -> dict[str, int | None]:
    """What eMMC tells of its life (JEDEC 84-B50, DEVICE_LIFE_TIME_EST and PRE_EOL_INFO); SD cards tell nothing."""
    used: list[int] = []
    worn: list[int] = []
    for device in (sys / "block").glob("mmcblk*/device"):
        # Two numbers, of two kinds of memory: 1 is up to a tenth, 10 all but the last, 11 beyond. 0: not told.
        steps = [int(word, 16) for word in _text(device / "life_time").split() if _HEX.fullmatch(word)]
        used += [10 * step for step in steps if step]
        state = _text(device / "pre_eol_info")
        if _HEX.fullmatch(state) and int(state, 16):
            worn.append(min(int(state, 16) - 1, 2))
    return {"card_life_used_percent": max(used, default=None), "card_worn": max(worn, default=None)}


def _power(sys: Path) -> dict[str, int | None]:
    """What power supplies tell (Documentation/ABI/testing/sysfs-class-power); not those of a keyboard or a mouse."""
    percents: list[int] = []
    external: list[bool] = []
    for supply in (sys / "class" / "power_supply").glob("*"):
        if _text(supply / "scope") == "Device" or _text(supply / "present") == "0":
            continue
        if _text(supply / "type") == "Battery":
            percent = _number(supply / "capacity")
            percents += [] if percent is None else [percent]
        elif (online := _number(supply / "online")) is not None:
            # 2: it feeds by a program of its own.
            external.append(online > 0)
    return {
        "power_percent": min(percents, default=None),
        "power_external": int(any(external)) if external else None,
    }


def _text(path: Path) -> str:
    """What a file of the kernel's says, "" if there is none or it does not tell."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if _DECIMAL.fullmatch(text) else None
