# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging to standard error, and to nothing else.

There is no debug level: what it would show is traffic, and traffic is not written
down. For the same reason an exception is logged by its type and place, without
its text: "connect call failed" comes with the address of a person's phone.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

LEVELS = {"warning": logging.WARNING, "info": logging.INFO}

#: The journal's priorities (sd-daemon(3)).
_PRIORITIES = {logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>", logging.CRITICAL: "<2>"}
#: Innermost frames shown of a traceback; enough to find the place, bounded for deep recursion.
_MAX_FRAMES = 8
#: Members of groups and causes of causes shown; they can be made to form a ring.
_MAX_ERRORS = 8


class PrivateFormatter(logging.Formatter):
    """Formats this package's messages as they are, all others and all exceptions without their text."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__(None if journal else "%(asctime)s %(message)s", datefmt="%H:%M:%S")
        self._journal = journal

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Add the level, as a priority under the journal, which knows the time itself."""
        if record.name.partition(".")[0] != "relay":
            record.message = f"{record.name} reported an error"
        if self._journal:
            return _PRIORITIES.get(record.levelno, "<4>") + record.message
        if record.levelno >= logging.WARNING:
            record.message = f"{record.levelname}: {record.message}"
        return super().formatMessage(record)

    def formatException(  # noqa: N802 - logging's name
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Types and places of the exception and its causes, one line."""
        places: list[str] = []
        waiting = [ei[1]]
        while waiting and len(places) < _MAX_ERRORS:
            error = waiting.pop(0)
            if error is None:
                continue
            places.append(_place(error))
            if isinstance(error, BaseExceptionGroup):
                waiting += error.exceptions
            waiting.append(error.__cause__ or error.__context__)
        return "  " + ", from ".join(places)


def _place(error: BaseException) -> str:
    frames = [f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return f"{type(error).__name__} at {' > '.join(frames[-_MAX_FRAMES:]) or 'no line'}"


def setup(level: str) -> None:
    """Log this package from ``level`` (a key of LEVELS) on, and that others failed."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrivateFormatter(journal="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    # Libraries name addresses below error: aiohttp's requests, zeroconf's records.
    root.setLevel(logging.ERROR)
    # Gives itself a level, and warns of every socket of an interface that went.
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    logging.getLogger("relay").setLevel(LEVELS[level])
    # What nobody caught, and what logging itself fails at, would be printed with its values.
    sys.excepthook = _report_uncaught
    threading.excepthook = _report_thread
    logging.raiseExceptions = False


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logger.critical("stopped by an error", exc_info=(kind, error, trace))


def _report_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        error = arguments.exc_value
        logger.error("a thread stopped by an error", exc_info=(type(error), error, error.__traceback__))
