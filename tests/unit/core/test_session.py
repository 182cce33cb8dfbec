# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions: who may say what when, and how each mistake ends."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core import messages as m
from relay.core import session as s
from relay.core.frames import MAX_MESSAGE_BYTES
from relay.core.messages import Goodbye, Hello, MessageType, Refusal, Role
from relay.core.noise import KeyPair
from relay.core.session import ALLOWED, Closed, Established, Session, State
from relay.core.stats import HandshakeFailure, SessionError
from relay.core.update_wire import Stays
from tests.unit.core.memory import reachable

ID = bytes(range(32))
#: A message of each type that its decoder takes.
VALID = {
    MessageType.HELLO: Hello(role=Role.RELAY).encode(),
    MessageType.GOODBYE: b"\x02\x0b",
    MessageType.PING: b"\x03",
    MessageType.PONG: b"\x04",
    MessageType.SAME: b"\x05" + bytes(16),
    MessageType.PRICE: b"\x06\x09",
    MessageType.NEWS: b"\x07" + bytes(16),
    MessageType.PUT: m.encode_put(0, bytes(256)),
    MessageType.ACK: m.encode_acks(durable=True, numbers=[0])[0],
    MessageType.REFUSE: m.encode_refusals([(0, Refusal.FULL)], price=1)[0],
    MessageType.SUBSCRIBE: m.Subscribe(prefix_bits=0, prefix=0).encode(),
    MessageType.CAUGHT_UP: b"\x21",
    MessageType.FETCH: m.encode_ids(MessageType.FETCH, [ID])[0],
    MessageType.ENVELOPE: b"\x23" + bytes(256),
    MessageType.MISSING: m.encode_ids(MessageType.MISSING, [ID])[0],
    MessageType.OFFER: m.encode_offers([m.Offer(ID, 0, 1)])[0],
    MessageType.RECONCILE: b"\x31\x01",
    MessageType.CREDIT: b"\x32\x00\x01",
    MessageType.LIVE: b"\x40\x07\x01" + bytes(16) + b"data",
    MessageType.UPDATE: b"\x41\x06\x03",
}
MEANS = {
    MessageType.SAME: s.Same,
    MessageType.PRICE: s.PriceChanged,
    MessageType.NEWS: s.News,
    MessageType.PUT: s.Puts,
    MessageType.ACK: m.Ack,
    MessageType.REFUSE: m.Refused,
    MessageType.SUBSCRIBE: m.Subscribe,
    MessageType.CAUGHT_UP: s.CaughtUp,
    MessageType.FETCH: s.Fetch,
    MessageType.ENVELOPE: s.Envelopes,
    MessageType.MISSING: s.Missing,
    MessageType.OFFER: s.Offers,
    MessageType.RECONCILE: s.Reconcile,
    MessageType.CREDIT: s.Credit,
    MessageType.LIVE: s.Live,
    MessageType.UPDATE: Stays,
}
PAIRS = [(sender, receiver) for sender in Role for receiver in Role if (sender, receiver) != (Role.CLIENT, Role.CLIENT)]


class Side:
    def __init__(self, *, role=Role.RELAY, initiator, seed=0, **kwargs):
        hello = kwargs.pop("hello", None) or Hello(role=role)
        random_bytes = kwargs.pop("random_bytes", None) or random.Random(seed).randbytes
        self.session = Session(initiator=initiator, hello=hello, random_bytes=random_bytes, now=0.0, **kwargs)
        self.events = []

    def receive(self, data, now=0.0):
        self.events += self.session.receive_data(data, now)

    def say(self, message, lane=0):
        self.session._writer.push(lane, message)

    def record(self, plaintext):
        data = self.session._encrypt.encrypt(plaintext)
        return len(data).to_bytes(2, "big") + data

    @property
    def closed(self):
        return next((event for event in self.events if isinstance(event, Closed)), None)

    @property
    def meant(self):
        """Events after the hello."""
        return [event for event in self.events if not isinstance(event, Established)]


def exchange(a, b):
    while True:
        there, back = a.session.data_to_send(), b.session.data_to_send()
        if not there and not back:
            return
        b.receive(there)
        a.receive(back)


def pair(sender=Role.RELAY, receiver=Role.RELAY, *, sender_dials=True, **kwargs):
    a = Side(role=sender, initiator=sender_dials, seed=1, **kwargs)
    b = Side(role=receiver, initiator=not sender_dials, seed=2, **kwargs)
    exchange(a, b)
    assert a.session.state is b.session.state is State.OPEN
    return a, b


