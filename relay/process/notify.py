# SPDX-License-Identifier: GPL-2.0-or-later
"""sd_notify(3) and sd_listen_fds(3): readiness, watchdog, files kept and given, without libsystemd."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from relay.process.progress import Progress

logger = logging.getLogger(__name__)

#: How often tasks are looked at when nobody set a watchdog; rare, since an idle relay should sleep.
UNWATCHED_INTERVAL_S = 60.0
#: sd_watchdog_enabled(3) recommends half; a third leaves room for a loop that is late once.
_FEEDS_PER_TIMEOUT = 3
#: SD_LISTEN_FDS_START of sd_listen_fds(3).
FIRST_GIVEN_FD: Final = 3


def is_given_files(environ: Mapping[str, str]) -> bool:
    """Whether the service manager handed open files to this process, from FIRST_GIVEN_FD on."""
    return environ.get("LISTEN_PID") == str(os.getpid())


class Notifier:
    """Tells the service manager named by ``environ``; without one every call does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace, where the name starts with a zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_timeout_s = _watchdog_timeout_s(environ) if address else None

    def ready(self, status: str) -> None:
        """Startup is over."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1\nSTATUS=finishing what was acknowledged")

    def extend(self, timeout_s: int) -> None:
        """Startup takes so many seconds more from now on, at most."""
        self._send(f"EXTEND_TIMEOUT_USEC={timeout_s * 1_000_000}")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={_one_line(text)}")

    def watchdog(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    @property
    def is_listened_to(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def keep(self, name: str, fd: int) -> None:
        """Have an open file kept for the next start of this service (FDSTORE=1)."""
        self._send(f"FDSTORE=1\nFDNAME={name}", [fd])

    def _send(self, message: str, fds: Sequence[int] = ()) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                # Not socket.send_fds, which leaves the address out (Python 3.11).
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                sock.sendmsg([message.encode()], rights, 0, self._address)
            except OSError as error:
                # Worth a line, not a crash: a manager that does not listen restarts us by its own rules.
                logger.warning("the service manager takes no notice: %s", error.strerror)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _watchdog_timeout_s(environ: Mapping[str, str]) -> float | None:
    """WATCHDOG_USEC, when it is meant for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isdecimal() and int(usec) > 0 else None


async def run_watchdog(notifier: Notifier, progress: Progress, on_tick: Callable[[], None]) -> None:
    """Feed the watchdog while every task makes progress; for ever.

    The only regular timer of an idle relay, so whatever else wants a rare tick
    gets it here through ``on_tick``.
    """
    timeout_s = notifier.watchdog_timeout_s
    interval_s = timeout_s / _FEEDS_PER_TIMEOUT if timeout_s else UNWATCHED_INTERVAL_S
    named: list[str] = []
    while True:
        on_tick()
        stalled = [task.name for task in progress.check() if task.stalled]
        if not stalled:
            notifier.watchdog()
        if stalled != named:
            if stalled:
                logger.error("no progress in: %s", ", ".join(stalled))
            notifier.status(f"no progress in: {', '.join(stalled)}" if stalled else "running")
            named = stalled
        await asyncio.sleep(interval_s)
