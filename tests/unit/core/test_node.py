# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole relays: acknowledged means committed, and no peer can make it otherwise."""

import itertools
import random
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.core.admission import Policy
from relay.core.clock import LAST_HOUR
from relay.core.envelope import envelope_id
from relay.core.intake import COMMIT_WAIT_S, MAX_PENDING_BYTES, STORAGE_RETRY_MAX_S, STORAGE_RETRY_S
from relay.core.messages import (
    Ack,
    Goodbye,
    Hello,
    MessageType,
    Offer,
    Refusal,
    Role,
    Subscribe,
    encode_ids,
    encode_offers,
    encode_put,
)
from relay.core.node import (
    MAX_ACCEPTED_RELAYS,
    MAX_FOUND_RELAYS,
    MAX_INTERFACES,
    MAX_PENDING_BYTES_PER_LINK,
    MAX_UNANSWERED_BYTES,
    MAX_UNREAD_BYTES,
    OTHER_INTERFACE,
    NodeConfig,
)
from relay.core.noise import KeyPair
from relay.core.session import DEAD_AFTER_S, HANDSHAKE_TIMEOUT_S, MAX_PUTS, PriceChanged
from relay.core.stats import Evicted, HandshakeFailure, LinkKind, Rejected, SessionError, Total
from tests.unit.core.memory import (
    HOUR,
    MemoryStore,
    Peer,
    Relay,
    Wire,
    client,
    envelope,
    neighbour,
    purge,
    put_all,
    reachable,
    settle,
)
from tests.unit.core.test_session import VALID

SECRET = b"s" * 32


def send(relay, peer, wire, now=0.0):
    """Hand over what the peer says, and nothing more: no commit, no answer."""
    relay.node.receive(wire.link, peer.session.data_to_send(), now)


# -- acknowledgements ------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_an_acknowledgement_comes_after_the_commit_and_says_what_it_is_worth(durable):
    relay = Relay(config=NodeConfig(durable=durable))
    peer, wire = client(relay)
    body = envelope(random.Random(1))
    peer.session.put(body)
    settle(wire, commit=False)
    assert peer.of(Ack) == []
    settle(wire)
    assert peer.of(Ack) == [Ack(durable=durable, ranges=[(0, 1)])]
    assert relay.held() == {body}


def test_puts_are_answered_by_the_number_that_came_whatever_it_is():
    relay = Relay()
    peer, wire = client(relay)
    rng = random.Random(6)
    peer.session._puts_sent = 2**32  # so that this peer takes any answer
    peer.say(*(encode_put(number, envelope(rng)) for number in (2**32 - 1, 5, 4)), encode_put(9, b"none"))
    settle(wire)
    assert peer.of(Ack) == [Ack(durable=True, ranges=[(4, 2), (2**32 - 1, 1)])]
    assert peer.refused == {9: Refusal.MALFORMED}


def test_putting_again_what_is_held_is_acknowledged_and_stored_once():
    relay = Relay()
    body = envelope(random.Random(2))
    put_all(relay, [body])
    again = put_all(relay, [body, body], seed=4)
    assert again.acknowledged == {0, 1}
    assert len(relay.store.rows) == 1
    assert relay.count(Total.DUPLICATE) == 2
    assert relay.count(Total.ACCEPTED) == 1


