# SPDX-License-Identifier: GPL-2.0-or-later
"""Text that strangers chose, made safe for file systems and terminals."""

import unicodedata
from collections.abc import Iterator
from typing import Final

from relay.process.printable import is_seen

MAX_SAFE_NAME_BYTES: Final = 200
"""Under the 255 of Linux file systems, with room for what is appended when the name is taken."""
MAX_ENDING_BYTES: Final = 24
"""What follows the last dot of a longer name than fits is kept up to here; beyond it, it is no ending."""
ROW_MARK: Final = "  | "
"""Begins every row of a message but the first, so that none can pass for the beginning of another message."""
MIN_COLUMNS: Final = 20
"""A narrower terminal than this breaks rows wherever it likes."""

_UNSAFE: Final = frozenset('<>:"|?*')
_KEPT_CONTROLS: Final = frozenset("\n\t")
_KEPT_FORMATS: Final = frozenset(
    # Without these three, words of Persian, Indic, Thai and Khmer scripts are written wrongly; nothing moves by them.
    "\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
    # Numbers' and verses' signs, which are seen.
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
_LEFT_OUT: Final = frozenset(
    # What keyboards and programs put into honest texts without a word: not worth a mark in each.
    "\N{SOFT HYPHEN}\N{ARABIC LETTER MARK}\N{LEFT-TO-RIGHT MARK}\N{RIGHT-TO-LEFT MARK}\N{WORD JOINER}"
    "\N{ZERO WIDTH NO-BREAK SPACE}"
)
_HIDDEN_BY_DEFAULT: Final = frozenset(
    # Not assigned, and yet to be shown as nothing (DerivedCoreProperties.txt: Default_Ignorable_Code_Point).
    map(chr, (0x2065, *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE0100), *range(0xE01F0, 0xE1000)))
)
_TAB_COLUMNS: Final = 4
_MAX_MARKS: Final = 8
"""More marks on one letter belong to no script, and are cut wherever the room ends."""


def safe_file_name(name: str) -> str:
    """Return a name that stays in the folder it is put in, and shows itself to listings as it is.

    Only what follows the last separator of either kind counts; nothing invisible, nothing that hides the
    file, and nothing that a command could take for an option.
    """
    last = unicodedata.normalize("NFC", name.replace("\\", "/")).rpartition("/")[2]
    clean = "".join("_" if character in _UNSAFE or not is_seen(character) else character for character in last)
    clean = shorten_file_name(clean.strip(" "), MAX_SAFE_NAME_BYTES).rstrip(" .")
    if clean.startswith((".", "-", "~")):
        clean = "_" + clean[1:]
    return clean or "file"


def shorten_file_name(name: str, max_bytes: int) -> str:
    """Return a name that fits in UTF-8: what is too long is shortened before its ending, at a whole character."""
    if len(name.encode(errors="replace")) <= max_bytes:
        return cut(name, max_bytes)
    stem, dot, ending = name.rpartition(".")
    ending = dot + ending
    if not stem or len(ending.encode(errors="replace")) > MAX_ENDING_BYTES:
        stem, ending = name, ""
    kept = cut(stem, max_bytes - len(ending.encode(errors="replace")))
    # What follows a letter and belongs to it goes with it: another letter would be left.
    for marks in range(min(_MAX_MARKS, len(kept))):
        if not _continues(stem[len(kept) - marks], stem[len(kept) - marks - 1]):
            return kept[: len(kept) - marks] + ending
    return kept + ending


def _continues(character: str, before: str) -> bool:
    joiner = "\N{ZERO WIDTH JOINER}"
    return unicodedata.category(character) in {"Mn", "Mc", "Me"} or joiner in {character, before}


def safe_text(text: str) -> str:
    """Return a text that a terminal shows and does not obey, and that reads in the order in which it was written.

    Control characters go (escape sequences begin with one), and what is invisible and reorders, hides or ends a
    line; joiners are part of how many languages are written.
    """
    return "".join(_safe_characters(text.replace("\r\n", "\n")))


def _safe_characters(text: str) -> Iterator[str]:
    for character in text:
        if character in _LEFT_OUT:
            continue
        is_hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} or character in _HIDDEN_BY_DEFAULT
        is_kept = character in _KEPT_CONTROLS or character in _KEPT_FORMATS
        yield "\N{REPLACEMENT CHARACTER}" if is_hidden and not is_kept else character


def rows(text: str, columns: int | None) -> str:
    """Return a text made safe, every row of which but the first begins with ROW_MARK.

    A terminal goes to its next row by itself when one is full, so rows are broken here before it does;
    without `columns`, which is for a file or a pipe, lines are as long as they are.
    """
    lines = safe_text(text).split("\n")
    if columns is not None:
        # Of the last column it is not certain whether a terminal stays in the row.
        width = max(columns, MIN_COLUMNS) - 1 - len(ROW_MARK)
        lines = [row for line in lines for row in _broken(line.replace("\t", " " * _TAB_COLUMNS), width)]
    return f"\n{ROW_MARK}".join(lines)


def _broken(line: str, width: int) -> Iterator[str]:
    """Yield a line in rows of at most `width` cells, broken after a space where the row has one."""
    begin, space, used = 0, 0, 0
    place = 0
    while place < len(line):
        cells = _cells(line[place])
        if used + cells > width and place > begin:
            end = space if space > begin else place
            yield line[begin:end]
            begin, place, used = end, end, 0
            continue
        used += cells
        place += 1
        if line[place - 1] == " ":
            space = place
    yield line[begin:]


def _cells(character: str) -> int:
    """Return how many cells a character takes at most, in whatever terminal that is not set to East Asian widths."""
    is_wide = unicodedata.east_asian_width(character) in {"W", "F"}
    # Pictures, and what this Python does not know yet, which may be pictures.
    return 2 if is_wide or unicodedata.category(character) in {"So", "Cn", "Co"} else 1


def cut(text: str, max_bytes: int) -> str:
    """Return the longest beginning of `text` that fits in UTF-8; lone surrogates become question marks."""
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")
