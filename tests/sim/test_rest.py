# SPDX-License-Identifier: GPL-2.0-or-later
"""It comes to rest: what can be exchanged is, once, and an unchanged pair then stays silent.

All bytes are those of the streams, both ways, handshakes included.
"""

from __future__ import annotations

import pytest

from relay.core.admission import Policy
from relay.core.envelope import SIZES, EnvelopeType, Header, grind, make_purge, make_tag
from relay.core.log import EntryState
from relay.core.retention import FORGET_RESIDENCES
from relay.core.stats import Evicted, Total
from tests.sim.people import write_with_purge
from tests.sim.radio import Radio
from tests.sim.steps import assert_settled, bodies, give, ids, letters, meet, put, stream_bytes
from tests.sim.world import START_HOUR, World

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
#: A meeting of two relays that differ in nothing: handshake, hellos, links known, root
#: its answer, and news; goodbyes are not said. Measured 660.
MEETING_BYTES = 700
#: Two pings and two answers of an idle minute, records and all.
IDLE_BYTES_PER_MINUTE = 110
#: A bad day of a Bluetooth link; an L2CAP channel keeps a few packets, no more.
BLUETOOTH = Radio(bytes_per_s=2000, latency_s=0.1, packet_bytes=256, window_packets=8, buffer_bytes=1024)


def test_a_full_relay_fills_an_empty_one_and_then_both_are_silent() -> None:
    world = World(1)
    full, empty = world.add_relay(), world.add_relay()
    written = letters(world, 1500, classes=(0, 1, 2))
    give(world, full, written)
    contact = world.join(full.name, empty.name, Radio(loss=0.02, duplicate=0.02, reorder=0.05))
    world.run(120)
    assert empty.held() == ids(written)
    assert_settled(world)
    # Each body once, 37 bytes for its offer, 32 for the request, frames and records.
    content = sum(len(letter.envelope) for letter in written)
    assert content < stream_bytes(contact) < content + 80 * len(written) + 4096
    assert contact.halves[1].stream_bytes < 40 * len(written) + 2048
    before = stream_bytes(contact)
    world.run(600)
    idle = stream_bytes(contact) - before
    print(f"idle: {idle / 10} bytes a minute")
    assert idle <= 10 * IDLE_BYTES_PER_MINUTE


def test_an_unchanged_pair_pays_for_the_meeting_and_nothing_else() -> None:
    world = World(2)
    a, b = world.add_relay(), world.add_relay()
    give(world, a, letters(world, 400))
    give(world, b, letters(world, 400))
    meet(world, a, b, seconds=60)
    assert a.held() == b.held()
    received = bodies(a), bodies(b)
    costs = [meet(world, *(a, b) if number % 2 else (b, a)) for number in range(6)]
    print(f"meetings: {costs} bytes")
    assert max(costs) <= MEETING_BYTES
    assert max(costs) - min(costs) <= 8
    assert (bodies(a), bodies(b)) == received
    assert_settled(world)


def test_who_was_away_during_a_purge_takes_part_in_it() -> None:
    world = World(3)
    stayed, away, never_had = (world.add_relay() for _ in range(3))
    pairs = [write_with_purge(world.rng, expiry_hour=START_HOUR + 30) for _ in range(100)]
    put(world, stayed, [message for message, _ in pairs])
    meet(world, stayed, away)
    put(world, stayed, [purge for _, purge in pairs])
    assert stayed.node.log.held_count == 100
    assert stayed.counted(Total.PURGED) == 100
    # One who has the purges alone, from somebody else, meets one who has the messages alone.
    put(world, never_had, [purge for _, purge in pairs[:50]])
    costs = {name: [] for name in ("stayed", "never_had")}
    for _ in range(5):
        costs["never_had"].append(meet(world, never_had, away))
        costs["stayed"].append(meet(world, stayed, away))
    print(costs)
    purges = {row.identity for row in stayed.store.rows.values() if row.body is not None}
    assert stayed.held() == away.held() == purges
    assert all(cost <= MEETING_BYTES for cost in costs["stayed"][2:])
    assert all(cost <= MEETING_BYTES for cost in costs["never_had"][2:])
    # No message came back anywhere, and each body crossed to never_had once.
    assert bodies(stayed) == 200
    assert never_had.node.log.held_count == 100
    assert world.unsettled_rules() == []


