# SPDX-License-Identifier: GPL-2.0-or-later
"""A damaged body is given to nobody, no longer held, and taken anew; "durable" is said of bytes that are there."""

import random

import pytest

from relay.core import intake as intake_module
from relay.core.bodies import UNREAD
from relay.core.envelope import envelope_id
from relay.core.intake import LEAST_PENDING_BYTES
from relay.core.messages import Ack, Refusal, Subscribe
from relay.core.session import Missing
from relay.core.stats import Evicted, Total
from tests.unit.core.memory import MemoryStore, Relay, Wire, client, envelope, neighbour, put_all, settle
from tests.unit.core.test_exchange import fetched, offer


def flip(body):
    return body[:100] + bytes([body[100] ^ 1]) + body[101:]


def damage(relay, body, how=flip):
    """Let the medium do something to a body."""
    [seq] = [seq for seq, held in relay.store.bodies.items() if held == body]
    relay.store.bodies[seq] = how(body)
    return seq


def relay_with(number, seed=1):
    relay = Relay(seed)
    rng = random.Random(7)
    bodies = [envelope(rng, size_class=n % 3) for n in range(number)]
    put_all(relay, bodies)
    return relay, bodies


DAMAGE = [flip, lambda _: None, lambda body: body[:-1], lambda _: b"", lambda _: "text", lambda _: 7]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_body_is_missing_counted_and_taken_anew_from_a_client(how):
    relay, bodies = relay_with(10)
    damage(relay, bodies[4], how)
    peer, wire = client(relay, seed=9)
    peer.session.fetch([envelope_id(body) for body in bodies])
    settle(wire)
    assert set(peer.received) == {*bodies} - {bodies[4]}
    assert [identity for event in peer.of(Missing) for identity in event.identities] == [envelope_id(bodies[4])]
    assert relay.count(Evicted.DAMAGED) == 1
    assert relay.node.log.held_count == 9
    peer.session.put(bodies[4])
    settle(wire, commit=False)
    assert not peer.of(Ack)
    settle(wire)
    assert peer.acknowledged == {0}
    assert relay.held() == set(bodies)
    again = Relay(3, store=relay.store)
    assert again.held() == set(bodies)


def test_what_was_sound_when_it_was_read_is_checked_again_after_ten_minutes_and_whenever_it_is_put():
    relay, bodies = relay_with(10)
    peer, wire = client(relay, seed=9)

    def fetch():
        peer.session.fetch([envelope_id(body) for body in bodies])
        settle(wire)

    fetch()
    damage(relay, bodies[4])
    damage(relay, bodies[5])
    fetch()
    assert relay.count(Evicted.DAMAGED) == 0
    peer.session.put(bodies[4])
    settle(wire)
    assert relay.count(Evicted.DAMAGED) == 1
    relay.node.retire(600.0, save_clock=False)
    fetch()
    assert relay.count(Evicted.DAMAGED) == 2
    assert relay.held() == {*bodies} - {bodies[5]}


def test_a_subscriber_gets_everything_else():
    relay, bodies = relay_with(10)
    damage(relay, bodies[4])
    peer, wire = client(relay, seed=9)
    peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0))
    settle(wire)
    assert set(peer.received) == {*bodies} - {bodies[4]}
    assert relay.count(Evicted.DAMAGED) == 1


@pytest.mark.parametrize("how", DAMAGE)
def test_putting_again_what_is_damaged_stores_it_before_it_is_acknowledged(how):
    relay, bodies = relay_with(10)
    damage(relay, bodies[4], how)
    peer, wire = client(relay, seed=9)
    for body in bodies:
        peer.session.put(body)
    settle(wire, commit=False)
    while relay.node.has_work:
        relay.node.run_slice(0.0)
    settle(wire, commit=False)
    assert peer.acknowledged == {*range(10)} - {4}
    settle(wire)
    assert peer.acknowledged == {*range(10)}
    assert relay.held() == set(bodies)
    assert relay.count(Evicted.DAMAGED) == 1


def test_what_a_neighbour_was_offered_and_is_damaged_since_comes_back_from_it():
    relay, bodies = relay_with(10)
    other = Relay(2)
    wire = Wire(relay, other)
    settle(wire)
    assert other.held() == set(bodies)
    damage(relay, bodies[4])
    relay.node.retire(600.0, save_clock=False)
    reader, readers_wire = client(relay, seed=9)
    reader.session.fetch([envelope_id(bodies[4])])
    settle(readers_wire, wire)
    assert relay.node.log.held_count == 9
    now = 0.0
    while relay.node.log.held_count < 10 and now < 5000:
        now = min(relay.node.next_deadline(), other.node.next_deadline())
        relay.node.handle_timer(now)
        other.node.handle_timer(now)
        settle(wire, readers_wire, now=now)
    assert relay.held() == set(bodies)
    assert not wire.link.closed


def test_who_offers_what_was_found_damaged_is_asked_for_it():
    relay, bodies = relay_with(10)
    damage(relay, bodies[4])
    peer, wire = neighbour(relay, seed=9)
    peer.session.fetch([envelope_id(bodies[4])])
    settle(wire)
    peer.session.offer([offer(bodies[4], size_class=1)])
    settle(wire)
    assert fetched(peer) == [envelope_id(bodies[4])]
    peer.session.send_envelopes([bodies[4]])
    settle(wire)
    assert relay.held() == set(bodies)


def flood(relay, bodies):
    """A client that has put all of these at once, and nothing was made of it yet."""
    flooder, wire = client(relay, seed=9)
    for body in bodies:
        flooder.session.put(body)
    while data := flooder.session.data_to_send():
        relay.node.receive(wire.link, data, 0.0)
    return flooder, wire


