# SPDX-License-Identifier: GPL-2.0-or-later
"""Offers and requests between relays: what moves, once, and what a lying neighbour gets."""

import random
from array import array
from itertools import pairwise

import pytest

from relay.core import messages as m
from relay.core.admission import Policy
from relay.core.envelope import envelope_id, price_paid
from relay.core.exchange import DOUBT_AFTER_S, LEAST_BYTES_PER_S, MAX_STALLS, MAX_WANTS, REQUEST_TIMEOUT_S, _Backlog
from relay.core.intake import LEAST_PENDING_BYTES
from relay.core.meetings import MAX_AT_ONCE as MAX_RECONCILIATIONS
from relay.core.messages import OFFER_WINDOW, Goodbye, Hello, MessageType, Offer, Role
from relay.core.node import MAX_UNWANTED
from relay.core.reconcile_set import SCALAR_ENTRIES
from relay.core.session import DEAD_AFTER_S, PROBE_TIMEOUT_S, Credit, Fetch, Offers, Reconcile, Same
from relay.core.stats import Dropped, Rejected, SessionError, Total
from tests.unit.core.memory import (
    BUILD_HOUR,
    HOUR,
    MemoryStore,
    Relay,
    Wire,
    client,
    envelope,
    neighbour,
    purge,
    put_all,
    settle,
)
from tests.unit.core.test_refusals import MOST_STEPS, steps_of, stored


def offer(body, size_class=0, expiry_hour=HOUR):
    return Offer(envelope_id(body), size_class, expiry_hour)


def fetched(peer):
    return [identity for event in peer.of(Fetch) for identity in event.identities]


def line(*relays):
    wires = [Wire(a, b) for a, b in pairwise(relays)]
    settle(*wires)
    return wires


def test_envelopes_cross_a_line_of_relays_and_each_wire_once():
    a, b, c = (Relay(n) for n in range(3))
    wires = line(a, b, c)
    rng = random.Random(1)
    bodies = [envelope(rng, size_class=n % 4) for n in range(60)]
    wires[0].bytes_there = wires[0].bytes_back = 0
    peer, to_client = client(a, seed=9)
    for body in bodies:
        peer.session.put(body)
    settle(*wires, to_client)
    assert a.held() == b.held() == c.held() == set(bodies)
    assert wires[0].bytes_there < 1.03 * sum(map(len, bodies))
    assert wires[0].bytes_back < 100 * len(bodies)
    assert [r.count(Total.DUPLICATE) for r in (a, b, c)] == [0, 0, 0]


def test_relays_that_meet_again_exchange_a_few_hundred_bytes():
    a, b = Relay(1), Relay(2)
    rng = random.Random(2)
    put_all(a, [envelope(rng) for _ in range(200)])
    first = line(a, b)[0]
    assert a.held() == b.held()
    first.lose()
    again = line(a, b)[0]
    assert again.bytes_there + again.bytes_back < 1200
    assert a.count(Total.RECONCILED) == b.count(Total.RECONCILED) == 2


def test_an_envelope_offered_by_several_is_fetched_from_one():
    middle = Relay(0)
    sources = [Relay(n) for n in (1, 2, 3)]
    body = envelope(random.Random(3), size_class=3)
    for source in sources:
        put_all(source, [body])
    wires = [Wire(source, middle, interface=f"eth{n}") for n, source in enumerate(sources)]
    settle(*wires)
    assert middle.held() == {body}
    assert sum(wire.bytes_there for wire in wires) < 1.2 * len(body)
    assert middle.count(Total.DUPLICATE) == middle.count(SessionError.UNWANTED_ENVELOPE) == 0


def two_that_offer(relay, body):
    """Two neighbours, the first of which is asked for the body."""
    found = [neighbour(relay, seed=seed) for seed in (5, 6)]
    for peer, wire in found:
        peer.session.offer([offer(body)])
        settle(wire)
    return found


def test_what_one_neighbour_withholds_is_fetched_from_another_after_a_few_seconds():
    relay = Relay()
    body = envelope(random.Random(4))
    (liar, liars_wire), (honest, wire) = two_that_offer(relay, body)
    assert fetched(liar) == [envelope_id(body)]
    assert fetched(honest) == []
    assert relay.node.next_deadline() <= REQUEST_TIMEOUT_S
    relay.node.handle_timer(REQUEST_TIMEOUT_S)
    settle(wire, liars_wire, now=REQUEST_TIMEOUT_S)
    assert fetched(honest) == [envelope_id(body)]
    honest.session.send_envelopes([body])
    settle(wire, liars_wire, now=REQUEST_TIMEOUT_S)
    assert relay.held() == {body}
    assert relay.count(Dropped.REQUEST_TIMEOUT) == 1
    assert relay.node.wanted() == 0


