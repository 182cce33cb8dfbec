# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays that lie, withhold and flood: a client neither hangs nor loses nor keeps what it should not."""

import asyncio
import random
import secrets
import time
from dataclasses import replace

import pytest

from relay.client import collection, delivery, patience
from relay.client.body import text_body
from relay.client.database import Database
from relay.client.outbox import Outbox
from relay.core import session as s
from relay.core.codec import Writer
from relay.core.envelope import HEADER_BYTES, SIZES, EnvelopeType, Header, decode_envelope
from relay.core.messages import Hello, MessageType, Offer, Refusal, Role, Subscribe, Window
from relay.core.noise import KeyPair
from relay.links.address import parse_address
from relay.links.client_session import Connection, Failure
from tests.client.online import Dripping, FakeRelay, Holding, Sockets, client_of, offer_of

PATIENCE_S = 1.0
#: Over a radio a client asks for what it does not have, by name.
SLOW = Hello(role=Role.RELAY, durable=True, max_puts=2048, slow=True)
#: A client that waits for ever fails here and not in the test's own time limit.
HANG_S = 90.0


def sealed_to(sender, recipient, *texts):
    """Envelopes as the sender's outbox has them."""
    with Database(sender.home / "elsewhere") as database:
        outbox = Outbox(database, sender.identity)
        for text in texts:
            outbox.queue_message([recipient.card], text_body(text), lifetime_days=3, price=4, now_s=time.time())
        return [pending.envelope for pending in outbox.pending(time.time())]


def collect(user, relay, patience_s=PATIENCE_S):
    """Read from a fake relay; return the one outcome and the texts that came."""

    async def run():
        async with (
            asyncio.timeout(HANG_S),
            relay.serving() as address,
            _client_of(user, address, relay.hello, patience_s) as client,
        ):
            (outcome,) = await client.collect()
            return outcome, await user.texts(client)

    return asyncio.run(run())


def _client_of(user, address, hello, patience_s):
    """By radio if the relay says that it is slow: here that is a socket, too."""
    if hello.slow:
        return client_of(user, Sockets(int(address.rpartition(":")[2])), "ble", patience_s=patience_s)
    return user.client(address, patience_s=patience_s)


def send(user, relay, *texts, pieces=0):
    """Send texts, or a file of many pieces, to bob by a fake relay; return the one outcome and how far they are."""

    async def run():
        async with (
            asyncio.timeout(HANG_S),
            relay.serving() as address,
            user.client(address, patience_s=PATIENCE_S) as client,
        ):
            ids = [message_id for text in texts for message_id in (await client.send_text(["bob"], text)).values()]
            if pieces:
                path = user.home / "file"
                path.write_bytes(random.Random(1).randbytes(pieces * 16_000))
                with path.open("rb") as file:
                    ids += (await client.send_file(["bob"], file, "file")).values()
            (outcome,) = await client.deliver()
            return outcome, [await client.progress(message_id) for message_id in ids]

    return asyncio.run(run())


def test_the_stand_in_is_believed_when_it_is_honest(alice, bob):
    relay = Holding()
    outcome, (progress,) = send(alice, relay, "hello")
    assert (outcome.error, progress.durable) == (None, 1)
    outcome, texts = collect(bob, relay)
    assert (outcome.error, texts) == (None, ["hello"])


def test_envelopes_that_nobody_asked_for_are_not_kept(alice, bob):
    mail = sealed_to(alice, bob, *"abc")

    class Pushing(Holding):
        hello = SLOW

        def offers(self):
            return []

        def on_event(self, session, event):
            if isinstance(event, Subscribe):
                for envelope in mail:
                    session.send_envelopes([envelope])
            super().on_event(session, event)

    outcome, texts = collect(bob, Pushing())
    assert (outcome.error, outcome.collected.envelopes, texts) == (None, 0, [])
    # ... and are no reason not to take them from an honest relay.
    assert sorted(collect(bob, Holding(mail))[1]) == ["a", "b", "c"]