def before_hello(receiver=Role.RELAY, *, sender_dials=True):
    """Two sides after the handshake, of which the first has not said hello and never will by itself."""
    a = Side(initiator=sender_dials, seed=1)
    b = Side(role=receiver, initiator=not sender_dials, seed=2)
    while a.session.state is State.HANDSHAKE:
        b.receive(a.session.data_to_send())
        a.receive(b.session.data_to_send())
    assert a.session._writer.queued_bytes == len(a.session.hello.encode())
    a.session._writer = a.session._make_writer(slow=False)
    b.receive(a.session.data_to_send())
    a.receive(b.session.data_to_send())
    assert b.session.state is State.HELLO
    return a, b


# -- the state machine -----------------------------------------------------


@pytest.mark.parametrize("kind", MessageType)
@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
@pytest.mark.parametrize("sender_dials", [True, False])
def test_in_an_open_session_only_what_the_table_allows_is_heard(sender, receiver, sender_dials, kind):
    a, b = pair(sender, receiver, sender_dials=sender_dials)
    if receiver is Role.CLIENT:
        b.session.put(bytes(256))
        a.receive(b.session.data_to_send())
    a.say(VALID[kind])
    b.receive(a.session.data_to_send())
    if kind in ALLOWED[sender, receiver]:
        if kind == MessageType.GOODBYE:
            assert b.meant == [Closed(SessionError.GOODBYE, Goodbye.DONE)]
        else:
            assert b.session.state is State.OPEN
            assert [type(event) for event in b.meant] == ([MEANS[kind]] if kind in MEANS else [])
        return
    assert b.meant == [Closed(SessionError.PROTOCOL)]
    a.receive(b.session.data_to_send())
    assert a.meant[-1] == Closed(SessionError.GOODBYE, Goodbye.PROTOCOL)


@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_in_an_open_session_no_type_of_a_later_version_is_heard(sender, receiver):
    for kind in set(range(256)) - set(MessageType):
        a, b = pair(sender, receiver, sender_dials=kind % 2 == 0)
        a.say(bytes([kind]) + bytes(8))
        b.receive(a.session.data_to_send())
        assert b.meant == [Closed(SessionError.PROTOCOL)], kind


@pytest.mark.parametrize("kind", [0, 255, *sorted(set(MessageType) - {MessageType.HELLO})])
@pytest.mark.parametrize("receiver", Role)
@pytest.mark.parametrize("sender_dials", [True, False])
def test_before_the_hello_nothing_else_is_heard(receiver, sender_dials, kind):
    a, b = before_hello(receiver, sender_dials=sender_dials)
    a.say(VALID.get(kind, bytes([kind]) + bytes(8)))
    b.receive(a.session.data_to_send())
    assert b.events == [Closed(HandshakeFailure.BAD_HELLO)]
    a.receive(b.session.data_to_send())
    assert a.closed == Closed(SessionError.GOODBYE, Goodbye.PROTOCOL)


@pytest.mark.parametrize("receiver", Role)
@pytest.mark.parametrize("sender_dials", [True, False])
@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (b"\x01", Goodbye.DECODE),
        (Hello(role=Role.RELAY).encode()[:-1], Goodbye.DECODE),
        (b"\x01\x02" + Hello(role=Role.RELAY).encode()[2:], Goodbye.DECODE),
        (Hello(role=Role.CLIENT).encode(), Goodbye.PROTOCOL),
    ],
)
def test_a_bad_hello_ends_the_session_before_it_began(hello, why, receiver, sender_dials):
    if why is Goodbye.PROTOCOL and receiver is Role.RELAY:
        return  # a client is who a relay is there for
    a, b = before_hello(receiver, sender_dials=sender_dials)
    a.say(hello)
    b.receive(a.session.data_to_send())
    assert b.events == [Closed(HandshakeFailure.BAD_HELLO)]
    a.receive(b.session.data_to_send())
    assert a.closed == Closed(SessionError.GOODBYE, why)


