# SPDX-License-Identifier: GPL-2.0-or-later
"""A progress bar in one line of a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Self, TextIO

INTERVAL_S: Final = 0.1
_WIDTH: Final = 30
_ERASE: Final = "\r\x1b[K"


class ProgressBar:
    """Shows how much of something is done, on a terminal only; erased at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._next_s = 0.0

    def __enter__(self) -> Self:
        """Return the bar itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave an empty line."""
        if self._is_shown:
            self._stream.write(_ERASE)
            self._stream.flush()

    def show(self, what: str, done: int, everything: int, note: str = "") -> None:
        """Show which part `done` is of `everything`, unless something was shown a moment ago."""
        now_s = time.monotonic()
        if not self._is_shown or not everything or (now_s < self._next_s and done < everything):
            return
        self._next_s = now_s + INTERVAL_S
        full = _WIDTH * done // everything
        bar = "#" * full + "." * (_WIDTH - full)
        self._stream.write(f"{_ERASE}{what} [{bar}] {100 * done // everything:3d} %  {note}")
        self._stream.flush()
