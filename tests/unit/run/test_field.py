# SPDX-License-Identifier: GPL-2.0-or-later
"""One stick updates a field of twenty, which forget all at each start, and nothing is lost."""

import asyncio
import contextlib

from relay.core.stats import UpdateTotal
from relay.process import update_request
from tests.unit.board.box import Box
from tests.unit.core.memory import Wire, envelope, put_all, settle
from tests.unit.run.test_spreading import Appliance, in_loop, now, quick  # noqa: F401 - a fixture
from tests.waiting import until_true

#: In four rows of five.
COUNT, ROW = 20, 5
PATIENCE_S = 240
#: For whom nothing takes minutes.
PROMISE_S = 2.0


class Field:
    """Twenty boxes, each with cables to those beside it."""

    def __init__(self, folder):
        self.boxes = [Box(folder / str(number), "1.0", 1000) for number in range(COUNT)]
        self.relays = [None] * COUNT
        self.wires = {}
        self.starts = 0

    def neighbours(self, number):
        row, column = divmod(number, ROW)
        near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        return [r * ROW + c for r, c in near if 0 <= r < COUNT // ROW and 0 <= c < ROW]

    async def start(self, number):
        """A relay, with nothing in it."""
        self.starts += 1
        appliance = Appliance(self.boxes[number], self.starts, restart="held")
        self.relays[number] = await appliance.__aenter__()
        for other in self.neighbours(number):
            if self.relays[other] is not None:
                self.wires[frozenset((number, other))] = Wire(appliance.relay, self.relays[other].relay, now=now())

    async def stop(self, number):
        relay, self.relays[number] = self.relays[number], None
        for pair in [pair for pair in self.wires if number in pair]:
            self.wires.pop(pair).lose(now())
        await relay.__aexit__()

    async def talk(self):
        while True:
            settle(*self.wires.values(), now=now())
            for relay in filter(None, self.relays):
                relay.relay.node.handle_timer(now())
            await asyncio.sleep(0.002)

    async def restart_who_is_told(self):
        while True:
            for number, box in enumerate(self.boxes):
                if box.is_told_to_restart and self.relays[number] is not None:
                    await self.stop(number)
                    await asyncio.to_thread(box.restart)
                    await self.start(number)
            await asyncio.sleep(0.02)

    def versions(self):
        return [box.own.version for box in self.boxes]


@in_loop
async def test_one_stick_updates_a_field_of_twenty_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.core.leaving.PROMISE_S", PROMISE_S)
    field = Field(tmp_path)
    stick = Box(tmp_path / "stick", "1.1", 2000)
    work = []
    try:
        for number in range(COUNT):
            await field.start(number)
        for number, relay in enumerate(field.relays):
            put_all(relay.relay, [envelope(relay.relay.rng)], interface="lo", seed=100 + number, now=now())
        work = [asyncio.create_task(one) for one in (field.talk(), field.restart_who_is_told())]
        everything = set().union(*(relay.relay.held() for relay in field.relays))
        assert len(everything) == COUNT

        def hand_in():
            with update_request.connect(field.boxes[7].folder / "update.sock") as taker:
                return update_request.hand_in(
                    taker, lambda at, size: stick.update[at : at + size], older=False, is_there=lambda: True
                )

        assert (await asyncio.to_thread(hand_in)).reason == ""
        await until_true(lambda: str(field.versions()), lambda: set(field.versions()) == {"1.1"}, PATIENCE_S)
        await until_true(
            "all have all again",
            lambda: all(relay is not None and relay.relay.held() == everything for relay in field.relays),
            PATIENCE_S,
        )
        # From one to the next.
        assert sum(relay.count(UpdateTotal.GIVEN) > 0 for relay in field.relays) > 1
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        for number, relay in enumerate(field.relays):
            if relay is not None:
                with contextlib.suppress(Exception):
                    await field.stop(number)
        for box in (*field.boxes, stick):
            box.stop()
    assert all(box.slots[box.slots.running].head() == stick.head for box in field.boxes)
