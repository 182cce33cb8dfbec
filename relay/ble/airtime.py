# SPDX-License-Identifier: GPL-2.0-or-later
"""A bound on how much of the air all Bluetooth streams together take, shared fairly."""

from __future__ import annotations

import asyncio
from typing import Final

#: What is spent at once; between two turns of one stream every other that wants has had its own.
TURN_BYTES: Final = 512
#: What may be saved up while nobody sends, in seconds of the rate.
BURST_S: Final = 0.25


class Bucket:
    """A token bucket in bytes; may go into debt by one turn."""

    def __init__(self, *, rate_bytes_per_s: float, now: float) -> None:
        self._rate = rate_bytes_per_s
        self._tokens = rate_bytes_per_s * BURST_S
        self._since = now

    def delay_s(self, now: float) -> float:
        """Count the time that has passed, and return how long to wait before spending anything."""
        self._tokens = min(self._tokens + (now - self._since) * self._rate, self._rate * BURST_S)
        self._since = now
        return max(-self._tokens / self._rate, 0.0)

    def spend(self, count: int) -> None:
        """Take ``count`` bytes."""
        self._tokens -= count


class Airtime:
    """Gives streams their turns, first come first served."""

    def __init__(self, *, kbytes_per_s: float) -> None:
        """``kbytes_per_s`` 0: no bound."""
        self._loop = asyncio.get_running_loop()
        self._line = asyncio.Lock()
        self._bucket = Bucket(rate_bytes_per_s=1000 * kbytes_per_s, now=self._loop.time()) if kbytes_per_s else None

    async def turn(self) -> None:
        """Wait for a turn, which is worth TURN_BYTES."""
        if self._bucket is None:
            return
        async with self._line:
            if delay_s := self._bucket.delay_s(self._loop.time()):
                await asyncio.sleep(delay_s)
                self._bucket.delay_s(self._loop.time())
            self._bucket.spend(TURN_BYTES)


class Share:
    """One stream's part: it waits in line once for each TURN_BYTES, however it cuts them and whichever way they go."""

    __slots__ = ("_airtime", "_used")

    def __init__(self, airtime: Airtime) -> None:
        """Nothing is used so far."""
        self._airtime = airtime
        self._used = 0

    async def take(self, count: int) -> None:
        """Wait until ``count`` bytes may be sent, or more be received after so many."""
        self._used += count
        while self._used >= TURN_BYTES:
            self._used -= TURN_BYTES
            await self._airtime.turn()
