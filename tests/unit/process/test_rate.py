# SPDX-License-Identifier: GPL-2.0-or-later
"""So much a second, for those who wait for it."""

import asyncio

from relay.process.rate import BURST, Rate
from tests.unit.jumping import run


def test_turns_come_in_order_and_at_the_rate():
    async def main():
        rate, came = Rate(100), []
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def take(number):
            await rate.turn()
            came.append(number)

        await asyncio.gather(*map(take, range(50)))
        assert came == list(range(50))
        assert abs(loop.time() - began - (50 - BURST) / 100) < 0.001

    run(main())


def test_who_asks_and_goes_is_paid_for_by_nobody():
    async def main():
        rate = Rate(100)
        loop = asyncio.get_running_loop()
        for _ in range(10):
            gone = [asyncio.ensure_future(rate.turn()) for _ in range(100)]
            await asyncio.sleep(0.001)
            for task in gone:
                task.cancel()
        began = loop.time()
        await rate.turn()
        assert loop.time() - began <= BURST / 100

    run(main())


def test_a_large_amount_takes_its_time():
    async def main():
        rate = Rate(1000)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(4):
            await rate.turn(500)
        assert abs(loop.time() - began - 1.0) < 0.001

    run(main())
