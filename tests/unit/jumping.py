# SPDX-License-Identifier: GPL-2.0-or-later
"""An event loop whose time jumps to the next timer when nothing else is to do, so that hours take milliseconds."""

from __future__ import annotations

import asyncio
import selectors


class _Selector(selectors.DefaultSelector):
    """Takes no time to wait, but says how long it would have been."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        if found := super().select(0):
            return found
        if timeout is None:  # only I/O can go on
            return super().select(None)
        self.now += timeout
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self):
        return self._jumping.now


def run(coroutine):
    """Run a coroutine to its end, as asyncio.run does."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(coroutine)
