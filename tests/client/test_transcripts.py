# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay that writes everything down gets to know of who comes again, and of who writes to whom."""

import asyncio
import time
from dataclasses import replace

import pytest

from relay.client.outbox import AGAIN_MIN_S, DELAY_SPREAD_S, MAX_AGAIN, MAX_WAIT_S, MIN_DELAY_S
from relay.core import session as s
from relay.core.envelope import envelope_id
from relay.core.messages import Hello, Role, Subscribe, Window
from tests.client.online import Holding, User
from tests.client.test_online_hostile import sealed_to

HOUR_S = 3600
NOON_S = time.time() // 86_400 * 86_400 + 43_200
"""Of today, so that no test crosses the end of a day, when buckets change."""


class Logging(Holding):
    """Honest, and writes everything down."""

    hello = Hello(role=Role.RELAY, durable=False, max_puts=2048, prefix_bits=3)

    def transcripts(self):
        """Of each session all that the client said, decoded, and how many bytes; without the key, which is random."""
        found = [
            (repr(session.peer), [repr(event) for event in seen], self.bytes_in[session])
            for session, seen in self.sessions
        ]
        self.sessions.clear()
        return sorted(found)

    def puts(self):
        """Identities put in each session that put any, and whether that session asked for anything."""
        found = []
        for _, seen in self.sessions:
            put = [envelope_id(one) for event in seen if isinstance(event, s.Puts) for _, one in event.items]
            if put:
                found.append((put, any(isinstance(event, Subscribe | s.Fetch) for event in seen)))
        self.sessions.clear()
        return found


async def visit(user, address, *, at_s, text=None):
    """One `relay receive`, or with `text` one `relay send`, at a time so many seconds from now."""
    async with user.client(address, clock=lambda: NOON_S + at_s) as client:
        if text is not None:
            await client.send_text(["bob" if user.name == "alice" else "alice"], text)
            return await client.deliver()
        (outcome,) = await client.collect()
        assert outcome.error is None
        await client.deliver(again=False)
        return await user.texts(client)


def other_phone(user, folder):
    """The same person, so the same buckets, with other folders."""
    other = User(folder, user.name)
    (other.config / "identity.json").write_bytes((user.config / "identity.json").read_bytes())
    return other


@pytest.mark.parametrize("says_slow", [False, True])
def test_visits_in_the_same_window_are_the_same_whatever_went_before(tmp_path, alice, bob, says_slow):
    """Two phones: one has read all that is there, wrote, and owes receipts; the other came once, to an empty relay."""
    fresh = other_phone(bob, tmp_path / "other")
    strangers = [User(tmp_path / "strangers", f"{number}") for number in range(20)]

    async def run():
        relay = Logging()
        # On a cable nobody believes that.
        relay.hello = replace(relay.hello, slow=says_slow)
        async with relay.serving() as address:
            await visit(fresh, address, at_s=0)
            first = relay.transcripts()
            # Mail for everybody, to bob as well.
            for person in (bob, *strangers):
                for envelope in sealed_to(alice, person, "one", "two", "x" * 5000):
                    relay.held[envelope_id(envelope)] = envelope
            assert len(await visit(bob, address, at_s=HOUR_S)) == 3
            await visit(bob, address, at_s=HOUR_S, text="an answer")
            relay.transcripts()
            texts = await visit(bob, address, at_s=HOUR_S + MIN_DELAY_S - 60)
            again = relay.transcripts()
            assert len(texts) == 3
            texts = await visit(fresh, address, at_s=HOUR_S + MIN_DELAY_S - 60)
            return first, again, texts, relay.transcripts()

    first, of_bob, texts, of_fresh = asyncio.run(run())
    assert len(texts) == 3
    assert of_bob == of_fresh
    # And but for the window all visits are.
    assert [seen.replace("ALL: 0", "DAY: 1") for _, events, _ in first for seen in events] == [
        seen for _, events, _ in of_bob for seen in events
    ]
    assert len(of_bob) > 2


