# SPDX-License-Identifier: GPL-2.0-or-later
"""relay-status.txt: what the relay says to whoever puts its card into a computer, and when it is written."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from relay import __version__
from relay.appliance.constants import BOOT_CONFIG
from relay.control.notices import NoticeCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.control.notices import Notice

#: Between two writings: what changes more often is written with the next.
LEAST_INTERVAL_S: Final = 60.0
#: Something that comes and goes, such as a weak supply, must not wear the card out.
MAX_WRITES: Final = 20
_WIDTH: Final = 76

_HEADINGS: Final = {
    NoticeCode.CONFIG: "MISTAKE",
    NoticeCode.SECRET: "MISTAKE",
    NoticeCode.NO_COUNTRY: "NOTE",
    NoticeCode.HINT: "NOTE",
    NoticeCode.UNDERVOLTAGE: "POWER",
    NoticeCode.BOARD: "BOARD",
    NoticeCode.STORAGE: "CARD",
    NoticeCode.NETWORK: "NETWORK",
    NoticeCode.HEALTH: "RELAY",
}


def status_text(notices: Sequence[Notice], *, works: bool, drawn_secret: str) -> bytes:
    """The file, for any editor: UTF-8 with its mark, lines ending in carriage return and line feed.

    It holds nothing that changes by itself, and nothing about people or traffic. ``drawn_secret``:
    offered to whoever wrote one that is none; here only, as others read the status page.
    """
    lines = [
        f"Mesh relay {__version__}",
        "",
        f"Written by the relay. To change something, edit {BOOT_CONFIG} beside this file.",
        "",
        "The relay started and works." if works else "The relay did not come up.",
    ]
    if not notices:
        lines.append(f"{BOOT_CONFIG} has no mistake.")
    for notice in notices:
        lines += ["", *textwrap.wrap(f"{_HEADINGS[notice.code]}: {notice.text}", _WIDTH, subsequent_indent="  ")]
        if notice.code is NoticeCode.SECRET:
            # A line of its own, to be copied: longer than the others.
            lines += ["  One that was drawn just now, the same for all relays of your mesh:", f'  "{drawn_secret}"']
    return ("\r\n".join(lines) + "\r\n").encode("utf-8-sig")


class Writing:
    """Decides when to write; times are monotonic seconds."""

    def __init__(self) -> None:
        self._written: bytes | None = None
        self._last_s: float | None = None
        self._left = MAX_WRITES

    def due(self, text: bytes, now: float) -> bool:
        """Whether ``text`` is to be written now."""
        if text == self._written or self._left == 0:
            return False
        return self._last_s is None or now - self._last_s >= LEAST_INTERVAL_S

    def done(self, text: bytes, now: float, *, wrote: bool) -> None:
        """``text`` is on the card; ``wrote``: it was not there before."""
        self._written = text
        self._last_s = now
        self._left -= wrote
