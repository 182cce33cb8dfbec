# SPDX-License-Identifier: GPL-2.0-or-later
"""A phone whose visits break off goes on where it was; the radio is a socket here (tests/radio has the real one)."""

import asyncio
import random

import pytest

from relay.client.finding import ANY_BLUETOOTH
from relay.client.outbox import AGAIN_MIN_S, MAX_WAIT_S
from relay.core import session as s
from relay.core.envelope import envelope_id
from relay.core.messages import Goodbye, Hello, Role
from relay.core.session import State
from relay.core.stats import SessionError
from relay.links.client_session import Failure, RelayConnectionError
from tests.client.online import Holding, Sockets, User, client_of

PIECE_BYTES = 16_000
PATIENCE_S = 0.5
HANG_S = 60.0


class Walking(Holding):
    """Honest and slow; goes out of range when it has taken `most`."""

    hello = Hello(role=Role.RELAY, durable=True, max_puts=64, slow=True)

    def __init__(self, radio):
        super().__init__()
        self.radio = radio
        self.most = None
        self.put = []
        self.fetched = []

    def on_event(self, session, event):
        if isinstance(event, s.Fetch):
            self.fetched += event.identities
        super().on_event(session, event)

    def take(self, session, number, envelope):
        if self.most == 0:
            self.radio.port = None
            session.close(Goodbye.SHUTTING_DOWN, SessionError.GOODBYE)
        if session.state is State.OPEN:
            self.most = None if self.most is None else self.most - 1
            self.put.append(envelope_id(envelope))
            super().take(session, number, envelope)


def in_time(work):
    return asyncio.run(asyncio.wait_for(work, HANG_S))


def port_of(address):
    return int(address.rpartition(":")[2])


async def queue_photo(user, pieces):
    path = user.home / "photo.jpg"
    path.write_bytes(random.Random(1).randbytes(pieces * PIECE_BYTES))
    async with client_of(user, Sockets()) as client:
        with path.open("rb") as file:
            (message_id,) = (await client.send_file(["bob"], file, "photo.jpg")).values()
        return (await client.progress(message_id)).pieces


async def visit(user, radio, *, later_s=0):
    """Deliver as one run of the command does; return the one outcome, or None when nothing was to be put."""
    async with client_of(user, radio, "ble", patience_s=PATIENCE_S, later_s=later_s) as client:
        outcomes = await client.deliver()
        return outcomes[0] if outcomes else None


@pytest.fixture
def bob(tmp_path):
    return User(tmp_path, "bob")


@pytest.fixture
def alice(tmp_path, bob):
    person = User(tmp_path, "alice")
    person.knows(bob, person)
    return person


def test_what_a_relay_acknowledged_is_not_put_again_after_a_visit_that_broke_off(alice):
    async def walks():
        radio = Sockets()
        relay = Walking(radio)
        pieces = await queue_photo(alice, 30)
        async with client_of(alice, radio) as client:
            await client.send_text(["bob"], "look at this")
        async with relay.serving() as address:
            for _ in range(3):
                radio.port, relay.most = port_of(address), 8
                assert (await visit(alice, radio)).error.failure is Failure.UNREACHABLE
            radio.port, relay.most = port_of(address), None
            assert (await visit(alice, radio)).error is None
            assert await visit(alice, radio) is None
            return pieces, relay

    pieces, relay = in_time(walks())
    assert pieces > 3 * 8 + 1
    assert len(set(relay.put)) == len(relay.put) == pieces + 1
    assert relay.fetched == []


def test_another_relay_gets_what_none_has_and_the_rest_only_hours_later(alice):
    async def walks():
        radio = Sockets()
        first, second = Walking(radio), Walking(radio)
        pieces = await queue_photo(alice, 20)
        async with client_of(alice, radio) as client:
            await client.send_text(["bob"], "look at this")
        async with first.serving() as one, second.serving() as other:
            radio.port, first.most = port_of(one), 8
            await visit(alice, radio)
            radio.port = port_of(other)
            outcome = await visit(alice, radio)
            assert outcome.delivered.durable == outcome.delivered.envelopes == pieces - 7
            assert await visit(alice, radio, later_s=AGAIN_MIN_S - 60) is None
            soon = list(second.put)
            await visit(alice, radio, later_s=MAX_WAIT_S + 60)
            return first, soon, second

    first, soon, second = in_time(walks())
    assert len(first.put) == 8
    assert set(first.put).isdisjoint(soon)
    # Of what relays have on disk, a phone puts the text again and not the photo.
    assert second.put[len(soon) :] == first.put[:1]


