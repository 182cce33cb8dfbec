# SPDX-License-Identifier: GPL-2.0-or-later
"""The card for organisers: one page of A4 with pictures, as SVG; its light is that of relay.board.light."""

from __future__ import annotations

import re
import textwrap
from html import escape
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.board.light import PATTERNS, Code
from relay.papers.texts import RIGHT_TO_LEFT, read_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

#: From the most common to the most urgent; the others are only seen by who asked for them.
CODES: Final = (
    *(Code.WORKING, Code.CLOCK, Code.NO_COUNTRY, Code.FULL, Code.CONFIG, Code.VOLTAGE, Code.NETWORK),
    *(Code.BLUETOOTH, Code.WIFI, Code.CARD, Code.TURNED_BACK, Code.STARTING, Code.PANIC),
)
#: What is shown of each, over so many units of the drawing.
SHOWN_S: Final = 10.0
BAR: Final = 250.0
SETTINGS: Final = ('country = "DE"', "access_point = true", 'mesh_interface = ""')
ADDRESS: Final = "http://10.42.70.1/"

_WIDTH: Final = 794
_BOXES: Final = (24, 276, 528)
_BOX: Final = 242
#: Letters that fit a box: by class of text, for the widest of the languages.
_LETTERS: Final = {"t": 33, "s": 36}
#: Below the picture of a box.
_TEXT_Y: Final = 154
_STYLE: Final = (
    ".h{font-weight:bold;font-size:18px}.t{font-size:12.4px}.s{font-size:11.4px;fill:#333}"
    ".l{fill:none;stroke:#111;stroke-width:2.5;stroke-linejoin:round;stroke-linecap:round}"
    ".g{fill:#e7ecef;stroke:#111;stroke-width:2.5;stroke-linejoin:round}"
    ".n{font-weight:bold;font-size:20px;fill:#fff;text-anchor:middle}"
    ".m{font-family:Liberation Mono,Courier New,monospace;font-size:12px;font-weight:bold}"
)


def card_svg(language: str) -> str:
    """The card in one of relay.papers.texts.LANGUAGES."""
    texts = read_texts(language)
    page = _Page(language)
    page.head(texts["card"])
    top = 90
    for place, name in enumerate(("prepare", "plug", "place")):
        page.panel(_BOXES[place], top, 278, str(place + 1), name, texts["card"])
    page.lights(384, texts["light"])
    for place, (name, number) in enumerate((("check", "4"), ("panic", "!"), ("knows", "?"))):
        page.panel(_BOXES[place], 729, 258, number, name, texts["card"])
    page.foot(1001, texts["card"])
    return page.whole(texts["card"]["title"])


def bars(code: Code) -> Iterator[tuple[float, float]]:
    """Begin and length of each light of a code within SHOWN_S, in seconds."""
    at = 0.0
    for place, part in enumerate(cycle(PATTERNS[code])):
        # Sums of tenths are not exact.
        if at > SHOWN_S - 0.01:
            return
        if place % 2 == 0:
            yield at, min(part, SHOWN_S - at)
        at += part


