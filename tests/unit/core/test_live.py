# SPDX-License-Identifier: GPL-2.0-or-later
"""Live datagrams: to every neighbour once, at a bounded rate, and never in the way of messages."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core import messages as m
from relay.core.frames import LIVE_LANE
from relay.core.live import AT_ONCE_BYTES, BYTES_IN, DATAGRAMS_IN, HOP_DRAWS, MAX_ORIGINS, SEEN_S, SLOW_BYTES_OUT
from relay.core.live_queue import LATE_S, MAX_WAITING, MAX_WAITING_BYTES, LiveQueue
from relay.core.messages import MAX_HOPS, MAX_LIVE_BYTES, Goodbye, LiveDatagram, Role
from relay.core.node import NodeConfig
from relay.core.session import Live
from relay.core.stats import LiveDropped, LiveTotal, SessionError
from tests.unit.core.memory import Relay, Wire, client, envelope, neighbour, put_all, settle

KIND = 7


def datagram(number, size=100, kind=KIND):
    return LiveDatagram(kind=kind, identity=number.to_bytes(16), data=bytes(size))


def live(number, *, hops=9, size=100, kind=KIND):
    return m.encode_live(hops, datagram(number, size, kind).encode())


def heard(relay):
    """What its gateways get."""
    return [one.datagram for one in relay.node.live.take_heard()]


def listening(*relays):
    for relay in relays:
        relay.node.live.wanted = frozenset({KIND})


def numbers_of(peer):
    return [int.from_bytes(event.datagram.identity) for event in peer.of(Live)]


@st.composite
def meshes(draw):
    """Connected meshes: a tree, and what closes loops in it."""
    count = draw(st.integers(2, 6))
    edges = {(draw(st.integers(0, n - 1)), n) for n in range(1, count)}
    more = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=4))
    return count, sorted(edges | {(min(pair), max(pair)) for pair in more if pair[0] != pair[1]})


@settings(max_examples=25, deadline=None)
@given(mesh=meshes(), origins=st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_whatever_the_mesh_every_gateway_hears_all_that_others_say_once(mesh, origins):
    count, edges = mesh
    relays = [Relay(seed=n) for n in range(count)]
    listening(*relays)
    wires = [Wire(relays[a], relays[b]) for a, b in edges]
    settle(*wires)
    for number, origin in enumerate(origins):
        assert relays[origin % count].node.live.handed_over("gate", datagram(number), 1.0)
    settle(*wires, now=1.0)
    everything = {datagram(number) for number in range(len(origins))}
    for relay in relays:
        assert Counter(heard(relay)) == Counter(everything)
        assert relay.store.bodies == {}
    # Over each link at most both ways, which is when they cross.
    assert sum(relay.count(LiveTotal.SENT) for relay in relays) <= 2 * len(edges) * len(origins)


def test_it_goes_to_all_neighbours_but_the_one_of_whom_it_came_and_not_to_clients():
    relay = Relay()
    a, b = (neighbour(relay, seed) for seed in (2, 3))
    phone, wire = client(relay, 4)
    a[0].say(live(1), lane=LIVE_LANE)
    settle(a[1], b[1], wire)
    assert (numbers_of(a[0]), numbers_of(b[0]), numbers_of(phone)) == ([], [1], [])
    assert b[0].of(Live)[0].hops == 8
    assert heard(relay) == []  # no gateway here wants any


def test_a_client_that_says_one_ends_its_session():
    relay = Relay()
    phone, wire = client(relay)
    phone.say(live(1))
    settle(wire)
    assert phone.goodbye is Goodbye.PROTOCOL
    assert relay.count(SessionError.PROTOCOL) == 1
    assert relay.count(LiveTotal.RECEIVED) == 0


def test_a_relay_says_none_before_its_same():
    relay = Relay()
    peer, wire = client(relay, role=Role.RELAY)
    peer.say(live(1))
    settle(wire)
    assert peer.goodbye is Goodbye.PROTOCOL
    assert relay.count(LiveTotal.RECEIVED) == 0


def test_the_last_hop_still_hears_it_and_nobody_after():
    relay = Relay()
    listening(relay)
    a, b = (neighbour(relay, seed) for seed in (2, 3))
    a[0].say(live(1, hops=0))
    settle(a[1], b[1])
    assert heard(relay) == [datagram(1)]
    assert numbers_of(b[0]) == []
    assert relay.count(LiveDropped.HOPS) == 1


def test_the_hops_of_the_first_relay_do_not_tell_that_it_is_the_first():
    relay = Relay()
    peer, wire = neighbour(relay)
    for number in range(100):
        relay.node.live.handed_over("gate", datagram(number, 1), 0.0)
    settle(wire)
    assert {event.hops for event in peer.of(Live)} == set(range(MAX_HOPS - HOP_DRAWS + 1, MAX_HOPS + 1))


def test_a_neighbour_behind_two_links_gets_it_once():
    a, b, c = Relay(1), Relay(2), Relay(3)
    listening(c)
    wires = [Wire(a, b), Wire(b, c, interface="eth1"), Wire(b, c, interface="hci0", slow=True)]
    settle(*wires)
    a.node.live.handed_over("gate", datagram(1), 0.0)
    settle(*wires)
    assert heard(c) == [datagram(1)]
    assert b.count(LiveTotal.SENT) == 1
    assert c.count(LiveTotal.DUPLICATE) == 0


def test_who_says_it_meanwhile_does_not_get_it_back():
    relay = Relay()
    a, b = (neighbour(relay, seed) for seed in (2, 3))
    for peer, wire in (a, b):
        peer.say(live(1))
        relay.node.receive(wire.link, peer.session.data_to_send(), 0.0)
    settle(a[1], b[1])
    assert numbers_of(a[0]) == numbers_of(b[0]) == []
    assert relay.count(LiveTotal.DUPLICATE) == 1


def test_it_is_known_for_as_long_as_it_can_be_under_way():
    assert SEEN_S > (MAX_HOPS + 1) * LATE_S
    relay = Relay()
    for now, taken in ((0.0, 1), (SEEN_S - 1, 1), (SEEN_S + 1, 2)):
        relay.node.live.handed_over("gate", datagram(1), now)
        assert relay.count(LiveTotal.HANDED_OVER) == taken


def test_the_same_id_of_another_kind_is_another_datagram():
    relay = Relay()
    for kind in (1, 2):
        relay.node.live.handed_over("gate", datagram(1, kind=kind), 0.0)
    assert relay.count(LiveTotal.HANDED_OVER) == 2


@pytest.mark.parametrize(("size", "most"), [(1, DATAGRAMS_IN.burst), (4096, BYTES_IN.burst / 4096)])
def test_a_flood_takes_the_rate_of_its_interface_and_nobody_elses(size, most):
    relay = Relay()
    flood, wire = neighbour(relay, 2, interface="eth1")
    other, other_wire = neighbour(relay, 3, interface="eth2")
    flood.say(*(live(number, size=size) for number in range(1000)), lane=LIVE_LANE)
    settle(wire, other_wire)
    assert relay.count(LiveTotal.RECEIVED) == most
    assert relay.count(LiveDropped.RATE) == 1000 - most
    other.say(live(5000))
    settle(wire, other_wire)
    assert numbers_of(flood) == [5000]
    # What was beyond the rate was not heard: it may come another way.
    other.say(live(999))
    settle(wire, other_wire)
    assert numbers_of(flood) == [5000, 999]
    # Nor does a gateway have less for it.
    assert relay.node.live.handed_over("gate", datagram(6000), 0.0)
    # Of names that are made up, all beyond a bound share one rate.
    taken = sum(relay.node.live.handed_over(f"g{n}", datagram(10_000 + n, 1), 0.0) for n in range(1000))
    assert taken <= MAX_ORIGINS + DATAGRAMS_IN.burst


def test_what_waits_for_a_neighbour_that_does_not_read_is_bounded_counted_and_late():
    relay = Relay()
    peer, wire = neighbour(relay, 2)
    # The lane is taken: what comes now waits.
    wire.link.session.send_live(live(0))
    for number in range(1, MAX_WAITING + 11):
        relay.node.live.handed_over("gate", datagram(number, 10), 0.0)
    assert len(wire.link.live) == MAX_WAITING
    assert relay.count(LiveDropped.QUEUE_FULL) == 10
    assert wire.link.held_bytes >= wire.link.live.held_bytes > 0
    settle(wire, now=LATE_S)
    assert numbers_of(peer) == [0]
    assert relay.count(LiveDropped.LATE) == MAX_WAITING
    assert wire.link.live.held_bytes == 0


def test_what_waits_when_a_session_ends_is_counted():
    relay = Relay()
    _, wire = neighbour(relay, 2)
    relay.node.live.handed_over("gate", datagram(1), 0.0)
    wire.lose()
    assert relay.count(LiveDropped.LINK_LOST) == 1


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, MAX_LIVE_BYTES)), max_size=60))
def test_a_queue_keeps_the_newest_within_its_bytes(added):
    queue, waiting, dropped = LiveQueue(), {}, 0
    for key, size in added:
        queue.discard(bytes([key]))
        waiting.pop(key, None)
        dropped += queue.add(bytes([key]), bytes(size), 0.0)
        waiting[key] = size
        while sum(waiting.values()) > MAX_WAITING_BYTES:
            del waiting[next(iter(waiting))]
        assert queue.held_bytes == sum(waiting.values()) <= MAX_WAITING_BYTES
    assert [len(queue.take()) for _ in range(len(queue))] == list(waiting.values())
    assert queue.held_bytes == 0


def test_a_slow_link_gets_its_rate_and_is_woken_for_more():
    relay = Relay()
    peer, wire = neighbour(relay, 2)
    slow, slow_wire = neighbour(relay, 3, interface="hci0", hello=m.Hello(role=Role.RELAY, slow=True))
    for number in range(100):
        relay.node.live.handed_over("gate", datagram(number, 500), 0.0)
    settle(wire, slow_wire)
    assert len(numbers_of(peer)) == 100
    at_once = len(numbers_of(slow))
    assert SLOW_BYTES_OUT.burst <= 518 * at_once <= SLOW_BYTES_OUT.burst + 600
    now = 0.0
    while (due := relay.node.next_deadline()) is not None and due < LATE_S:
        assert due > now, "it would spin"
        now = due
        relay.node.handle_timer(now)
        settle(wire, slow_wire, now=now)
    sent_bytes = 518 * (len(numbers_of(slow)) - at_once)
    assert 0.8 * SLOW_BYTES_OUT.per_s * LATE_S < sent_bytes < 1.1 * SLOW_BYTES_OUT.per_s * LATE_S
    settle(wire, slow_wire, now=LATE_S)
    assert len(numbers_of(slow)) + relay.count(LiveDropped.LATE) + relay.count(LiveDropped.QUEUE_FULL) == 100


def test_where_the_operator_bounds_an_interface_its_links_share_a_quarter_of_that():
    relay = Relay(config=NodeConfig(durable=True, bytes_per_s={"mesh0": 8000.0}))
    near = [neighbour(relay, seed, interface="mesh0") for seed in (2, 3)]
    seconds = 20
    now = 0.0
    for number in range(400):
        if number % 20 == 0:
            now = number / 20
        relay.node.live.handed_over("gate", datagram(number, 500), now)
        relay.node.handle_timer(now)
        settle(*(wire for _, wire in near), now=now)
    got = [518 * len(numbers_of(peer)) for peer, _ in near]
    assert 0.8 * 2000 * seconds < sum(got) < 1.2 * 2000 * seconds + 2000
    assert min(got) > 0.4 * sum(got)


def test_a_small_envelope_waits_for_a_turn_of_it_at_the_most():
    """On a slow link: a record has two turns, and the small envelope is in the first or the second."""
    relay = Relay()
    peer, wire = neighbour(relay, 3, hello=m.Hello(role=Role.RELAY, slow=True))
    [mail] = [envelope(random.Random(1))]
    put_all(relay, [mail])
    wire.link.session.send_live(live(1, size=MAX_LIVE_BYTES))
    wire.link.session.send_envelopes([mail])
    received = peer.session.receive_data(relay.node.data_to_send(wire.link, 0.0), 0.0)
    assert [type(event).__name__ for event in received if not isinstance(event, Live)][-1] == "Envelopes"


def test_a_fast_link_takes_so_much_at_a_time_that_others_have_their_turn():
    relay = Relay()
    _, wire = neighbour(relay)
    for number in range(14):
        relay.node.live.handed_over("gate", datagram(number, 4000), 0.0)
    relay.node._pump(wire.link, 0.0)
    assert AT_ONCE_BYTES <= wire.link.session.queued_bytes < AT_ONCE_BYTES + 5000


@pytest.mark.parametrize("slow", [False, True])
def test_a_flood_of_a_gateway_hardly_delays_an_envelope_on_its_way_through_three_relays(slow):
    """Counted in turns of all links, and in bytes on the last one, so that it is the same on each machine."""

    def way_of(mail, *, flooded):
        a, b, c = (Relay(seed=n) for n in range(3))
        listening(c)
        wires = [Wire(a, b), Wire(b, c, interface="hci0", slow=slow)]
        settle(*wires)
        number = 0

        def flood(now):
            nonlocal number
            for _ in range(50 if flooded else 0):
                a.node.live.handed_over("gate", datagram(number, 300), now)
                number += 1

        # Already full when it comes.
        for turn in range(20):
            flood(turn / 10)
            for wire in wires:
                wire.turn(turn / 10)
        put_all(a, [mail], now=2.0)
        before = wires[1].bytes_there
        for turn in range(100):
            now = 2 + turn / 100
            if mail in c.held():
                return turn, wires[1].bytes_there - before
            flood(now)
            for wire in wires:
                wire.turn(now)
            for relay in (a, b, c):
                relay.node.handle_timer(now)
                relay.work(now)
        raise AssertionError("it did not come")

    mail = envelope(random.Random(1))
    quiet_turns, _ = way_of(mail, flooded=False)
    turns, _ = way_of(mail, flooded=True)
    assert turns <= quiet_turns + 2