@pytest.mark.parametrize("kind", MessageType)
@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_a_message_of_an_allowed_type_with_a_wrong_body_ends_the_session(sender, receiver, kind):
    if kind not in ALLOWED[sender, receiver] or kind in {MessageType.ENVELOPE, MessageType.RECONCILE}:
        return  # refused by its type above; or its body is checked further up
    a, b = pair(sender, receiver)
    a.say(
        bytes([kind]) if kind not in {MessageType.PING, MessageType.PONG, MessageType.CAUGHT_UP} else bytes([kind, 0])
    )
    b.receive(a.session.data_to_send())
    assert b.meant == [Closed(SessionError.DECODE)]
    a.receive(b.session.data_to_send())
    assert a.closed == Closed(SessionError.GOODBYE, Goodbye.DECODE)


@pytest.mark.parametrize("state", ["handshake", "hello", "open"])
def test_after_the_end_nothing_is_heard_and_nothing_is_due(state):
    if state == "open":
        a, b = pair()
    elif state == "hello":
        a, b = before_hello()
    else:
        a, b = Side(initiator=True, seed=1), Side(initiator=False, seed=2)
    b.events += b.session.close(Goodbye.DONE, SessionError.GOODBYE)
    assert b.closed == Closed(SessionError.GOODBYE)
    known = list(b.events)
    a.say(b"\x03") if state == "open" else None
    b.receive(a.session.data_to_send())
    b.receive(b"\xff" * 1000)
    b.events += b.session.close(Goodbye.DONE, SessionError.PROTOCOL)
    b.events += b.session.connection_lost()
    b.events += b.session.handle_timer(1e9)
    assert b.events == known
    assert b.session.next_deadline() is None


# -- what both sides get ---------------------------------------------------


@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
@pytest.mark.parametrize("sender_dials", [True, False])
@pytest.mark.parametrize("slow", [True, False])
def test_both_sides_learn_the_hello_of_the_other(sender, receiver, sender_dials, slow):
    a, b = pair(sender, receiver, sender_dials=sender_dials)
    assert a.events == [Established(Hello(role=receiver), secret=False)]
    assert b.events == [Established(Hello(role=sender), secret=False)]
    assert a.session.handshake_hash == b.session.handshake_hash
    assert a.session.link_secret == b.session.link_secret
    assert a.session.reconcile_key(0) == b.session.reconcile_key(0) != a.session.reconcile_key(1)
    assert len({a.session.link_secret, a.session.reconcile_key(0), a.session.handshake_hash}) == 3
    c = Side(hello=Hello(role=Role.RELAY, slow=slow), initiator=True, seed=5)
    d = Side(hello=Hello(role=Role.RELAY, durable=True, price=9, window=(3, 4), max_puts=7), initiator=False, seed=6)
    exchange(c, d)
    assert d.session.peer == Hello(role=Role.RELAY, slow=slow)
    assert c.session.peer.price == 9


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("most", [1, 10, 300, 70_000])
def test_however_the_stream_is_cut_the_same_is_heard(seed, most):
    rng = random.Random(seed)
    a = Side(role=Role.CLIENT, initiator=True, seed=1)
    b = Side(initiator=False, seed=2)
    bodies = [random.Random(n).randbytes(256 * 4 ** (n % 4)) for n in range(6)]
    said = False
    while True:
        there, back = a.session.data_to_send(), b.session.data_to_send()
        if a.session.state is State.OPEN and not said:
            said = True
            for body in bodies:
                a.session.put(body)
            continue
        for side, stream in ((b, there), (a, back)):
            at = 0
            while at < len(stream):
                size = rng.randint(1, most)
                side.receive(stream[at : at + size])
                at += size
        if not there and not back and said:
            break
    got = [item for event in b.events if isinstance(event, s.Puts) for item in event.items]
    assert sorted(got) == list(enumerate(bodies))


