# SPDX-License-Identifier: GPL-2.0-or-later
"""Unequal links: small and fresh first, live before bulk, fair shares, a put answered at once.

The radio takes 20 kB/s, and holds what relay.run.stream lets lie before one:
SLOW_AHEAD_BYTES. All times are virtual, so each run measures the same.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import pytest

from relay.core.envelope import SIZES
from relay.run.stream import SLOW_AHEAD_BYTES
from tests.sim.people import write_letter
from tests.sim.radio import Radio
from tests.sim.relays import COMMIT_S
from tests.sim.steps import assert_settled, give, ids, letters, stream_bytes
from tests.sim.world import START_HOUR, World

if TYPE_CHECKING:
    from tests.sim.people import Letter, Person
    from tests.sim.relays import Relay

RATE = 20_000.0
#: Packets as an L2CAP channel makes them; what is under way and what waits make SLOW_AHEAD_BYTES.
SLOW = Radio(bytes_per_s=RATE, latency_s=0.03, jitter_s=0.005, packet_bytes=245, window_packets=8, buffer_bytes=2048)
ROUND_TRIP_S = 0.2
assert SLOW.packet_bytes * SLOW.window_packets + SLOW.buffer_bytes <= SLOW_AHEAD_BYTES


def class_of(letter: Letter) -> int:
    return SIZES.index(len(letter.envelope))


def mixed(world: World, count: int) -> list[Letter]:
    """Of each class about as many bytes as people write: many texts, some photos in pieces."""
    return letters(world, count, classes=(0,) * 12 + (1,) * 6 + (2,) * 2 + (3,))


def until_held(world: World, relay: Relay, letter: Letter, most_s: float) -> float:
    """How long it takes until a relay holds a letter that was just written elsewhere."""
    start_s = world.now
    while not relay.store.holds(letter.identity):
        assert world.now - start_s < most_s, f"class {class_of(letter)} still waits after {most_s} s"
        world.run(0.05)
    return world.now - start_s


def write_at(world: World, relay: Relay, size_class: int) -> Letter:
    """Have somebody nearby write one letter."""
    [letter] = letters(world, 1, classes=(size_class,))
    person = world.add_person(bucket=0, copies=1)
    world.visit(person, relay.name)
    person.post(letter)
    return letter


@pytest.mark.parametrize(("size_class", "most_s"), [(0, 2.0), (1, 3.0), (2, 5.0), (3, 12.0)])
def test_live_letters_pass_a_backlog_both_ways(size_class: int, most_s: float) -> None:
    """While 2,000 envelopes cross, what is written now is there within a few round trips and its share of the radio."""
    world = World(f"live {size_class}")
    one, two = world.add_relay(), world.add_relay()
    give(world, one, mixed(world, 1300))
    give(world, two, mixed(world, 700))
    world.join(one.name, two.name, SLOW, slow=True)
    world.run(15)
    took = []
    for number in range(12):
        here, there = (one, two) if number % 2 else (two, one)
        letter = write_at(world, here, size_class)
        took.append(until_held(world, there, letter, most_s))
        world.run(5)
    print(f"class {size_class}: median {median(took):.2f} s, most {max(took):.2f} s")
    assert one.held() != two.held(), "the backlog was over too soon for this to mean anything"


def test_of_a_backlog_small_letters_go_first_and_of_one_size_the_newest() -> None:
    world = World("order")
    one, two = world.add_relay(), world.add_relay()
    written = mixed(world, 2000)
    give(world, one, written)
    world.join(one.name, two.name, SLOW, slow=True)
    world.run(12)
    arrived = [letter for letter in written if two.store.holds(letter.identity)]
    assert 200 < len(arrived) < 1000
    assert {class_of(letter) for letter in arrived} == {0}
    # In the order of their arrival here: the newest there first.
    newest = [letter.identity for letter in reversed(written) if class_of(letter) == 0]
    order = sorted((two.store.by_identity[letter.identity], newest.index(letter.identity)) for letter in arrived)
    late = [place - number for number, (_, place) in enumerate(order)]
    print(f"{len(arrived)} arrived, at most {max(map(abs, late))} places from their turn")
    assert max(map(abs, late)) <= 64
    world.run(600)
    assert two.held() == ids(written)
    assert_settled(world)


def test_a_backlog_uses_the_radio_that_is_there() -> None:
    world = World("goodput")
    one, two = world.add_relay(), world.add_relay()
    written = mixed(world, 2000)
    give(world, one, written)
    world.join(one.name, two.name, SLOW, slow=True)
    start_s = world.now
    while two.held() != ids(written):
        world.run(1)
        assert world.now - start_s < 600
    content = sum(len(letter.envelope) for letter in written)
    share = content / (world.now - start_s) / RATE
    print(f"{content} bytes in {world.now - start_s:.0f} s: {share:.0%} of the radio")
    assert share > 0.7


def letters_to(world: World, person: Person, count: int, size_class: int) -> list[Letter]:
    """Write letters of one size to one person."""
    return [
        write_letter(
            world.rng,
            bucket=person.bucket,
            size_class=size_class,
            expiry_hour=START_HOUR + 24,
            price=0,
            created_s=world.now,
        )
        for _ in range(count)
    ]


def test_a_put_is_answered_in_a_round_trip_whatever_else_goes_on() -> None:
    """A phone loads one photo down and another up, its relay exchanges with a fast one and a slow one."""
    world = World("phone")
    relay, fast, slow = (world.add_relay() for _ in range(3))
    phone, other = (world.add_person(bucket=bucket, copies=1) for bucket in (11, 12))
    give(world, relay, [*mixed(world, 800), *letters_to(world, phone, 120, 3), *letters_to(world, other, 120, 3)])
    give(world, fast, mixed(world, 2000))
    world.join(slow.name, relay.name, SLOW, slow=True, interface="hci0")
    world.join(fast.name, relay.name, interface="eth0")
    for person in (phone, other):
        world.visit(person, relay.name, SLOW, slow=True)
    world.run(3)
    photo = letters_to(world, other, 40, 3)
    for piece in photo:
        phone.post(piece)
    waits = []
    for _ in range(12):
        world.run(2)
        [letter] = letters(world, 1, classes=(0,))
        phone.post(letter)
        start_s = world.now
        while not letter.acknowledged_by:
            world.run(0.01)
            assert world.now < start_s + 5
        waits.append(world.now - start_s)
    print(f"acknowledged after {median(waits):.2f} s, at most {max(waits):.2f} s")
    assert not photo[-1].acknowledged_by, "the upload was over too soon for this to mean anything"
    assert len(phone.received) < 120, "so was the download"
    # The way there and back, behind what is out of reach of the scheduler on each, and the store.
    assert max(waits) <= ROUND_TRIP_S + 2 * SLOW_AHEAD_BYTES / RATE + COMMIT_S[1] * 2


def test_equal_peers_get_equal_shares() -> None:
    world = World("fair")
    relay, *neighbours = (world.add_relay() for _ in range(3))
    people = [world.add_person(bucket=bucket, copies=1) for bucket in (11, 12, 13)]
    give(world, relay, [letter for person in people for letter in letters_to(world, person, 300, 1)])
    for neighbour in neighbours:
        world.join(neighbour.name, relay.name, SLOW, slow=True, interface="hci0")
    for person in people:
        world.visit(person, relay.name, SLOW, slow=True)
    world.run(12)
    fetched = [len(person.received) for person in people]
    offered = [len(neighbour.held()) for neighbour in neighbours]
    print(f"people got {fetched}, relays {offered} of 300 and 900")
    for got in (fetched, offered):
        assert 100 < min(got) < max(got) + 1 < 300
        assert min(got) > 0.9 * max(got)


def test_the_operator_bounds_what_is_on_an_interface_and_answers_do_not_wait_for_that() -> None:
    world = World("airtime")
    bound = 6_000.0
    relay = world.add_relay(bytes_per_s={"hci0": bound})
    neighbours = [world.add_relay() for _ in range(2)]
    elsewhere = world.add_relay()
    give(world, relay, mixed(world, 1500))
    contacts = [world.join(neighbour.name, relay.name, SLOW, slow=True, interface="hci0") for neighbour in neighbours]
    world.join(elsewhere.name, relay.name, interface="eth0")
    world.run(5)
    phone = world.add_person(bucket=11, copies=1)
    phones = world.contact(SLOW)
    relay.attach(phones.ends[1], initiator=False, interface="hci0", slow=True)
    phone.visit(relay.name, phones.ends[0])
    world.run(2)
    before, before_all = [contact.halves[1].stream_bytes for contact in contacts], stream_bytes(*contacts, phones)
    start_s, waits = world.now, []
    for _ in range(10):
        [letter] = letters(world, 1, classes=(0,))
        phone.post(letter)
        put_s = world.now
        while not letter.acknowledged_by:
            world.run(0.01)
        waits.append(world.now - put_s)
        world.run(4)
    sent = [contact.halves[1].stream_bytes - b for contact, b in zip(contacts, before, strict=True)]
    rate = (stream_bytes(*contacts, phones) - before_all) / (world.now - start_s)
    print(f"{rate:.0f} of {bound:.0f} bytes/s, {sent} each; acknowledged after {max(waits):.2f} s at most")
    assert 0.9 * bound < rate < 1.02 * bound
    assert min(sent) > 0.9 * max(sent)
    assert max(waits) < ROUND_TRIP_S + SLOW_AHEAD_BYTES / RATE
    assert elsewhere.held() == relay.held(), "an interface without a bound waited, too"
    world.run(900)
    assert all(neighbour.held() == relay.held() for neighbour in neighbours)
    assert_settled(world)


def test_the_operator_bounds_what_is_received_on_an_interface() -> None:
    world = World("upload")
    bound = 6_000.0
    relay = world.add_relay(bytes_per_s={"hci0": bound})
    senders = [world.add_relay() for _ in range(2)]
    for sender in senders:
        give(world, sender, mixed(world, 200))
    contacts = [world.join(sender.name, relay.name, SLOW, slow=True, interface="hci0") for sender in senders]
    world.run(5)
    before = [stream_bytes(contact) for contact in contacts]
    start_s = world.now
    world.run(60)
    used = [stream_bytes(contact) - b for contact, b in zip(contacts, before, strict=True)]
    rate = sum(used) / (world.now - start_s)
    print(f"{rate:.0f} of {bound:.0f} bytes/s, {used} each")
    assert 0.9 * bound < rate < 1.1 * bound
    assert min(used) > 0.8 * max(used)
    world.run(900)
    assert len({frozenset(one.held()) for one in (relay, *senders)}) == 1
    assert_settled(world)
