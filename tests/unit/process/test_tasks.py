# SPDX-License-Identifier: GPL-2.0-or-later
"""A group that failed leaves its task as it was, so that what it does next works as ever."""

import asyncio

import pytest

from relay.process.tasks import TaskGroup
from tests.unit.jumping import run


class BrokenError(Exception):
    """What fails."""


async def fail_later():
    await asyncio.sleep(1)
    raise BrokenError


async def wait(group):
    group.create_task(fail_later())


async def work(group):
    group.create_task(fail_later())
    await asyncio.sleep(100)


@pytest.mark.parametrize("body", [wait, work])
@pytest.mark.parametrize("times", [1, 3])
def test_after_a_failure_a_timeout_is_a_timeout(body, times):
    async def main():
        for _ in range(times):
            with pytest.raises(ExceptionGroup) as caught:
                async with TaskGroup() as group:
                    await body(group)
            assert caught.group_contains(BrokenError)
            assert asyncio.current_task().cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(100)
        return "went on"

    assert run(main()) == "went on"


@pytest.mark.parametrize("body", [wait, work])
def test_who_is_told_to_end_ends(body):
    async def main():
        task = asyncio.ensure_future(grouped())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    async def grouped():
        async with TaskGroup() as group:
            await body(group)

    assert run(main())