def test_puts_fetches_acknowledgements_and_all_else_arrive_as_said():
    c, r = pair(Role.CLIENT, Role.RELAY)
    numbers = [c.session.put(bytes([n]) * 256) for n in range(5)]
    c.session.fetch([ID] * 300)
    c.session.subscribe(m.Subscribe(prefix_bits=3, prefix=5))
    exchange(c, r)
    assert numbers == [0, 1, 2, 3, 4]
    assert [x for e in r.events if isinstance(e, s.Puts) for x in e.items] == [(n, bytes([n]) * 256) for n in numbers]
    assert [len(e.identities) for e in r.events if isinstance(e, s.Fetch)] == [256, 44]
    assert m.Subscribe(prefix_bits=3, prefix=5) in r.events
    for number in (4, 0, 1):
        r.session.acknowledge([number])
    assert r.session.unanswered_bytes
    r.session.refuse(2, Refusal.FULL, price=4)
    r.session.send_envelopes([bytes(1024)])
    r.session.send_missing([ID])
    r.session.offer([m.Offer(ID, 2, 77)])
    r.session.caught_up()
    r.session.announce_price(5)
    exchange(c, r)
    assert r.session.unanswered_bytes == 0
    assert {type(e).__name__: e for e in c.meant} == {
        "Ack": m.Ack(durable=False, ranges=[(0, 2), (4, 1)]),
        "Refused": m.Refused(price=4, refusals=[(2, Refusal.FULL)]),
        "Envelopes": s.Envelopes([bytes(1024)]),
        "Missing": s.Missing([ID]),
        "Offers": s.Offers([m.Offer(ID, 2, 77)]),
        "CaughtUp": s.CaughtUp(),
        "PriceChanged": s.PriceChanged(5),
    }


def test_what_came_whole_before_a_mistake_counts():
    c, r = pair(Role.CLIENT, Role.RELAY)
    c.say(m.encode_put(0, b"e" * 256))
    c.say(b"\x99")
    c.say(m.encode_put(1, b"f" * 256))
    r.receive(c.session.data_to_send())
    assert r.meant == [s.Puts([(0, b"e" * 256)]), Closed(SessionError.PROTOCOL)]


def test_answers_that_are_due_go_out_before_the_goodbye():
    c, r = pair(Role.CLIENT, Role.RELAY)
    c.session.put(bytes(256))
    exchange(c, r)
    r.session.acknowledge([0])
    r.session.close(Goodbye.SHUTTING_DOWN, SessionError.GOODBYE)
    c.receive(r.session.data_to_send())
    assert c.meant == [m.Ack(durable=False, ranges=[(0, 1)]), Closed(SessionError.GOODBYE, Goodbye.SHUTTING_DOWN)]


def test_a_goodbye_of_a_later_version_is_still_a_goodbye():
    a, b = pair()
    a.say(b"\x02\xee and a reason in words")
    b.receive(a.session.data_to_send())
    assert b.meant == [Closed(SessionError.GOODBYE, Goodbye.PROTOCOL)]


def test_a_slow_peer_gets_small_records_from_its_hello_on():
    a = Side(hello=Hello(role=Role.RELAY, slow=True), initiator=True, seed=1)
    b = Side(hello=Hello(role=Role.RELAY), initiator=False, seed=2)
    exchange(a, b)
    b.session.send_envelopes([bytes(16384)])
    data = b.session.data_to_send(1)
    assert len(data) <= s.SLOW_RECORD_BYTES + 18
    assert int.from_bytes(data[:2], "big") == len(data) - 2


def test_pings_are_answered_once_however_many_there_are():
    a, b = pair()
    for _ in range(100_000):
        a.say(b"\x03")
    while data := a.session.data_to_send():
        b.receive(data)
    assert b.session.queued_bytes == 0
    assert 0 < b.session.unanswered_bytes < 10
    a.receive(b.session.data_to_send())
    assert a.session.state is b.session.state is State.OPEN
    assert b.session.data_to_send() == b""


# -- the shared secret and the keys ----------------------------------------


@pytest.mark.parametrize(
    ("dialling", "answering", "failure", "used"),
    [
        (None, None, None, False),
        (b"s" * 32, b"s" * 32, None, True),
        (None, b"s" * 32, None, False),
        (b"s" * 32, None, HandshakeFailure.SECRET_REQUIRED, None),
        (b"s" * 32, b"t" * 32, HandshakeFailure.DECRYPT, None),
    ],
)
def test_the_mesh_secret_is_proven_or_its_absence_is_told(dialling, answering, failure, used):
    a = Side(initiator=True, seed=1, secret=dialling)
    b = Side(initiator=False, seed=2, secret=answering)
    exchange(a, b)
    if failure is None:
        assert b.events == [Established(Hello(role=Role.RELAY), secret=used)]
    else:
        assert b.events == [Closed(failure)]


def test_each_side_learns_the_static_key_of_the_other():
    keys = [KeyPair.generate(random.Random(n).randbytes) for n in (8, 9)]
    a, b = Side(initiator=True, seed=1, static=keys[0]), Side(initiator=False, seed=2, static=keys[1])
    exchange(a, b)
    assert (a.session.peer_static, b.session.peer_static) == (keys[1].public, keys[0].public)