def test_a_neighbour_that_only_withholds_loses_its_session():
    relay = Relay()
    liar, wire = neighbour(relay, seed=5)
    rng = random.Random(5)
    liar.session.offer([offer(rng.randbytes(256)) for _ in range(100)])
    settle(wire)
    now = 0.0
    while not wire.link.closed:
        assert now < REQUEST_TIMEOUT_S * 2**MAX_STALLS
        now = relay.node.next_deadline()
        relay.node.handle_timer(now)
        settle(wire, now=now)
    assert liar.goodbye is Goodbye.TIMEOUT
    assert relay.count(SessionError.STALLED) == 1
    assert relay.node.wanted() == 0


@pytest.mark.parametrize("interface", ["eth1", "eth2"])
@pytest.mark.parametrize("answer", ["nothing", "missing", "leaves"])
def test_however_many_offer_what_they_have_not_got_it_is_asked_of_the_one_who_has(answer, interface):
    relay = Relay()
    rng = random.Random(55)
    bodies = [envelope(rng) for _ in range(30)]
    liars = [neighbour(relay, seed=seed) for seed in range(100, 108)]
    honest, wire = neighbour(relay, seed=6, interface=interface)
    wires = [wire, *(each for _, each in liars)]
    for liar, _ in liars:
        liar.session.offer([offer(body) for body in bodies])
        settle(*wires)
    honest.session.offer([offer(body) for body in bodies])
    settle(*wires)
    now = 0.0
    for _ in range(40):
        if fetched(honest):
            break
        for liar, liars_wire in liars:
            if answer == "leaves" and not liars_wire.cut:
                liars_wire.lose(now)
            elif answer == "missing" and fetched(liar):
                liar.session.send_missing(fetched(liar))
                liar.events.clear()
        settle(*wires, now=now)
        if answer == "nothing":
            now = relay.node.next_deadline()
            relay.node.handle_timer(now)
            settle(*wires, now=now)
    assert len(fetched(honest)) == len(bodies)
    # Who is elsewhere than the one who failed is asked next, the others each once before.
    assert now <= REQUEST_TIMEOUT_S * (1 if interface == "eth2" else len(liars))
    honest.session.send_envelopes(bodies)
    settle(*wires, now=now)
    assert relay.held() == set(bodies)
    assert relay.node.wanted() == 0
    assert sum(credit.count for credit in honest.of(Credit)) == len(bodies)


@pytest.mark.parametrize("answer", ["bodies", "missing", "bodies by another"])
def test_who_withholds_some_and_goes_on_to_give_others_keeps_nothing_back_from_who_has_it(answer):
    relay = Relay()
    rng = random.Random(57)
    bodies = [envelope(rng, size_class=n % 4) for n in range(40)]
    has = {envelope_id(body): body for body in bodies}
    (liar, liars_wire), (second, seconds_wire) = (neighbour(relay, seed=seed) for seed in (100, 101))
    honest, wire = neighbour(relay, seed=6, interface="eth2")
    wires = [wire, liars_wire, seconds_wire]
    for peer in (liar, honest):
        peer.session.offer([offer(body, size_class=n % 4) for n, body in enumerate(bodies)])
        settle(*wires)
    now = 0.0
    while not set(bodies) <= relay.held() and now < 600:
        now += 0.8 * REQUEST_TIMEOUT_S
        more = envelope(rng)
        liar.session.offer([offer(more)])
        settle(*wires, now=now)
        giver = second if answer == "bodies by another" else liar
        if giver is second:
            second.session.offer([offer(more)])
            settle(*wires, now=now)
        if answer == "missing":
            liar.session.send_missing([envelope_id(more)])
        else:
            giver.session.send_envelopes([more])
        settle(*wires, now=now)
        relay.node.handle_timer(now)
        settle(*wires, now=now)
        honest.session.send_envelopes([has.pop(identity) for identity in fetched(honest) if identity in has])
        settle(*wires, now=now)
    assert now <= REQUEST_TIMEOUT_S + sum(map(len, bodies)) / LEAST_BYTES_PER_S + REQUEST_TIMEOUT_S
    assert fetched(honest) == list(dict.fromkeys(fetched(honest)))
    assert relay.count(Dropped.REQUEST_TIMEOUT) == len(bodies)