def test_a_flood_of_them_ends_the_session(alice, bob):
    class Flooding(Holding):
        hello = SLOW

        def on_event(self, session, event):
            if isinstance(event, Subscribe):
                for _ in range(1000):
                    session.send_envelopes([mail])

    (mail,) = sealed_to(alice, bob, "a")
    outcome, texts = collect(bob, Flooding())
    assert (outcome.error.failure, texts) == (Failure.MISBEHAVED, [])


def test_what_is_not_under_the_prefix_is_not_kept_and_a_flood_of_it_ends_the_session(alice, bob):
    mail = sealed_to(alice, bob, *"abc")

    class Pushing(Holding):
        hello = Hello(role=Role.RELAY, durable=True, max_puts=2048, prefix_bits=5)
        times = 1

        def on_event(self, session, event):
            if isinstance(event, Subscribe):
                # To every prefix but the one where they belong, and what is no envelope.
                others = [one for one in mail if one[8] >> 3 != event.prefix]
                session.send_envelopes([*others, bytes(256)] * self.times)
                self.then.append(session.caught_up)

    relay = Pushing()
    outcome, texts = collect(bob, relay)
    assert (outcome.error, outcome.collected.envelopes, texts) == (None, 0, [])
    relay.times = 300
    outcome, texts = collect(bob, relay)
    assert (outcome.error.failure, texts) == (Failure.MISBEHAVED, [])