def test_without_a_pinned_key_a_session_shows_a_key_of_its_own():
    seen = {pair()[1].session.peer_static for _ in range(2)}
    a = Side(initiator=True, seed=11)
    b = Side(initiator=False, seed=12)
    exchange(a, b)
    assert b.session.peer_static not in seen


def test_a_finished_handshake_leaves_no_ephemeral_key_behind():
    """Whoever takes the memory later cannot open what was recorded before."""
    source, drawn = random.Random(1), []

    def draw(size):
        drawn.append(source.randbytes(size))
        return drawn[-1]

    sides = [Side(initiator=initiator, random_bytes=draw) for initiator in (True, False)]
    exchange(*sides)
    # Of each side its static key first. The list must not be where they are found.
    statics, ephemerals = set(drawn[0::2]), set(drawn[1::2])
    assert len(statics) == len(ephemerals) == 2
    drawn.clear()
    for side in sides:
        assert side.session.state is State.OPEN
        found = reachable(side.session)
        assert len(statics & found) == 1
        assert not ephemerals & found


def test_macs_of_other_sessions_tell_neither_their_number_nor_their_order():
    a, b = pair()
    secrets = [bytes([n]) * 32 for n in range(3)]
    a.session.send_same(secrets)
    exchange(a, b)
    [same] = [event for event in b.events if isinstance(event, s.Same)]
    assert len(same.macs) == 8
    assert same.macs == sorted(same.macs)
    assert {b.session.same_mac(secret) for secret in secrets} < set(same.macs)
    a.session.send_same([])
    a.session.send_same([bytes([n]) * 32 for n in range(99)])
    exchange(a, b)
    assert [len(event.macs) for event in b.events if isinstance(event, s.Same)] == [8, 8, 32]


# -- hostile bytes ---------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "failure"),
    [
        ("0001" + "01", HandshakeFailure.TRUNCATED),
        ("0000", HandshakeFailure.TRUNCATED),
        ("0022" + "0200" + "07" * 32, HandshakeFailure.VERSION),
        ("0022" + "0000" + "07" * 32, HandshakeFailure.VERSION),
        ("0022" + "0101" + "07" * 32, HandshakeFailure.VERSION),
        ("0022" + "0103" + "07" * 32, HandshakeFailure.SECRET_REQUIRED),
        ("0021" + "0100" + "07" * 31, HandshakeFailure.TRUNCATED),
        ("0023" + "0100" + "07" * 33, HandshakeFailure.OVERSIZED),
        ("0022" + "0100" + "00" * 32, HandshakeFailure.LOW_ORDER_KEY),
        ("0101", HandshakeFailure.OVERSIZED),
        ("ffff", HandshakeFailure.OVERSIZED),
        (b"GET / HTTP/1.1\r\n".hex(), HandshakeFailure.OVERSIZED),
        (bytes.fromhex("1603010200010001fc0303").hex(), HandshakeFailure.OVERSIZED),
    ],
)
def test_what_is_no_handshake_is_turned_away_with_its_reason_and_no_answer(first, failure):
    b = Side(initiator=False, seed=2)
    b.receive(bytes.fromhex(first))
    assert b.events == [Closed(failure)]
    assert b.session.data_to_send() == b""


@pytest.mark.parametrize("position", range(0, 98, 7))
@pytest.mark.parametrize("message", [1, 2])
def test_a_handshake_changed_on_the_way_fails_to_decrypt(message, position):
    a, b = Side(initiator=True, seed=1), Side(initiator=False, seed=2)
    sides = [(a, b), (b, a)]
    for number in range(3):
        speaker, listener = sides[number % 2]
        data = bytearray(speaker.session.data_to_send())
        if number == message:
            data[2 + min(position, int.from_bytes(data[:2], "big") - 1)] ^= 1
            listener.receive(bytes(data))
            assert listener.events in (
                [Closed(HandshakeFailure.DECRYPT)],
                [Closed(HandshakeFailure.LOW_ORDER_KEY)],
            )
            return
        listener.receive(bytes(data))


@given(st.lists(st.binary(max_size=300), max_size=5))
@settings(deadline=None)
def test_any_first_bytes_end_in_a_counted_reason_or_wait_within_bounds(chunks):
    b = Side(initiator=False, seed=2)
    for chunk in chunks:
        b.receive(chunk)
    assert len(b.session._inbound) <= 300 + 258
    if b.closed is None:
        b.events += b.session.connection_lost()
    assert isinstance(b.closed.reason, HandshakeFailure)


