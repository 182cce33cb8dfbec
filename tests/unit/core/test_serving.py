# SPDX-License-Identifier: GPL-2.0-or-later
"""What subscribers and fetchers get: everything that matches, once, however slowly they read."""

import random

import pytest

from relay.core import block as block_module
from relay.core import serving as serving_module
from relay.core.admission import Policy
from relay.core.envelope import envelope_id, in_bucket
from relay.core.messages import Goodbye, Hello, Role, Subscribe, Window
from relay.core.serving import MAX_FETCHES, SCAN_ENTRIES
from relay.core.session import SLOW_RECORD_BYTES, CaughtUp, Missing, Offers
from relay.core.stats import Histogram, SessionError, Total
from tests.unit.core.memory import HOUR, Relay, client, envelope, neighbour, put_all, settle

EVERYTHING = Subscribe(prefix_bits=0, prefix=0)


@pytest.mark.parametrize(("bits", "prefix"), [(0, 0), (1, 1), (4, 0b1010), (5, 0b10101), (5, 0)])
def test_a_subscriber_gets_what_lies_under_its_prefix_and_nothing_else(bits, prefix):
    relay = Relay()
    rng = random.Random(bits)
    buckets = [0, 0b11111, 0b10101, 0b10100, 0b10000, 0b01111] + [rng.getrandbits(5) for _ in range(50)]
    bodies = {envelope(rng, tag=in_bucket(bucket, rng.randbytes(16))): bucket for bucket in buckets}
    put_all(relay, bodies)
    peer, wire = client(relay, seed=5)
    peer.session.subscribe(Subscribe(prefix_bits=bits, prefix=prefix))
    settle(wire)
    assert sorted(peer.received) == sorted(b for b, bucket in bodies.items() if bucket >> (5 - bits) == prefix)
    assert peer.of(CaughtUp) == [CaughtUp()]
    assert isinstance(peer.events[-1], CaughtUp)


def test_a_follower_gets_what_comes_later_and_one_who_does_not_follow_gets_only_what_was_there():
    relay = Relay()
    rng = random.Random(1)
    before, after = envelope(rng), envelope(rng, size_class=3)
    put_all(relay, [before])
    follower, first = client(relay, seed=5)
    other, second = client(relay, seed=6)
    follower.session.subscribe(EVERYTHING)
    other.session.subscribe(Subscribe(prefix_bits=0, prefix=0, follow=False))
    settle(first, second)
    put_all(relay, [after], seed=7)
    settle(first, second)
    assert follower.received == [before, after]
    assert other.received == [before]
    assert relay.stats.distribution(Histogram.FORWARD_LATENCY_S).counts[0] >= 1
    assert relay.count(Total.FORWARDED) == 3


@pytest.mark.parametrize("offers_only", [False, True])
def test_small_ones_come_first_and_of_one_size_the_new_ones_and_what_arrives_meanwhile_before_all(
    offers_only, monkeypatch
):
    monkeypatch.setattr(serving_module, "SCAN_ENTRIES", 3)
    relay = Relay(policy=Policy(max_bytes=1 << 24, max_envelopes=1000))
    rng = random.Random(21)
    there = [envelope(rng, size_class=rng.choice((0, 1, 2, 3))) for _ in range(60)]
    put_all(relay, there)
    peer, wire = client(relay, seed=5)
    peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0, offers_only=offers_only))
    wire.turn(0.0)
    meanwhile = envelope(rng, size_class=1)
    put_all(relay, [meanwhile], seed=7)
    for _ in range(1000):
        wire.turn(0.0)
    sent = [o.identity for event in peer.of(Offers) for o in event.items] or [envelope_id(b) for b in peer.received]
    expected = [envelope_id(body) for body in sorted(there, key=lambda body: (len(body), -there.index(body)))]
    assert [one for one in sent if one != envelope_id(meanwhile)] == expected
    assert envelope_id(meanwhile) in sent[:-1]
    assert len(peer.of(CaughtUp)) == 1


def test_a_burst_larger_than_every_buffer_arrives_whole_at_a_reader_that_stops_and_goes():
    relay = Relay(policy=Policy(max_bytes=1 << 26, max_envelopes=100_000))
    rng = random.Random(2)
    bodies = [envelope(rng, size_class=n % 3) for n in range(SCAN_ENTRIES + 500)]
    put_all(relay, bodies)
    peer, wire = client(relay, seed=5)
    peer.session.subscribe(EVERYTHING)
    relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
    while data := relay.node.data_to_send(wire.link, 0.0, max_bytes=50_000):
        assert wire.link.session.queued_bytes < 2_000_000
        peer.events += peer.session.receive_data(data, 0.0)
    assert sorted(peer.received) == sorted(bodies)
    assert len(peer.of(CaughtUp)) == 1


def test_nobody_gets_what_has_expired_while_it_waits_to_be_deleted():
    relay = Relay(trusted_hour=HOUR - 10)
    rng = random.Random(3)
    soon, late = envelope(rng, expiry_hour=HOUR - 5), envelope(rng, expiry_hour=HOUR)
    put_all(relay, [soon, late])
    now = 5 * 3600.0
    peer, wire = client(relay, seed=5, now=now)
    peer.session.subscribe(EVERYTHING)
    settle(wire, now=now)
    assert peer.received == [late]
    # By name neither, nor is another relay offered it.
    peer.session.fetch([envelope_id(soon)])
    settle(wire, now=now)
    assert peer.received == [late]
    assert [event.identities for event in peer.of(Missing)] == [[envelope_id(soon)]]
    other, others_wire = neighbour(relay, seed=6, now=now)
    others_wire.link.exchange.add_backlog(range(1, 3))
    settle(others_wire, now=now)
    assert [one.identity for event in other.of(Offers) for one in event.items] == [envelope_id(late)]


