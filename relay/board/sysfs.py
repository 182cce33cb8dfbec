# SPDX-License-Identifier: GPL-2.0-or-later
"""Light and voltage in /sys."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SYS: Final = Path("/sys")
#: The green light of a Raspberry Pi, as kernels have called it.
_LIGHTS: Final = ("ACT", "led0", "mesh-relay")
#: Named by drivers/hwmon/raspberrypi-hwmon.c, which asks the firmware every 2 s. The alarm
#: stands until it asks again, then it is about the next two seconds.
_VOLTAGE: Final = "rpi_volt"
_ALARM: Final = "in0_lcrit_alarm"


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


def is_undervoltage(sys: Path = SYS) -> bool:
    """Whether the supply was below 4.63 V in the last two seconds or so; False where nothing measures it."""
    for folder in (sys / "class" / "hwmon").glob("hwmon*"):
        try:
            if (folder / "name").read_text().strip() == _VOLTAGE:
                return (folder / _ALARM).read_text().strip() == "1"
        except OSError:
            continue
    return False
