# SPDX-License-Identifier: GPL-2.0-or-later
"""One thread for what takes longer than an event loop may wait: the database, sealing, work."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Runs calls one after the other, so that what they share needs no lock."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="relay-client")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in the thread and return its result; a cancelled caller does not stop it."""
        loop = asyncio.get_running_loop()
        # Shielded, since what was cancelled before its turn came would not be done at all.
        return await asyncio.shield(loop.run_in_executor(self._executor, lambda: function(*args, **kwargs)))

    def close(self) -> None:
        """Wait for the call under way and end the thread."""
        self._executor.shutdown(cancel_futures=True)
