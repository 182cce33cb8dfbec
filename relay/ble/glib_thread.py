# SPDX-License-Identifier: GPL-2.0-or-later
"""GLib's main loop in a thread of its own, beside asyncio's in the main thread.

bluezero and dbus-python live there and nowhere else; what they hear is handed to
asyncio, where all decisions are made.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from gi.repository import GLib

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: From asking the loop to stop to the thread's end.
STOP_S: Final = 2.0


class GLibThread:
    """Runs GLib's default main loop."""

    def __init__(self) -> None:
        self._asyncio = asyncio.get_running_loop()
        self._main = GLib.MainLoop()
        # A daemon: a call to D-Bus that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._main.run, name="glib", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop; what was posted before is still done."""
        self.post(self._main.quit)
        self._thread.join(STOP_S)

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Have ``function`` called in the thread, after all that was posted before."""

        def once() -> bool:
            function(*arguments)
            return bool(GLib.SOURCE_REMOVE)

        GLib.idle_add(once, priority=GLib.PRIORITY_DEFAULT)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what ``function`` returns there, or raise what it raises."""
        done: asyncio.Future[T] = self._asyncio.create_future()

        def run() -> None:
            try:
                result = function(*arguments)
            except Exception as error:  # noqa: BLE001 - passed on to whoever awaits
                self.tell(_fail, done, error)
            else:
                self.tell(_succeed, done, result)

        self.post(run)
        return await done

    async def call_back(self, function: Callable[[Callable[[T], None], Callable[[Exception], None]], object]) -> T:
        """Call ``function`` there with two functions, of which it has one called later: with a result, or an error."""
        done: asyncio.Future[T] = self._asyncio.create_future()

        def run() -> None:
            try:
                function(lambda result: self.tell(_succeed, done, result), lambda error: self.tell(_fail, done, error))
            except Exception as error:  # noqa: BLE001 - passed on to whoever awaits
                self.tell(_fail, done, error)

        self.post(run)
        return await done

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Have ``function`` called in asyncio's thread; for use in this one."""
        if not self._asyncio.is_closed():
            self._asyncio.call_soon_threadsafe(function, *arguments)


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[T], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
