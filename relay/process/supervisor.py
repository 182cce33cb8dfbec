# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts what failed again, later each time, and never all at once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn

from relay.core.clock import jittered
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


class OperatorError(RelayError):
    """What an operator has to mend before something can run: its text says how, has no address in it, and is logged."""


FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 60.0
#: After running for so long, the next failure is a new one.
STEADY_S: Final = 60.0


class Backoff:
    """Delays that double, with jitter so that relays switched on together do not stay in step."""

    __slots__ = ("_delay_s", "_first_s", "_max_s", "_random")

    def __init__(
        self, random: Callable[[], float], *, first_s: float = FIRST_DELAY_S, max_s: float = MAX_DELAY_S
    ) -> None:
        """``random`` returns floats in [0, 1)."""
        self._random = random
        self._first_s = first_s
        self._max_s = max_s
        self._delay_s = first_s

    def reset(self) -> None:
        """Begin anew: something worked."""
        self._delay_s = self._first_s

    def next(self, *, ran_s: float = 0.0) -> float:
        """Return how long to wait after a run of ``ran_s`` seconds."""
        if ran_s >= STEADY_S:
            self.reset()
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._max_s)
        return jittered(delay_s, self._random())


async def keep_trying(
    start: Callable[[], Awaitable[float | None]],
    *,
    random: Callable[[], float],
    on_failure: Callable[[Exception], None] | None = None,
    max_s: float = MAX_DELAY_S,
) -> NoReturn:
    """Run ``start`` for ever: again when it ended or failed, later each time that it did so soon.

    It may return the seconds to wait, where it knows better. ``on_failure`` hears what it raised, and may raise it
    again: that is the end, as is any error where nobody listens.
    """
    loop = asyncio.get_running_loop()
    backoff = Backoff(random, max_s=max_s)
    while True:
        began = loop.time()
        wait_s = None
        try:
            wait_s = await start()
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(error)
        await asyncio.sleep(backoff.next(ran_s=loop.time() - began) if wait_s is None else wait_s)


def kind_of(error: BaseException) -> str:
    """What an error is, of several the first. The text of one that is not ours can hold an address: not for the log."""
    return type(_first_of(error)).__name__


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def supervise(
    name: str,
    start: Callable[[], Awaitable[None]],
    *,
    random: Callable[[], float],
    on_state: Callable[[bool, str], None],
) -> NoReturn:
    """Run ``start`` for ever; ``on_state`` hears True when it runs, and False when it ended or failed.

    With that it hears what an operator has to mend, "" where that is not known.
    """

    async def run() -> None:
        on_state(True, "")
        await start()
        on_state(False, "")

    def failed(error: Exception) -> None:
        first = _first_of(error)
        fault = str(first) if isinstance(first, OperatorError) else ""
        logger.warning("link %s failed (%s), starting it again", name, fault or kind_of(first))
        on_state(False, fault)

    await keep_trying(run, random=random, on_failure=failed)
