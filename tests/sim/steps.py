# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of a few relays have in common: letters, meetings, and looking at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.core.envelope import BUCKET_BITS, envelope_id
from relay.core.stats import Total
from tests.sim.people import Letter, write_letter
from tests.sim.world import START_HOUR

if TYPE_CHECKING:
    from tests.sim.radio import Contact
    from tests.sim.relays import Relay
    from tests.sim.world import World


def letters(
    world: World, count: int, *, classes: tuple[int, ...] = (0, 1), price: int = 0, hours: int = 96
) -> list[Letter]:
    """Write letters of several sizes and expiry hours."""
    rng = world.rng
    return [
        write_letter(
            rng,
            bucket=rng.randrange(1 << BUCKET_BITS),
            size_class=rng.choice(classes),
            expiry_hour=START_HOUR + rng.randrange(24, hours),
            price=price,
            created_s=world.now,
        )
        for _ in range(count)
    ]


def put(world: World, relay: Relay, envelopes: list[bytes]) -> None:
    """Hand envelopes to a relay as a client does, and wait until it has answered."""
    person = world.add_person(bucket=0, copies=1)
    contact = world.visit(person, relay.name)
    for envelope in envelopes:
        person.post(Letter(identity=envelope_id(envelope), envelope=envelope, bucket=0, created_s=world.now))
    world.run(20)
    assert not person._puts, "a put stayed without an answer"
    person.leave()
    world.run(1)
    assert contact.over


def give(world: World, relay: Relay, written: list[Letter]) -> None:
    """Hand over letters, all of which have to be acknowledged."""
    person = world.add_person(bucket=0, copies=1)
    world.visit(person, relay.name)
    for letter in written:
        person.post(letter)
    world.run(30)
    assert all(letter.acknowledged_by == [relay.name] for letter in written)
    person.leave()
    world.run(1)


def stream_bytes(*contacts: Contact) -> int:
    """Bytes of streams so far, both ways."""
    return sum(half.stream_bytes for contact in contacts for half in contact.halves)


def meet(world: World, a: Relay, b: Relay, *, seconds: float = 30.0, **options) -> int:
    """Let two relays meet for a while; return the bytes that it took."""
    contact = world.join(a.name, b.name, **options)
    world.run(seconds)
    contact.cut()
    world.run(1)
    return stream_bytes(contact)


def bodies(relay: Relay) -> int:
    """Bodies that a relay received from neighbours and clients."""
    return relay.counted(Total.ACCEPTED) + relay.counted(Total.DUPLICATE)


def assert_settled(world: World) -> None:
    """No rule is broken, and nobody lacks what a neighbour holds."""
    assert world.unsettled_rules() == []
    assert world.lacking() == 0


def ids(written: list[Letter]) -> set[bytes]:
    return {letter.identity for letter in written}
