# SPDX-License-Identifier: GPL-2.0-or-later
"""TOML with line numbers, which tomllib does not keep and an operator needs."""

from __future__ import annotations

import re
import tomllib
from typing import Any

#: Where a key or table stands, by its path.
Lines = dict[tuple[str, ...], int]

#: What :func:`locate` parses at most. An array over n lines is parsed n times, so that
#: a large one would keep a Raspberry Pi at its start for minutes; an honest file of 100
#: KiB takes less than twice its size.
MAX_LOCATED_CHARS = 2 * 1024 * 1024

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

#: What to do about some of tomllib's messages.
_ADVICE = (
    (re.compile(r"Cannot overwrite a value$"), "this setting is there twice: remove one of the two"),
    (re.compile(r"Cannot declare .* twice$"), "this section is there twice: put its settings below one of the two"),
    (re.compile(r"Illegal character '\\n'$|Unterminated string$"), "a text in quotes has no quote at its end"),
)


def syntax_error(text: str, error: tomllib.TOMLDecodeError) -> tuple[int, str]:
    """The line of a syntax error and what it is, without tomllib's own "(at line ...)"."""
    found = _AT_LINE.search(str(error))
    line = int(found[1]) if found and found[1] else text.rstrip("\n").count("\n") + 1
    return line, _AT_LINE.sub("", str(error))


def fault_hint(message: str) -> str:
    """Advice for what tomllib's own words leave unsaid; else ""."""
    return next((f"; {advice}" for fault, advice in _ADVICE if fault.match(message)), "")


def locate(text: str) -> Lines:
    """Find the line (from 1) of every table and key of valid TOML.

    Each statement is parsed by itself: a statement ends where what was read so
    far parses, so strings and arrays over several lines need no grammar here. What
    lies beyond MAX_LOCATED_CHARS of such work is not located.
    """
    budget = MAX_LOCATED_CHARS
    lines: Lines = {}
    prefix: tuple[str, ...] = ()
    chunk = ""
    start = 1
    # Not splitlines(), for which many more characters end a line than for TOML.
    for number, line in enumerate(text.split("\n"), start=1):
        if not chunk:
            start = number
        chunk += f"{line}\n"
        budget -= len(chunk)
        if budget < 0:
            break
        try:
            statement = tomllib.loads(chunk)
        except tomllib.TOMLDecodeError:
            continue
        if chunk.lstrip().startswith("["):
            prefix = _deepest(statement)
            lines.setdefault(prefix, start)
        else:
            _note(statement, prefix, start, lines)
        chunk = ""
    return lines


def line_of(lines: Lines, path: tuple[str, ...]) -> int:
    """The line of ``path``, or of the nearest thing around it."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _deepest(table: dict[str, Any]) -> tuple[str, ...]:
    """The path that a table header names."""
    path: tuple[str, ...] = ()
    value: Any = table
    while value:
        if isinstance(value, list):  # [[array of tables]]
            value = value[0]
            continue
        key = next(iter(value))
        path += (key,)
        value = value[key]
    return path


def _note(table: dict[str, Any], prefix: tuple[str, ...], line: int, lines: Lines) -> None:
    for key, value in table.items():
        lines.setdefault((*prefix, key), line)
        if isinstance(value, dict):
            _note(value, (*prefix, key), line, lines)
