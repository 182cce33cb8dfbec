# SPDX-License-Identifier: GPL-2.0-or-later
"""relay-status.txt: what the relay says to whoever puts its card into a computer, and when it is written."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from relay import __version__
from relay.appliance.constants import BOOT_CONFIG
from relay.control.notices import NoticeCode

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from relay.control.notices import Notice
    from relay.control.status import Status

#: Between two writings: what changes more often is written with the next.
LEAST_INTERVAL_S: Final = 60.0
#: For what goes up and down by itself, such as who is near: it need not be newer than whoever fetches the card.
FACTS_INTERVAL_S: Final = 3600.0
#: Something that comes and goes, such as a weak supply, must not wear the card out; and facts leave room for it.
MAX_WRITES: Final = 20
MAX_FACT_WRITES: Final = 10
#: Steps in which it is told who is near: whoever takes the card later learns no more.
_NEAR: Final = ((16, "16 or more"), (4, "4 to 15"), (2, "2 or 3"), (1, "1"), (0, "none"))
_PARTS: Final = ((0.99, "full"), (0.9, "nearly full"), (0.5, "more than half full"), (0.0, "less than half full"))
_WIDTH: Final = 76

_HEADINGS: Final = {
    NoticeCode.CONFIG: "MISTAKE",
    NoticeCode.SECRET: "MISTAKE",
    NoticeCode.NO_COUNTRY: "NOTE",
    NoticeCode.HINT: "NOTE",
    NoticeCode.UNDERVOLTAGE: "POWER",
    NoticeCode.BOARD: "BOARD",
    NoticeCode.STORAGE: "CARD",
    NoticeCode.SLOT: "SOFTWARE",
    NoticeCode.NETWORK: "NETWORK",
    NoticeCode.HEALTH: "RELAY",
}


def facts(status: Status | None, addresses: Sequence[str], said: Collection[str] = ()) -> list[str]:
    """How the relay is, in steps: its address, store, neighbours and clock, and what an alert would be about.

    ``said``: what stands in the file already, as notices.
    """
    lines = [f"Page: {address}" for address in addresses] or ["Page: none can be reached (status_page, access_point)"]
    if status is None:
        return [*lines, "The relay does not answer."]
    store = status.store
    lines += [
        f"Store: {next(text for least, text in _PARTS if store.part >= least)}",
        f"Without power: what is not delivered yet {'is kept' if store.durable else 'is DELETED'}",
        f"Relays near: {next(text for least, text in _NEAR if status.relays >= least)}",
        f"Clock: {'none' if not status.clock.trusted else status.clock.source}",
    ]
    alerts = [problem for problem in status.problems() if problem not in said]
    if not alerts:
        alerts = ["what is said above" if said else "none"]
    return lines + [f"Alert: {alert}" for alert in alerts]


def status_text(
    notices: Sequence[Notice], *, works: bool, drawn_secret: str, told: Sequence[str] = (), host_key: str = ""
) -> bytes:
    """The file, for any editor: UTF-8 with its mark, lines ending in carriage return and line feed.

    ``host_key``: the fingerprint that who logs in by SSH has to see, where somebody may.
    ``told``: facts, as they were when it was written. ``drawn_secret``: offered to whoever wrote one that is
    none; here only, as others read the status page.
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
    if host_key:
        lines += ["", "Who logs in (ssh) is shown a key first. The one of this box is", f"  {host_key}"]
    if told:
        lines += ["", "When this was written, an hour ago or at the last change that matters:"]
        lines += [row for fact in told for row in textwrap.wrap(fact, _WIDTH, subsequent_indent="  ")]
    return ("\r\n".join(lines) + "\r\n").encode("utf-8-sig")


class Writing:
    """Decides when to write; times are monotonic seconds."""

    def __init__(self) -> None:
        self._written: bytes | None = None
        self._last_s: float | None = None
        self._urgent: bytes | None = None
        self._left = MAX_WRITES
        self._left_for_facts = MAX_FACT_WRITES

    def due(self, text: bytes, now: float, *, urgent: bytes) -> bool:
        """Whether ``text`` is to be written now; ``urgent``: what of it somebody waits for, without the facts."""
        if text == self._written or self._left == 0 or (urgent == self._urgent and self._left_for_facts == 0):
            return False
        interval_s = FACTS_INTERVAL_S if urgent == self._urgent else LEAST_INTERVAL_S
        return self._last_s is None or now - self._last_s >= interval_s

    def done(self, text: bytes, now: float, *, urgent: bytes, wrote: bool) -> None:
        """``text`` is on the card; ``wrote``: it was not there before."""
        self._left_for_facts -= wrote and urgent == self._urgent
        self._written = text
        self._urgent = urgent
        self._last_s = now
        self._left -= wrote
