# SPDX-License-Identifier: GPL-2.0-or-later
"""What failed is started again, later each time; the clock jumps, so minutes cost nothing."""

import asyncio
import contextlib
import itertools

import pytest

from relay.process.supervisor import (
    FIRST_DELAY_S,
    MAX_DELAY_S,
    STEADY_S,
    OperatorError,
    keep_trying,
    kind_of,
    supervise,
)
from tests.unit.jumping import run


def starts(start, for_s, **options):
    """When ``start`` was begun, in the seconds of the loop."""
    times = []

    async def begin():
        times.append(asyncio.get_running_loop().time())
        return await start(len(times))

    async def main():
        try:
            async with asyncio.timeout(for_s):
                await keep_trying(begin, random=lambda: 0.5, **options)
        except TimeoutError:
            pass

    run(main())
    return [later - earlier for earlier, later in itertools.pairwise(times)]


async def fail(_):
    raise OSError


def test_it_waits_longer_after_each_failure_up_to_a_bound():
    heard = []
    waits = starts(fail, 600, on_failure=heard.append, max_s=8)
    assert waits[:5] == pytest.approx([FIRST_DELAY_S * 2**power for power in range(5)])
    assert set(waits[5:]) == {8}
    assert {type(error) for error in heard} == {OSError}


def test_after_a_long_run_the_next_failure_is_a_new_one():
    async def third_lasts(number):
        await asyncio.sleep(STEADY_S if number == 3 else 0)

    waits = starts(third_lasts, 300)
    assert waits[:4] == pytest.approx([FIRST_DELAY_S, 2 * FIRST_DELAY_S, STEADY_S + FIRST_DELAY_S, 2 * FIRST_DELAY_S])


def test_whoever_knows_better_says_how_long_to_wait():
    async def rests(number):
        return 7.0 if number % 2 else None

    assert starts(rests, 60)[:4] == pytest.approx([7, FIRST_DELAY_S, 7, 2 * FIRST_DELAY_S])


def test_an_error_that_nobody_wants_to_hear_of_is_the_end():
    with pytest.raises(OSError):  # noqa: PT011 - what it says is of no matter
        starts(fail, 60)

    def refuse(error):
        raise LookupError from error

    with pytest.raises(LookupError):
        starts(fail, 60, on_failure=refuse)


def test_a_link_says_when_it_runs_and_its_log_line_says_no_address(caplog):
    states = []

    async def link():
        async with asyncio.TaskGroup():
            raise ConnectionError("fe80::1 does not like us")

    async def main():
        try:
            async with asyncio.timeout(MAX_DELAY_S):
                await supervise("tcp", link, random=lambda: 0.5, on_state=lambda up, fault: states.append((up, fault)))
        except TimeoutError:
            pass

    run(main())
    assert states[:4] == [(True, ""), (False, ""), (True, ""), (False, "")]
    assert "link tcp failed (ConnectionError)" in caplog.text
    assert "fe80" not in caplog.text


def test_what_an_operator_has_to_mend_is_said_in_its_own_words(caplog):
    async def link():
        async with asyncio.TaskGroup():
            raise OperatorError("cannot listen on port 4270: Address already in use; stop what has it")

    said = []

    async def main():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await supervise("tcp", link, random=lambda: 0.5, on_state=lambda _, fault: said.append(fault))

    run(main())
    assert "port 4270: Address already in use; stop what has it" in caplog.text
    assert said[1] == "cannot listen on port 4270: Address already in use; stop what has it"


def test_the_kind_of_several_errors_is_that_of_the_first():
    assert kind_of(ExceptionGroup("", [ExceptionGroup("", [KeyError(1)]), OSError()])) == "KeyError"