def test_relays_of_different_prices_classes_and_limits_find_rest() -> None:
    world = World(4)
    all_of_it = world.add_relay()
    dear = world.add_relay(policy=Policy(max_bytes=64 << 20, max_envelopes=50_000, min_price=3))
    small_only = world.add_relay(policy=Policy(max_bytes=64 << 20, max_envelopes=50_000, classes=0b0001))
    cramped = world.add_relay(policy=Policy(max_bytes=60 << 10, max_envelopes=60))
    others = (dear, small_only, cramped)
    written = [letter for price in (0, 2, 4) for letter in letters(world, 120, price=price)]
    give(world, all_of_it, written)
    costs: dict[int, list[int]] = {relay.name: [] for relay in others}
    for _ in range(10):
        for relay in others:
            costs[relay.name].append(meet(world, all_of_it, relay))
        for a, b in ((dear, small_only), (small_only, cramped), (cramped, dear)):
            meet(world, a, b)
    print(costs)
    assert dear.held() == {entry.identity for entry in all_of_it.node.log.entries(EntryState.HELD) if entry.price >= 3}
    assert small_only.held() == {letter.identity for letter in written if len(letter.envelope) == SIZES[0]}
    for relay in others:
        # From the fifth meeting on nothing is new, whatever it refused or lost before.
        assert max(costs[relay.name][5:]) <= MEETING_BYTES
        # Nothing was taken twice.
        assert relay.counted(Total.ACCEPTED) == relay.store.inserted
        assert relay.counted(Total.DUPLICATE) == 0
    assert cramped.counted(Evicted.PRICE) > 0
    assert cramped.node.log.held_bytes <= 60 << 10
    assert world.unsettled_rules() == []


def test_a_ring_that_meets_only_before_each_residence_ends_is_empty_in_the_end() -> None:
    """With a memory of two residences the first had forgotten when the third still held."""
    world = World("rare ring")
    stay_s = 7 * DAY_S
    policy = Policy(max_bytes=64 << 20, max_envelopes=50_000, residence_s=stay_s)
    ring = [world.add_relay(clock=False, policy=policy) for _ in range(3)]
    give(world, ring[0], letters(world, 20))
    for meeting in range(7):
        meet(world, ring[meeting % 3], ring[(meeting + 1) % 3])
        for _ in range(9):
            world.run(stay_s / 10)
            for relay in ring:
                relay.retire()
    assert not any(relay.held() for relay in ring)


