# SPDX-License-Identifier: GPL-2.0-or-later
"""What desktop editors make of a text file, back to plain text."""

from __future__ import annotations

import codecs
import re
import unicodedata
from difflib import get_close_matches

from relay.core.errors import RelayError

#: The mark, and how the text after it is written. Notepad saves as UTF-16 when told "Unicode".
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAVE_AS = 'save it as plain text ("UTF-8" in Notepad; Format, Make Plain Text in TextEdit)'


class TextError(RelayError):
    """Bytes that are no text; ``line`` counts from 1, 0 is the file as a whole. The message has the remedy."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


def decode_text(raw: bytes) -> str:
    """Text with lines that end in a line feed, from UTF-8 or UTF-16 and any system's line ends; raise TextError."""
    if raw.startswith(b"{\\rtf"):
        raise TextError(0, f"this is a document of a word processor, not plain text; {_SAVE_AS}")
    if raw.startswith(b"PK\x03\x04"):
        raise TextError(0, f"this is a document of an office program, not plain text; {_SAVE_AS}")
    encoding = "utf-8"
    body = raw
    for mark, name in _MARKS:
        if raw.startswith(mark):
            encoding = name
            body = raw[len(mark) :]
            break
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body.count("\n".encode(encoding), 0, error.start) + 1
        raise TextError(line, f"a character here is not {encoding.upper()}; {_SAVE_AS}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TextError(line, f"there are zero bytes in it: it is damaged or no text; restore it, or {_SAVE_AS}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


#: A value that stands alone, without quotes: after =, after what people write in its place, or in a list.
_BARE = re.compile(r"(?:=|:|\[|,)\s*([^\W\d_]+)(?=\s*(?:[#,\]]|$))")
#: What people mean by either; a slip of a finger away from one is meant, too.
_BOOLEANS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
_NEAR = 0.75


def words_hint(text: str, line: int) -> str:
    """Advice for a line (from 1) with a word in no quotes: a yes or no in another way than TOML has it, or a text."""
    code = "".join(character for _, character in _code(_line(text, line)))
    for match in () if code.lstrip().startswith("[") else _BARE.finditer(code):
        word = match[1]
        near = get_close_matches(word.lower(), _BOOLEANS, n=1, cutoff=1.0 if len(word) < 4 else _NEAR)
        if near and word not in {"true", "false"}:
            return f"; {word} is written {_BOOLEANS[near[0]]}, in small letters and without quotes"
        if not near:
            return f'; {word} is a text, and those stand in quotes: "{word}"'
    return ""


#: Signs that look like nothing, or like a space, though Unicode counts them as letters and symbols.
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
#: What word processors and web pages make of " and '.
_QUOTES = frozenset("\u00ab\u00b4\u00bb\u02ba\u2032\u2033\u2039\u203a\u301d\u301e\u301f\uff02\uff07").union(
    map(chr, range(0x2018, 0x2020))
)


#: A file that names this line has it, or is the beginning of one that had.
END = "# End of the card's settings."


def lacks_end(text: str) -> bool:
    """Whether a text tells of its own last line, and does not have it."""
    return f'"{END}"' in text and END not in map(str.strip, text.split("\n"))


def is_invisible(character: str) -> bool:
    """Whether nobody sees it, or takes it for a plain space."""
    # All that Unicode has as space (but the plain one), control or format; tabs and line ends belong into a text.
    return character in _BLANK_LETTERS or not (character.isprintable() or character in "\t\n")


def name_of(character: str) -> str:
    """Its number and name: U+00A0 (no-break space)."""
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character').lower()})"


def blanks_hint(text: str, line: int) -> str:
    """Advice for a line (from 1) with what looks like a space or like nothing, as copied from a web page; else ""."""
    for column, character in _code(_line(text, line)):
        if is_invisible(character):
            return f"; character {column} is no plain space but {name_of(character)}: type the line anew"
    return ""


def quotes_hint(text: str, line: int) -> str:
    """Advice for a line (from 1) with typographic quotes, which word processors put in by themselves; else ""."""
    for column, character in _code(_line(text, line)):
        if character in _QUOTES:
            name = name_of(character)
            return f'; character {column}, {character}, is no quote for a computer but {name}: type " instead'
    return ""


def hidden_in(value: str, text: str, line: int) -> str:
    """Say which character of ``value`` cannot be seen where ``text`` has it, from a line (from 1) on; else ""."""
    hidden = {character for character in value if is_invisible(character)}
    for after, found in enumerate(text.split("\n")[line - 1 :] if hidden else ()):
        for column, character in _code(found):
            if character in hidden:
                place = f" of line {line + after}" if after else ""
                return f"character {column}{place} cannot be seen: {name_of(character)}; type the line anew"
    # Somebody who writes "\\u00a0" knows what he does.
    return ""


def _line(text: str, number: int) -> str:
    """A line (from 1), "" where there is none."""
    lines = text.split("\n")
    return lines[number - 1] if 1 <= number <= len(lines) else ""


def _code(line: str) -> list[tuple[int, str]]:
    """The characters of a line, each with its place (from 1), without the remark at its end, where all may stand."""
    found = []
    quote = ""
    for column, character in enumerate(line, 1):
        if quote:
            quote = "" if character == quote else quote
        elif character == "#":
            break
        elif character in "\"'":
            quote = character
        found.append((column, character))
    return found
