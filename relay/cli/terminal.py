# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines with something in them that a stranger chose, on whatever is there to show them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TextIO

_USUAL_COLUMNS: Final = 80


def columns() -> int | None:
    """Return how wide the terminal is on which somebody may be watching, or None when there is none.

    Also when the output is a pipe: `relay receive | tee log`.
    """
    for descriptor in (1, 2, 0):
        with contextlib.suppress(OSError):
            # A serial line does not know its width.
            return os.get_terminal_size(descriptor).columns or _USUAL_COLUMNS
    return None


def standard_input() -> TextIO:
    """Return standard input; ClientError where whoever started the command has closed it."""
    if sys.stdin is None:
        from relay.links.errors import ClientError  # noqa: PLC0415

        raise ClientError("there is no standard input to read: it was closed; give what is to be read as an argument")
    return sys.stdin


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text, every row of it but the first marked, so that none can pass for something else that was said."""
    # Imported here, since the other commands need nothing of it.
    from relay.client.text import rows  # noqa: PLC0415

    print(rows(text, columns()), file=stream or sys.stdout, flush=True)