class _Page:
    def __init__(self, language: str) -> None:
        self._language = language
        self._rtl = language in RIGHT_TO_LEFT
        self._parts: list[str] = []
        icons = Path(__file__).with_name("icons.svg").read_text(encoding="utf-8")
        self._icons = dict(re.findall(r'^<g id="(\w+)">(.*)</g>$', icons, re.MULTILINE))

    def whole(self, title: str) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="210mm" height="297mm" viewBox="0 0 {_WIDTH} 1123" '
            f'xml:lang="{self._language}" fill="#111" '
            'font-family="Liberation Sans, Arial, Helvetica, DejaVu Sans, sans-serif">\n'
            "<!-- SPDX-License-Identifier: GPL-2.0-or-later; made by `relay appliance papers` -->\n"
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
            '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )

    def head(self, texts: dict[str, str]) -> None:
        self._parts.append(f'<rect width="{_WIDTH}" height="74" fill="#0b5d7a"/>')
        self._line(32, _WIDTH - 64, 47, "h", texts["title"], "font-size:32px;fill:#fff")
        for y, line in zip((34, 54), texts["about"], strict=True):
            self._line(0 if self._rtl else 262, 532 if self._rtl else 500, y, "t", line, "fill:#fff")

    def panel(self, x: int, y: int, height: int, number: str, name: str, texts: dict[str, str]) -> None:
        self._frame(x, y, _BOX, height)
        disc = x + (_BOX - 24 if self._rtl else 24)
        self._parts.append(f'<circle cx="{disc}" cy="{y + 26}" r="15" fill="#0b5d7a"/>')
        self._parts.append(f'<text x="{disc}" y="{y + 33}" class="n">{number}</text>')
        self._line(x + (16 if self._rtl else 48), _BOX - 64, y + 32, "h", texts[name])
        self._parts.append(f'<g transform="translate({x},{y})">{self._icons[name]}</g>')
        below = self._lines(x + 16, y + _TEXT_Y, "t", texts[f"{name}_text"])
        typed = {"prepare": SETTINGS, "check": (ADDRESS,)}.get(name, ())
        for line in typed:
            self._parts.append(f'<text x="{x + 16}" y="{below}" class="m">{escape(line)}</text>')
            below += 17
        if typed:
            self._lines(x + 16, below, "s", texts[f"{name}_note"])

    def lights(self, y: int, texts: dict[str, list[str]]) -> None:
        pitch = 21.8
        self._frame(24, y, 746, 50 + pitch * len(CODES))
        self._line(44, 250, y + 30, "h", str(texts["heading"]))
        self._line(310, 440, y + 30, "s", str(texts["scale"]))
        for place, code in enumerate(CODES):
            at = y + 44 + pitch * place
            self._parts.append(
                f'<g id="light-{code.value}"><rect x="44" y="{at:g}" width="{BAR:g}" height="17" '
                'fill="#eef2f4" stroke="#9db1bb"/>'
            )
            for begin, length in bars(code):
                scale = BAR / SHOWN_S
                # A flicker's gaps would close in print.
                wide = max(length * scale, 1.2)
                self._parts.append(
                    f'<rect x="{44 + begin * scale:.1f}" y="{at + 1:g}" width="{wide:.1f}" height="15" fill="#16843a"/>'
                )
            self._parts.append("</g>")
            meaning, advice = texts[code.value]
            self._line(306, 190, at + 13, "t", meaning, "font-weight:bold")
            self._line(514, 246, at + 13, "s", advice)

    def foot(self, y: int, texts: dict[str, str]) -> None:
        self._parts.append(f'<path d="M24 {y - 4} h746" stroke="#9db1bb"/>')
        self._line(24, 746, y + 18, "h", texts["yours"])
        for x, name in ((24, "number"), (420, "look")):
            self._line(x, 350, y + 36, "s", texts[name])
            self._parts.append(f'<path d="M{x} {y + 62} h350" stroke="#111"/>')
        self._line(24, 746, y + 80, "s", texts["leave"])
        self._line(24, 746, y + 97, "s", texts["handbook"])
        self._line(24, 746, y + 114, "s", texts["bitchat"])

    def _frame(self, x: int, y: int, width: int, height: float) -> None:
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height:g}" rx="10" fill="none" '
            'stroke="#9db1bb" stroke-width="1.5"/>'
        )

    def _lines(self, x: int, y: int, kind: str, text: str) -> int:
        """A paragraph in a box; return where the next line belongs."""
        for line in textwrap.wrap(text, _LETTERS[kind], break_on_hyphens=False):
            self._line(x, _BOX - 32, y, kind, line)
            y += 16
        return y

    def _line(self, x: float, width: float, y: float, kind: str, text: str, style: str = "") -> None:
        at = x + width if self._rtl else x
        right = ' direction="rtl"' if self._rtl else ""
        styled = f' style="{style}"' if style else ""
        self._parts.append(
            f'<text x="{at:g}" y="{y:g}" class="{kind}"{right}{styled}>{escape(text, quote=False)}</text>'
        )
