# SPDX-License-Identifier: GPL-2.0-or-later
"""Newer software of neighbours, from the offer to the restart: nodes in memory, real slots, sockets and signatures."""

import asyncio
import contextlib
import functools
import random
import shutil
from dataclasses import replace

import pytest

from relay.board import slots
from relay.board.manifest import HEAD_BYTES as OF_MANIFEST
from relay.board.manifest import REASONS
from relay.core.admission import Policy
from relay.core.node import NodeConfig
from relay.core.rate import Rate
from relay.core.stats import UpdateRefused, UpdateTotal
from relay.process import update_request
from relay.run.spreading import HEAD_BYTES, Spreading, Times
from tests.unit.board.box import OTHER, Box
from tests.unit.core.memory import Relay, Wire, client, envelope, neighbour, put_all, settle
from tests.unit.core.test_updates import KNOWS, OFFER, update
from tests.waiting import until_true

QUICK = Times(ask=(0.05, 0.2), retake=0.05, restart=(0.05, 0.1), away=0.5)
PATIENCE_S = 60


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The air is not what is tested here."""
    monkeypatch.setattr("relay.core.updates.BYTES_OUT", Rate(per_s=1e9, burst=1e9))


def in_loop(test):
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args, **options):
        asyncio.run(test(*args, **options))

    return run


class Appliance:
    def __init__(self, box, seed, *, restart="never", classes=0b1111):
        self.box = box
        policy = Policy(max_bytes=1 << 24, max_envelopes=10_000, classes=classes)
        self.relay = Relay(seed, config=NodeConfig(durable=restart == "quiet"), policy=policy)
        self.restart = restart

    async def __aenter__(self):
        self.spreading = Spreading(
            self.relay.node, self.box.folder, restart=self.restart, wake=lambda: None, random=random.random,
            times=QUICK,
        )  # fmt: skip
        self.task = asyncio.create_task(self.spreading.run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def count(self, reason):
        return self.relay.count(reason)


@contextlib.asynccontextmanager
async def talking(*wires):
    """Bytes move, and time passes."""

    async def talk():
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            settle(*wires, now=now)
            for relay in {id(r): r for w in wires for r in (w.relay, w.other) if isinstance(r, Relay)}.values():
                relay.node.handle_timer(now)
            await asyncio.sleep(0.001)

    task = asyncio.create_task(talk())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def boxes(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(name, *args, **options):
            box = Box(tmp_path / name, *args, **options)
            stack.callback(box.stop)
            return box

        yield make


def now():
    return asyncio.get_running_loop().time()


async def written(one, count=1):
    await until_true("it is written", lambda: one.count(UpdateTotal.WRITTEN) == count, PATIENCE_S)


def test_words_and_sizes_are_those_of_who_checks():
    assert HEAD_BYTES == OF_MANIFEST
    assert {str(reason) for reason in UpdateRefused} >= REASONS.keys() - {"nothing"}


@in_loop
async def test_it_is_had_of_several_neighbours_though_one_of_them_lies(boxes):
    newer, liar, older = boxes("newer", "1.1", 2000), boxes("liar", "1.1", 2000), boxes("older", "1.0", 1000)
    # The same software, but a byte of each piece of its is another one.
    shutil.copy(newer.card.disk, liar.card.disk)
    with liar.card.disk.open("r+b") as disk:
        for start in (2 << 20, 3 << 20, 8 << 20, 9 << 20):
            disk.seek(start + 99)
            byte = disk.read(1)
            disk.seek(start + 99)
            disk.write(bytes([byte[0] ^ 1]))
    async with Appliance(newer, 1) as a, Appliance(liar, 2) as b, Appliance(older, 3) as c:
        wires = [Wire(a.relay, c.relay, now=now()), Wire(b.relay, c.relay, now=now())]
        async with talking(*wires):
            await written(c)
    assert older.other() == newer.update
    # It is asked for one wrong piece at most.
    assert c.count(UpdateRefused.WRONG_PIECE) <= 1
    assert c.count(UpdateRefused.CUT_OFF) == 0


@in_loop
async def test_a_liar_alone_gets_nothing_onto_the_card_and_who_comes_later_mends_it(boxes):
    newer, liar, older = boxes("newer", "1.1", 2000), boxes("liar", "1.1", 2000), boxes("older", "1.0", 1000)
    shutil.copy(newer.card.disk, liar.card.disk)
    with liar.card.disk.open("r+b") as disk:
        disk.seek((2 << 20) + 99)
        disk.write(bytes(10))
    async with Appliance(newer, 1) as a, Appliance(liar, 2) as b, Appliance(older, 3) as c:
        lies = Wire(b.relay, c.relay, now=now())
        async with talking(lies):
            await until_true("it lies", lambda: c.count(UpdateRefused.WRONG_PIECE) == 1, PATIENCE_S)
        assert c.count(UpdateTotal.WRITTEN) == 0
        async with talking(lies, Wire(a.relay, c.relay, now=now())):
            await written(c)
    assert older.other() == newer.update


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"key": OTHER, "trusts": OTHER}, UpdateRefused.WRONG_KEY),
    ],
)
@in_loop
async def test_what_is_refused_is_not_asked_for_again(boxes, values, why):
    newer, older = boxes("newer", "1.1", 2000, **values), boxes("older", "1.0", 1000)
    async with Appliance(newer, 1) as a, Appliance(older, 2) as c:
        wire = Wire(a.relay, c.relay, now=now())
        async with talking(wire):
            await until_true("it is refused", lambda: c.count(why) == 1, PATIENCE_S)
            taken = c.count(UpdateTotal.TAKEN)
            wire.lose(now())
        async with talking(Wire(a.relay, c.relay, now=now())):
            await until_true("it is offered again", lambda: c.count(UpdateTotal.HEARD) == 2, PATIENCE_S)
            await asyncio.sleep(0.3)
    assert c.count(UpdateTotal.TAKEN) == taken
    assert c.count(why) == 1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("1.0", 1000), ("1.1", 2000)),  # older
        (("1.1", 2000), ("1.1", 2000)),  # the same
    ],
)
@in_loop
async def test_what_is_not_newer_is_not_asked_for(boxes, theirs, ours):
    one, other = boxes("one", *theirs), boxes("other", *ours)
    async with Appliance(one, 1) as a, Appliance(other, 2) as c, talking(Wire(a.relay, c.relay, now=now())):
        await until_true("it is offered", lambda: c.count(UpdateTotal.HEARD) == 1, PATIENCE_S)
        await asyncio.sleep(0.3)
    assert c.count(UpdateTotal.TAKEN) == 0


@in_loop
async def test_what_is_for_another_board_is_not_asked_for(boxes):
    one, other = boxes("one", "1.1", 2000, board="other"), boxes("two", "1.0", 1000)
    async with Appliance(one, 1) as a, Appliance(other, 2) as c, talking(Wire(a.relay, c.relay, now=now())):
        await until_true("it is offered", lambda: c.count(UpdateTotal.HEARD) == 1, PATIENCE_S)
        await asyncio.sleep(0.3)
    assert c.count(UpdateTotal.TAKEN) == 0


@pytest.mark.parametrize("case", ["unsigned", "not trusted here", "on trial"])
@in_loop
async def test_what_has_not_proved_itself_or_is_not_signed_is_not_offered(boxes, case):
    options = {"unsigned": {"key": None}, "not trusted here": {"key": OTHER}}.get(case, {})
    one, other = boxes("one", "1.1", 2000, **options), boxes("other", "1.0", 1000)
    if case == "on trial":
        one.slots.remember(slots.updated(one.slots.record(), "A", set()))
    async with Appliance(one, 1) as a, Appliance(other, 2) as c, talking(Wire(a.relay, c.relay, now=now())):
        await asyncio.sleep(0.3)
        assert c.count(UpdateTotal.HEARD) == 0
        if case == "on trial":
            # And once it has, it is.
            one.slots.remember(slots.proved(one.slots.record(), "A"))
            await until_true("it is offered", lambda: c.count(UpdateTotal.HEARD) == 1, PATIENCE_S)


@in_loop
async def test_who_offers_and_gives_nothing_does_not_keep_others_from_it(boxes, monkeypatch):
    monkeypatch.setattr("relay.run.spreading.HEAD_S", 0.3)
    newer, older = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000)
    async with Appliance(newer, 1) as a, Appliance(older, 2) as c:
        silent = [neighbour(c.relay, 10 + n, hello=KNOWS, now=now()) for n in range(3)]
        for n, (peer, _) in enumerate(silent):
            peer.say(update(replace(OFFER, digest=bytes([n]) * 32, board="test", built=9999)))
        async with talking(*(wire for _, wire in silent), Wire(a.relay, c.relay, now=now())):
            await written(c)
    assert older.other() == newer.update


@in_loop
async def test_a_cut_in_the_middle_goes_on_where_it_was(boxes):
    newer, older = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000)
    async with Appliance(newer, 1) as a, Appliance(older, 2) as c:
        wire = Wire(a.relay, c.relay, now=now())
        async with talking(wire):
            # The head and a piece.
            await until_true("it is under way", lambda: c.count(UpdateTotal.TAKEN) > 4 + 64, PATIENCE_S)
            wire.lose(now())
    taken = c.count(UpdateTotal.TAKEN)
    # As after a restart of `relay run`.
    async with Appliance(newer, 3) as a, Appliance(older, 4) as d, talking(Wire(a.relay, d.relay, now=now())):
        await written(d)
    assert older.other() == newer.update
    whole = -(-len(newer.update) // (16 << 10))
    assert taken + d.count(UpdateTotal.TAKEN) < whole + 64 + 8


@in_loop
async def test_a_person_with_a_stick_goes_before_neighbours(boxes):
    newer, older, stick = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000), boxes("stick", "1.2", 3000)
    async with Appliance(newer, 1) as a, Appliance(older, 2) as c:
        wire = Wire(a.relay, c.relay, now=now())
        async with talking(wire):
            await until_true("it is under way", lambda: c.count(UpdateTotal.TAKEN) > 4, PATIENCE_S)
            wire.cut = True  # nothing more comes: the one who writes waits

            def hand_in():
                with update_request.connect(older.folder / "update.sock") as taker:
                    return update_request.hand_in(
                        taker, lambda at, size: stick.update[at : at + size], older=False, is_there=lambda: True
                    )

            said = await asyncio.to_thread(hand_in)
            assert said.reason == ""
            assert older.other() == stick.update


@in_loop
async def test_an_amnesic_relay_starts_anew_once_a_neighbour_holds_all(boxes):
    newer, older = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000)
    async with Appliance(newer, 1) as a, Appliance(older, 2, restart="held") as c:
        wire = Wire(a.relay, c.relay, now=now())
        async with talking(wire):
            await written(c)
            await until_true("it starts anew", lambda: older.is_told_to_restart, PATIENCE_S)
    assert a.count(UpdateTotal.STAYED) >= 1
    assert not newer.is_told_to_restart


@in_loop
async def test_it_does_not_while_something_is_here_alone_and_does_once_it_is_not(boxes):
    newer, older = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000)
    async with Appliance(newer, 1, classes=0b0001) as a, Appliance(older, 2, restart="held") as c:
        put_all(c.relay, [envelope(c.relay.rng, size_class=1)], interface="lo", now=now())
        wire = Wire(a.relay, c.relay, now=now())
        async with talking(wire):
            await written(c)
            await until_true("it has asked", lambda: a.count(UpdateTotal.DID_NOT_STAY) > 2, PATIENCE_S)
        assert not older.is_told_to_restart
        other = Relay(9)
        async with talking(wire, Wire(other, c.relay, now=now())):
            await until_true("it starts anew", lambda: older.is_told_to_restart, PATIENCE_S)
        assert other.held() == c.relay.held()


@in_loop
async def test_who_keeps_all_on_the_card_starts_anew_when_nobody_is_here(boxes):
    newer, older = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000)
    async with Appliance(newer, 1) as a, Appliance(older, 2, restart="quiet") as c:
        wire = Wire(a.relay, c.relay, now=now())
        phone, phones = client(c.relay, 9, now=now())
        async with talking(wire, phones):
            await written(c)
            await asyncio.sleep(0.3)
            assert not older.is_told_to_restart
            phones.lose(now())
            await until_true("it starts anew", lambda: older.is_told_to_restart, PATIENCE_S)
    assert phone.goodbye is None


@in_loop
async def test_where_the_operator_wants_to_do_that_it_waits(boxes):
    newer, older = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000)
    async with Appliance(newer, 1) as a, Appliance(older, 2) as c, talking(Wire(a.relay, c.relay, now=now())):
        await written(c)
        await asyncio.sleep(0.3)
    assert not older.is_told_to_restart
    # Until he says so.
    with update_request.connect(older.folder / "update.sock") as taker:
        assert update_request.ask_for_restart(taker, PATIENCE_S).reason == ""
    assert older.is_told_to_restart


@in_loop
async def test_what_was_taken_before_a_start_of_relay_run_is_not_taken_again(boxes):
    newer, older = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000)
    async with Appliance(newer, 1) as a:
        async with Appliance(older, 2) as c, talking(Wire(a.relay, c.relay, now=now())):
            await written(c)
        async with Appliance(older, 3, restart="held") as c, talking(Wire(a.relay, c.relay, now=now())):
            await until_true("it starts anew", lambda: older.is_told_to_restart, PATIENCE_S)
            assert c.count(UpdateTotal.TAKEN) == 0


@in_loop
async def test_without_anything_newer_nothing_is_started_anew(boxes):
    older = boxes("older", "1.0", 1000)
    with update_request.connect(older.folder / "update.sock") as taker:
        said = update_request.ask_for_restart(taker, PATIENCE_S)
    assert said.reason == "nothing"
    assert not older.is_told_to_restart


@in_loop
async def test_relay_run_cannot_ask_for_what_is_older(boxes):
    newer, older = boxes("newer", "1.1", 2000), boxes("older", "1.0", 1000)

    def hand_in():
        with update_request.connect(newer.folder / "spread.sock") as taker:
            return update_request.hand_in(
                taker, lambda at, size: older.update[at : at + size], older=True, is_there=lambda: True
            )

    assert (await asyncio.to_thread(hand_in)).reason == "older"
