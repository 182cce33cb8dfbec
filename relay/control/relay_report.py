# SPDX-License-Identifier: GPL-2.0-or-later
"""A report: how a relay is, in words and as metrics, in one file that somebody carries away.

The words are remarks of Prometheus' text format, so the file as a whole is a snapshot
that `promtool check metrics` and a textfile collector read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.control.text import status_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.control.status import Status

#: What it is called where only a folder or a stick is named.
REPORT: Final = "relay-report.prom"
_HEAD: Final = (
    "Report of a mesh relay. These lines are for people; those below are metrics for Prometheus and promtool."
)


def report_text(status: Status, metrics: str, addresses: Sequence[str] = ()) -> str:
    """The file. ``metrics``: in Prometheus' text format; ``addresses``: where its page is, where that is known."""
    words = [_HEAD, "", *status_text(status).splitlines(), *(f"{'page':<10} {address}" for address in addresses)]
    # A remark that begins with HELP or TYPE would be more than one; so would be a line that a notice breaks.
    remarks = [f"# | {line}".rstrip() for text in words for line in text.splitlines() or [""]]
    return "\n".join(remarks) + "\n" + metrics
