# SPDX-License-Identifier: GPL-2.0-or-later
"""What desktop editors make of a text file, back to plain text."""

from __future__ import annotations

import codecs
import re
import unicodedata

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


_NOT_BOOLEAN = re.compile(r"=\s*(true|yes|on|false|no|off)\b", re.IGNORECASE)


def words_hint(text: str, line: int) -> str:
    """Advice for a line (from 1) on which somebody wrote yes or no in another way than TOML has it; else ""."""
    lines = text.split("\n")
    match = _NOT_BOOLEAN.search(lines[line - 1]) if 1 <= line <= len(lines) else None
    if match is None or match[1] in {"true", "false"}:
        return ""
    meant = "true" if match[1].lower() in {"true", "yes", "on"} else "false"
    return f"; {match[1]} is written {meant}, in small letters and without quotes"


_INVISIBLE = re.compile("[\\u00a0\\u00ad\\u1680\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u2064\\u3000\\ufeff]")


def blanks_hint(text: str, line: int) -> str:
    """Advice for a line (from 1) with what looks like a space or like nothing, as copied from a web page; else ""."""
    lines = text.split("\n")
    match = _INVISIBLE.search(lines[line - 1]) if 1 <= line <= len(lines) else None
    if match is None:
        return ""
    name = unicodedata.name(match[0], "a character").lower()
    return f"; character {match.start() + 1} is no plain space but U+{ord(match[0]):04X} ({name}): type the line anew"


def quotes_hint(text: str, line: int) -> str:
    """Advice for a line (from 1) with typographic quotes, which word processors put in by themselves; else ""."""
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        return ""
    curly = next((mark for mark in "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb" if mark in lines[line - 1]), None)
    return f'; {curly} is not a quote for a computer: type " instead' if curly else ""
