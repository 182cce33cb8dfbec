# SPDX-License-Identifier: GPL-2.0-or-later
"""By what it says, a relay cannot be told from another of the same version and settings (threat-model.md 3.2)."""

import random

import pytest

from relay.core.envelope import SIZES
from relay.core.messages import Role, prefix_bits_of
from tests.unit.core.memory import BUILD_HOUR, HOUR, MemoryStore, Relay, client, envelope, neighbour, purge, put_all


def with_a_past(held):
    """A relay that had a clock, took mail and purges, was filled and emptied, and was started again without a clock."""
    store, rng = MemoryStore(), random.Random(9)
    before = Relay(seed=8, store=store, trusted_hour=HOUR - 20)
    put_all(before, [envelope(rng, size_class=n % len(SIZES), expiry_hour=HOUR - 10 + n % 9) for n in range(held)])
    put_all(before, [purge(rng, rng.randbytes(32))[0]], seed=4)
    before.node.retire(3600.0 * 5, save_clock=True)
    before.commit(3600.0 * 5)
    return Relay(seed=7, store=store)


def said_to_a_stranger(relay, role):
    """Everything that is said to one who says nothing, random values by their number."""
    peer, _ = (client if role is Role.CLIENT else neighbour)(relay, seed=5)
    said = [peer.session.peer.encode()]
    said += [(type(e).__name__, len(getattr(e, "macs", ()))) for e in peer.events if not hasattr(e, "hello")]
    return said


@pytest.mark.parametrize("role", Role)
def test_relays_with_different_pasts_say_the_same(role):
    assert said_to_a_stranger(with_a_past(300), role) == said_to_a_stranger(Relay(seed=1), role)


def test_relays_with_different_pasts_refuse_the_same():
    rng = random.Random(3)
    probes = [envelope(rng, expiry_hour=hour) for hour in range(BUILD_HOUR - 3, HOUR + 3)]
    old, new = (put_all(relay, probes, seed=6) for relay in (with_a_past(300), Relay(seed=1)))
    assert old.refused == new.refused
    assert old.acknowledged == new.acknowledged


def test_how_full_a_relay_is_shows_only_in_as_many_steps_as_a_bucket_has_bits():
    steps = [prefix_bits_of(held) for held in (0, 1, 1023, 1024, 2047, 2048, 16_383, 16_384, 10**6)]
    assert steps == [0, 0, 0, 1, 1, 2, 4, 5, 5]
