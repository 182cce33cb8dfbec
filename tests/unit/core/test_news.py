# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether there is anything new: whoever sees the value he was told has missed nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.messages import Hello, Role, Subscribe
from relay.core.news import NEWS_BYTES, RENEW_INTERVAL_S, news_digest
from relay.core.node import NodeConfig
from relay.core.session import Envelopes, News, State
from tests.unit.core.memory import BUILD_HOUR, Peer, Relay, Wire, client, envelope, neighbour, put_all, settle


def put(relay, number, now):
    put_all(relay, [envelope(random.Random(number))], seed=1000 + number, now=now)


def told(peer):
    return [event.value for event in peer.of(News)]


def test_the_digest_is_that_of_the_document():
    # printf 'mesh-relay/1 news\x00\x01\x02' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...0f
    assert news_digest(bytes(range(16)), b"\x00\x01\x02").hex() == "25f6d9"


def test_everybody_hears_the_value_and_it_stays_while_nothing_is_admitted():
    relay = Relay()
    body = envelope(random.Random(1))
    put_all(relay, [body])
    value = relay.node.news
    assert len(value) == NEWS_BYTES
    peers = [client(relay, now=10.0), neighbour(relay, now=10.0)]
    assert [told(peer) for peer, _ in peers] == [[value], [value]]
    late = envelope(random.Random(2), expiry_hour=BUILD_HOUR - 1)
    again = put_all(relay, [body, late], seed=4, now=5000.0)
    assert (again.acknowledged, set(again.refused)) == ({0}, {1})
    relay.node.handle_timer(5000.0)
    assert relay.node.news == value


def test_a_relay_that_starts_again_has_another_value():
    relay = Relay(1)
    again = Relay(2, store=relay.store)
    assert relay.node.news != again.node.news


def test_what_is_admitted_renews_it_at_once_and_then_every_half_minute_at_most():
    relay = Relay()
    peer, wire = client(relay)
    put(relay, 1, 100.0)
    settle(wire, now=100.0)
    assert len(told(peer)) == 2, "at first at once"
    put(relay, 2, 101.0)
    put(relay, 3, 102.0)
    settle(wire, now=102.0)
    assert len(told(peer)) == 2
    due = 100.0 + RENEW_INTERVAL_S
    assert relay.node.next_deadline() <= due
    relay.node.handle_timer(due)
    settle(wire, now=due)
    assert len(set(told(peer))) == len(told(peer)) == 3
    assert told(peer)[-1] == relay.node.news
    relay.node.handle_timer(due + RENEW_INTERVAL_S)
    assert relay.node.news == told(peer)[-1], "nothing was admitted since"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 45.0), st.booleans()), max_size=25))
def test_while_the_value_is_the_same_nothing_was_admitted_since_it_was_told_but_in_the_last_half_minute(steps):
    relay = Relay()
    now, visits, admitted = 0.0, [], []
    for number, (pause_s, puts) in enumerate(steps):
        now += pause_s
        while (due := relay.node.next_deadline()) is not None and due <= now:
            relay.node.handle_timer(due)
        if puts:
            put(relay, number, now)
            admitted.append(now)
        else:
            peer, wire = client(relay, seed=number, now=now)
            wire.lose(now)
            visits.append((now, told(peer)[-1]))
        for at_s, value in visits:
            if value == relay.node.news:
                assert not [when for when in admitted if at_s < when < now - RENEW_INTERVAL_S]


def test_a_client_hears_a_value_only_after_all_that_it_follows_and_that_came_before():
    relay = Relay()
    peer, wire = client(relay, hello=Hello(role=Role.CLIENT, slow=True))
    peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0, follow=True))
    settle(wire)
    rng = random.Random(5)
    writer, its_wire = client(relay, seed=6)
    for size_class in (3, 0, 3, 1, 3, 2):
        writer.session.put(envelope(rng, size_class=size_class))
    settle(its_wire)
    while len(told(peer)) < 2:
        assert wire.turn(0.0)
    assert sum(len(event.items) for event in peer.of(Envelopes)) == 6


@pytest.mark.parametrize("follow", [False, True])
def test_the_first_value_comes_before_anything_that_a_client_asks_for_in_the_same_breath(follow):
    relay = Relay()
    put(relay, 1, 0.0)
    peer = Peer()
    wire = Wire(relay, peer)
    while peer.session.state is not State.HELLO:
        wire.turn(0.0)
    # Its hello waits to be sent; this goes with it.
    peer.session.subscribe(Subscribe(prefix_bits=0, prefix=0, follow=follow))
    settle(wire)
    kinds = [type(event) for event in peer.events if isinstance(event, News | Envelopes)]
    assert kinds == [News, Envelopes]


def test_what_neighbours_told_is_known_until_they_go_the_last_value_and_the_one_before():
    one, two = Relay(1), Relay(2)
    wire = Wire(one, two, interface="hci0")
    settle(wire)
    first = two.node.news
    assert one.node.known_news() == [first]
    now = 0.0
    for number in range(3):
        now += RENEW_INTERVAL_S
        put(two, number, now)
        settle(wire, now=now)
    values = one.node.known_news()
    assert len(values) == 2
    assert values[-1] == two.node.news
    assert first not in values
    assert set(two.node.known_news()) & {one.node.news}
    wire.lose(now)
    assert one.node.known_news() == two.node.known_news() == []


def test_a_client_without_the_secret_of_a_closed_mesh_hears_it_and_a_relay_without_it_does_not():
    relay = Relay(config=NodeConfig(durable=True, secret=b"s" * 32))
    peer, _ = client(relay)
    stranger, _ = client(relay, seed=9, role=Role.RELAY)
    assert told(peer) == [relay.node.news]
    assert told(stranger) == []
