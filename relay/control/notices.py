# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator without a terminal has to know: short texts that one process leaves and others show.

A file of JSON: ``{"v": 1, "notices": [{"code": ..., "text": ...}, ...]}``.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from relay.process.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION = 1
#: What `relay appliance apply` found wrong at the start, what `relay board` found since, `relay stick` of a stick, and
#: `relay slot` of the software itself.
NOTICES = (
    Path("/run/mesh-relay-config/notices.json"),
    Path("/run/mesh-relay-board/notices.json"),
    Path("/run/mesh-relay-stick/notices.json"),
    Path("/run/mesh-relay-slot/notices.json"),
)
#: A file with a mistake in each line is told its first ones; 20 KiB at most.
MAX_NOTICES = 32
MAX_TEXT_CHARS = 600
MAX_FILE_BYTES = 64 * 1024


class NoticeCode(enum.StrEnum):
    """What a notice is about; the light shows some of them."""

    CONFIG = "config"  # relay.toml, or something in it, is not used as it stands
    SECRET = "secret"  # noqa: S105 - what it says is no secret
    NO_COUNTRY = "no_country"  # so no Wi-Fi
    HINT = "hint"  # worth knowing, nothing is wrong
    UNDERVOLTAGE = "undervoltage"
    BOARD = "board"  # light, button or boot partition do not work
    STORAGE = "storage"  # the card does not keep what it should
    SLOT = "slot"  # newer software turned back (relay.board.slots)
    HEALTH = "health"  # another condition of the relay (relay.control.conditions)
    NETWORK = "network"  # access point, mesh or bridge are set up and do not work

    @property
    def serious(self) -> bool:
        """Whether somebody should do something about it."""
        return self not in {NoticeCode.NO_COUNTRY, NoticeCode.HINT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing to know, with its remedy."""

    code: NoticeCode
    text: str


def encode_notices(notices: Iterable[Notice]) -> bytes:
    """The file's bytes; what is beyond the bounds is cut."""
    rows = [{"code": str(notice.code), "text": _fit(notice.text)} for notice in list(notices)[:MAX_NOTICES]]
    return json.dumps({"v": VERSION, "notices": rows}).encode()


def decode_notices(raw: bytes) -> list[Notice]:
    """What encode_notices wrote; of anything else, what can be read of it."""
    try:
        document = json.loads(raw[:MAX_FILE_BYTES])
    except (ValueError, RecursionError):
        return []
    rows = document.get("notices") if isinstance(document, dict) and document.get("v") == VERSION else None
    return [
        Notice(code=NoticeCode(row["code"]), text=_fit(row["text"]))
        for row in (rows[:MAX_NOTICES] if isinstance(rows, list) else [])
        if isinstance(row, dict) and row.get("code") in list(NoticeCode) and isinstance(row.get("text"), str)
    ]


def read_notices(paths: Iterable[Path] = NOTICES) -> list[Notice]:
    """The notices of all files that are there; blocking, and little."""
    found = []
    for path in paths:
        try:
            with path.open("rb") as file:
                found += decode_notices(file.read(MAX_FILE_BYTES))
        except OSError:
            continue
    return found


def _fit(text: str) -> str:
    # A terminal, the screen and a report show it, and what reads strangers' sticks may write one of these files.
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= MAX_TEXT_CHARS else shown[: MAX_TEXT_CHARS - 3] + "..."
