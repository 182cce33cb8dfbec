# SPDX-License-Identifier: GPL-2.0-or-later
"""Newer software between relays: what is said, to whom, how fast; and neighbours who lie, stall and flood."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import DecodeError
from relay.core.messages import Goodbye, Hello, MessageType, Role
from relay.core.node import NodeConfig
from relay.core.stats import LinkKind, SessionError, UpdateRefused, UpdateTotal
from relay.core.update_wire import (
    MAX_PART_BYTES,
    Ask,
    Given,
    Leaving,
    Offer,
    Stays,
    decode_update,
)
from relay.core.updates import (
    BOUNDED_PART,
    BUSY_S,
    BYTES_OUT,
    FETCH_TIMEOUT_S,
    MAX_FETCH_BYTES,
    OFFER_ALLOWANCE_S,
    OFFERS_AT_ONCE,
    PART_TIMEOUT_S,
    RETRY_S,
)
from relay.process.gateway_frames import MAX_FRAME_BYTES
from tests.unit.core.memory import Relay, Wire, client, envelope, neighbour, put_all, settle

SOFTWARE = bytes(range(256)) * 4096  # a MiB
DIGEST = hashlib.sha256(SOFTWARE).digest()
OFFER = Offer(digest=DIGEST, size=len(SOFTWARE), built=2000, board="pi", version="1.1")
KNOWS = Hello(role=Role.RELAY, updates=True)


def update(said):
    return bytes([MessageType.UPDATE]) + said.encode()


def peer_of(relay, seed=2, **options):
    return neighbour(relay, seed, hello=KNOWS, **options)


def serve(relay, software=SOFTWARE):
    """What the shell does: read what is asked for."""
    asks = relay.node.updates.take_asks()
    for link, ask in asks:
        relay.node.updates.give(link, ask, software[ask.offset : ask.offset + ask.length])
    return bool(asks)


def run(*wires, now=0.0, until=lambda: False, most_s=3600.0, step_s=0.05):
    """Let time pass, and everybody talk, until something is true; return when."""
    relays = {id(r): r for w in wires for r in (w.relay, w.other) if isinstance(r, Relay)}.values()
    end = now + most_s
    while now < end and not until():
        for relay in relays:
            relay.node.handle_timer(now)
        settle(*wires, now=now)
        while sum(serve(relay) for relay in relays):
            settle(*wires, now=now)
        now += step_s
    return now


SAID = [
    OFFER,
    Ask(digest=DIGEST, offset=7, length=9),
    Given(offset=7, data=b"123"),
    Given(offset=7, data=None),
    Leaving(identities=[]),
    Leaving(identities=[bytes(32), DIGEST]),
    Stays(stays=True, holds=False),
]


@pytest.mark.parametrize("said", SAID)
def test_what_is_said_comes_out_as_it_went_in(said):
    assert decode_update(update(said)) == said


@given(st.binary(max_size=200))
def test_any_bytes_are_something_or_refused(noise):
    try:
        said = decode_update(b"\x41" + noise)
    except DecodeError:
        return
    assert said.encode() == noise


def test_a_part_fits_a_message():
    assert len(update(Given(offset=0, data=bytes(MAX_PART_BYTES)))) <= MAX_FRAME_BYTES


def test_a_neighbour_is_told_once_what_it_could_have_and_clients_are_not():
    a, b = Relay(1), Relay(2)
    wire = Wire(a, b)
    phone, phones = client(a, 3)
    settle(wire)
    a.node.updates.offer(OFFER)
    settle(wire, phones)
    assert b.node.updates.candidates() == [OFFER]
    assert a.count(UpdateTotal.OFFERED) == b.count(UpdateTotal.HEARD) == 1
    settle(wire, phones, now=1.0)
    assert a.count(UpdateTotal.OFFERED) == 1
    assert phone.of(Offer) == []


def test_who_comes_later_is_told_as_well():
    a, b = Relay(1), Relay(2)
    a.node.updates.offer(OFFER)
    settle(Wire(a, b))
    assert b.node.updates.candidates() == [OFFER]


@pytest.mark.parametrize("hello", [Hello(role=Role.RELAY), Hello(role=Role.RELAY, updates=True, slow=True)])
def test_who_does_not_know_it_and_who_comes_over_a_slow_link_is_told_nothing(hello):
    a = Relay(1)
    a.node.updates.offer(OFFER)
    peer, wire = neighbour(a, hello=hello)
    settle(wire)
    assert peer.of(Offer) == []


def test_over_anything_but_ip_nothing_is_said():
    a = Relay(1)
    a.node.updates.offer(OFFER)
    peer, wire = peer_of(a)
    assert peer.of(Offer) == [OFFER]
    other, wire = client(a, 5, hello=KNOWS)
    wire.link.kind_stats = a.stats.link(LinkKind.BLE, "hci0")
    other.session.send_same([])
    settle(wire)
    assert other.of(Offer) == []


def test_a_relay_has_it_of_another_at_the_rate_of_the_interface():
    a, b = Relay(1), Relay(2)
    a.node.updates.offer(OFFER)
    wire = Wire(a, b)
    settle(wire)
    b.node.updates.fetch(DIGEST, 0, len(SOFTWARE), 0.0)
    fetched = []
    now = run(wire, until=lambda: fetched.extend(filter(None, [b.node.updates.take_fetched()])) or fetched)
    assert fetched[0].data == SOFTWARE
    assert now >= (len(SOFTWARE) - BYTES_OUT.burst - MAX_PART_BYTES) / BYTES_OUT.per_s
    assert now < 2 * len(SOFTWARE) / BYTES_OUT.per_s
    assert a.count(UpdateTotal.GIVEN) == b.count(UpdateTotal.TAKEN) == len(SOFTWARE) // MAX_PART_BYTES


def test_two_who_ask_by_one_interface_share_its_rate():
    a = Relay(1)
    a.node.updates.offer(OFFER)
    others = [Relay(seed) for seed in (2, 3)]
    wires = [Wire(a, other) for other in others]
    settle(*wires)
    for other in others:
        other.node.updates.fetch(DIGEST, 0, len(SOFTWARE), 0.0)
    run(*wires, most_s=4.0)
    given = a.count(UpdateTotal.GIVEN) * MAX_PART_BYTES
    assert given <= 4.0 * BYTES_OUT.per_s + BYTES_OUT.burst + 2 * MAX_PART_BYTES


def test_where_the_operator_bounds_an_interface_it_is_an_eighth_of_that():
    a, b = Relay(1, config=NodeConfig(durable=True, bytes_per_s={"eth0": 80_000.0})), Relay(2)
    a.node.updates.offer(OFFER)
    wire = Wire(a, b)
    run(wire, most_s=5.0)
    b.node.updates.fetch(DIGEST, 0, len(SOFTWARE), 5.0)
    run(wire, now=5.0, most_s=60.0)
    given = a.count(UpdateTotal.GIVEN) * MAX_PART_BYTES
    assert 0 < given <= 60.0 * 80_000 / BOUNDED_PART + 2 * MAX_PART_BYTES


def test_while_something_else_waits_for_a_neighbour_it_gets_a_part_in_four_seconds():
    a = Relay(1)
    a.node.updates.offer(OFFER)
    _, wire = peer_of(a)
    times = []
    now = 0.0
    while now < 20.0:
        if wire.link.update.asked is None:
            a.node.updates.asked(wire.link, Ask(digest=DIGEST, offset=0, length=1))
        # It is never done with what it has to say to this one.
        wire.link.session.announce_price(1)
        a.node.handle_timer(now)
        a.node._pump(wire.link, now)
        for link, ask in a.node.updates.take_asks():
            times.append(now)
            a.node.updates.give(link, ask, b"x")
        now += 0.25
    assert len(times) > 3
    assert min(after - before for before, after in itertools.pairwise(times)) >= BUSY_S


def test_messages_that_wait_go_before_it():
    a, b = Relay(1), Relay(2)
    a.node.updates.offer(OFFER)
    wire = Wire(a, b)
    settle(wire)
    b.node.updates.fetch(DIGEST, 0, len(SOFTWARE), 0.0)
    envelopes = [envelope(a.rng, size_class=3, price=0) for _ in range(4)]
    put_all(a, envelopes)
    run(wire, most_s=1.0)
    assert len(b.held()) == 4


# -- neighbours who lie ----------------------------------------------------


def asking(relay, *peers, length=2 * MAX_PART_BYTES):
    relay.node.updates.fetch(DIGEST, 0, length, 0.0)
    settle(*(wire for _, wire in peers))


def asks_of(peer):
    return peer.of(Ask)


def test_who_gave_a_wrong_piece_is_not_asked_again():
    relay = Relay()
    liar = peer_of(relay)
    liar[0].say(update(OFFER))
    settle(liar[1])
    asking(relay, liar, length=10)
    liar[0].say(update(Given(offset=0, data=b"0123456789")))
    settle(liar[1])
    relay.node.updates.was_wrong(relay.node.updates.take_fetched())
    assert relay.node.updates.candidates() == []
    asking(relay, liar, length=10)
    assert len(asks_of(liar[0])) == 1
    assert relay.count(UpdateRefused.WRONG_PIECE) == 1
    # An offer more does not help it.
    liar[0].say(update(OFFER))
    settle(liar[1])
    assert relay.node.updates.candidates() == []


def test_what_one_does_not_give_is_asked_of_another():
    relay = Relay()
    peers = [peer_of(relay, seed) for seed in (2, 3)]
    for peer, _ in peers:
        peer.say(update(OFFER))
    settle(*(wire for _, wire in peers))
    asking(relay, *peers)
    first = next(peer for peer, _ in peers if asks_of(peer))
    other = next(peer for peer, _ in peers if peer is not first)
    # It gives the first part, and then nothing: what it gave counts for nothing, as a piece has one giver.
    first.say(update(Given(offset=0, data=bytes(MAX_PART_BYTES))))
    settle(*(wire for _, wire in peers))
    relay.node.handle_timer(PART_TIMEOUT_S + 1)
    settle(*(wire for _, wire in peers), now=PART_TIMEOUT_S + 1)
    assert [ask.offset for ask in asks_of(other)] == [0]
    assert relay.count(UpdateRefused.TIMEOUT) == 1
    # What comes too late ends nothing.
    first.say(update(Given(offset=MAX_PART_BYTES, data=bytes(MAX_PART_BYTES))))
    settle(*(wire for _, wire in peers), now=PART_TIMEOUT_S + 1)
    assert first.goodbye is None
    assert relay.count(UpdateRefused.LATE) == 1


def test_who_drips_parts_is_left_after_ten_minutes():
    relay = Relay()
    peer, wire = peer_of(relay)
    peer.say(update(OFFER))
    settle(wire)
    relay.node.updates.fetch(DIGEST, 0, MAX_FETCH_BYTES, 0.0)
    now, given = 0.0, 0
    while now < FETCH_TIMEOUT_S - 1:
        settle(wire, now=now)
        if len(asks_of(peer)) > given:
            peer.say(update(Given(offset=given * MAX_PART_BYTES, data=bytes(MAX_PART_BYTES))))
            given += 1
        now += PART_TIMEOUT_S - 1
        relay.node.handle_timer(now)
    relay.node.handle_timer(FETCH_TIMEOUT_S + 1)
    assert relay.count(UpdateRefused.TIMEOUT) == 1
    assert wire.link.update.stalls == 1


def test_who_has_nobody_left_to_ask_asks_again_later():
    relay = Relay()
    peer, wire = peer_of(relay)
    peer.say(update(OFFER))
    settle(wire)
    asking(relay, (peer, wire), length=10)
    relay.node.handle_timer(PART_TIMEOUT_S + 1)
    # It still owes the answer: nothing more is asked until it came, or it would be asked twice.
    relay.node.handle_timer(PART_TIMEOUT_S + 2 + RETRY_S)
    settle(wire, now=PART_TIMEOUT_S + 2 + RETRY_S)
    assert len(asks_of(peer)) == 1
    peer.say(update(Given(offset=0, data=b"0123456789")))
    settle(wire, now=PART_TIMEOUT_S + 3 + RETRY_S)
    relay.node.handle_timer(PART_TIMEOUT_S + 4 + 2 * RETRY_S)
    settle(wire, now=PART_TIMEOUT_S + 4 + 2 * RETRY_S)
    assert len(asks_of(peer)) == 2


def test_who_has_it_no_more_is_not_asked_again():
    relay = Relay()
    peer, wire = peer_of(relay)
    peer.say(update(OFFER))
    settle(wire)
    asking(relay, (peer, wire))
    peer.say(update(Given(offset=0, data=None)))
    settle(wire)
    assert relay.node.updates.candidates() == []
    assert relay.count(UpdateRefused.NOT_HERE) == 1


def test_when_a_neighbour_goes_another_is_asked():
    relay = Relay()
    peers = [peer_of(relay, seed) for seed in (2, 3)]
    for peer, _ in peers:
        peer.say(update(OFFER))
    settle(*(wire for _, wire in peers))
    asking(relay, *peers)
    (_, wire), (other, others) = sorted(peers, key=lambda one: not asks_of(one[0]))
    wire.lose()
    settle(others)
    assert len(asks_of(other)) == 1


@pytest.mark.parametrize(
    ("said", "goodbye"),
    [
        # Unasked.
        ([Given(offset=0, data=b"x")], Goodbye.PROTOCOL),
        ([Given(offset=0, data=None)], Goodbye.PROTOCOL),
        ([Stays(stays=True, holds=True)], Goodbye.PROTOCOL),
        # More than there is, and more than one at a time.
        ([Ask(digest=DIGEST, offset=len(SOFTWARE), length=1)], Goodbye.PROTOCOL),
        ([Ask(digest=DIGEST, offset=0, length=1)] * 2, Goodbye.LIMIT),
        # Offers without end.
        ([OFFER] * (OFFERS_AT_ONCE + 1), Goodbye.LIMIT),
    ],
)
def test_who_does_not_keep_to_the_rules_is_shown_the_door(said, goodbye):
    relay = Relay()
    relay.node.updates.offer(OFFER)
    peer, wire = peer_of(relay)
    peer.say(*map(update, said))
    settle(wire)
    assert peer.goodbye is goodbye
    assert relay.count(SessionError.PROTOCOL) + relay.count(SessionError.LIMIT_EXCEEDED) == 1


@pytest.mark.parametrize("given", [Given(offset=1, data=b"0123456789"), Given(offset=0, data=b"012345678")])
def test_another_part_than_was_asked_for_is_no_answer(given):
    relay = Relay()
    peer, wire = peer_of(relay)
    peer.say(update(OFFER))
    settle(wire)
    asking(relay, (peer, wire), length=10)
    peer.say(update(given))
    settle(wire)
    assert peer.goodbye is Goodbye.PROTOCOL
    assert relay.node.updates.take_fetched() is None


def test_an_honest_one_may_offer_what_is_newer_still_after_days():
    relay = Relay()
    peer, wire = peer_of(relay)
    for count in range(2 * OFFERS_AT_ONCE):
        now = count * OFFER_ALLOWANCE_S
        peer.say(update(OFFER))
        settle(wire, now=now)
    assert peer.goodbye is None


def test_a_client_and_who_has_not_said_same_say_none_of_it():
    relay = Relay()
    phone, wire = client(relay)
    phone.say(update(OFFER))
    settle(wire)
    assert phone.goodbye is Goodbye.PROTOCOL
    early, wire = client(relay, 4, hello=KNOWS)
    early.say(update(OFFER))
    settle(wire)
    assert early.goodbye is Goodbye.PROTOCOL


def test_who_asks_for_another_one_is_told_that_it_is_not_here():
    relay = Relay()
    relay.node.updates.offer(OFFER)
    peer, wire = peer_of(relay)
    peer.say(update(Ask(digest=bytes(32), offset=5, length=9)))
    settle(wire)
    assert peer.of(Given) == [Given(offset=5, data=None)]


def test_what_cannot_be_read_here_is_not_here():
    relay = Relay()
    relay.node.updates.offer(OFFER)
    peer, wire = peer_of(relay)
    peer.say(update(Ask(digest=DIGEST, offset=5, length=9)))
    settle(wire)
    ((link, ask),) = relay.node.updates.take_asks()
    relay.node.updates.give(link, ask, None)
    settle(wire)
    assert peer.of(Given) == [Given(offset=5, data=None)]
    assert relay.count(UpdateRefused.UNREADABLE) == 1
