# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting until something is true: one loop, which says what it waited for."""

import asyncio
import time

#: Short beside what is waited for, long beside what looking costs.
PAUSE_S = 0.05


def wait_until(what, condition, timeout_s, *, pause_s=PAUSE_S):
    """Return the first true value of ``condition()``; fail after ``timeout_s``.

    ``what`` should become true, in words, or a function that tells more once it did not.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_failure(what, timeout_s))
        time.sleep(pause_s)
    return value


async def until_true(what, condition, timeout_s, *, pause_s=PAUSE_S):
    """Do the same within an event loop."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not (value := condition()):
        if loop.time() > deadline:
            raise AssertionError(_failure(what, timeout_s))
        await asyncio.sleep(pause_s)
    return value


def _failure(what, timeout_s):
    return f"after {timeout_s:g} s not true: {what() if callable(what) else what}"
