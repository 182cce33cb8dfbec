# SPDX-License-Identifier: GPL-2.0-or-later
"""Reconciliations take turns, and nobody can hold a place for ever."""

import random

from relay.core.meetings import MAX_ACTIVE, STALLED_S
from relay.core.messages import Goodbye, Role
from relay.core.stats import SessionError
from tests.unit.core.memory import Peer, Relay, Wire, envelope, neighbour, put_all, settle


def _stalling(relay: Relay, seed: int) -> tuple[Peer, Wire]:
    """A neighbour that dials in, begins to reconcile with another root, and says nothing more."""
    peer, wire = neighbour(relay, seed=seed)
    assert wire.link.role is Role.RELAY
    peer.session.reconcile(b"\x01" + bytes(16) + b"\x07")
    settle(wire)
    return peer, wire


def test_neighbours_that_fall_silent_in_the_middle_give_their_places_up():
    relay = Relay(1)
    put_all(relay, [envelope(random.Random(1)) for _ in range(20)])
    silent = [_stalling(relay, seed)[1] for seed in range(50, 50 + MAX_ACTIVE)]
    assert not any(wire.link.closed for wire in silent)
    honest = Relay(2)
    # The honest one dials, so its reconciliation waits for one of the places that are taken.
    wire = Wire(honest, relay)
    settle(wire)
    assert honest.held() == set()
    for now in range(20, int(STALLED_S) + 21, 20):  # they answer pings, so only their silence in it tells
        relay.node.handle_timer(float(now))
        settle(wire, *silent, now=float(now))
    assert all(silenced.link.closed for silenced in silent)
    assert relay.count(SessionError.STALLED) == MAX_ACTIVE
    settle(wire, now=STALLED_S + 22)
    assert honest.held() == relay.held()


def test_a_second_root_ends_the_session_whether_the_first_waits_or_is_answered():
    relay = Relay(1)
    put_all(relay, [envelope(random.Random(1)) for _ in range(20)])
    answered = [_stalling(relay, seed) for seed in range(50, 50 + MAX_ACTIVE)]
    for (peer, wire), goodbye in ((_stalling(relay, 60), Goodbye.LIMIT), (answered[0], Goodbye.DECODE)):
        assert not wire.link.closed
        peer.session.reconcile(b"\x01" + bytes(16) + b"\x07")
        settle(wire)
        assert wire.link.closed
        assert peer.goodbye is goodbye
