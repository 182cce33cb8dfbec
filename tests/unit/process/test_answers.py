# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers are made one after the other, however those who ask come and go."""

import asyncio
import threading
import time

import pytest

from relay.process.answers import Answers


class Drawing:
    """A page that is drawn until it may be done; notes how many were at once."""

    def __init__(self):
        self.may_end = threading.Event()
        self.at_once = self.most = self.drawn = 0
        self._lock = threading.Lock()

    def __call__(self, seen):
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.may_end.wait(10)
        with self._lock:
            self.at_once -= 1
            self.drawn += 1
        return seen


def test_who_asks_and_goes_has_one_page_drawn_at_a_time():
    async def main():
        answers, draw = Answers(time.monotonic), Drawing()
        for number in range(40):
            asking = asyncio.ensure_future(answers.get(number, lambda: "page", draw))
            await asyncio.sleep(0.01)
            asking.cancel()
        await asyncio.sleep(0.05)
        assert draw.most == 1
        draw.may_end.set()
        assert await answers.get("mine", lambda: "mine", draw) == "mine"
        # Those that had gone by then are not drawn at all.
        assert draw.drawn == 2

    asyncio.run(main())


def test_what_was_drawn_for_one_who_has_gone_is_there_for_the_next():
    async def main():
        answers, draw = Answers(lambda: 1.0), Drawing()
        asking = asyncio.ensure_future(answers.get("page", lambda: "first", draw))
        await asyncio.sleep(0.05)
        asking.cancel()
        draw.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await answers.get("page", lambda: "second", draw) == "first"
        answers.clear()
        assert await answers.get("page", lambda: "third", draw) == "third"

    asyncio.run(main())


def test_a_fault_is_told_to_who_asked_and_the_next_one_is_answered():
    async def main():
        answers = Answers(time.monotonic)

        def fail():
            raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011 - its own
            await answers.get("page", fail)
        assert await answers.get("page", lambda: "page") == "page"

    asyncio.run(main())
