# SPDX-License-Identifier: GPL-2.0-or-later
"""A report: how a relay is, in words and as metrics, in one file that somebody carries away; and writing it.

The words are remarks of Prometheus' text format, so the file as a whole is a snapshot
that `promtool check metrics` and a textfile collector read.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from relay.control.text import status_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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


def write_report(path: Path, text: bytes) -> None:
    """Leave a report at ``path`` in place of whatever has that name, whole or not at all; raise OSError.

    Nothing of what was there is opened, waited for or followed: a stick may have a link or a FIFO of that name.
    """
    fresh = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(fresh, flags, 0o644), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    # Somebody pulls the stick next.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