def test_what_was_put_is_put_again_only_hours_later_and_never_on_a_visit_that_reads(alice, bob):  # noqa: ARG001
    async def run():
        relay = Logging()
        async with relay.serving() as address:
            await visit(alice, address, at_s=0, text="one")
            await visit(alice, address, at_s=0, text="two")
            ((one,), _), ((two,), _) = relay.puts()
            # Whatever the relay said of it (volatile), and however often one comes.
            for at_s in range(0, AGAIN_MIN_S - 60, 1800):
                await visit(alice, address, at_s=at_s)
                await visit(alice, address, at_s=at_s, text=f"{at_s}")
                for put, asks in relay.puts():
                    assert not {one, two} & set(put)
                    assert not asks
            # Later, but not on a visit that reads; and what was put apart goes apart.
            await visit(alice, address, at_s=MAX_WAIT_S + 60)
            assert relay.puts() == []
            async with alice.client(address, clock=lambda: NOON_S + MAX_WAIT_S + 60) as client:
                again = []
                while await client.deliver():
                    again.append(relay.puts())
            return {one, two}, again

    before, again = asyncio.run(run())
    assert max(map(len, again)) <= MAX_AGAIN
    puts = [put for some in again for put, _ in some]
    assert {len(put) for put in puts} == {1}
    assert before < {put[0] for put in puts}
    assert not any(asks for some in again for _, asks in some)


def test_receipts_wait_and_never_go_with_the_visit_that_fetched(alice, bob):
    async def run():
        relay = Logging()
        async with relay.serving() as address:
            for number in range(8):
                await visit(alice, address, at_s=0, text=f"{number}")
            relay.sessions.clear()
            assert len(await visit(bob, address, at_s=0)) == 8
            assert relay.puts() == []
            counts = []
            for at_s in range(MIN_DELAY_S, MIN_DELAY_S + DELAY_SPREAD_S + 601, 600):
                await visit(bob, address, at_s=at_s)
                puts = relay.puts()
                assert len(puts) <= 1
                assert not any(asks for _, asks in puts)
                counts.append(sum(len(put) for put, _ in puts))
            # Each at a time of its own, and all of them in the end.
            assert sum(counts) == 8
            assert sum(map(bool, counts)) > 1
            await visit(alice, address, at_s=2 * HOUR_S)
            async with alice.client(address) as client:
                return [progress.is_received for _, progress in await client.log()]

    assert asyncio.run(run()) == [True] * 8


def test_who_wants_receipts_at_once_has_them(alice, bob):
    async def run():
        relay = Logging()
        async with relay.serving() as address:
            await visit(alice, address, at_s=0, text="one")
            async with bob.client(address, receipts_at_once=True) as client:
                await client.collect()
                (outcome,) = await client.deliver()
            return outcome.delivered.acknowledged

    assert asyncio.run(run()) == 1


def test_a_follower_asks_for_an_hour_only_while_it_stays(bob, monkeypatch):
    monkeypatch.setattr("relay.client.courier.CYCLE_S", 0.05)

    class Cutting(Logging):
        """Cuts the session that stays, in its time."""

        def __init__(self):
            super().__init__()
            self.asked = []
            self.had_enough = asyncio.Event()

        def on_event(self, session, event):
            if isinstance(event, Subscribe):
                self.asked.append(event)
                if len(self.asked) > 40:
                    self.had_enough.set()
                elif len(self.asked) > 20:
                    session.connection_lost()
            super().on_event(session, event)

    async def run():
        relay = Cutting()
        async with relay.serving() as address:
            async with bob.client(address, clock=lambda: NOON_S) as client:
                following = asyncio.ensure_future(client.follow())
                await asyncio.wait_for(relay.had_enough.wait(), 60)
                following.cancel()
                await asyncio.wait({following})
            asked, relay.asked = relay.asked, []
            # Another run of the program is another visit.
            async with bob.client(address, clock=lambda: NOON_S) as client:
                await client.collect()
            return asked, relay.asked

    asked, later = asyncio.run(run())
    for prefix in {event.prefix for event in asked}:
        windows = [event.window for event in asked[:20] if event.prefix == prefix]
        assert windows[:1] in ([], [Window.ALL])
        assert set(windows[1:]) <= {Window.HOUR}
    assert sum(event.window is Window.HOUR for event in asked) > 5
    assert Window.HOUR not in {event.window for event in later}