def test_a_window_leaves_out_what_came_long_before():
    relay = Relay()
    rng = random.Random(4)
    old, new = envelope(rng), envelope(rng)
    put_all(relay, [old], now=0.0)
    put_all(relay, [new], seed=4, now=3 * 3600.0)
    peer, wire = client(relay, seed=5, now=4 * 3600.0)
    peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0, window=Window.HOUR))
    settle(wire, now=4 * 3600.0)
    assert peer.received == [new]
    peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0, window=Window.ALL))
    settle(wire, now=4 * 3600.0)
    assert peer.received == [new, new, old]


def test_who_asks_for_offers_gets_those_and_fetches_what_it_likes():
    relay = Relay()
    rng = random.Random(5)
    bodies = [envelope(rng, size_class=n % 4) for n in range(10)]
    put_all(relay, bodies)
    peer, wire = client(relay, seed=5)
    peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0, offers_only=True))
    settle(wire)
    offers = [item for event in peer.of(Offers) for item in event.items]
    assert {(o.identity, o.size_class) for o in offers} == {(envelope_id(b), n % 4) for n, b in enumerate(bodies)}
    assert peer.received == []
    peer.session.fetch([envelope_id(bodies[3]), bytes(32), envelope_id(bodies[7])])
    settle(wire)
    assert sorted(peer.received) == sorted([bodies[3], bodies[7]])
    assert peer.of(Missing) == [Missing([bytes(32)])]


def test_fetching_the_same_again_is_answered_again():
    relay = Relay()
    body = envelope(random.Random(6))
    put_all(relay, [body])
    peer, wire = client(relay, seed=5)
    peer.session.fetch([envelope_id(body)] * 3)
    settle(wire)
    assert peer.received == [body] * 3


def test_on_a_slow_link_a_small_one_asked_for_last_passes_all_the_large_ones():
    relay = Relay(policy=Policy(max_bytes=1 << 26, max_envelopes=10_000))
    rng = random.Random(61)
    large = [envelope(rng, size_class=3) for _ in range(20)]
    small = envelope(rng)
    put_all(relay, [*large, small])
    peer, wire = client(relay, seed=5, hello=Hello(role=Role.CLIENT, slow=True))
    peer.session.fetch([envelope_id(body) for body in large])
    for _ in range(30):
        wire.turn(0.0)
    assert peer.received
    peer.session.fetch([envelope_id(small)])
    before = wire.bytes_there
    while small not in peer.received:
        assert wire.turn(0.0)
    assert wire.bytes_there - before <= 3 * SLOW_RECORD_BYTES
    settle(wire)
    assert set(peer.received) == {*large, small}


def test_a_flood_of_fetches_ends_the_session_and_is_counted():
    relay = Relay()
    peer, wire = client(relay, seed=5)
    peer.session.fetch([bytes(32)] * MAX_FETCHES)
    relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
    assert not wire.link.closed
    peer.session.fetch([bytes(32)])
    relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
    assert wire.link.closed
    settle(wire)
    assert peer.goodbye is Goodbye.LIMIT
    assert relay.count(SessionError.LIMIT_EXCEEDED) == 1


def test_a_subscriber_is_not_stuck_behind_sequence_numbers_that_a_failed_commit_left_empty():
    relay = Relay()
    rng = random.Random(7)
    one, lost, two = (envelope(rng) for _ in range(3))
    put_all(relay, [one])
    peer, wire = client(relay, seed=5)
    peer.session.put(lost)
    relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
    relay.node.commit_failed(relay.node.take_batch(), 0.0)
    assert relay.node.needs_reload
    relay.node.reload(relay.store.load())
    reader, second = client(relay, seed=6)
    reader.session.subscribe(EVERYTHING)
    settle(second)
    assert reader.received == [one]
    assert reader.of(CaughtUp) == [CaughtUp()]
    assert not wire.link.serving.has_work()
    put_all(relay, [two], seed=8, now=100.0)
    settle(second, now=100.0)
    assert reader.received == [one, two]


def test_what_left_between_two_reads_is_neither_sent_nor_an_error(monkeypatch):
    """The body may still lie in the store while the log has forgotten its identity already."""
    monkeypatch.setattr(block_module, "BLOCK_ENTRIES", 20)
    relay = Relay(policy=Policy(max_bytes=1 << 24, max_envelopes=1000, residence_s=100.0))
    rng = random.Random(8)
    put_all(relay, [envelope(rng, size_class=2) for _ in range(200)])
    peer, wire = client(relay, seed=5)
    peer.session.subscribe(EVERYTHING)
    relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
    peer.events += peer.session.receive_data(relay.node.data_to_send(wire.link, 0.0), 0.0)
    assert 0 < len(peer.received) < 200
    relay.node.retire(9000.0, save_clock=False)  # not committed yet: the store still has every body
    received = len(peer.received)
    while data := relay.node.data_to_send(wire.link, 9000.0):
        peer.events += peer.session.receive_data(data, 9000.0)
    assert len(peer.received) <= received + 64
    assert len(relay.node.log) == 0


def test_a_reader_that_asks_for_all_that_is_missing_and_does_not_read_costs_bounded_memory():
    relay = Relay()
    peer, wire = client(relay, seed=5)
    for _ in range(1000):
        peer.session.fetch([bytes(32)] * 256)
        relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
        if wire.link.closed or not relay.node.may_receive(wire.link):
            break
    else:
        pytest.fail("it is read from for ever")
    assert wire.link.session.queued_bytes < 4_000_000
