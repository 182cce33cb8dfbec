# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks that belong together, on every Python that the relay runs on."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType


class TaskGroup(asyncio.TaskGroup):  # noqa: TID251 - this is what the others use
    """asyncio's, which when it fails leaves the task around it no more cancelled than it was.

    Before Python 3.13 it leaves one request to cancel behind if a task of it fails while it waits for all of them.
    With the 3.11.2 of Debian 12 every later `asyncio.timeout` of the task then raises CancelledError in place of
    TimeoutError, which ends whoever expected that, without a word.
    """

    _requests_before = 0

    async def __aenter__(self) -> Self:
        """Note how often the task was asked to end before."""
        task = asyncio.current_task()
        self._requests_before = task.cancelling() if task else 0
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        """Wait for all tasks; raise what failed."""
        try:
            return await super().__aexit__(kind, error, trace)
        except BaseExceptionGroup:
            if sys.version_info < (3, 13) and (task := asyncio.current_task()):
                while task.cancelling() > self._requests_before:
                    task.uncancel()
            raise