def test_a_phone_does_not_fetch_what_it_has_put_itself(alice, bob):
    async def both():
        radio = Sockets()
        relay = Walking(radio)
        async with relay.serving() as address:
            radio.port = port_of(address)
            async with client_of(alice, radio, "ble") as client:
                await client.send_text(["bob"], "to bob")
                await client.send_text(["alice"], "a note to myself")
                await client.deliver()
                (outcome,) = await client.collect()
                texts = await alice.texts(client)
            async with client_of(bob, radio, "ble") as client:
                await client.collect()
                return outcome, texts, await bob.texts(client)

    outcome, texts, got = in_time(both())
    assert (outcome.error, outcome.collected.envelopes, texts) == (None, 1, ["a note to myself"])
    assert got == ["to bob"]


def test_what_is_small_and_new_is_fetched_before_old_photos(alice, bob):
    class Noting(Walking):
        def on_event(self, session, event):
            if isinstance(event, s.Fetch):
                requests.append(list(event.identities))
            super().on_event(session, event)

    requests = []

    async def both():
        radio = Sockets()
        relay = Noting(radio)
        pieces = await queue_photo(alice, 8)
        async with relay.serving() as address:
            radio.port = port_of(address)
            await visit(alice, radio)
            async with client_of(alice, radio, "ble") as client:
                await client.send_text(["bob"], "old")
                await client.deliver()
                await client.send_text(["bob"], "new")
                await client.deliver()
            async with client_of(bob, radio, "ble") as client:
                (outcome,) = await client.collect()
                assert outcome.collected.envelopes == pieces + 2
        return [[relay.put.index(identity) - pieces for identity in request] for request in requests]

    first, *others = in_time(both())
    # The pieces have negative numbers; about 48 KiB are asked for at a time.
    assert first[:2] == [1, 0]
    assert len(first) <= 2 + 4
    assert all(len(request) <= 4 for request in others)


def test_a_radio_that_fails_once_does_not_end_what_has_begun(alice):
    class Hiccuping(Sockets):
        async def open(self):
            # The second connection is the first of the delivery.
            if self.opened == 1:
                self.opened += 1
                raise RelayConnectionError(Failure.VERSION, ANY_BLUETOOTH, "half of it arrived")
            return await super().open()

    async def walk():
        radio = Hiccuping()
        relay = Walking(radio)
        async with relay.serving() as address, client_of(alice, radio, "ble", patience_s=5.0) as client:
            radio.port = port_of(address)
            await client.send_text(["bob"], "hello")
            (collected,) = await client.collect()
            (delivered,) = await client.deliver()
            return collected, delivered

    collected, delivered = in_time(walk())
    assert (collected.error, delivered.error, delivered.delivered.durable) == (None, None, 1)


def test_receiving_tells_what_is_not_sent_yet(alice):
    class Confused(Holding):
        """Takes three; then acknowledges what was never put."""

        def take(self, session, number, envelope):
            if len(self.held) < 3:
                super().take(session, number, envelope)
            else:
                session.acknowledge([number + 1000])

    async def run():
        pieces = await queue_photo(alice, 10)
        async with Confused().serving() as address:
            broken = await asyncio.to_thread(alice.run, "receive", relays=[address])
        async with Holding().serving() as address:
            whole = await asyncio.to_thread(alice.run, "receive", relays=[address])
        return pieces, broken, whole

    pieces, broken, whole = in_time(run())
    assert broken.returncode == 1
    assert f"To bob: not on a relay yet (3 of {pieces} pieces are)" in broken.stderr
    assert "It is kept" in broken.stderr
    assert (whole.returncode, whole.stderr) == (0, "No new messages.\n")
