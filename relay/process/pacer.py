# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions of operators are answered one after the other, and leave the loop to what it is there for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: After an answer nothing more is answered for so many times as long as it took: all askers together have a fifth of
#: the time, however much they ask, and sessions the rest. Who asks once a second is not delayed.
REST: Final = 4.0


class Pacer:
    """When the next answer may be made."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` in monotonic seconds."""
        self._clock = clock
        self._due = 0.0
        self._began = 0.0

    @property
    def delay_s(self) -> float:
        """Seconds until then; 0 for now."""
        return max(0.0, self._due - self._clock())

    def begin(self) -> None:
        """Note that an answer is being made."""
        self._began = self._clock()

    def end(self) -> None:
        """Note that it is made."""
        now = self._clock()
        self._due = now + REST * (now - self._began)
