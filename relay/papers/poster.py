# SPDX-License-Identifier: GPL-2.0-or-later
"""The poster for participants: how to get to this relay, in all languages, with QR codes; as SVG and PDF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from segno import helpers

from relay.papers.sheet import HEIGHT, MEAN_WIDTH, WIDTH, Sheet
from relay.papers.texts import LANGUAGES, RIGHT_TO_LEFT, read_texts

#: Of the relay's own access point, the same on every one (relay.appliance.constants).
ADDRESS: Final = "http://10.42.70.1/"
_MARGIN: Final = 40.0
_CODE: Final = 190.0
_BLUE: Final = "#0b5d7a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wifi:
    """The access point as phones see it; ``password`` "" is an open network."""

    name: str
    password: str = ""

    def uri(self) -> str:
        """What phones read from a QR code (WPA3 specification, section 7)."""
        return str(helpers.make_wifi_data(ssid=self.name, password=self.password or None, security=self._security()))

    def _security(self) -> str:
        return "WPA" if self.password else "nopass"


def poster(wifi: Wifi | None) -> Sheet:
    """The poster of a relay; without ``wifi`` there is a line to write its name on."""
    sheet = Sheet("Mesh relay")
    sheet.box(0, 0, WIDTH, 66, _BLUE)
    sheet.text(_MARGIN, 43, 28, "Mesh relay", bold=True, colour="#ffffff")
    _step(sheet, _MARGIN, "1", "Wi-Fi")
    if wifi is None:
        sheet.box(_MARGIN, 220, 210, 0.8, "#111111")
    else:
        sheet.code(_MARGIN - 6, 128, _CODE, wifi.uri())
        _fitting(sheet, _MARGIN, 334, wifi.name)
        if wifi.password:
            sheet.text(_MARGIN, 354, 14, wifi.password, bold=True)
    _step(sheet, WIDTH / 2 + 20, "2", ADDRESS)
    sheet.code(WIDTH / 2 + 14, 128, _CODE, ADDRESS)
    y = 372.0
    for language in LANGUAGES:
        y = _block(sheet, y, language)
    return sheet


def poster_files(*, name: str, password: str) -> dict[str, bytes]:
    """The poster of an access point, by file names."""
    sheet = poster(Wifi(name=name, password=password))
    return {"poster.svg": sheet.svg().encode(), "poster.pdf": sheet.pdf()}


def _step(sheet: Sheet, x: float, number: str, text: str) -> None:
    sheet.box(x, 88, 26, 26, _BLUE)
    sheet.text(x + 8, 107, 18, number, bold=True, colour="#ffffff")
    sheet.text(x + 36, 107, 16, text, bold=True)


def _fitting(sheet: Sheet, x: float, y: float, name: str) -> None:
    """The network's name, as large as its length allows; one in other letters than Latin ones is in the code only."""
    if name.encode("cp1252", "ignore").decode("cp1252") == name:
        sheet.text(x, y, min(18.0, 230 / (MEAN_WIDTH * len(name))), name, bold=True)


def _block(sheet: Sheet, y: float, language: str) -> float:
    texts = read_texts(language)["poster"]
    sheet.box(_MARGIN, y, WIDTH - 2 * _MARGIN, 0.6, "#9db1bb")
    y += 22
    for place, line in enumerate((texts["title"], *texts["lines"])):
        size = 15.0 if place == 0 else 11.5
        if language in RIGHT_TO_LEFT:
            sheet.outline(WIDTH - _MARGIN, y, size, line)
        else:
            sheet.text(_MARGIN, y, size, line, bold=place == 0)
        y += 18 if place == 0 else 14.2
    if y > HEIGHT:
        raise ValueError("the texts are too long for a page")
    return y + 4


def arabic_lines() -> list[str]:
    """The lines that need an outline."""
    return [line for language in sorted(RIGHT_TO_LEFT) for line in _lines(language)]


def _lines(language: str) -> list[str]:
    texts = read_texts(language)["poster"]
    return [texts["title"], *texts["lines"]]