def junk(size_class=0):
    """Somebody else's mail."""
    expiry_hour = int(time.time() // 3600) + 48
    header = Header(
        type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=expiry_hour, tag=secrets.token_bytes(16)
    )
    return header.encode() + secrets.token_bytes(SIZES[size_class] - HEADER_BYTES)


def test_who_fills_a_bucket_hides_nothing_that_lies_behind(alice, bob, monkeypatch):
    """Small ones come first: with 17 MB of them, at price 0, nobody under that prefix got anything larger."""
    monkeypatch.setattr(collection, "MAX_MATCHES", 100)
    relay = Holding([*sealed_to(alice, bob, "x" * 5000), *(junk() for _ in range(100 + collection.MAX_UNWANTED + 1))])
    outcome, texts = collect(bob, relay)
    assert (outcome.error, [len(text) for text in texts]) == (None, [5000])


def test_sessions_that_break_again_and_again_come_to_an_end_together(alice, bob):
    """Each brings two; what one brought, the next does not ask for, whichever way it was asked for."""

    class Breaking(Holding):
        given = 0

        def on_event(self, session, event):
            match event:
                case Subscribe(offers_only=True):
                    session.offer(self.offers())
                    session.caught_up()
                case Subscribe():
                    self.some(session, self.there())
                case s.Fetch(identities):
                    self.some(session, [self.held[identity] for identity in identities])

        def some(self, session, envelopes):
            self.given += len(envelopes[:2])
            session.send_envelopes(envelopes[:2])
            if len(envelopes) > 2:
                self.then.append(self.writers[session].close)

    relay = Breaking(sealed_to(alice, bob, *map(str, range(9))))
    outcome, texts = collect(bob, relay, patience_s=10.0)
    assert (outcome.error, len(texts), relay.given) == (None, 9, 9)


def test_a_relay_that_hangs_up_again_and_again_does_not_hold_a_client_for_longer_than_a_visit(bob, monkeypatch):
    """Each time it brings something new, which costs it nothing; what waits for the end of the visit never goes out."""
    monkeypatch.setattr(patience, "MAX_VISIT_PATIENCES", 4)

    class HangingUp(FakeRelay):
        def on_event(self, session, event):
            mail = junk(3)
            match event:
                case Subscribe(offers_only=True):
                    self.mail = mail
                    session.offer([offer_of(mail)])
                case Subscribe():
                    self.give(session, mail)
                case s.Fetch():
                    self.give(session, self.mail)

        def give(self, session, mail):
            session.send_envelopes([mail])
            self.then.append(self.writers[session].close)

    relay = HangingUp()
    outcome, texts = collect(bob, relay, patience_s=2.0)
    assert (outcome.error.failure, texts) == (Failure.MISBEHAVED, [])
    assert len(relay.sessions) > 2


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_relay_that_drips_and_never_says_that_this_is_all_does_not_hold_a_client(alice, bob, is_slow):
    relay = Dripping(sealed_to(alice, bob, "a", "b"))
    relay.hello = replace(relay.hello, slow=is_slow)
    outcome, texts = collect(bob, relay)
    assert outcome.error.failure is Failure.STALLED
    # What came is there.
    assert sorted(texts) == ["a", "b"]


def test_no_word_of_a_relay_makes_a_sender_give_up_elsewhere(alice, bob):  # noqa: ARG001
    class Refusing(Holding):
        def take(self, session, number, envelope):  # noqa: ARG002
            session.refuse(number, self.reason, price=0)

    refusing, honest = Refusing(), Holding()
    for number, reason in enumerate(set(Refusal) - {Refusal.STORAGE}, 1):
        refusing.reason = reason
        send(alice, refusing, f"{number}")
        outcome, _ = send(alice, honest)
        assert (outcome.delivered.durable, len(honest.held)) == (1, number), reason


def test_a_relay_that_cannot_write_is_waited_for_only_if_it_could_before(alice, bob, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.2)
    pauses = 0.2 * (2**delivery.MAX_PAUSES - 1)

    class Full(Holding):
        room = 0

        def take(self, session, number, envelope):
            if len(self.held) < self.room:
                super().take(session, number, envelope)
            else:
                session.refuse(number, Refusal.STORAGE, price=0)

    def sent(relay, text):
        began = time.monotonic()
        outcome, _ = send(alice, relay, text)
        return outcome.delivered, time.monotonic() - began

    delivered, took_s = sent(Full(), "1")
    assert (delivered.refused, delivered.acknowledged) == ({Refusal.STORAGE: 1}, 0)
    assert took_s < pauses / 2
    filling = Full()
    filling.room = 1
    delivered, took_s = sent(filling, "2")
    assert (delivered.refused, delivered.acknowledged) == ({Refusal.STORAGE: 1}, 1)
    assert took_s > pauses


def test_other_bytes_than_were_offered_are_not_kept_and_the_relay_is_left(alice, bob):
    wanted, other = sealed_to(alice, bob, "wanted", "other")

    class Swapping(Holding):
        hello = SLOW

        def give(self, session, identity):  # noqa: ARG002 - whatever was asked for
            session.send_envelopes([other])

    outcome, texts = collect(bob, Swapping([wanted]))
    assert (outcome.error.failure, texts) == (Failure.STALLED, [])
    assert collect(bob, Holding([wanted]))[1] == ["wanted"]


def test_a_relay_that_offers_and_withholds_does_not_hold_a_client(alice, bob):
    class Withholding(Holding):
        hello = SLOW

        def give(self, session, identity):
            pass

    outcome, _ = collect(bob, Withholding(sealed_to(alice, bob, "a")))
    assert outcome.error.failure is Failure.STALLED


def test_a_relay_that_never_says_that_this_is_all_does_not_either(bob):
    outcome, _ = collect(bob, FakeRelay())
    assert outcome.error.failure is Failure.STALLED


def test_what_a_relay_no_longer_has_is_not_waited_for(alice, bob):
    class Forgetful(Holding):
        hello = SLOW

        def give(self, session, identity):
            session.send_missing([identity])

    outcome, texts = collect(bob, Forgetful(sealed_to(alice, bob, "a")))
    assert (outcome.error, texts) == (None, [])


def test_more_offers_than_anybody_needs_cost_neither_memory_nor_an_end(bob):
    count = 70_000

    class Bragging(Holding):
        hello = SLOW

        def offers(self):
            rng = random.Random(1)
            return [Offer(rng.randbytes(32), 0, 2**32 - 1) for _ in range(count)]

        def give(self, session, identity):
            session.send_missing([identity])

    # It answers all of it, which takes a busy machine a while.
    outcome, _ = collect(bob, Bragging(), patience_s=HANG_S)
    assert (outcome.error, outcome.collected.envelopes) == (None, 0)


def test_what_has_the_right_identity_and_is_no_envelope_is_looked_at_once(bob):
    junk = bytes(256)

    class Junk(Holding):
        hello = SLOW

        def offers(self):
            return [Offer(identity, 0, 2**32 - 1) for identity in self.held]

    relay = Junk([junk])
    assert [collect(bob, relay)[0].collected.envelopes for _ in range(2)] == [1, 0]


def test_a_false_expiry_does_not_fill_the_memory_of_what_was_seen_for_years(bob):
    header = Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=2**32 - 1, tag=bytes(16)).encode()
    relay = Holding([header + bytes(256 - len(header))])
    assert collect(bob, relay)[0].collected.envelopes == 1
    with Database(bob.data) as database:
        ((expiry_hour,),) = database.rows("SELECT expiry_hour FROM seen")
    assert expiry_hour < time.time() / 3600 + 200


