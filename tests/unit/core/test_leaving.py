# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a relay may start anew: one neighbour holds all, and stays; and what neighbours do to keep it from that."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from relay.core.admission import Policy
from relay.core.leaving import ANSWER_S, GIVE_UP_S, PROMISE_S
from relay.core.messages import Goodbye
from relay.core.stats import LinkKind, UpdateTotal
from relay.core.update_wire import MAX_ASKED, MAX_PART_BYTES, Leaving, Stays
from relay.core.updates import BYTES_OUT
from tests.unit.core.memory import Relay, Wire, client, envelope, put_all, settle
from tests.unit.core.test_updates import peer_of, update


def pair(*, held=3, **options):
    """Two relays that have met; the first holds so many envelopes."""
    a, b = Relay(1), Relay(2, **options)
    if held:
        put_all(a, [envelope(a.rng) for _ in range(held)], interface="lo")
    wire = Wire(a, b)
    settle(wire)
    return a, b, wire


def ask(relay, *wires, now=0.0, everything=True):
    relay.node.departure.begin(now, everything=everything)
    settle(*wires, now=now)
    return relay.node.departure.may_go


def test_it_may_when_a_neighbour_holds_all_that_it_holds():
    a, b, wire = pair(held=2 * MAX_ASKED + 1)
    assert len(b.held()) == 2 * MAX_ASKED + 1
    assert ask(a, wire) is True
    assert b.count(UpdateTotal.STAYED) == 4  # the last for what came meanwhile, which is nothing
    assert b.count(UpdateTotal.DID_NOT_STAY) == 0


def test_it_may_not_when_something_is_here_alone():
    # The other one takes nothing of that size.
    a, b, wire = pair(policy=Policy(max_bytes=1 << 24, max_envelopes=10_000, classes=0b0001))
    assert ask(a, wire) is True
    a.node.departure.call_off()
    put_all(a, [envelope(a.rng, size_class=1)], interface="lo")
    settle(wire)
    assert ask(a, wire) is False
    assert b.count(UpdateTotal.DID_NOT_STAY) == 1


def test_what_a_neighbour_has_let_go_of_is_here_alone_though_they_reconciled():
    a, b, wire = pair()
    b.node.log.drop_body(next(iter(b.store.bodies)))
    assert ask(a, wire) is False


def test_another_neighbour_may_hold_what_the_first_does_not():
    a = Relay(1)
    poor = Relay(2, policy=Policy(max_bytes=1 << 24, max_envelopes=10_000, classes=0b0001))
    rich = Relay(3)
    put_all(a, [envelope(a.rng, size_class=1)], interface="lo")
    wires = [Wire(a, poor), Wire(a, rich)]
    settle(*wires)
    assert ask(a, *wires) is True
    assert (poor.count(UpdateTotal.DID_NOT_STAY), rich.count(UpdateTotal.STAYED)) == (1, 2)


def test_alone_it_may_only_when_it_holds_nothing():
    relay = Relay()
    assert ask(relay) is True
    relay.node.departure.call_off()
    put_all(relay, [envelope(relay.rng)])
    assert ask(relay) is False
    # Where a restart loses nothing nobody need be there.
    assert ask(relay, everything=False) is True


def test_who_is_reached_by_bluetooth_alone_is_not_asked():
    a, _, wire = pair()
    wire.link.kind_stats = a.stats.link(LinkKind.BLE, "hci0")
    assert ask(a, wire) is False


def test_from_then_on_nothing_is_taken_in_of_people_and_after_all_it_is():
    a, _, wire = pair()
    phone, phones = client(a, 5)
    assert ask(a, wire) is True
    assert not a.node.may_receive(phones.link)
    assert a.node.may_receive(wire.link)
    a.node.departure.call_off()
    assert a.node.may_receive(phones.link)
    assert phone.goodbye is None


def test_what_comes_while_it_is_asked_is_asked_for_as_well():
    a, b, wire = pair(held=MAX_ASKED + 1)
    a.node.departure.begin(0.0, everything=True)
    wire.turn(0.0)
    # The other one does not take it.
    b.node.admission.policy = replace(b.node.admission.policy, classes=0b0001)
    put_all(a, [envelope(a.rng, size_class=2)], interface="lo")
    settle(wire)
    assert a.node.departure.may_go is False


def test_two_do_not_start_anew_at_once():
    a, b, wire = pair()
    for relay in (a, b):
        relay.node.departure.begin(0.0, everything=True)
    settle(wire)
    assert a.node.departure.may_go is b.node.departure.may_go is False
    assert ask(a, wire, now=1.0) is True
    # It promised to stay, for as long as the other one may be away.
    assert ask(b, wire, now=2.0) is False
    assert ask(b, wire, now=PROMISE_S) is False
    a.node.departure.call_off()
    assert ask(b, wire, now=PROMISE_S + 2.0) is True


def test_in_a_field_of_twenty_somebody_always_holds_what_another_loses():
    relays = [Relay(seed) for seed in range(20)]
    wires = [Wire(relays[n], relays[n + 1]) for n in range(19)]
    put_all(relays[0], [envelope(relays[0].rng) for _ in range(5)], interface="lo")
    settle(*wires)
    for relay in relays:
        relay.node.departure.begin(0.0, everything=True)
        settle(*wires)
    gone = {number for number, relay in enumerate(relays) if relay.node.departure.may_go}
    # Of each that goes, one that stays promised that it does.
    assert gone
    assert all({number - 1, number + 1} & set(range(20)) - gone for number in gone)
    for number in gone:
        assert any(relays[near].count(UpdateTotal.STAYED) for near in {number - 1, number + 1} & set(range(20)) - gone)