def test_who_gives_slowly_and_alone_has_what_is_asked_of_him_asked_once():
    relay = Relay()
    rng = random.Random(58)
    bodies = [envelope(rng) for _ in range(60)]
    slow, wire = neighbour(relay, seed=100)
    slow.session.offer([offer(body) for body in bodies])
    settle(wire)
    now = 0.0
    for body in bodies:
        now += 0.9 * REQUEST_TIMEOUT_S
        slow.session.send_envelopes([body])
        settle(wire, now=now)
        relay.node.handle_timer(now)
    assert relay.held() == set(bodies)
    assert len(fetched(slow)) == len(bodies)
    assert relay.count(Dropped.REQUEST_TIMEOUT) == 0


@pytest.mark.parametrize("is_held", [True, False])
def test_a_flood_that_waits_for_the_store_keeps_nothing_out_that_neighbours_bring(is_held):
    """What is put again costs nothing and is looked at a little at a time: one client could go on with it for ever."""
    relay = Relay()
    rng = random.Random(59)
    flood = [envelope(rng) for _ in range(1100)]
    if is_held:
        put_all(relay, flood, interface="eth0")
    peer, wire = neighbour(relay, interface="wlan0")
    flooder, floods_wire = client(relay, seed=9, interface="eth0")
    for body in flood:
        flooder.session.put(body)
    relay.node.receive(floods_wire.link, flooder.session.data_to_send(1 << 20), 0.0)
    relay.node.intake.most_pending_bytes = LEAST_PENDING_BYTES
    assert relay.node.intake.pending_bytes > LEAST_PENDING_BYTES
    first, second = envelope(rng), envelope(rng)
    for body in (first, second):
        peer.session.offer([offer(body)])
        settle(wire, commit=False)
    assert fetched(peer) == [envelope_id(first)], "as long as nothing of it waits"
    peer.session.send_envelopes([first])
    settle(wire, commit=False)
    assert len(fetched(peer)) == 1
    relay.commit()
    settle(wire, commit=False)
    assert fetched(peer) == [envelope_id(first), envelope_id(second)]


def trickle(liar, more):
    """What keeps a neighbour's session alive while it withholds the rest: something of its own now and then."""
    liar.session.offer([offer(more)])
    return lambda: liar.session.send_envelopes([more])


def test_who_stalled_once_is_asked_in_his_turn_though_others_go_on_to_give_something_else():
    """One bad moment would else make an honest neighbour look worse for ever than whoever always answers something."""
    relay = Relay()
    rng = random.Random(60)
    liar, liars_wire = neighbour(relay, seed=100)
    honest, wire = neighbour(relay, seed=6)
    wires = [liars_wire, wire]
    lost, body = envelope(rng), envelope(rng)
    honest.session.offer([offer(lost)])
    settle(*wires)
    now = REQUEST_TIMEOUT_S
    relay.node.handle_timer(now)
    honest.session.send_missing([envelope_id(lost)])
    settle(*wires, now=now)
    assert (liars_wire.link.exchange.stalls, wire.link.exchange.stalls) == (0, 1)
    for peer in (liar, honest):
        peer.session.offer([offer(body)])
        settle(*wires, now=now)
    begun = now
    while envelope_id(body) not in fetched(honest):
        now += 0.8 * REQUEST_TIMEOUT_S
        assert now - begun < 3 * REQUEST_TIMEOUT_S
        give = trickle(liar, envelope(rng))
        settle(*wires, now=now)
        give()
        settle(*wires, now=now)
        relay.node.handle_timer(now)
        settle(*wires, now=now)


