# SPDX-License-Identifier: GPL-2.0-or-later
"""Reconciliations take turns, and nobody can hold a place for ever."""

import random

import pytest

from relay.core.exchange import LEAST_BYTES_PER_S
from relay.core.meetings import (
    ANSWER_S,
    INTERVAL_S,
    MAX_ACTIVE,
    MAX_TURN_S,
    STALLED_S,
    TURN_S,
    Meeting,
)
from relay.core.messages import Role
from relay.core.reconcile_wire import Kind
from relay.core.session import Reconcile
from relay.core.stats import SessionError
from tests.unit.core.memory import Peer, Relay, Wire, envelope, neighbour, put_all, settle


def _stalling(relay: Relay, seed: int, now: float = 0.0) -> tuple[Peer, Wire]:
    """A neighbour that dials in, begins to reconcile with another root, and says nothing more."""
    peer, wire = neighbour(relay, seed=seed, now=now)
    assert wire.link.role is Role.RELAY
    peer.session.reconcile(b"\x01" + bytes(16) + b"\x07")
    settle(wire, now=now)
    return peer, wire


def _with_envelopes(number: int = 20) -> Relay:
    relay = Relay(1)
    rng = random.Random(1)
    put_all(relay, [envelope(rng) for _ in range(number)])
    return relay


def test_twelve_that_stall_and_come_back_at_once_delay_an_honest_neighbour_by_their_turns_only():
    relay = _with_envelopes()
    silent = [_stalling(relay, seed)[1] for seed in range(50, 62)]
    honest = Relay(2)
    wire = Wire(honest, relay, interface="eth1")
    settle(wire)
    assert honest.held() == set()
    # What it gets while it waits is not in the root that it told, and does no harm.
    put_all(honest, [envelope(random.Random(2))], interface="wlan0")
    settle(wire)
    now, seed = 0.0, 100
    while len(honest.held()) < 21 and now < 400:
        now += 1.0
        relay.node.handle_timer(now)
        for each in [each for each in silent if each.link.closed]:
            silent.remove(each)
            silent.append(_stalling(relay, seed, now)[1])  # it queues behind the honest one
            seed += 1
        settle(wire, *silent, now=now)
    assert honest.held() == relay.held()
    assert len(relay.held()) == 21
    assert now <= 12 / (MAX_ACTIVE - 1) * TURN_S + 5
    assert relay.count(SessionError.STALLED) >= 12


def test_they_do_not_delay_one_on_another_interface_at_all():
    relay = _with_envelopes()
    silent = [_stalling(relay, seed)[1] for seed in range(50, 62)]
    honest = Relay(2)
    wire = Wire(honest, relay, interface="wlan0")
    settle(wire, *silent)
    assert honest.held() == relay.held()
    assert not any(each.link.closed for each in silent)


def test_the_same_envelopes_have_another_root_for_each_neighbour_and_each_time():
    """Keyed with what two relays alone know: nobody else can make envelopes that hide others from these two."""
    relay = _with_envelopes()
    sides = [neighbour(relay, seed=seed, initiator=False) for seed in range(50, 53)]
    wires = [wire for _, wire in sides]
    for peer, _ in sides:
        peer.session.reconcile(bytes([Kind.COMPLETE]))
    settle(*wires)
    for now in range(0, int(1.25 * INTERVAL_S) + 60, 30):
        relay.node.handle_timer(float(now))
        settle(*wires, now=float(now))
    roots = [event.body for peer, _ in sides for event in peer.of(Reconcile) if event.body[0] == Kind.ROOT]
    assert len(roots) == len(set(roots)) == 2 * len(sides)


def test_who_never_answers_a_root_takes_nobodys_place_and_loses_its_session_in_the_end():
    relay = _with_envelopes()
    silent = [neighbour(relay, seed=seed, initiator=False) for seed in range(50, 62)]
    assert all(len(peer.of(Reconcile)) == 1 for peer, _ in silent), "all were asked at once"
    honest = Relay(2)
    wire = Wire(relay, honest, interface="eth1")
    settle(wire, *(each for _, each in silent))
    assert honest.held() == relay.held()
    assert not any(each.link.closed for _, each in silent)
    for now in range(20, int(ANSWER_S) + 21, 20):  # they answer pings
        relay.node.handle_timer(float(now))
        settle(*(each for _, each in silent), now=float(now))
    assert all(each.link.closed for _, each in silent)
    assert relay.count(SessionError.STALLED) == 12


def test_while_nobody_waits_a_neighbour_may_be_silent_for_longer():
    relay = _with_envelopes()
    _, wire = _stalling(relay, 50)
    for now in range(10, int(STALLED_S), 10):
        relay.node.handle_timer(float(now))
        settle(wire, now=float(now))
        assert not wire.link.closed
    relay.node.handle_timer(STALLED_S)
    assert wire.link.closed


@pytest.mark.parametrize(("bytes_per_s", "ends"), [(0, TURN_S), (LEAST_BYTES_PER_S / 2, 30), (10**6, MAX_TURN_S)])
def test_who_only_dribbles_loses_its_turn_as_well(bytes_per_s, ends):
    relay = _with_envelopes()
    _, wire = neighbour(relay)
    meeting = Meeting(wire.link)
    now = 0.0
    while meeting.ends(others_wait=True) > now:
        now += 1.0
        meeting.heard_s = now if bytes_per_s else 0.0
        meeting.moved_bytes += int(bytes_per_s)
    assert now == pytest.approx(ends, abs=2)