def test_duplicates_while_the_commit_is_under_way_wait_for_it_with_bounded_memory():
    relay = Relay()
    body = envelope(random.Random(3))
    relay.node.intake.most_pending_bytes = MAX_PENDING_BYTES
    one, first = client(relay, seed=4)
    two, second = client(relay, seed=5)
    one.session.put(body)
    settle(first, commit=False)
    pending = relay.node.take_batch()
    for _ in range(MAX_PENDING_BYTES_PER_LINK // 256):
        assert relay.node.may_receive(second.link)
        two.session.put(body)
        send(relay, two, second)
    assert not relay.node.may_receive(second.link)
    settle(first, second, commit=False)
    assert one.acknowledged == two.acknowledged == set()
    relay.store.apply(pending.batch)
    relay.node.committed(pending, 0.0)
    settle(first, second)
    assert one.acknowledged == {0}
    assert len(two.acknowledged) == MAX_PENDING_BYTES_PER_LINK // 256
    assert relay.node.intake.pending_bytes == first.link.pending_bytes == second.link.pending_bytes == 0
    assert relay.node.may_receive(second.link)


def test_a_failed_commit_acknowledges_nothing_refuses_all_and_recovers():
    relay = Relay()
    rng = random.Random(4)
    before, lost, late = (envelope(rng) for _ in range(3))
    put_all(relay, [before])
    peer, wire = client(relay, seed=5)
    peer.session.put(lost)
    peer.session.put(lost)
    settle(wire, commit=False)
    relay.node.commit_failed(relay.node.take_batch(), 0.0)
    peer.session.put(lost)  # before the memory was read anew: pending as it seems, it was never stored
    peer.session.put(late)
    peer.session.put(before)
    settle(wire, commit=False)
    assert relay.node.needs_reload
    assert relay.node.storage_failed
    relay.node.reload(relay.store.load())
    assert not relay.node.needs_reload
    settle(wire)
    assert peer.acknowledged == {4}
    assert peer.refused == dict.fromkeys((0, 1, 2, 3), Refusal.STORAGE)
    assert relay.count(Rejected.STORAGE) == 4
    assert relay.held() == {before}
    assert relay.node.intake.pending_bytes == 0
    now = STORAGE_RETRY_S
    assert put_all(relay, [lost, late], seed=6, now=now).acknowledged == {0, 1}
    assert not relay.node.storage_failed
    assert relay.held() == {before, lost, late}


def test_a_batch_that_succeeds_after_one_that_failed_does_not_hide_the_failure():
    relay = Relay()
    rng = random.Random(5)
    lost, kept = envelope(rng), envelope(rng)
    peer, wire = client(relay, seed=5)
    peer.session.put(lost)
    settle(wire, commit=False)
    first = relay.node.take_batch()
    peer.session.put(kept)
    settle(wire, commit=False)
    second = relay.node.take_batch()
    relay.node.commit_failed(first, 0.0)
    assert not relay.node.needs_reload
    late, its_wire = client(relay, seed=6, now=100.0)
    late.session.put(envelope(rng))
    settle(its_wire, now=100.0, commit=False)
    assert late.refused == {0: Refusal.STORAGE}, "memory is wrong until it was read anew, however long ago it failed"
    relay.store.apply(second.batch)
    relay.node.committed(second, 0.0)
    settle(wire, commit=False)
    assert peer.acknowledged == {1}
    assert peer.refused == {0: Refusal.STORAGE}
    assert relay.node.needs_reload
    relay.node.reload(relay.store.load())
    assert relay.node.log.held_count == 1
    again = put_all(relay, [lost, kept], seed=7, now=100.0)
    assert again.acknowledged == {0, 1}


def test_a_store_that_keeps_failing_is_tried_ever_less_often():
    relay = Relay()
    now, waits = 0.0, []
    for seed in range(8):
        peer, wire = client(relay, seed=10 + seed, now=now)
        began = now
        while True:
            peer.session.put(envelope(random.Random(seed)))
            settle(wire, now=now, commit=False)
            if (pending := relay.node.take_batch()) is not None:
                break
            now += 1.0
        waits.append(now - began)
        relay.node.commit_failed(pending, now)
        relay.node.reload(relay.store.load())
        assert peer.acknowledged == set()
    assert waits == [0, 2, 4, 8, 16, 32, 64, 64]
    assert max(waits) == STORAGE_RETRY_MAX_S


def test_what_was_to_leave_after_a_failed_batch_is_here_again_and_leaves_later():
    relay = Relay(policy=Policy(max_bytes=1 << 20, max_envelopes=100, residence_s=100.0))
    body = envelope(random.Random(6))
    put_all(relay, [body])
    peer, wire = client(relay, seed=5, now=150.0)
    peer.session.put(envelope(random.Random(7)))
    settle(wire, now=150.0, commit=False)
    pending = relay.node.take_batch()
    relay.node.retire(150.0, save_clock=False)  # goes into the next batch
    relay.node.commit_failed(pending, 150.0)
    assert relay.node.needs_reload
    relay.node.reload(relay.store.load())
    relay.commit(150.0)
    assert relay.held() == {body}
    assert put_all(relay, [body], seed=7, now=150.0).acknowledged == {0}
    relay.node.retire(160.0, save_clock=False)
    relay.commit(160.0)
    assert relay.store.bodies == {}


def test_the_name_of_an_interface_outlives_the_failed_commit_that_carried_it():
    relay = Relay()
    settle(Wire(relay, Peer(), interface="usb0"), commit=False)
    relay.node.commit_failed(relay.node.take_batch(), 0.0)
    relay.node.reload(relay.store.load())
    put_all(relay, [envelope(random.Random(8))], interface="usb0", now=10.0)
    assert relay.store.interfaces[relay.node.interface_number("usb0")] == "usb0"


class CommitMachine(RuleBasedStateMachine):
    """Puts, commits that fail or not, and power cuts in any order: what was acknowledged is there."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed):
        self.rng = random.Random(seed)
        self.now = 0.0
        self.store = MemoryStore()
        self.bodies = [envelope(self.rng, size_class=self.rng.choice([0, 0, 1])) for _ in range(12)]
        self.acknowledged = set()
        self.boot()

    def boot(self):
        self.relay = Relay(self.rng.getrandbits(32), store=self.store, now=self.now)
        self.relay.node.log.reserve(max(self.store.rows, default=0))
        self.clients = [client(self.relay, seed=self.rng.getrandbits(32), now=self.now) for _ in range(2)]
        self.sent, self.seen = [[], []], [set(), set()]
        self.flight = []

    @rule(which=st.integers(0, 1), numbers=st.lists(st.integers(0, 11), min_size=1, max_size=5))
    def put(self, which, numbers):
        peer, _ = self.clients[which]
        for number in numbers:
            self.sent[which].append(self.bodies[number])
            assert peer.session.put(self.bodies[number]) == len(self.sent[which]) - 1
        self.exchange()

    def exchange(self):
        settle(*(wire for _, wire in self.clients), now=self.now, commit=False)
        while self.relay.node.has_work:
            self.relay.node.run_slice(self.now)
        settle(*(wire for _, wire in self.clients), now=self.now, commit=False)
        for (peer, _), sent, seen in zip(self.clients, self.sent, self.seen, strict=True):
            answered = peer.acknowledged
            self.acknowledged |= {sent[number] for number in answered - seen}
            seen.update(answered)
            assert not answered & peer.refused.keys(), "a put was both acknowledged and refused"

    @rule()
    def take(self):
        if (pending := self.relay.node.take_batch()) is not None:
            self.flight.append(pending)

    @rule(fails=st.booleans())
    def finish(self, fails):
        if self.flight:
            pending = self.flight.pop(0)
            if fails:
                self.relay.node.commit_failed(pending, self.now)
            else:
                self.store.apply(pending.batch)
                self.relay.node.committed(pending, self.now)
            if self.relay.node.needs_reload:
                self.relay.node.reload(self.store.load())
        self.exchange()

    @rule(seconds=st.sampled_from([1.0, 30.0, 70.0]))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.store.bodies)
    @rule()
    def rot(self):
        """The medium changes a body; from then on only what is put again counts."""
        seq = self.rng.choice(sorted(self.store.bodies))
        self.acknowledged.discard(self.store.bodies[seq])
        self.store.bodies[seq] = self.rng.randbytes(256)

    @rule()
    def power_cut(self):
        self.boot()

    @rule()
    def come_to_rest(self):
        """In the end every put is answered, and a put of anything is taken."""
        for _ in range(4):
            while self.flight or self.relay.node.intake.pending.batch:
                self.take()
                self.finish(fails=False)
            self.now += STORAGE_RETRY_MAX_S
        for (peer, _), sent in zip(self.clients, self.sent, strict=True):
            assert peer.acknowledged | peer.refused.keys() == set(range(len(sent)))
        assert self.relay.node.intake.pending_bytes == 0
        assert not self.relay.node.needs_reload
        assert put_all(self.relay, self.bodies, seed=self.rng.getrandbits(32), now=self.now).acknowledged == set(
            range(12)
        )
        assert not self.relay.node.storage_failed

    @invariant()
    def acknowledged_means_stored(self):
        if hasattr(self, "store"):
            stored = list(self.store.bodies.values())
            assert self.acknowledged <= set(stored)
            assert len(stored) == len(set(stored))


CommitMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCommits = CommitMachine.TestCase


# -- purges ----------------------------------------------------------------


def test_a_purge_removes_what_is_here_what_is_on_its_way_and_what_comes_later():
    rng = random.Random(9)
    killer, tag = purge(rng, rng.randbytes(32))
    here, same_batch, next_batch, later = (envelope(rng, tag=tag) for _ in range(4))
    outlives, other = envelope(rng, tag=tag, expiry_hour=HOUR + 1), envelope(rng)
    relay = Relay()
    put_all(relay, [here, outlives, other])
    peer, wire = client(relay, seed=5)
    peer.session.put(same_batch)
    peer.session.put(killer)
    settle(wire, commit=False)
    pending = relay.node.take_batch()
    peer.session.put(next_batch)
    settle(wire, commit=False)
    relay.store.apply(pending.batch)
    relay.node.committed(pending, 0.0)
    settle(wire)
    assert relay.held() == {outlives, other, killer}
    assert set(relay.store.bodies.values()) == relay.held()
    assert relay.node.log.held_count == 3
    assert put_all(relay, [later, here, next_batch], seed=6).refused == dict.fromkeys(range(3), Refusal.PURGED)
    assert relay.count(Total.PURGED) == 2
    assert relay.held() == {outlives, other, killer}


def test_a_purge_reaches_relays_that_were_away():
    rng = random.Random(10)
    killer, tag = purge(rng, rng.randbytes(32))
    body = envelope(rng, tag=tag)
    a, b = Relay(1), Relay(2)
    put_all(a, [body])
    put_all(b, [body])
    put_all(a, [killer], seed=7)
    wire = Wire(a, b)
    settle(wire)
    assert a.held() == b.held() == {killer}
    wire.lose()
    again = Wire(a, b)
    settle(again)
    assert again.bytes_there + again.bytes_back < 1200


def test_a_flood_of_purges_costs_one_walk_for_each_commit():
    relay = Relay(policy=Policy(max_bytes=1 << 26, max_envelopes=1 << 17))
    rng = random.Random(11)
    put_all(relay, [envelope(rng) for _ in range(3000)])
    walks = []
    purged_by = relay.node.log.purged_by
    relay.node.log.purged_by = lambda purges: walks.append(len(purges)) or purged_by(purges)
    peer, wire = client(relay, seed=5)
    for number in range(2000):
        peer.session.put(purge(rng, number.to_bytes(32, "big"))[0])
        if number % 20 == 0:
            send(relay, peer, wire)
    started = time.process_time()
    settle(wire)
    assert len(peer.acknowledged) == 2000
    assert len(walks) <= 3
    assert sum(walks) == 2000
    assert time.process_time() - started < 5


# -- who may come in -------------------------------------------------------


@pytest.mark.parametrize("open_to_clients", [True, False])
@pytest.mark.parametrize("secret", [SECRET, None])
@pytest.mark.parametrize("role", Role)
def test_the_mesh_secret_keeps_relays_out_and_clients_if_so_configured(role, secret, open_to_clients):
    relay = Relay(config=NodeConfig(durable=True, secret=SECRET, open_to_clients=open_to_clients))
    peer, wire = client(relay, role=role, secret=secret)
    welcome = secret is not None or (role is Role.CLIENT and open_to_clients)
    assert wire.link.closed is not welcome
    if not welcome:
        # Closed to clients too, there is nothing to say to anybody without the secret.
        assert peer.goodbye is (Goodbye.SECRET_REQUIRED if open_to_clients else None)
        assert relay.count(HandshakeFailure.SECRET_REQUIRED) == 1


@pytest.mark.parametrize("role", Role)
def test_what_an_unwelcome_peer_says_in_the_same_breath_as_its_hello_is_not_heard(role):
    wanted = KeyPair.generate(random.Random(99).randbytes)
    relay = Relay()
    peer = Peer(role=role)
    wire = Wire(relay, peer, pinned=wanted.public)
    send(relay, peer, wire)
    peer.events += peer.session.receive_data(relay.node.data_to_send(wire.link, 0.0), 0.0)
    if role is Role.CLIENT:
        peer.session.put(envelope(random.Random(12)))
    peer.session.fetch([bytes(32)])
    settle(wire)
    assert relay.counted() == {HandshakeFailure.WRONG_KEY: 1}
    assert relay.held() == set()
    assert relay.store.rows == {}
    assert not relay.node.has_output(wire.link)
    assert relay.node.links == {}


@pytest.mark.parametrize(
    ("ours", "theirs", "failure"),
    [
        (SECRET, b"t" * 32, HandshakeFailure.DECRYPT),
        (None, SECRET, HandshakeFailure.SECRET_REQUIRED),
    ],
)
def test_relays_with_different_secrets_do_not_talk_and_count_it(ours, theirs, failure):
    a = Relay(1, config=NodeConfig(durable=True, secret=theirs))
    b = Relay(2, config=NodeConfig(durable=True, secret=ours))
    wire = Wire(a, b)
    settle(wire)
    assert wire.far.closed
    assert b.count(failure) == 1
    wire.lose()
    assert a.counted() == {HandshakeFailure.TRUNCATED: 1}
    assert a.node.links == b.node.links == {}


def test_a_peer_without_the_pinned_key_is_turned_away():
    key, other = (KeyPair.generate(random.Random(n).randbytes) for n in (1, 2))
    for static, closed in ((key, False), (other, True)):
        a = Relay(1)
        b = Relay(2, config=NodeConfig(durable=True, static=static))
        wire = Wire(a, b, pinned=key.public)
        settle(wire)
        assert wire.link.closed is closed
        assert a.count(HandshakeFailure.WRONG_KEY) == closed


def test_by_its_dialling_a_relay_with_a_lasting_key_is_not_known_again():
    key = KeyPair.generate(random.Random(1).randbytes)
    shown = set()
    for seed in (1, 2):
        relay = Relay(seed, config=NodeConfig(durable=True, static=key))
        shown |= {neighbour(relay, initiator=initiator)[0].session.peer_static for initiator in (True, False)}
    assert key.public in shown
    assert len(shown) == 3, "one when it is dialled, and a fresh one each time that it dials"


def test_two_relays_with_the_same_key_and_the_same_dice_still_exchange_everything():
    """A cloned SD card: the same static key, and a relay that meets its twin."""
    key = KeyPair.generate(random.Random(1).randbytes)
    config = NodeConfig(durable=True, static=key)
    a, b, c = (Relay(n, config=config) for n in (1, 2, 3))
    rng = random.Random(13)
    bodies = [envelope(rng) for _ in range(3)]
    for relay, body in zip((a, b, c), bodies, strict=True):
        put_all(relay, [body])
    wires = [Wire(a, b), Wire(b, c), Wire(a, c)]
    settle(*wires)
    assert a.held() == b.held() == c.held() == set(bodies)
    assert not any(wire.link.closed for wire in wires)


def test_a_relay_that_dials_itself_notices_and_hangs_up():
    relay = Relay()
    wire = Wire(relay, relay)
    settle(wire)
    assert wire.link.closed
    assert wire.far.closed
    assert relay.count(HandshakeFailure.SELF) == 2
    assert relay.node.links == {}


def test_more_relays_than_there_is_room_for_are_told_so():
    relay = Relay()
    peers = [neighbour(relay, seed=n) for n in range(100, 100 + MAX_ACCEPTED_RELAYS + 1)]
    assert [wire.link.closed for _, wire in peers] == [False] * MAX_ACCEPTED_RELAYS + [True]
    assert peers[-1][0].goodbye is Goodbye.BUSY
    assert relay.count(HandshakeFailure.TOO_MANY) == 1
    dialled = [neighbour(relay, seed=n, initiator=False) for n in range(200, 200 + MAX_FOUND_RELAYS + 1)]
    assert [wire.link.closed for _, wire in dialled] == [False] * MAX_FOUND_RELAYS + [True]
    for _, wire in (peers[0], dialled[0]):
        wire.lose()
    assert not neighbour(relay, seed=99, initiator=False)[1].link.closed


def test_relays_of_one_interface_keep_out_neither_those_of_another_nor_the_operators_peers():
    relay = Relay()
    enemies = [neighbour(relay, seed=n, interface="eth0") for n in range(100, 100 + MAX_ACCEPTED_RELAYS)]
    enemies += [neighbour(relay, seed=n, interface="eth0", initiator=False) for n in range(200, 200 + MAX_FOUND_RELAYS)]
    friends = [neighbour(relay, seed=n, interface="mesh0") for n in range(300, 300 + MAX_ACCEPTED_RELAYS // 2)]
    friends += [neighbour(relay, seed=400, interface="mesh0", initiator=False)]
    friends += [neighbour(relay, seed=n, interface="eth0", initiator=False, named=True) for n in range(500, 520)]
    assert not any(wire.link.closed for _, wire in friends)
    assert sum(wire.link.closed for _, wire in enemies) == MAX_ACCEPTED_RELAYS // 2 + 1
    # Beyond its share that interface is told that there is no room, like any.
    assert neighbour(relay, seed=600, interface="mesh0")[1].link.closed


@pytest.mark.parametrize("trusted_hour", [None, HOUR - 50])
def test_whatever_peers_say_no_clock_moves_and_nothing_that_is_held_leaves(trusted_hour):
    relay, undisturbed = (Relay(1, trusted_hour=trusted_hour) for _ in range(2))
    rng = random.Random(31)
    bodies = [envelope(rng, expiry_hour=HOUR - n % 40) for n in range(50)]
    for each in (relay, undisturbed):
        put_all(each, bodies)
    ids = [envelope_id(body) for body in bodies]
    about_these = [
        *encode_ids(MessageType.MISSING, ids),
        *encode_ids(MessageType.FETCH, ids),
        *encode_offers([Offer(identity, 0, hour) for identity in ids for hour in (0, LAST_HOUR)]),
        *(encode_put(number, envelope(rng, expiry_hour=hour)) for number, hour in enumerate((0, HOUR, LAST_HOUR))),
        *(encode_put(9 + n, purge(rng, rng.randbytes(32), bucket=n)[0]) for n in range(8)),
    ]
    for role, window in itertools.product(Role, ((0, 1), (HOUR, HOUR), (LAST_HOUR - 1, LAST_HOUR))):
        for seed, message in enumerate([*VALID.values(), *about_these]):
            hello = Hello(role=role, window=window, price=255, prefix_bits=255, durable=True)
            peer, wire = (neighbour if role is Role.RELAY else client)(relay, seed, hello=hello)
            peer.say(message)
            settle(wire)
            wire.lose()
    assert len(relay.held()) >= len(bodies) + 8, "it listened"
    # Later some have expired where there is a clock, then all, and without one none before a week is over.
    for now in (0.0, 3600.0 * 15, 3600.0 * 24 * 7 - 1):
        for each in (relay, undisturbed):
            each.node.retire(now, save_clock=True)
            each.commit(now)
        assert relay.node.clock.window(now) == undisturbed.node.clock.window(now)
        assert relay.node.clock.residence_s(now) == undisturbed.node.clock.residence_s(now)
        assert relay.node.clock.era_start_s == undisturbed.node.clock.era_start_s
        assert relay.held() & set(bodies) == undisturbed.held()
    assert bool(undisturbed.held()) is (trusted_hour is None)


@pytest.mark.parametrize("connect", [client, neighbour])
def test_nothing_in_memory_names_a_peer_that_has_gone(connect):
    relay = Relay()
    rng = random.Random(32)
    body = envelope(rng)
    put_all(relay, [body])
    peer, wire = connect(relay, seed=9)
    if connect is client:
        peer.session.put(envelope(rng))
        peer.session.subscribe(Subscribe(prefix_bits=5, prefix=body[8] >> 3))
    settle(wire)
    names = {peer.session._static.public, peer.session.handshake_hash, peer.session.link_secret}
    assert names <= reachable(relay.node)
    wire.lose()
    assert list(relay.node.take_ready())
    assert not names & reachable(relay.node)
    assert envelope_id(body) in reachable(relay.node)


# -- hostile clients -------------------------------------------------------


def test_a_client_that_sends_and_never_reads_is_not_read_from_for_ever():
    relay = Relay(policy=Policy(max_bytes=1 << 20, max_envelopes=100, min_price=250))
    peer, wire = client(relay)
    body = envelope(random.Random(14))
    for _ in range(2 * MAX_UNANSWERED_BYTES // 12):
        peer.session.put(body)
        send(relay, peer, wire)
        if not relay.node.may_receive(wire.link):
            break
    else:
        pytest.fail("its refusals pile up without bound")
    settle(wire)
    assert relay.node.may_receive(wire.link)


def test_a_client_that_pings_and_never_reads_costs_no_memory():
    relay = Relay()
    peer, wire = client(relay)
    for _ in range(20):
        for _ in range(10_000):
            peer.say(b"\x03")
        send(relay, peer, wire)
    assert wire.link.session.queued_bytes + wire.link.session.unanswered_bytes < 100


def test_whatever_else_a_peer_makes_us_say_and_does_not_read_stops_us_reading_from_it():
    relay = Relay()
    peer, wire = neighbour(relay)
    for _ in range(1 + MAX_UNREAD_BYTES // 16_000):
        assert relay.node.may_receive(wire.link)
        wire.link.session.reconcile(bytes(16_000))
    assert not relay.node.may_receive(wire.link)
    while data := relay.node.data_to_send(wire.link, 0.0):
        peer.session.receive_data(data, 0.0)
    assert relay.node.may_receive(wire.link)


def test_a_store_slower_than_its_peers_stops_them_rather_than_filling_memory():
    relay = Relay(policy=Policy(max_bytes=1 << 28, max_envelopes=1 << 16))
    peer, wire = client(relay)
    rng = random.Random(15)
    relay.node.intake.most_pending_bytes = MAX_PENDING_BYTES
    for _ in range(MAX_PENDING_BYTES_PER_LINK // 16_384):
        assert relay.node.may_receive(wire.link)
        peer.session.put(envelope(rng, size_class=3))
        send(relay, peer, wire)
    assert not relay.node.may_receive(wire.link)
    relay.commit()
    assert relay.node.may_receive(wire.link)


class Card:
    """A store that writes so many bytes a second, one batch after the other, and syncs each in 4 ms."""

    def __init__(self, relay, bytes_per_s):
        self.relay, self.bytes_per_s = relay, bytes_per_s
        self.pending = None
        self.done_s = 0.0

    def turn(self, now):
        if self.pending is not None and self.done_s <= now:
            self.relay.store.apply(self.pending.batch)
            self.relay.node.committed(self.pending, now)
            self.pending = None
        if self.pending is None and (pending := self.relay.node.take_batch()) is not None:
            size = sum(len(row[5]) for row in pending.batch.inserts)
            self.pending, self.done_s = pending, now + 0.004 + size / self.bytes_per_s


@pytest.mark.parametrize("bytes_per_s", [1e6, 4e6, 16e6])
def test_a_put_does_not_wait_behind_a_flood_longer_than_the_store_may_take(bytes_per_s):
    """A phone that puts one envelope now and then, beside relays and clients that send all they can."""
    relay = Relay(policy=Policy(max_bytes=1 << 30, max_envelopes=1 << 18))
    card = Card(relay, bytes_per_s)
    rng = random.Random(17)
    flooders = [client(relay, seed=20 + n, interface=f"eth{n}") for n in range(3)]
    phone, its_wire = client(relay, seed=30, interface="hci0")
    waits, put_at = [], None
    for step in range(2000):
        now = step * 0.002
        for peer, wire in flooders:
            for _ in range(4):
                if relay.node.may_receive(wire.link):
                    peer.session.put(envelope(rng, size_class=2))
                    send(relay, peer, wire, now)
        if put_at is None and step % 200 == 199:
            put_at = now
            phone.session.put(envelope(rng))
        if put_at is not None and relay.node.may_receive(its_wire.link):
            send(relay, phone, its_wire, now)
        card.turn(now)
        for peer, wire in [*flooders, (phone, its_wire)]:
            peer.session.receive_data(relay.node.data_to_send(wire.link, now), now)
        if put_at is not None and not its_wire.link.pending_bytes and now > put_at:
            waits.append(now - put_at)
            put_at = None
    assert len(waits) >= 6
    # What was let in before the bound was lowered, and one batch of which the put is part.
    assert max(waits) <= 2 * COMMIT_WAIT_S, waits
    assert relay.count(Total.ACCEPTED) * 4096 > 0.7 * bytes_per_s * 4.0, "the store was idle"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", bytes(300), b"\xff" * 70_000])
def test_what_is_no_handshake_is_counted_and_forgotten(data):
    relay = Relay()
    link = relay.node.connect(kind=LinkKind.TCP, interface="eth0", initiator=False, now=0.0)
    relay.node.receive(link, data, 0.0)
    assert link.closed
    assert link.close_reason in HandshakeFailure
    assert relay.count(link.close_reason) == 1
    assert relay.node.links == {}
    assert relay.node.data_to_send(link, 0.0) == b""


def test_a_thousand_connections_that_say_nothing_are_gone_after_the_handshake_time():
    relay = Relay()
    links = [relay.node.connect(kind=LinkKind.TCP, interface="eth0", initiator=False, now=0.0) for _ in range(1000)]
    good, wire = client(relay)
    good.session.put(envelope(random.Random(16)))
    settle(wire)
    assert good.acknowledged == {0}
    relay.node.handle_timer(HANDSHAKE_TIMEOUT_S)
    assert all(link.closed for link in links)
    assert relay.count(HandshakeFailure.TIMEOUT) == 1000
    assert list(relay.node.links) == [wire.link.number]


def test_a_peer_that_falls_silent_is_asked_and_then_given_up():
    relay = Relay()
    peer, wire = client(relay)
    now = 0.0
    while not wire.link.closed:
        now = relay.node.next_deadline()
        assert now <= DEAD_AFTER_S
        relay.node.handle_timer(now)
    assert relay.count(SessionError.TIMEOUT_IDLE) == 1
    assert relay.node.next_deadline() is None
    assert peer.goodbye is None


@pytest.mark.parametrize("seed", range(20))
def test_a_relay_outlives_whatever_a_peer_with_keys_says_and_serves_the_others(seed):
    """Random valid and broken messages of both roles, in any order, under every limit."""
    print("seed", seed)
    rng = random.Random(seed)
    relay = Relay(policy=Policy(max_bytes=1 << 16, max_envelopes=64))
    for turn in range(12):
        hostile, wire = client(
            relay, seed=1000 * seed + turn, role=rng.choice(list(Role)), initiator=rng.random() < 0.5
        )
        for _ in range(rng.randrange(30)):
            message = rng.choice(list(VALID.values()))
            if rng.random() < 0.3:
                message = bytes([message[0]]) + rng.randbytes(rng.randrange(1, 60))
            hostile.say(message, lane=rng.randrange(7))
            settle(wire, now=float(turn))
    good = put_all(relay, [envelope(rng)], seed=77, interface="wlan0", now=20.0)
    assert good.acknowledged == {0}
    closed = sum(relay.count(reason) for reason in SessionError if reason is not SessionError.UNWANTED_ENVELOPE)
    failed = sum(relay.count(reason) for reason in HandshakeFailure)
    assert closed + failed + len(relay.node.links) == 12 + 1


# -- over time -------------------------------------------------------------


def test_a_ring_of_relays_without_clocks_forgets_everything_in_the_end():
    policy = Policy(max_bytes=1 << 20, max_envelopes=100, residence_s=1000.0)
    relays = [Relay(n, policy=policy) for n in range(3)]
    put_all(relays[0], [envelope(random.Random(17)) for _ in range(10)])
    now, sent = 0.0, []
    for _ in range(60):
        wires = [Wire(relays[n], relays[(n + 1) % 3], now=now) for n in range(3)]
        settle(*wires, now=now)
        sent.append(sum(wire.bytes_there + wire.bytes_back for wire in wires))
        for wire in wires:
            wire.lose(now)
        now += 100.0
        for relay in relays:
            relay.node.retire(now, save_clock=True)
            relay.commit(now)
    assert all(relay.held() == set() for relay in relays)
    assert all(relay.store.rows == {} for relay in relays)
    assert sent[-1] == sent[-2] < 3 * 1000


def test_a_restart_brings_back_everything_acknowledged_and_nothing_gone():
    relay = Relay(policy=Policy(max_bytes=8 << 10, max_envelopes=32))
    rng = random.Random(18)
    killer, tag = purge(rng, rng.randbytes(32), price=3)
    bodies = [envelope(rng, price=n // 10) for n in range(40)]
    put_all(relay, [envelope(rng, tag=tag, price=3), killer, *bodies[:20]])
    put_all(relay, bodies[20:], seed=29)
    again = Relay(9, store=relay.store, policy=Policy(max_bytes=8 << 10, max_envelopes=32))
    assert again.held() == relay.held()
    assert again.node.log.held_bytes <= 8 << 10
    assert len(again.node.log) == len(relay.node.log)
    assert put_all(again, [envelope(rng, tag=tag, price=3)], seed=30).refused == {0: Refusal.PURGED}
    displaced = next(body for body in bodies if envelope_id(body) in relay.node.log and body not in relay.held())
    assert put_all(again, [displaced], seed=31).refused == {0: Refusal.FULL}
    assert relay.count(Evicted.PRICE) > 0


def test_a_full_relay_beside_an_empty_one_comes_to_rest():
    small = Relay(1, policy=Policy(max_bytes=32 << 14, max_envelopes=32))
    large = Relay(2)
    put_all(large, [envelope(random.Random(n), size_class=3, price=n % 4) for n in range(100)])
    sizes = []
    for _ in range(6):
        wire = Wire(small, large)
        settle(wire)
        sizes.append(wire.bytes_there + wire.bytes_back)
        wire.lose()
    assert small.node.log.held_count == 32
    assert sizes[-1] == sizes[-2] <= sizes[1]


def test_everybody_hears_of_a_new_price_but_not_of_every_change():
    relay = Relay(policy=Policy(max_bytes=16 << 14, max_envelopes=16))
    peer, wire = client(relay, interface="eth1")
    assert wire.link.session.hello == Hello(
        role=Role.RELAY, durable=True, updates=True, window=relay.node.clock.window(0.0), max_puts=MAX_PUTS, classes=15
    )
    rng = random.Random(19)
    for number in range(30):
        put_all(relay, [envelope(rng, size_class=3, price=number // 5)], seed=50 + number, now=100.0 + number)
        settle(wire, now=100.0 + number)
    prices = [event.price for event in peer.of(PriceChanged)]
    assert prices
    assert prices == sorted(prices)
    assert len(prices) <= 4


def test_shutting_down_says_goodbye_to_everybody():
    relay = Relay()
    peers = [client(relay, seed=n, role=Role(n % 2)) for n in range(4)]
    peers[0][0].session.subscribe(Subscribe(prefix_bits=0, prefix=0))
    relay.node.shutdown(0.0)
    settle(*(wire for _, wire in peers))
    assert [peer.goodbye for peer, _ in peers] == [Goodbye.SHUTTING_DOWN] * 4
    assert relay.node.links == {}


def test_what_came_by_more_interfaces_than_are_told_apart_is_of_one_that_is_called_other_after_a_restart_too():
    relay = Relay()
    relay.store.interfaces = {}
    for number in range(MAX_INTERFACES + 3):
        put_all(relay, [envelope(random.Random(number))], interface=f"usb{number}", seed=100 + number)
    of_other = relay.node.log.held_by_interface[OTHER_INTERFACE]
    assert of_other
    again = Relay(9, store=relay.store)
    assert again.node.log.held_by_interface == relay.node.log.held_by_interface
    assert again.node.interface_name(OTHER_INTERFACE) == "other"
    assert again.node.interface_number("usb0") == relay.node.interface_number("usb0") != OTHER_INTERFACE
    assert again.node.interface_number("one more") == OTHER_INTERFACE
    assert sum(number != OTHER_INTERFACE for number in relay.store.interfaces) == MAX_INTERFACES - 1
