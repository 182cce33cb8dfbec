# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a stick is looked at, and the one file that is written to it: by fixed names, and nothing else of it.

All of it lies in the folder FOLDER, so that whoever has other things on his stick is left alone:

================ ==============================================================
``shelf``        a folder: files for participants
``key.txt``      one line: the passphrase of storage = "durable"
``write.txt``    the operator's mark, empty or not: a report may be left there
``update.relay`` newer software (relay.board.manifest)
================ ==============================================================

Another file or folder with another use gets another name in here, and another word in StickUse.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.config.textfile import TextError, decode_text
from relay.process.unlock_request import MAX_SECRET_BYTES

if TYPE_CHECKING:
    from pathlib import Path

#: FAT knows no difference between large and small letters.
FOLDER: Final = "mesh-relay"
SHELF: Final = "shelf"
#: Windows hides the end of names, and so adds it twice.
MARKS: Final = ("write.txt", "write.txt.txt")
KEYS: Final = ("key.txt", "key.txt.txt")
UPDATE: Final = "update.relay"
#: As an editor may write it that takes two bytes for a character, with its mark and the end of the line.
_MAX_KEY_FILE_BYTES: Final = 2 * MAX_SECRET_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """``shelf``: the folder with files to be offered; ``is_marked``: whether the operator lets us write.

    ``has_key``: whether there is a file with a passphrase; it is read where there is a use for it. ``has_update``: the
    same of newer software.
    """

    shelf: Path | None
    is_marked: bool
    has_key: bool
    has_update: bool


def look(where: Path) -> Content | None:
    """What is on the stick mounted at ``where``; None if there is nothing for us."""
    folder = where / FOLDER
    if not _is(folder, stat.S_IFDIR):
        return None
    shelf = folder / SHELF
    return Content(
        shelf=shelf if _is(shelf, stat.S_IFDIR) else None,
        is_marked=is_marked(where),
        has_key=any(_is(folder / name, stat.S_IFREG) for name in KEYS),
        has_update=_is(folder / UPDATE, stat.S_IFREG),
    )


def is_marked(where: Path) -> bool:
    """Whether the stick has the operator's mark."""
    return any(_is(where / FOLDER / mark, stat.S_IFREG) for mark in MARKS)


def read_key(where: Path) -> bytes | None:
    """The passphrase on the stick, as who types it would send it; None if there is none that is one line of text."""
    for name in KEYS:
        try:
            descriptor = os.open(where / FOLDER / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                raw = file.read(_MAX_KEY_FILE_BYTES + 1)
            line = decode_text(raw).rstrip("\n")
        except (OSError, TextError):
            continue
        secret = line.encode()
        if line and "\n" not in line and len(secret) <= MAX_SECRET_BYTES:
            return secret
    return None


def open_update(where: Path) -> int:
    """A descriptor of the update; raise OSError."""
    return os.open(where / FOLDER / UPDATE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _is(path: Path, kind: int) -> bool:
    """Whether there is such a one, and no link to it."""
    try:
        return stat.S_IFMT(path.lstat().st_mode) == kind
    except OSError:
        return False
