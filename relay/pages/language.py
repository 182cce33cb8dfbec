# SPDX-License-Identifier: GPL-2.0-or-later
"""The languages of the pages: which one to answer in, its texts, and how it writes numbers."""

from __future__ import annotations

import gettext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

LOCALE: Final = Path(__file__).with_name("locale")
#: Of an Accept-Language header. Browsers send under 100 characters; more is not read.
MAX_HEADER_CHARS: Final = 512
MAX_HEADER_ENTRIES: Final = 16


def N_(text: str) -> str:  # noqa: N802 - by this name catalogues are made (gettext's manual)
    """Mark ``text`` for translation where it stands; whoever shows it translates it."""
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """``code``: BCP 47; ``name``: in the language itself; ``group`` and ``decimal``: signs within numbers."""

    code: str
    name: str
    direction: str = "ltr"
    group: str = ","
    decimal: str = "."


#: The first is that of the texts in templates and code, for whoever asks for none of these.
LANGUAGES: Final = (
    Language(code="en", name="English"),
    Language(code="fr", name="Français", group="\N{NARROW NO-BREAK SPACE}", decimal=","),
    Language(code="es", name="Español", group="\N{NARROW NO-BREAK SPACE}", decimal=","),
    Language(code="ar", name="العربية", direction="rtl"),
)
_BY_CODE: Final = {language.code: language for language in LANGUAGES}


def choose(by_hand: str, accept_language: str) -> Language:
    """The language asked for: a code that somebody chose, else the best of an Accept-Language header (RFC 9110)."""
    if by_hand in _BY_CODE:
        return _BY_CODE[by_hand]
    best, weight = LANGUAGES[0], 0.0
    for entry in accept_language[:MAX_HEADER_CHARS].split(",")[:MAX_HEADER_ENTRIES]:
        tag, _, parameter = entry.partition(";")
        code = tag.strip().lower().partition("-")[0]
        wanted = _quality(parameter)
        if code in _BY_CODE and wanted > weight:
            best, weight = _BY_CODE[code], wanted
    return best


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        found = float(value)
    except ValueError:
        return 0.0
    return found if 0.0 <= found <= 1.0 else 0.0


@cache
def translations(code: str) -> gettext.NullTranslations:
    """The catalogue of a language, read when it is asked for first; English needs none."""
    path = LOCALE / f"{code}.mo"
    if code == LANGUAGES[0].code:
        return gettext.NullTranslations()
    with path.open("rb") as file:
        return gettext.GNUTranslations(file)


class Tongue:
    """A language at work: texts, numbers, sizes and durations as its readers write them."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._texts = translations(language.code)

    @property
    def is_english(self) -> bool:
        """Whether it is the one in which texts are written in code."""
        return self.language is LANGUAGES[0]

    def text(self, message: str) -> str:
        """``message`` in this language."""
        return self._texts.gettext(message) if message else ""

    def texts(self, singular: str, plural: str, count: int) -> str:
        """``singular`` or ``plural`` in this language, as ``count`` has it."""
        return self._texts.ngettext(singular, plural, count)

    def number(self, value: float, digits: int = 0) -> str:
        """1234.5 becomes "1,234.5" in English."""
        shown = f"{value:,.{digits}f}"
        return shown.translate({ord(","): self.language.group, ord("."): self.language.decimal})

    def size(self, count: float) -> str:
        """Bytes in the units that phones show: 1,500,000 becomes "1.5 MB"."""
        units = (N_("%s B"), N_("%s kB"), N_("%s MB"), N_("%s GB"))
        step = 0
        while count >= 999.5 and step < len(units) - 1:
            count /= 1000
            step += 1
        return self.text(units[step]) % self.number(count, 1 if step and count < 10 else 0)

    def duration(self, seconds: float) -> str:
        """The largest unit, or the two largest: "2 d 3 h", "4 min"."""
        minutes = int(seconds) // 60
        if minutes < 1:
            return self.text(N_("%s s")) % self.number(int(seconds))
        if minutes < 60:
            return self.text(N_("%s min")) % self.number(minutes)
        hours = minutes // 60
        if hours < 24:
            return self._two(N_("%s h"), hours, N_("%s min"), minutes % 60)
        return self._two(N_("%s d"), hours // 24, N_("%s h"), hours % 24)

    def _two(self, large: str, many: int, small: str, few: int) -> str:
        parts = [self.text(large) % self.number(many)] + ([self.text(small) % self.number(few)] if few else [])
        return "\N{NO-BREAK SPACE}".join(parts)