def test_what_is_passed_on_to_one_who_has_no_room_for_it_is_passed_on_again():
    """Who keeps all requests occupied that there may be of him would else be one more place where it waits for ever."""
    relay = Relay()
    rng = random.Random(61)
    body = envelope(rng)
    liar, liars_wire = neighbour(relay, seed=100)
    full, fulls_wire = neighbour(relay, seed=101, hello=Hello(role=Role.RELAY, slow=True))
    honest, wire = neighbour(relay, seed=6)
    wires = [liars_wire, fulls_wire, wire]
    for peer in (liar, full, honest):
        peer.session.offer([offer(body)])
        settle(*wires)
    own = [envelope(rng) for _ in range(800)]
    full.session.offer([offer(each) for each in own])
    settle(*wires)
    assert 0 < len(fetched(full)) < len(own) / 2
    has = {envelope_id(each): each for each in own}
    now = 0.0
    for turn in range(16):
        now += 0.8 * REQUEST_TIMEOUT_S
        give = trickle(liar, envelope(rng))
        settle(*wires, now=now)
        give()
        if turn % 4 == 3:
            full.session.send_envelopes([has.pop(next(each for each in fetched(full) if each in has))])
        settle(*wires, now=now)
        relay.node.handle_timer(now)
        settle(*wires, now=now)
    assert envelope_id(body) not in fetched(full)
    assert envelope_id(body) in fetched(honest)
    assert not any(each.link.closed for each in wires)


def test_ever_new_neighbours_do_not_keep_it_from_being_asked_of_one_that_waits():
    relay = Relay()
    rng = random.Random(62)
    body = envelope(rng)
    wires = []
    first, wire = neighbour(relay, seed=100)
    honest, honests_wire = neighbour(relay, seed=6)
    for peer, each in ((first, wire), (honest, honests_wire)):
        wires.append(each)
        peer.session.offer([offer(body)])
        settle(*wires)
    honests_wire.link.exchange.stalls = 2
    now = 0.0
    for seed in range(200, 203):
        newcomer, each = neighbour(relay, seed=seed, interface="eth2", now=now)
        wires.append(each)
        newcomer.session.offer([offer(body)])
        settle(*wires, now=now)
        if envelope_id(body) in fetched(honest):
            break
        now += REQUEST_TIMEOUT_S
        relay.node.handle_timer(now)
        settle(*wires, now=now)
    assert envelope_id(body) in fetched(honest)


def test_what_a_neighbour_brings_of_what_another_was_asked_for_is_no_fault_of_that_one():
    """Who sends what he offered, and somebody else was asked for, would else have that one's session ended."""
    relay = Relay()
    rng = random.Random(63)
    bodies = [envelope(rng) for _ in range(OFFER_WINDOW - 1)]
    hostile, hostiles_wire = neighbour(relay, seed=100)
    honest, wire = neighbour(relay, seed=6)
    for peer in (honest, hostile):
        peer.session.offer([offer(body) for body in bodies])
        settle(hostiles_wire, wire)
    assert len(fetched(honest)) == len(bodies) > MAX_UNWANTED
    hostile.session.send_envelopes(bodies)
    settle(hostiles_wire, wire)
    honest.session.send_envelopes(bodies)
    settle(hostiles_wire, wire)
    assert relay.held() == set(bodies)
    assert not wire.link.closed
    honest.session.send_envelopes(bodies)
    settle(hostiles_wire, wire)
    assert wire.link.closed, "each once"


