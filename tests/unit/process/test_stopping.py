# SPDX-License-Identifier: GPL-2.0-or-later
"""How a process ends."""

import asyncio
import os
import signal

import pytest

from relay.core.errors import RelayError
from relay.process.notify import Notifier
from relay.process.stopping import stop_signals, until_stopped

TIMEOUT_S = 10


def ended(number, work, on_stop=lambda: None):
    async def main():
        stopping = stop_signals()
        loop = asyncio.get_running_loop()
        if number is not None:
            loop.call_soon(os.kill, os.getpid(), number)
        async with asyncio.timeout(TIMEOUT_S):
            await until_stopped(stopping, work, Notifier({}), on_stop)

    try:
        asyncio.run(main())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_say_goodbye_while_all_still_runs_and_then_ends_it(number):
    seen = []

    async def works():
        try:
            await asyncio.sleep(2 * TIMEOUT_S)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def goodbye():
        await asyncio.sleep(0.01)
        seen.append("goodbye")

    ended(number, [works()], goodbye)
    assert seen == ["goodbye", "cancelled"]


def test_a_signal_that_comes_before_there_is_work_is_not_lost():
    async def main():
        stopping = stop_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.01)
        async with asyncio.timeout(TIMEOUT_S):
            await until_stopped(stopping, [asyncio.sleep(2 * TIMEOUT_S)], Notifier({}))

    asyncio.run(main())


def test_an_error_of_one_part_ends_the_others_and_is_told_as_it_is():
    async def fails():
        async with asyncio.TaskGroup():
            raise RelayError("start dbus.service")

    with pytest.raises(RelayError, match="dbus"):
        ended(None, [asyncio.sleep(2 * TIMEOUT_S), fails()])
