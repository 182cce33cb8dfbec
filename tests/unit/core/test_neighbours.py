# SPDX-License-Identifier: GPL-2.0-or-later
"""Several links to one neighbour: one that dies in silence costs seconds, and nothing is lost with it."""

import random

from relay.core.exchange import DOUBT_AFTER_S
from relay.core.messages import Role
from relay.core.session import PING_AFTER_S, PROBE_TIMEOUT_S
from relay.core.stats import LinkKind, SessionError
from tests.unit.core.memory import Peer, Relay, Wire, envelope, put_all, settle


def two_links():
    """Two relays with two links, the primary first."""
    a, b = Relay(1), Relay(2)
    wires = [Wire(a, b, interface="eth0"), Wire(a, b, interface="wlan0")]
    settle(*wires)
    wires.sort(key=lambda wire: wire.link.exchange.cursor is None)
    primary, spare = wires
    assert primary.link.exchange.cursor is not None
    assert spare.link.exchange.cursor is None
    return a, b, primary, spare


def pass_time(a, b, dead, alive, until_s, now):
    """Let timers go off; what the relays say on the dead wire reaches nobody."""
    while True:
        for relay, link in ((a, dead.link), (b, dead.far)):
            while not link.closed and relay.node.data_to_send(link, now):
                pass
        settle(alive, now=now)
        if now >= until_s:
            return
        now = min([until_s, *(due for relay in (a, b) if (due := relay.node.next_deadline()) is not None)])
        for relay in (a, b):
            relay.node.handle_timer(now)


def test_offers_that_lie_in_a_dead_stream_go_another_way_long_before_silence_would_tell():
    a, b, primary, spare = two_links()
    bodies = {envelope(random.Random(n)) for n in range(30)}
    put_all(a, bodies, seed=9, now=1.0)
    found_s = 1.0 + DOUBT_AFTER_S + PROBE_TIMEOUT_S
    pass_time(a, b, primary, spare, found_s - 0.1, 1.0)
    assert not b.held()
    pass_time(a, b, primary, spare, found_s, found_s - 0.1)
    assert b.held() == bodies
    assert primary.link.closed
    assert a.count(SessionError.TIMEOUT_IDLE) == 1
    assert DOUBT_AFTER_S + PROBE_TIMEOUT_S < PING_AFTER_S


def test_a_relay_is_counted_once_however_many_sessions_lead_to_it():
    a, b = Relay(1), Relay(2)
    wires = [Wire(*ends, interface=name) for ends in ((a, b), (b, a)) for name in ("eth0", "eth1")]
    settle(*wires)
    assert len(a.node.links) == 4
    assert a.node.sight.relays_near == b.node.sight.relays_near == 1
    once = {(LinkKind.TCP, name, Role.RELAY): 1 for name in ("eth0", "eth1")}
    assert a.node.sight.peers() == b.node.sight.peers() == once
    c, visitor = Relay(3), Peer(4)
    wires += [Wire(c, a, interface="eth1"), Wire(a, visitor, interface="eth1")]
    settle(*wires)
    assert a.node.sight.relays_near == 2
    assert a.node.sight.peers() == once | {
        (LinkKind.TCP, "eth1", Role.RELAY): 2,
        (LinkKind.TCP, "eth1", Role.CLIENT): 1,
    }
    for wire in wires[:4]:
        wire.lose()
    settle(*wires[4:])
    assert (a.node.sight.relays_near, b.node.sight.relays_near) == (1, 0)


def test_a_primary_that_is_only_idle_is_not_doubted():
    a, b, primary, spare = two_links()
    pass_time(a, b, primary, spare, PING_AFTER_S - 1, 0.0)
    assert not primary.link.closed


def test_what_a_lost_session_had_offered_or_had_yet_to_offer_is_offered_on_the_other():
    a, b, primary, spare = two_links()
    bodies = [envelope(random.Random(n)) for n in range(1500)]  # more than a window
    put_all(a, bodies, seed=9)
    while a.node.data_to_send(primary.link, 0.0):
        pass
    assert a.node.links[primary.link.number].exchange.has_offers(a.node.log) is False, "the window is full"
    primary.lose()
    settle(spare)
    assert b.held() == set(bodies)
    assert b.node.wanted() == 0