def test_an_acknowledgement_of_what_was_not_put_is_not_believed(alice, bob):  # noqa: ARG001 - alice writes to bob
    class Overeager(Holding):
        def take(self, session, number, envelope):  # noqa: ARG002
            session.acknowledge([number + 1000])

    outcome, (progress,) = send(alice, Overeager(), "a")
    assert (outcome.error.failure, progress.durable) == (Failure.MISBEHAVED, 0)
    # It is still there for an honest one.
    outcome, _ = send(alice, Holding(), "b")
    assert outcome.delivered.durable == 2


def test_a_put_that_is_answered_twice_counts_once(alice, bob):  # noqa: ARG001
    class Stuttering(Holding):
        def take(self, session, number, envelope):
            super().take(session, number, envelope)
            for message in (Writer().u8(MessageType.ACK).u8(1).u32(number).varint(1), Writer().u8(MessageType.PONG)):
                session._push(0, bytes(message))

    outcome, progresses = send(alice, Stuttering(), *"abc")
    assert (outcome.error, outcome.delivered.durable) == (None, 3)
    assert [progress.durable for progress in progresses] == [1, 1, 1]


def test_a_relay_that_never_acknowledges_does_not_hold_a_client(alice, bob):  # noqa: ARG001
    class Silent(Holding):
        def take(self, session, number, envelope):  # noqa: ARG002
            session.announce_price(number % 3)

    outcome, progresses = send(alice, Silent(), *"abc")
    assert outcome.error.failure is Failure.STALLED
    assert [progress.durable + progress.volatile for progress in progresses] == [0, 0, 0]


def test_a_relay_that_hangs_up_at_each_put_is_given_up(alice, bob):  # noqa: ARG001
    class HangingUp(Holding):
        def take(self, session, number, envelope):  # noqa: ARG002
            session.connection_lost()

    relay = HangingUp()
    outcome, _ = send(alice, relay, "a")
    assert outcome.error.failure is Failure.LOST
    assert 1 < len(relay.sessions) < 20


@pytest.mark.parametrize("max_puts", [0, 1, 65_535])
def test_the_window_of_a_relay_is_kept(alice, bob, max_puts):  # noqa: ARG001
    most = []

    class Narrow(Holding):
        hello = Hello(role=Role.RELAY, durable=False, max_puts=max_puts)

        def on_event(self, session, event):
            if isinstance(event, s.Puts):
                waiting.extend(event.items)
                most.append(len(waiting))
                for number, _ in waiting:
                    session.acknowledge([number])
                waiting.clear()

    waiting = []
    outcome, (progress,) = send(alice, Narrow(), pieces=20)
    assert (outcome.error, progress.volatile) == (None, progress.pieces)
    assert max(most) <= max(1, max_puts)


def test_a_price_that_nobody_pays_leaves_the_envelope_as_it_is(alice, bob):  # noqa: ARG001
    class Greedy(Holding):
        def take(self, session, number, envelope):  # noqa: ARG002
            session.refuse(number, Refusal.UNDERPAID, price=255)

    outcome, (progress,) = send(alice, Greedy(), "a")
    assert (outcome.error, dict(outcome.delivered.refused), progress.durable) == (None, {Refusal.UNDERPAID: 1}, 0)
    held = Holding()
    send(alice, held, "b")
    assert len(held.held) == 2