@pytest.mark.parametrize("meetings", ["always", "in turn"])
def test_a_ring_without_clocks_is_empty_in_the_end(meetings: str) -> None:
    world = World(f"ring {meetings}")
    # Links that are always up say something every 40 s, so a week of them takes long.
    stay_s = (1 if meetings == "always" else 7) * DAY_S
    policy = Policy(max_bytes=64 << 20, max_envelopes=50_000, residence_s=stay_s)
    ring = [world.add_relay(clock=False, policy=policy) for _ in range(3)]
    written = letters(world, 60)
    for relay, part in zip(ring, (written[:20], written[20:40], written[40:]), strict=True):
        give(world, relay, part)
    sides = [(ring[0], ring[1]), (ring[1], ring[2]), (ring[2], ring[0])]
    if meetings == "always":
        for a, b in sides:
            world.join(a.name, b.name)
        world.run(60)
        assert all(relay.held() == ids(written) for relay in ring)
    spread_s = 2 * HOUR_S if meetings == "always" else 3 * DAY_S
    received: dict[int, int] = {}
    for hour in range(int((FORGET_RESIDENCES * stay_s + spread_s) / HOUR_S) + 2):
        for relay in ring:
            relay.retire()
        if meetings == "in turn" and hour % 20 == 0:
            meet(world, *sides[hour // 20 % 3])
        world.run(HOUR_S)
        if world.now > stay_s + spread_s:
            assert not any(relay.held() for relay in ring), f"hour {hour}"
        elif world.now > spread_s:
            received = received or {relay.name: bodies(relay) for relay in ring}
            assert received == {relay.name: bodies(relay) for relay in ring}, f"hour {hour}"
    assert [len(relay.node.log) for relay in ring] == [0, 0, 0], "identities are remembered for ever"
    assert [len(relay.store.rows) for relay in ring] == [0, 0, 0]
    assert received == {relay.name: 60 for relay in ring}
    assert world.unsettled_rules() == []


def test_what_has_left_is_not_taken_again() -> None:
    """Expired by residence at one, still held at the other, who got it days later."""
    world = World(5)
    early, late = world.add_relay(clock=False), world.add_relay(clock=False)
    written = letters(world, 50)
    give(world, early, written)
    world.run(3 * DAY_S)
    meet(world, early, late)
    world.run(4 * DAY_S + HOUR_S)
    early.retire()
    late.retire()
    world.run(1)
    assert (len(early.held()), len(late.held())) == (0, 50)
    costs = [meet(world, late, early) for _ in range(3)]
    print(costs)
    assert max(costs) <= MEETING_BYTES
    assert early.held() == set()
    # Memory of it survives a power cut.
    early.crash()
    early.boot()
    assert meet(world, late, early) <= MEETING_BYTES
    assert early.held() == set()
    assert world.unsettled_rules() == []


def test_a_slow_neighbour_delays_nobody_and_gets_the_newest_first() -> None:
    world = World(6)
    relay, fast, slow = (world.add_relay() for _ in range(3))
    world.join(relay.name, fast.name)
    written = letters(world, 120, classes=(2, 3))
    give(world, relay, written)
    lazy = world.join(relay.name, slow.name, BLUETOOTH, slow=True)
    world.run(10)
    assert fast.held() == ids(written)
    [fresh] = letters(world, 1, classes=(0,))
    start_s = world.now
    person = world.add_person(bucket=fresh.bucket, copies=1)
    world.visit(person, relay.name)
    person.post(fresh)
    while not slow.store.holds(fresh.identity):
        assert world.now < start_s + 12, "a small new letter waits behind old large ones"
        world.run(0.1)
    print(f"the new letter took {world.now - start_s:.1f} s")
    assert fast.store.holds(fresh.identity)
    assert not lazy.over
    world.run(2400)
    assert slow.held() == ids([*written, fresh])
    assert bodies(slow) == len(written) + 1, "a body crossed a slow link twice"
    person.leave()
    assert_settled(world)


def test_two_links_to_one_neighbour_carry_each_body_once() -> None:
    world = World(7)
    a, b = world.add_relay(), world.add_relay()
    contacts = [world.join(a.name, b.name, interface="one"), world.join(b.name, a.name, interface="two")]
    world.run(5)
    written = letters(world, 500)
    give(world, a, written)
    world.run(30)
    assert b.held() == ids(written)
    content = sum(len(letter.envelope) for letter in written)
    sent = stream_bytes(*contacts)
    print(f"{sent} bytes for {content}")
    assert sent < content + 80 * len(written) + 2 * MEETING_BYTES + 1024
    assert (bodies(b), bodies(a)) == (500, 500)
    assert_settled(world)


def test_when_the_better_of_two_links_dies_in_the_middle_the_other_goes_on() -> None:
    for seed in range(6):
        world = World(f"two links {seed}")
        a, b = world.add_relay(), world.add_relay()
        radio = Radio(bytes_per_s=150_000)
        one = world.join(a.name, b.name, radio, interface="one")
        two = world.join(b.name, a.name, radio, interface="two")
        world.run(5)
        person = world.add_person(bucket=0, copies=1)
        world.visit(person, a.name)
        written = letters(world, 400, classes=(1,))
        for letter in written:
            person.post(letter)
        world.run(1.5)
        busy = max(one, two, key=stream_bytes)
        busy.fade()
        world.run(20)
        later = letters(world, 50, classes=(1,))
        for letter in later:
            person.post(letter)
        world.run(120)
        assert b.held() == ids([*written, *later]), f"seed {seed}: {len(b.held())} of 450"
        assert bodies(b) <= 450 * 1.1
        person.leave()
        world.run(5)
        assert_settled(world)


def test_a_flood_that_ends_gives_back_what_it_displaced_and_then_all_are_silent() -> None:
    """Two small relays, flooded again and again, beside one with room for all: bodies move once for each flood."""
    world = World("floods")
    room = 80
    policy = Policy(max_bytes=1 << 18, max_envelopes=room)
    small = [world.add_relay(policy=policy) for _ in range(2)]
    large = world.add_relay()
    # More than the share of their interface, so that people can displace it.
    mail = letters(world, 3 * room // 4, classes=(0,))
    give(world, large, mail)
    sides = [(large, small[0]), (small[0], small[1]), (large, small[1])]
    for a, b in sides:
        meet(world, a, b)
    assert all(relay.held() >= ids(mail) for relay in small)
    for flood in range(3):
        key = world.rng.randbytes(32)
        terms = {"price": 5, "random_bytes": world.rng.randbytes}
        tag = make_tag(7, key)
        header = Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=START_HOUR + 60, tag=tag).encode()
        junk = [grind(header + world.rng.randbytes(SIZES[0] - 32), **terms) for _ in range(room)]
        for relay in small:
            put(world, relay, junk)
        assert not any(relay.held() >= ids(mail) for relay in small), flood
        for relay in small:
            put(
                world, relay, [make_purge(tag=tag, purge_key=key, expiry_hour=START_HOUR + 60, **{**terms, "price": 9})]
            )
            assert relay.node.log.held_count < 3 * room // 4
        for _ in range(2):
            for a, b in sides:
                meet(world, a, b)
        assert all(relay.held() >= ids(mail) for relay in small), flood
        received = [bodies(relay) for relay in (*small, large)]
        costs = [meet(world, a, b) for _ in range(3) for a, b in sides]
        print(costs)
        # The large one never had what was purged, and its neighbours remember it: some symbols more, no offers.
        assert max(costs) <= 2 * MEETING_BYTES
        assert costs[3:6] == costs[6:]
        assert received == [bodies(relay) for relay in (*small, large)], "bodies go to and fro"
    assert world.unsettled_rules() == []