def test_a_long_list_is_asked_for_at_the_rate_of_updates():
    a, b, wire = pair(held=8 * MAX_ASKED)
    a.node.departure.begin(0.0, everything=True)
    now = 0.0
    while a.node.departure.may_go is None:
        settle(wire, now=now)
        a.node.handle_timer(now)
        now += 0.05
    assert a.node.departure.may_go
    assert now >= (8 * MAX_ASKED * 32 - BYTES_OUT.burst - MAX_PART_BYTES) / BYTES_OUT.per_s
    assert b.count(UpdateTotal.STAYED) == 9


# -- neighbours who lie, stall and flood -----------------------------------


def test_who_does_not_answer_keeps_nobody_waiting_for_long():
    relay = Relay()
    put_all(relay, [envelope(relay.rng)])
    silent = peer_of(relay)
    assert ask(relay, silent[1]) is None
    relay.node.handle_timer(ANSWER_S + 1)
    assert relay.node.departure.may_go is False
    # Its answer comes after all, and is none.
    silent[0].say(update(Stays(stays=True, holds=True)))
    settle(silent[1], now=ANSWER_S + 1)
    assert relay.node.departure.may_go is False
    assert silent[0].goodbye is None
    silent[0].say(update(Stays(stays=True, holds=True)))
    settle(silent[1], now=ANSWER_S + 1)
    assert silent[0].goodbye is Goodbye.PROTOCOL


def test_when_who_was_asked_goes_it_may_not():
    relay = Relay()
    put_all(relay, [envelope(relay.rng)])
    _, wire = peer_of(relay)
    assert ask(relay, wire) is None
    wire.lose()
    assert relay.node.departure.may_go is False
    assert not relay.node.departure.is_closing


def test_an_answer_that_never_ends_ends():
    relay = Relay()
    put_all(relay, [envelope(relay.rng) for _ in range(2)])
    peer, wire = peer_of(relay)
    relay.node.departure.begin(0.0, everything=True)
    now, answered = 0.0, 0
    while relay.node.departure.may_go is None and now < 2 * GIVE_UP_S:
        settle(wire, now=now)
        # Each time it has answered something new is here, which it says that it holds.
        put_all(relay, [envelope(relay.rng)], seed=int(now) + 7, interface="lo", now=now)
        while answered < len(peer.of(Leaving)):
            peer.say(update(Stays(stays=True, holds=True)))
            answered += 1
        now += ANSWER_S / 2
        relay.node.handle_timer(now)
    assert relay.node.departure.may_go is False


def test_who_asks_without_end_keeps_nobody_from_newer_software():
    relay = Relay()
    peer, wire = peer_of(relay)
    now, turns, stayed = 0.0, [], []
    while now < 5 * PROMISE_S:
        peer.say(update(Leaving(identities=[])))
        settle(wire, now=now)
        stayed.append(peer.of(Stays)[-1].stays)
        # As `relay run` does while newer software waits.
        relay.node.departure.begin(now, everything=True)
        if relay.node.departure.may_go is not False:
            turns.append(now)
        relay.node.departure.call_off()
        now += 60.0
    assert stayed[0]
    assert not all(stayed)
    assert len(turns) >= 2
    assert turns[0] <= 2 * PROMISE_S + 120.0


def test_who_does_not_want_to_itself_stays_for_others_as_often_as_they_ask():
    relay = Relay()
    peer, wire = peer_of(relay)
    for count in range(10):
        peer.say(update(Leaving(identities=[])))
        settle(wire, now=count * PROMISE_S / 2)
    assert all(stays.stays for stays in peer.of(Stays))


def test_where_all_have_wanted_to_for_long_some_still_can():
    relays = [Relay(seed) for seed in range(3)]
    wires = [Wire(relays[0], relays[1]), Wire(relays[1], relays[2]), Wire(relays[0], relays[2])]
    put_all(relays[0], [envelope(relays[0].rng)], interface="lo")
    settle(*wires)
    # For a day nothing comes of it, as what is held is not everywhere.
    for relay in relays:
        relay.node.departure._wants = True
    gone, now = set(), 86_400.0
    rng = random.Random(5)
    while len(gone) < 3 and now < 2 * 86_400.0:
        number = rng.randrange(3)
        relay = relays[number]
        relay.node.departure.begin(now, everything=True)
        settle(*wires, now=now)
        if relay.node.departure.may_go:
            gone.add(number)
        relay.node.departure.call_off()
        now += rng.uniform(60, 300)
    assert gone == {0, 1, 2}
    assert now < 86_400.0 + 6 * 3600.0


@pytest.mark.parametrize("count", [0, 1, MAX_ASKED])
def test_who_is_asked_for_what_it_does_not_hold_says_so_and_no_more(count):
    relay = Relay()
    peer, wire = peer_of(relay)
    peer.say(update(Leaving(identities=[number.to_bytes(32) for number in range(count)])))
    settle(wire)
    assert peer.of(Stays) == [Stays(stays=True, holds=count == 0)]
    # What it did not promise binds it to nothing.
    assert (ask(relay, wire, now=1.0) is None) is (count > 0)