def test_what_is_wanted_no_more_does_not_pile_up_where_it_waited():
    """Who has no room for more requests and brings unasked what he offers has a request queued and void for each."""
    relay = Relay()
    rng = random.Random(64)
    peer, wire = neighbour(relay, seed=101, hello=Hello(role=Role.RELAY, slow=True))
    peer.session.offer([offer(envelope(rng)) for _ in range(64)])
    settle(wire)
    worst = 0
    for _ in range(8):
        bodies = [envelope(rng) for _ in range(900)]
        peer.session.offer([offer(body) for body in bodies])
        worst = max(worst, steps_of(lambda: settle(wire)) // len(bodies))
        peer.session.send_envelopes(bodies)
        settle(wire)
    assert not wire.link.closed
    assert sum(map(len, wire.link.exchange._wants)) <= MAX_WANTS
    assert worst < MOST_STEPS


def test_whoever_lacks_everything_again_and_again_and_then_wants_none_of_it_costs_a_part_of_it_a_turn():
    """16 reconciliations, then a price that nothing paid: one look through it all stopped the relay for seconds."""
    few, many = (offers_at_worst(number) for number in (4_000, 40_000))
    assert many < 1.5 * few


def offers_at_worst(stored_count):
    """Steps of the longest turn in which a relay looks for what to offer, and in vain."""
    store = MemoryStore()
    for seq, identity, header, interface, arrived_s, _, _ in stored(stored_count):
        store.rows[seq] = (identity, header, interface, arrived_s)
        store.bodies[seq] = b""
    relay = Relay(store=store, policy=Policy(max_bytes=1 << 30, max_envelopes=100_000))
    peer, wire = neighbour(relay)
    peer.say(bytes([MessageType.PRICE, 255]))
    settle(wire)
    for _ in range(16):
        wire.link.exchange.add_backlog(range(1, stored_count + 1))
    assert wire.link.exchange.held_bytes < 10 * stored_count
    worst = turns = 0
    while relay.node.has_output(wire.link):
        worst = max(worst, steps_of(lambda: relay.node.data_to_send(wire.link, 0.0)))
        turns += 1
    assert not peer.of(Offers)
    assert turns < stored_count / 500
    return worst


def test_nobody_offers_more_unsettled_than_the_window_however_many_offer_the_same():
    relay = Relay()
    rng = random.Random(56)
    offers = [offer(rng.randbytes(256)) for _ in range(OFFER_WINDOW)]
    sessions = [neighbour(relay, seed=seed) for seed in range(100, 120)]
    for peer, wire in sessions:
        for start in range(0, OFFER_WINDOW, m.MAX_OFFERS):
            peer.session.offer(offers[start : start + m.MAX_OFFERS])
        settle(wire)
        assert not wire.link.closed
    assert relay.node.wanted() == OFFER_WINDOW
    for peer, wire in sessions:
        peer.session.offer(offers[:1])
        settle(wire)
        assert peer.goodbye is Goodbye.LIMIT
    assert relay.node.wanted() == 0


def test_missing_is_believed_of_the_one_who_says_it_only():
    relay = Relay()
    body = envelope(random.Random(6))
    (one, first), (two, second) = two_that_offer(relay, body)
    two.session.send_missing([envelope_id(body)])  # was not asked: its word counts for nothing
    settle(second)
    one.session.send_missing([envelope_id(body)])
    settle(first, second)
    assert fetched(two) == [envelope_id(body)]


def test_a_body_that_was_not_asked_for_is_not_stored_and_many_end_the_session():
    relay = Relay()
    peer, wire = neighbour(relay)
    rng = random.Random(7)
    peer.session.send_envelopes([envelope(rng) for _ in range(MAX_UNWANTED)])
    settle(wire)
    assert relay.held() == set()
    assert not wire.link.closed
    peer.session.send_envelopes([b"", b"x", envelope(rng)])
    settle(wire)
    assert relay.held() == set()
    assert peer.goodbye is Goodbye.LIMIT
    assert relay.count(SessionError.UNWANTED_ENVELOPE) == MAX_UNWANTED + 3


def test_a_body_that_is_not_what_the_offer_said_is_judged_by_itself():
    relay = Relay(policy=Policy(max_bytes=1 << 20, max_envelopes=100, classes=0b0001))
    peer, wire = neighbour(relay)
    large = envelope(random.Random(8), size_class=1)
    garbage = b"\x01\x07" + bytes(254)
    stale = envelope(random.Random(9), expiry_hour=BUILD_HOUR - 5)
    peer.session.offer([offer(large), offer(garbage), offer(stale)])
    settle(wire)
    assert len(fetched(peer)) == 3
    peer.session.send_envelopes([large, garbage, stale])
    settle(wire)
    assert relay.held() == set()
    assert relay.count(Rejected.CLASS) == relay.count(Rejected.MALFORMED) == relay.count(Rejected.BELOW_FLOOR) == 1
    peer.session.offer([offer(large)])
    settle(wire)
    assert len(fetched(peer)) == 3, "what was refused is not asked for again in this session"


def test_what_a_purge_forbids_is_remembered_as_gone_and_counted_as_refused_only():
    relay = Relay()
    rng = random.Random(21)
    killer, tag = purge(rng, rng.randbytes(32))
    put_all(relay, [killer])
    peer, wire = neighbour(relay)
    body = envelope(rng, tag=tag)
    for _ in range(2):
        peer.session.offer([offer(body)])
        settle(wire)
        if len(peer.of(Fetch)) == 1 and relay.count(Rejected.PURGED) == 0:
            peer.session.send_envelopes([body])
            settle(wire)
    assert fetched(peer) == [envelope_id(body)]
    assert relay.held() == {killer}
    assert envelope_id(body) in relay.node.log
    assert (relay.count(Rejected.PURGED), relay.count(Total.ACCEPTED)) == (1, 1)


def test_offers_that_would_be_refused_are_settled_without_a_fetch():
    relay = Relay(policy=Policy(max_bytes=1 << 20, max_envelopes=100, classes=0b0001, min_price=200))
    peer, wire = neighbour(relay)
    rng = random.Random(10)
    peer.session.offer(
        [Offer(rng.randbytes(32), 0, HOUR), Offer(rng.randbytes(32), 1, HOUR), Offer(rng.randbytes(32), 0, 1)]
    )
    settle(wire)
    assert fetched(peer) == []
    assert [event.count for event in peer.of(Credit)] == [3]
    assert [relay.count(r) for r in (Rejected.UNDERPAID, Rejected.CLASS, Rejected.BELOW_FLOOR)] == [1, 1, 1]


def test_what_neighbours_offer_again_and_again_is_refused_once_in_the_counts():
    relay = Relay(policy=Policy(max_bytes=1 << 20, max_envelopes=100, min_price=200))
    rng = random.Random(11)
    offers = [Offer(rng.randbytes(32), 0, HOUR) for _ in range(50)]
    for seed in range(5):
        peer, wire = neighbour(relay, seed=seed)
        for _ in range(3):
            peer.session.offer(offers)
            settle(wire)
        wire.lose()
    assert relay.count(Rejected.UNDERPAID) == len(offers)


def test_offers_beyond_the_window_end_the_session():
    relay = Relay()
    peer, wire = neighbour(relay)
    rng = random.Random(11)
    peer.session.offer([Offer(rng.randbytes(32), 0, HOUR) for _ in range(OFFER_WINDOW)])
    settle(wire)
    assert not wire.link.closed
    assert relay.node.wanted() == OFFER_WINDOW
    peer.session.offer([Offer(rng.randbytes(32), 0, HOUR)])
    settle(wire)
    assert peer.goodbye is Goodbye.LIMIT
    assert relay.count(SessionError.LIMIT_EXCEEDED) == 1
    assert relay.node.wanted() == 0


def test_a_neighbour_that_offers_for_ever_and_never_reads_is_stopped_at_the_window():
    """Offers that are settled at once owe a credit; the debt of a peer that does not read it is bounded."""
    relay = Relay()
    peer, wire = neighbour(relay)
    for _ in range(70_000 // 400):
        peer.session.offer([Offer(bytes(32), 0, 0)] * 400)
        relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
    assert wire.link.closed
    assert relay.count(SessionError.LIMIT_EXCEEDED) == 1
    relay.node.data_to_send(wire.link, 0.0)


@pytest.mark.parametrize("count", [1, 5, 65_535])
def test_credit_that_is_not_owed_ends_the_session(count):
    relay = Relay()
    put_all(relay, [envelope(random.Random(12))])
    peer, wire = neighbour(relay)
    peer.session.credit(count)
    settle(wire)
    assert peer.goodbye is Goodbye.PROTOCOL
    assert relay.count(SessionError.PROTOCOL) == 1


def test_no_more_is_offered_than_the_window_until_credit_comes():
    relay = Relay(policy=Policy(max_bytes=1 << 24, max_envelopes=1 << 14))
    peer, wire = neighbour(relay)
    rng = random.Random(13)
    put_all(relay, [envelope(rng) for _ in range(OFFER_WINDOW + 300)], seed=20)
    settle(wire)
    offered = [item for event in peer.of(Offers) for item in event.items]
    assert len(offered) == OFFER_WINDOW
    peer.session.credit(100)
    settle(wire)
    assert len([item for event in peer.of(Offers) for item in event.items]) == OFFER_WINDOW + 100


def test_a_neighbour_is_offered_only_what_its_hello_and_price_admit():
    relay = Relay()
    picky = m.Hello(role=m.Role.RELAY, classes=0b0001, window=(HOUR, HOUR + 1))
    peer, wire = neighbour(relay, hello=picky)
    rng = random.Random(14)
    good = envelope(rng)
    put_all(
        relay,
        [good, envelope(rng, size_class=1), envelope(rng, expiry_hour=HOUR - 1), envelope(rng, expiry_hour=HOUR + 2)],
    )
    settle(wire)
    assert [item for event in peer.of(Offers) for item in event.items] == [offer(good)]
    peer.say(bytes([MessageType.PRICE, 250]))
    settle(wire)
    put_all(relay, [envelope(rng)], seed=21)
    settle(wire)
    assert len(peer.of(Offers)) == 1


def test_what_a_neighbour_offered_is_not_offered_back_to_it():
    relay = Relay()
    peer, wire = neighbour(relay)
    body = envelope(random.Random(15))
    peer.session.offer([offer(body)])
    settle(wire)
    peer.session.send_envelopes([body])
    settle(wire)
    assert relay.held() == {body}
    assert peer.of(Offers) == []


def test_when_a_neighbour_leaves_its_offers_are_asked_of_others_and_memory_is_free():
    relay = Relay()
    body = envelope(random.Random(16))
    (_, first), (two, second) = two_that_offer(relay, body)
    first.lose()
    settle(second)
    assert fetched(two) == [envelope_id(body)]
    second.lose()
    assert relay.node.wanted() == 0
    assert len(relay.node.links) == 0


def test_two_links_to_one_neighbour_carry_each_envelope_once_and_one_replaces_the_other():
    a, b = Relay(1), Relay(2)
    eth, wlan = Wire(a, b, interface="eth0"), Wire(a, b, interface="wlan0")
    settle(eth, wlan)
    rng = random.Random(17)
    for turn in range(3):
        wires = [wire for wire in (eth, wlan) if not wire.cut]
        before = sum(wire.bytes_there for wire in wires)
        bodies = [envelope(rng, size_class=2) for _ in range(20)]
        put_all(a, bodies, seed=30 + turn)
        settle(*wires)
        assert set(bodies) <= b.held()
        assert sum(wire.bytes_there for wire in wires) - before < 1.1 * sum(map(len, bodies))
        if turn == 1:
            busiest = max(wires, key=lambda wire: wire.bytes_there)
            busiest.lose()
            settle(*(wire for wire in (eth, wlan) if not wire.cut))
    assert a.count(Total.DUPLICATE) == b.count(Total.DUPLICATE) == 0


def offered_to(peer):
    return {item.identity for event in peer.of(Offers) for item in event.items}


def test_what_was_offered_in_vain_and_what_had_yet_to_be_is_offered_on_the_next_link_to_the_neighbour():
    """Without a reconciliation, which takes longer: it is the side that dialled that begins one."""
    relay = Relay(policy=Policy(max_bytes=1 << 24, max_envelopes=1 << 14))
    one, first = neighbour(relay, seed=5)
    two, second = client(relay, seed=6, role=m.Role.RELAY)
    two.session.send_same([one.session.link_secret])
    settle(first, second)
    rng = random.Random(19)
    bodies = [envelope(rng) for _ in range(OFFER_WINDOW + 20)]
    put_all(relay, bodies)
    settle(first, second)
    (primary, lost), (other, wire) = sorted(((one, first), (two, second)), key=lambda side: not offered_to(side[0]))
    assert (len(offered_to(primary)), len(offered_to(other))) == (OFFER_WINDOW, 0)
    lost.lose()
    settle(wire)
    other.session.credit(OFFER_WINDOW)
    settle(wire)
    assert offered_to(other) == {envelope_id(body) for body in bodies}
    assert relay.count(Total.RECONCILED) == 0


def test_a_neighbour_that_is_silent_after_offers_is_probed_long_before_one_that_has_nothing_to_say():
    a, b = Relay(1), Relay(2)
    wires = [Wire(a, b, interface="eth0"), Wire(a, b, interface="wlan0")]
    settle(*wires)
    (dead,) = (wire for wire in wires if wire.link.exchange.cursor is not None)
    (alive,) = (wire for wire in wires if wire is not dead)
    dead.cut = True
    bodies = [envelope(random.Random(20)) for _ in range(3)]
    began = now = 30.0
    put_all(a, bodies, now=now)
    a.node.data_to_send(dead.link, now)  # the offers, which nobody hears
    settle(alive, now=now)
    assert b.held() == set()
    while not dead.link.closed and now - began <= DOUBT_AFTER_S + PROBE_TIMEOUT_S:
        now = max(a.node.next_deadline(), now + 0.1)
        a.node.handle_timer(now)
        a.node.data_to_send(dead.link, now)
        settle(alive, now=now)
    assert DOUBT_AFTER_S + PROBE_TIMEOUT_S < DEAD_AFTER_S / 2
    assert (dead.link.closed, alive.link.closed) == (True, False)
    assert b.held() == set(bodies)


def test_same_is_said_once_and_first_in_a_session():
    relay = Relay()
    peer, wire = neighbour(relay)
    assert len(peer.of(Same)) == 1
    peer.session.send_same([])
    settle(wire)
    assert peer.goodbye is Goodbye.PROTOCOL


@pytest.mark.parametrize(
    "say",
    [
        lambda session: session.reconcile(b"\x01" + bytes(16) + b"\x07"),
        lambda session: session.offer([Offer(bytes(32), 0, HOUR)]),
        lambda session: session.fetch([bytes(32)]),
        lambda session: session.credit(1),
        lambda session: session.send_missing([bytes(32)]),
        lambda session: session.send_envelopes([bytes(256)]),
    ],
)
def test_a_relay_that_never_said_same_is_neither_heard_nor_answered(say):
    relay = Relay()
    put_all(relay, [envelope(random.Random(57))])
    peer, wire = client(relay, seed=5, role=Role.RELAY)
    say(peer.session)
    settle(wire)
    assert peer.goodbye is Goodbye.PROTOCOL
    assert not peer.of(Reconcile)
    assert not peer.of(Offers)
    assert not relay.node.has_work
    assert relay.node.wanted() == 0


def test_reconciling_again_and_again_is_stopped():
    relay = Relay()
    put_all(relay, [envelope(random.Random(18))])
    peer, wire = neighbour(relay, initiator=True)
    for number in range(MAX_RECONCILIATIONS + 1):
        assert not wire.link.closed, number
        peer.session.reconcile(b"\x01" + bytes(16) + b"\x00")  # a root over nothing: answered at once
        settle(wire)
    assert peer.goodbye is Goodbye.LIMIT
    assert len(peer.of(Reconcile)) == MAX_RECONCILIATIONS


@pytest.mark.parametrize("body", [b"", b"\x00", b"\xff", b"\x01", b"\x09\x00", b"\x02"])
def test_garbage_in_a_reconciliation_ends_the_session(body):
    relay = Relay()
    peer, wire = neighbour(relay, initiator=True)
    peer.session.reconcile(body)
    settle(wire)
    assert peer.goodbye is Goodbye.DECODE
    assert relay.count(SessionError.DECODE) == 1


def test_a_responder_may_not_begin_a_reconciliation():
    relay = Relay()
    peer, wire = neighbour(relay, initiator=False)
    assert peer.of(Reconcile), "the side that dialled begins"
    peer.session.reconcile(b"\x01" + bytes(16) + b"\x00")
    settle(wire)
    assert peer.goodbye is Goodbye.DECODE


def test_a_change_of_price_is_told_and_taken():
    a = Relay(1, policy=Policy(max_bytes=16 << 14, max_envelopes=16))
    b = Relay(2)
    wire = Wire(a, b)
    settle(wire)
    rng = random.Random(19)
    put_all(a, [envelope(rng, size_class=3, price=2) for _ in range(16)], interface="eth0", seed=40, now=20.0)
    settle(wire, now=20.0)
    a.node.retire(30.0, save_clock=False)
    settle(wire, now=30.0)
    assert b.node.log.held_count == 16
    asked = wire.far.exchange.peer_price
    assert asked > 2
    before = wire.bytes_back
    cheap = envelope(rng, size_class=3)
    while price_paid(envelope_id(cheap), 3) >= asked:
        cheap = envelope(rng, size_class=3)
    put_all(b, [cheap], seed=41, now=31.0)
    settle(wire, now=31.0)
    assert wire.bytes_back == before, "what a full neighbour would refuse is not even offered"


@pytest.mark.parametrize("count", [10, SCALAR_ENTRIES + 10])
def test_a_backlog_has_each_once_however_often_it_was_found(count):
    backlog = _Backlog()
    numbers = list(range(1, count))
    random.Random(1).shuffle(numbers)
    backlog.add(array("Q", numbers[: count // 2 + 3]))
    backlog.add(array("Q", numbers[count // 2 - 3 :]))
    assert len(backlog) == count - 1
    assert list(backlog) == sorted(numbers)