def test_messages_purges_and_each_prefix_go_in_sessions_of_their_own(alice, bob):
    class Crowded(Holding):
        # A lie, to learn more of the bucket than there is.
        hello = Hello(role=Role.RELAY, durable=True, max_puts=2048, prefix_bits=200)

        def there(self):
            return []

    relay = Crowded()
    send(alice, relay, "a", "b")

    async def purge():
        async with relay.serving() as address:
            async with alice.client(address) as client:
                for sent, _ in await client.log():
                    await client.purge(sent.message_id)
            async with alice.client(address, clock=lambda: time.time() + 7200) as client:
                await client.send_text(["bob"], "c")
                await client.deliver()

    asyncio.run(purge())
    puts = [
        [decode_envelope(one).type for event in seen if isinstance(event, s.Puts) for _, one in event.items]
        for _, seen in relay.sessions
    ]
    assert sorted(map(sorted, puts)) == [[EnvelopeType.MESSAGE], [EnvelopeType.MESSAGE] * 2, [EnvelopeType.PURGE] * 2]

    relay.sessions.clear()
    outcome, _ = collect(bob, relay)
    assert outcome.error is None
    asked = [[event for event in seen if isinstance(event, Subscribe)] for _, seen in relay.sessions]
    assert [len(each) for each in asked] == [1] * len(asked)
    assert {each[0].prefix_bits for each in asked} == {5}
    prefixes = [each[0].prefix for each in asked]
    assert len(set(prefixes)) == len(prefixes) > 1
    keys = {session.peer_static for session, _ in relay.sessions}
    assert len(keys) == len(relay.sessions)


def test_a_small_relay_is_told_nothing_of_the_bucket(bob):
    relay = Holding()
    assert collect(bob, relay)[0].error is None
    ((_, seen),) = relay.sessions
    (asked,) = [event for event in seen if isinstance(event, Subscribe)]
    assert (asked.prefix_bits, asked.prefix, asked.window) == (0, 0, Window.ALL)


def test_a_relay_is_asked_for_everything_once_a_day_and_else_for_a_day_whether_its_key_is_known_or_not(alice, bob):
    class Known(Holding):
        static = KeyPair.generate(random.Random(1).randbytes)

    relay = Known(sealed_to(alice, bob, "a"))

    async def windows(pinned):
        relay.sessions.clear()
        async with relay.serving() as text:
            address = replace(parse_address(text), pinned=pinned)
            for later_s in (0, 3 * 3600, 23 * 3600, 25 * 3600):
                clock = lambda later_s=later_s: time.time() + later_s  # noqa: E731
                async with bob.client(address, clock=clock) as client:
                    (outcome,) = await client.collect()
                    assert outcome.error is None
        return [event.window for _, seen in relay.sessions for event in seen if type(event) is Subscribe]

    for pinned in (None, relay.static.public):
        assert asyncio.run(windows(pinned)) == [Window.ALL, Window.DAY, Window.DAY, Window.ALL]


def test_a_client_that_is_slow_to_take_makes_the_relay_wait(alice, bob):
    (mail,) = sealed_to(alice, bob, "x" * 16_000)

    class Streaming(FakeRelay):
        def on_event(self, session, event):
            if isinstance(event, Subscribe):
                for _ in range(1000):
                    session.send_envelopes([mail])
                session.caught_up()

    async def run():
        async with (
            Streaming().serving() as address,
            await Connection.open(parse_address(address)) as connection,
        ):
            connection.subscribe(Subscribe(prefix_bits=0, prefix=0))
            count, most = 0, 0
            while count < 1000:
                await asyncio.sleep(0.01)
                events = await connection.events(5.0)
                batch = sum(len(event.items) for event in events if isinstance(event, s.Envelopes))
                count, most = count + batch, max(most, batch)
            return most * len(mail)

    # What one read of the socket brings may lie on top of the bound.
    assert asyncio.run(run()) < 2 * 1024 * 1024