@pytest.mark.parametrize(
    ("plaintext", "reason"),
    [
        (b"\x00", SessionError.GARBAGE_FRAME),
        (b"\x00\x00\x00", SessionError.GARBAGE_FRAME),
        (b"\x00\xff\xffx", SessionError.GARBAGE_FRAME),
        (b"\x7f\x00\x01x", SessionError.GARBAGE_FRAME),
        (
            b"\x01" + (MAX_MESSAGE_BYTES + 1).to_bytes(2, "big") + bytes(MAX_MESSAGE_BYTES + 1),
            SessionError.OVERSIZED_FRAME,
        ),
        (b"\x81\xff\x00" + bytes(0xFF00), SessionError.OVERSIZED_FRAME),
        (b"\x00\x00\x01\xee", SessionError.PROTOCOL),
        (b"\x00\x00\x02\x10\x00", SessionError.DECODE),
    ],
)
def test_garbage_inside_a_record_ends_the_session_with_its_reason(plaintext, reason):
    a, b = pair(Role.CLIENT, Role.RELAY)
    b.receive(a.record(plaintext))
    assert b.meant == [Closed(reason)]
    a.receive(b.session.data_to_send())
    assert isinstance(a.closed.goodbye, Goodbye)


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_any_record_of_a_peer_that_knows_the_keys_is_heard_or_ends_the_session(plaintext):
    a, b = pair(Role.RELAY, Role.RELAY)
    b.receive(a.record(plaintext))
    assert (b.closed is None) == (b.session.state is State.OPEN)
    if b.closed:
        assert isinstance(b.closed.reason, SessionError)


def test_a_replayed_a_reordered_a_dropped_and_a_changed_record_all_end_the_session():
    for tamper in (
        lambda records: records[0] + records[0],
        lambda records: records[1] + records[0],
        lambda records: records[1],
        lambda records: records[0][:5] + bytes([records[0][5] ^ 1]) + records[0][6:],
        lambda records: b"\x00\x05" + records[0][2:7],
        lambda _: b"\x00\x00",
    ):
        a, b = pair()
        b.receive(tamper([a.record(b"\x00\x00\x01\x03") for _ in range(2)]))
        assert b.meant == [Closed(SessionError.REPLAY)]
        a.receive(b.session.data_to_send())
        assert a.closed == Closed(SessionError.GOODBYE, Goodbye.DECODE)


def test_a_record_of_another_session_means_nothing_here():
    a, _ = pair()
    c, d = Side(initiator=True, seed=21), Side(initiator=False, seed=22)
    exchange(c, d)
    d.receive(a.record(b"\x00\x00\x01\x03"))
    assert d.meant == [Closed(SessionError.REPLAY)]


def test_acknowledgements_of_what_was_never_put_end_the_session():
    c, r = pair(Role.CLIENT, Role.RELAY)
    c.session.put(bytes(256))
    exchange(c, r)
    r.say(m.encode_acks(durable=True, numbers=[0, 1])[0])
    c.receive(r.session.data_to_send())
    assert c.meant == [Closed(SessionError.DECODE)]


# -- time ------------------------------------------------------------------


def test_a_slow_loris_is_cut_off_however_it_drips():
    b = Side(initiator=False, seed=2)
    first = Side(initiator=True, seed=1).session.data_to_send()
    for second, byte in enumerate(first[:14]):
        b.receive(bytes([byte]), float(second))
    assert b.session.next_deadline() == s.HANDSHAKE_TIMEOUT_S
    assert b.session.handle_timer(14.9) == []
    assert b.session.handle_timer(15.0) == [Closed(HandshakeFailure.TIMEOUT)]


def test_a_handshake_without_hello_is_cut_off_too_and_is_told():
    a, b = before_hello()
    assert b.session.handle_timer(15.0) == [Closed(HandshakeFailure.TIMEOUT)]
    a.receive(b.session.data_to_send())
    assert a.closed == Closed(SessionError.GOODBYE, Goodbye.TIMEOUT)


def test_a_silent_peer_is_asked_and_stays_if_it_answers():
    a, b = pair()
    assert b.session.handle_timer(b.session.next_deadline()) == []
    a.receive(b.session.data_to_send(), s.PING_AFTER_S)
    b.receive(a.session.data_to_send(), s.PING_AFTER_S + 1)
    assert b.session.next_deadline() == pytest.approx(2 * s.PING_AFTER_S + 1)


