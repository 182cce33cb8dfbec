# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that strangers chose (of programs, slots, files), made fit for one row of a log, a report or a terminal."""

from __future__ import annotations

from typing import Final

_BLANKS: Final = frozenset(
    # Letters, marks and symbols by category that nobody sees.
    "\N{COMBINING GRAPHEME JOINER}\N{HANGUL CHOSEONG FILLER}\N{HANGUL JUNGSEONG FILLER}\N{KHMER VOWEL INHERENT AQ}"
    "\N{KHMER VOWEL INHERENT AA}\u180b\u180c\u180d\u180f\N{BRAILLE PATTERN BLANK}\N{HANGUL FILLER}"
    "\N{HALFWIDTH HANGUL FILLER}"
)


def is_seen(character: str) -> bool:
    """Whether a character shows itself, and nothing but itself: what a name may be made of."""
    return character.isprintable() and character not in _BLANKS


def printable(text: str) -> str:
    """Return a text of as many characters, U+FFFD in place of each that is not seen (line ends are not)."""
    return "".join(one if is_seen(one) else "\N{REPLACEMENT CHARACTER}" for one in text)


def printable_ascii(text: str) -> str:
    """The same in ASCII, where a character is a byte: "?" in place of each that is not seen or is another letter."""
    return printable(text).encode("ascii", "replace").decode("ascii")