def test_a_flood_of_puts_of_what_is_held_reads_little_at_a_time_and_waits_as_what_is_not_committed(monkeypatch):
    monkeypatch.setattr(intake_module, "REPEATED_ROWS", 16)
    reads = []

    class Counting(MemoryStore):
        def read(self, seqs):
            reads.append(len(seqs))
            return super().read(seqs)

    rng = random.Random(3)
    relay = Relay(store=Counting())
    bodies = [envelope(rng) for _ in range(1100)]
    put_all(relay, bodies)
    flooder, wire = flood(relay, bodies)
    assert not reads
    relay.node.intake.most_pending_bytes = LEAST_PENDING_BYTES
    assert wire.link.pending_bytes == 256 * len(bodies) > LEAST_PENDING_BYTES
    assert not relay.node.may_receive(wire.link)
    other, others_wire = client(relay, seed=10)
    other.session.put(bodies[0])
    others_wire.turn(0.0)
    for _ in range(3):
        relay.node.run_slice(0.0)
        others_wire.turn(0.0)
    assert other.acknowledged == {0}, "others wait for a slice of the flood, not for all of it"
    settle(wire, others_wire)
    assert len(flooder.acknowledged) == len(bodies)
    assert max(reads) <= 16
    assert wire.link.pending_bytes == relay.node.intake.pending_bytes == 0
    assert relay.count(Total.DUPLICATE) == len(bodies) + 1
    wire.lose()
    assert not relay.node.has_work


def test_a_flood_of_large_puts_of_what_is_held_is_read_in_slices_of_bytes():
    rng = random.Random(3)
    relay = Relay()
    bodies = [envelope(rng, size_class=3) for _ in range(40)]
    put_all(relay, bodies)
    flooder, wire = flood(relay, bodies)
    slices = 0
    while relay.node.has_work:
        before = wire.link.pending_bytes
        relay.node.run_slice(0.0)
        slices += 1
        assert before - wire.link.pending_bytes <= 128 << 10
    settle(wire)
    assert slices == 5
    assert flooder.acknowledged == {*range(40)}


@pytest.mark.parametrize("byte", [4, 8, 23])
def test_what_is_held_under_a_damaged_header_is_taken_anew_when_it_is_put_again(byte):
    """In another bucket, its recipient would not find it; with another expiry, it would stay or leave."""
    relay, bodies = relay_with(5)
    [seq] = [seq for seq, held in relay.store.bodies.items() if held == bodies[3]]
    identity, header, *rest = relay.store.rows[seq]
    damaged = header[:byte] + bytes([header[byte] ^ 0x40]) + header[byte + 1 :]
    relay.store.rows[seq] = (identity, damaged, *rest)
    again = Relay(2, store=relay.store)
    peer, wire = client(again, seed=9)
    peer.session.put(bodies[3])
    settle(wire)
    assert peer.acknowledged == {0}
    assert again.count(Evicted.DAMAGED) == 1
    prefix = bodies[3][8] >> 3
    peer.session.subscribe(Subscribe(prefix_bits=5, prefix=prefix))
    settle(wire)
    assert bodies[3] in peer.received
    assert again.held() == set(bodies)


def unreadable(relay, seq):
    """Let the medium fail to read one body; return what makes it read again."""
    read = relay.store.read

    def fail(seqs):
        return [UNREAD if one == seq else body for one, body in zip(seqs, read(seqs), strict=True)]

    relay.node._bodies._read_bodies = fail

    def mend():
        relay.node._bodies._read_bodies = read

    return mend


def test_what_cannot_be_read_for_a_while_is_not_given_up_though_it_is_not_said_to_be_there():
    relay, bodies = relay_with(10)
    [seq] = [seq for seq, held in relay.store.bodies.items() if held == bodies[4]]
    mend = unreadable(relay, seq)
    peer, wire = client(relay, seed=9)
    for _ in range(3):
        peer.session.fetch([envelope_id(body) for body in bodies])
    peer.session.put(bodies[4])
    settle(wire)
    assert set(peer.received) == {*bodies} - {bodies[4]}
    assert peer.refused == {0: Refusal.STORAGE}
    assert relay.count(Evicted.DAMAGED) == 0
    mend()
    peer.session.fetch([envelope_id(bodies[4])])
    peer.session.put(bodies[4])
    settle(wire)
    assert peer.received[-1] == bodies[4]
    assert peer.acknowledged == {1}
    assert relay.held() == set(bodies)


def test_what_cannot_be_read_for_long_is_given_up_and_taken_anew():
    relay, bodies = relay_with(10)
    [seq] = [seq for seq, held in relay.store.bodies.items() if held == bodies[4]]
    peer, wire = client(relay, seed=9)

    def fetch():
        peer.session.fetch([envelope_id(bodies[4])])
        settle(wire)
        relay.node.retire(0.0, save_clock=False)

    mend = unreadable(relay, seq)
    fetch()
    mend()
    fetch()
    unreadable(relay, seq)
    fetch()
    fetch()
    assert relay.count(Evicted.DAMAGED) == 0
    fetch()
    assert relay.count(Evicted.DAMAGED) == 1
    peer.session.put(bodies[4])
    settle(wire)
    assert peer.acknowledged == {0}
    assert relay.held() == set(bodies)


def test_what_left_meanwhile_is_not_remembered_as_unread():
    relay, bodies = relay_with(10)
    [seq] = [seq for seq, held in relay.store.bodies.items() if held == bodies[4]]
    unreadable(relay, seq)
    peer, wire = client(relay, seed=9)
    peer.session.fetch([envelope_id(bodies[4])])
    settle(wire)
    assert seq in relay.node._bodies._unread
    relay.node.log.drop_body(seq)
    relay.node.retire(0.0, save_clock=False)
    assert not relay.node._bodies._unread