def test_a_dead_peer_is_given_up_after_it_was_asked():
    _, b = pair()
    times = []
    while (deadline := b.session.next_deadline()) is not None:
        times.append(deadline)
        b.events += b.session.handle_timer(deadline)
    assert times == [s.PING_AFTER_S, s.DEAD_AFTER_S]
    assert b.closed == Closed(SessionError.TIMEOUT_IDLE)


def test_a_probed_peer_has_a_few_seconds():
    a, b = pair()
    b.session.probe(5.0)
    assert b.session.next_deadline() == pytest.approx(5.0 + s.PROBE_TIMEOUT_S)
    a.receive(b.session.data_to_send(), 5.0)
    b.receive(a.session.data_to_send(), 6.0)
    assert b.session.next_deadline() == pytest.approx(6.0 + s.PING_AFTER_S)


@pytest.mark.parametrize(
    ("state", "reason"), [("open", SessionError.CONNECTION_LOST), ("early", HandshakeFailure.TRUNCATED)]
)
def test_a_stream_that_ends_is_counted(state, reason):
    b = pair()[1] if state == "open" else Side(initiator=False, seed=2)
    assert b.session.connection_lost() == [Closed(reason)]


# -- turns -----------------------------------------------------------------

_LIST = m.encode_offers([m.Offer(ID, 0, 1)] * m.MAX_OFFERS)[0]
#: What a peer can say in 64 KiB that is much to do.
MUCH = {
    "pings": [b"\x00\x00\x01\x03" * 16_000],
    "puts of one byte": [(b"\x00\x00\x06" + m.encode_put(0, b"\x01")) * 7_000],
    "pieces of one byte": [b"\x84\x00\x01\x31" * 16_000],
    "records without a frame": [b""] * 3_600,
    "records of one frame": [b"\x00\x00\x01\x03"] * 2_900,
    "long lists": [(b"\x01" + len(_LIST).to_bytes(2, "big") + _LIST) * 4] * 3,
    "large envelopes": [(b"\x06" + (16_385).to_bytes(2, "big") + b"\x23" + bytes(16_384)) * 3] * 3,
}


@pytest.mark.parametrize("said", MUCH)
def test_a_turn_is_bounded_whatever_is_said_and_nothing_of_it_is_lost(said):
    role = Role.CLIENT if "puts" in said else Role.RELAY
    a, b = pair(role)
    b.session.feed(b"".join(a.record(plaintext) for plaintext in MUCH[said]), 0.0)
    turns, events = 0, []
    while b.session.has_input:
        before, left_bytes = b.session.frames_in, unread_bytes(b.session)
        events += b.session.take_turn()
        turns += 1
        assert b.session.frames_in - before <= s.TURN_FRAMES
        # Of a list all is taken, and a record is taken from the stream whole.
        assert left_bytes - unread_bytes(b.session) <= s.TURN_BYTES + MAX_MESSAGE_BYTES
    assert b.closed is None
    assert b.session.input_bytes <= MAX_MESSAGE_BYTES
    assert turns >= 3
    a, alone = pair(role)
    alone.receive(b"".join(a.record(plaintext) for plaintext in MUCH[said]))
    assert count(events) == count(alone.meant)


def unread_bytes(session):
    return session.input_bytes - session._done_bytes


def count(events):
    return sum(len(getattr(event, "items", "1")) for event in events)


def test_what_was_whole_before_garbage_counts_and_nothing_after_it():
    a, b = pair(Role.CLIENT)
    put = b"\x00\x01\x05" + m.encode_put(0, bytes(256))
    b.receive(a.record(put + b"\x00\x00\x00" + put))
    assert [type(event) for event in b.meant] == [s.Puts, Closed]
    assert b.closed.reason is SessionError.GARBAGE_FRAME


def test_a_turn_ends_with_the_session():
    a, b = pair(Role.CLIENT)
    b.session.feed(a.record(b"\x00\x00\x01\x03" * 1000 + b"\x00\x00\x01\xee" + b"\x00\x00\x01\x03" * 1000), 0.0)
    while b.session.has_input:
        b.events += b.session.take_turn()
    assert b.closed.reason is SessionError.PROTOCOL
    assert b.session.input_bytes == 0
    b.session.feed(bytes(1000), 0.0)
    assert b.session.input_bytes == 0
