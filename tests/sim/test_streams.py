# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream that somebody damages ends its session, and nothing else."""

from __future__ import annotations

import pytest

from relay.core.session import DEAD_AFTER_S
from relay.core.stats import HandshakeFailure, SessionError
from tests.sim.radio import Tamper
from tests.sim.steps import give, ids, letters
from tests.sim.world import World

DAMAGES = {
    "flipped bit": Tamper(flip=1.0),
    "piece twice": Tamper(repeat=1.0),
    "pieces swapped": Tamper(swap=1.0),
    "piece missing": Tamper(drop=1.0),
}
#: What a receiver can make of damage: a handshake or a record that does not decrypt,
#: a length that leads nowhere, or silence because the rest never comes.
REFUSALS = (
    HandshakeFailure.DECRYPT,
    HandshakeFailure.OVERSIZED,
    HandshakeFailure.TRUNCATED,
    HandshakeFailure.TIMEOUT,
    HandshakeFailure.VERSION,
    HandshakeFailure.SECRET_REQUIRED,
    HandshakeFailure.LOW_ORDER_KEY,
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.5])
def test_damage_ends_the_session_alone(damage: str, after_s: float) -> None:
    world = World(f"{damage} {after_s}")
    a, b, friend = (world.add_relay() for _ in range(3))
    written = letters(world, 300)
    give(world, a, written)
    contact = world.join(a.name, b.name)
    world.run(after_s)
    template = DAMAGES[damage]
    contact.tamper = Tamper(flip=template.flip, repeat=template.repeat, swap=template.swap, drop=template.drop)
    world.run(DEAD_AFTER_S + 60)
    assert contact.over, "a damaged session lives on"
    errors = sum(link.errors[reason] for r in (a, b) for link in r.node.stats.links() for reason in SessionError)
    failures = sum(r.node.stats.get(reason) for r in (a, b) for reason in REFUSALS)
    assert errors + failures > 0, "nothing was counted"
    assert b.held() <= ids(written), "something came through that was never sent"
    # Whatever got through before stays; all the rest comes over a sound link.
    world.join(a.name, b.name)
    world.join(friend.name, a.name)
    world.run(30)
    assert b.held() == friend.held() == ids(written)
    assert world.unsettled_rules() == []
    assert world.lacking() == 0
