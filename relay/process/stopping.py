# SPDX-License-Identifier: GPL-2.0-or-later
"""How each process of the relay ends: by SIGTERM or SIGINT, in order."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

from relay.process.tasks import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from relay.process.notify import Notifier


def stop_signals() -> asyncio.Event:
    """What SIGTERM and SIGINT set from now on: first thing of all, since putting the parts together takes a while."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def until_stopped(
    stopping: asyncio.Event,
    work: Iterable[Coroutine[Any, Any, object]],
    notifier: Notifier,
    on_stop: Callable[[], Awaitable[None] | None] = lambda: None,
) -> None:
    """Do all of ``work`` until ``stopping`` is set; then ``on_stop``, and what still runs is cancelled.

    An error of one part ends the others, and is raised as it is: whoever called looks for its type.
    """
    try:
        async with TaskGroup() as tasks:
            parts = [tasks.create_task(part) for part in work]
            await stopping.wait()
            notifier.stopping()
            if (ending := on_stop()) is not None:
                await ending
            for part in parts:
                part.cancel()
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
