# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether there is anything new: whoever sees the value he was told has missed nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.news import MEAN_LIFE_S, NEWS_BYTES, RENEW_INTERVAL_S, NewsValue, news_digest
from relay.core.session import News, State
from tests.unit.core.memory import BUILD_HOUR, Relay, Wire, client, envelope, neighbour, put_all, settle


def put(relay, number, now):
    put_all(relay, [envelope(random.Random(number))], seed=1000 + number, now=now)


def told(peer):
    return [event.value for event in peer.of(News)]


def test_the_digest_is_that_of_the_document():
    # printf 'mesh-relay/1 news\x00\x01\x02' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...0f
    assert news_digest(bytes(range(16)), b"\x00\x01\x02").hex() == "25f6d9"


def test_neighbours_hear_the_value_and_it_stays_while_nothing_is_admitted_and_clients_do_not():
    relay = Relay()
    body = envelope(random.Random(1))
    put_all(relay, [body])
    value = relay.node.news
    assert len(value) == NEWS_BYTES
    peers = [neighbour(relay, now=10.0), client(relay, now=10.0)]
    assert [told(peer) for peer, _ in peers] == [[value], []]
    late = envelope(random.Random(2), expiry_hour=BUILD_HOUR - 1)
    again = put_all(relay, [body, late], seed=4, now=1000.0)
    assert (again.acknowledged, set(again.refused)) == ({0}, {1})
    relay.node.handle_timer(1000.0)
    assert relay.node.news == value


@pytest.mark.parametrize("seed", range(20))
def test_what_was_told_is_true_for_no_longer_than_an_hour_and_a_half_though_nothing_comes(seed):
    """By the value of a relay that nobody uses, whoever was told it would follow it for days."""
    relay = Relay(seed)
    peer, wire = neighbour(relay, seed=50 + seed, now=1000.0)
    wire.lose(1000.0)
    (value,) = told(peer)
    relay.node.handle_timer(1000.0 + 0.5 * MEAN_LIFE_S - 1)
    assert relay.node.news == value
    due = relay.node.next_deadline()
    relay.node.handle_timer(due)
    assert relay.node.news != value
    assert 1000.0 + 0.5 * MEAN_LIFE_S <= due <= 1000.0 + 1.5 * MEAN_LIFE_S
    # Nobody knows this one: it need not change.
    again = relay.node.news
    assert relay.node.next_deadline() is None
    relay.node.handle_timer(1e6)
    assert relay.node.news == again


def test_lives_are_of_random_length():
    news = NewsValue(random.Random(1).randbytes)
    lives = []
    now = 0.0
    for _ in range(30):
        news.told(now)
        news.told(now + 1000.0)
        lives.append(news.due - now)
        now = news.due
        assert news.renew(now)
    assert len({round(life_s / 60) for life_s in lives}) > 15
    assert min(lives) >= 0.5 * MEAN_LIFE_S
    assert max(lives) <= 1.5 * MEAN_LIFE_S


def test_a_relay_that_starts_again_has_another_value():
    relay = Relay(1)
    again = Relay(2, store=relay.store)
    assert relay.node.news != again.node.news


def test_what_is_admitted_renews_it_at_once_and_then_every_half_minute_at_most():
    relay = Relay()
    peer, wire = neighbour(relay)
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
            peer, wire = neighbour(relay, seed=number, now=now)
            wire.lose(now)
            visits.append((now, told(peer)[-1]))
        for at_s, value in visits:
            if value == relay.node.news:
                assert not [when for when in admitted if at_s < when < now - RENEW_INTERVAL_S]


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


def test_a_client_may_not_be_told():
    """By it a relay would know again, or be known again by, whoever was there."""
    relay = Relay()
    peer, wire = client(relay)
    (link,) = relay.node.links.values()
    link.session.tell_news(bytes(NEWS_BYTES))
    settle(wire)
    assert told(peer) == []
    assert peer.session.state is State.CLOSED
