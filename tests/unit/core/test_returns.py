# SPDX-License-Identifier: GPL-2.0-or-later
"""A flood does not outlive itself: what it displaced comes back with room, in the time that was left to it."""

import random

import pytest

from relay.core.admission import Policy
from relay.core.envelope import EnvelopeType, Header, envelope_id
from relay.core.log import AdmittedLog, EntryState
from relay.core.messages import Refusal
from relay.core.returns import FIRST_ASKED, KEPT_FREE
from relay.core.stats import Evicted, Total
from tests.unit.core.memory import HOUR, Relay, Wire, envelope, neighbour, purge, put_all, settle
from tests.unit.core.test_exchange import fetched, offer
from tests.unit.core.test_refusals import steps_of

ROOM = 64
POLICY = Policy(max_bytes=4096 * ROOM, max_envelopes=ROOM, residence_s=10_000.0)
KEY = bytes(32)


def flooded(*, store=None, seed=1):
    """A relay from which a flood has displaced all mail; the mail, and what purges the flood."""
    rng = random.Random(5)
    mail = [envelope(rng) for _ in range(ROOM // 2)]
    remover, tag = purge(rng, KEY, price=8)
    flood = [envelope(rng, price=8, tag=tag) for _ in range(ROOM - 1)]
    relay = Relay(seed, policy=POLICY, store=store)
    assert len(put_all(relay, mail).acknowledged) == len(mail)
    assert len(put_all(relay, flood, seed=4).acknowledged) == len(flood)
    assert relay.count(Evicted.PRICE) == len(mail) - 1
    kept = relay.held() & set(mail)
    return relay, [body for body in mail if body not in kept], remover


@pytest.mark.parametrize("restart", [False, True])
def test_put_again_it_is_taken_once_the_flood_is_purged(restart):
    relay, mail, remover = flooded()
    refused = put_all(relay, mail, seed=5).refused
    assert set(refused.values()) == {Refusal.FULL}
    assert put_all(relay, [remover], seed=6).acknowledged == {0}
    if restart:
        relay = Relay(2, policy=POLICY, store=relay.store)
    assert len(put_all(relay, mail, seed=7).acknowledged) == len(mail)
    assert relay.held() >= set(mail)
    assert relay.count(Total.RETURNED) == len(mail)
    assert Relay(3, policy=POLICY, store=relay.store).held() >= set(mail)


@pytest.mark.parametrize("restart", [False, True])
def test_it_leaves_when_it_would_have_left_and_is_gone_then(restart):
    relay, mail, remover = flooded()
    put_all(relay, [remover], seed=6, now=6000.0)
    put_all(relay, mail, seed=7, now=7000.0)
    assert relay.held() >= set(mail)
    if restart:
        relay = Relay(2, policy=POLICY, store=relay.store, now=float(relay.store.state["residence_s"]))
    relay.node.retire(9990.0, save_clock=True)
    relay.commit(9990.0)
    assert relay.held() >= set(mail)
    relay.node.retire(10_001.0, save_clock=True)
    relay.commit(10_001.0)
    assert not relay.held() & set(mail)
    assert set(put_all(relay, mail, seed=8, now=10_002.0).refused.values()) == {Refusal.GONE}


def test_what_returned_counts_as_arrived_again_for_who_resumes_by_hours():
    relay, mail, remover = flooded()
    put_all(relay, [remover], seed=6, now=6000.0)
    put_all(relay, mail, seed=7, now=7000.0)
    for each in (relay, Relay(2, policy=POLICY, store=relay.store, now=0.0)):
        log = each.node.log
        seq = log.seq_arrived_since(6500.0)
        assert [log.find(envelope_id(body)).seq >= seq for body in mail] == [True] * len(mail)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_asking_for_the_last_hour_costs_no_walk_over_all_that_came_back(is_loaded):
    def steps(number):
        rng = random.Random(number)
        rows = []
        log = AdmittedLog()
        for seq in range(1, number + 1):
            header = Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=HOUR, tag=rng.randbytes(16))
            identity = rng.randbytes(32)
            rows.append((seq, identity, header.encode(), 1, 50 if seq > 1 else 100, True, False))
            log.append(
                identity=identity,
                header=header,
                price=0,
                interface=1,
                arrived_s=100.0,
                state=EntryState.PENDING,
                first_arrived_s=50.0,
            )
        if is_loaded:
            log = AdmittedLog()
            log.load(rows)
        log.seq_arrived_since(7200.0)  # the first question after puts moves the last of them into their columns
        return steps_of(lambda: log.seq_arrived_since(7200.0))

    assert steps(5000) <= steps(50)


def test_it_comes_back_from_a_neighbour_and_then_both_are_silent():
    relay, mail, remover = flooded()
    other = Relay(2)
    put_all(other, mail)
    put_all(relay, [remover], seed=6)
    wire = Wire(relay, other)
    settle(wire)
    assert relay.held() >= set(mail)
    assert other.held() >= set(mail)
    before = wire.bytes_there + wire.bytes_back
    for now in (5000.0, 5001.0, 5002.0):
        for each in (relay, other):
            each.node.handle_timer(now)
        settle(wire, now=now)
    assert wire.bytes_there + wire.bytes_back - before < 1000


def test_nothing_comes_back_into_the_last_part_of_the_store_nor_in_anybodys_place():
    relay, mail, _ = flooded()
    peer, wire = neighbour(relay, seed=8)
    peer.session.offer([offer(body) for body in mail])
    settle(wire)
    assert fetched(peer) == []
    free = int(KEPT_FREE * ROOM)
    for seq in [entry.seq for entry in relay.node.log.entries(EntryState.HELD)][:free]:
        relay.node.log.drop_body(seq)
    peer.session.offer([offer(body) for body in mail])
    settle(wire)
    assert fetched(peer) == []
    relay.node.log.drop_body(next(relay.node.log.entries(EntryState.HELD)).seq)
    peer.session.offer([offer(mail[0])])
    settle(wire)
    assert fetched(peer) == [envelope_id(mail[0])]


def test_a_neighbour_that_has_nothing_of_it_is_asked_for_little():
    relay, mail, remover = flooded()
    put_all(relay, [remover], seed=6)
    other = Relay(2)
    wire = Wire(relay, other)
    settle(wire)
    assert not relay.held() & set(mail)
    assert wire.bytes_there < 1500 + FIRST_ASKED * 64
    assert not wire.link.closed
    assert relay.node.wanted() == 0


@pytest.mark.parametrize("answer", ["nothing", "leaves"])
def test_one_that_does_not_answer_costs_its_session_only(answer):
    relay, _, remover = flooded()
    put_all(relay, [remover], seed=6)
    peer, wire = neighbour(relay, seed=8)
    peer.session.reconcile(b"\x01" + bytes(16) + b"\x00")
    settle(wire)
    assert len(fetched(peer)) == FIRST_ASKED
    now = 0.0
    while answer == "nothing" and not wire.link.closed and now < 100:
        now = relay.node.next_deadline()
        relay.node.handle_timer(now)
        settle(wire, now=now)
    if answer == "leaves":
        wire.lose()
    assert wire.link.closed
    assert relay.node.wanted() == 0


def test_what_was_displaced_after_the_first_reconciliation_comes_back_at_a_later_one_of_the_same_session():
    rng = random.Random(5)
    relay, other = Relay(1, policy=POLICY), Relay(2)
    mail = [envelope(rng) for _ in range(ROOM // 2)]
    put_all(relay, mail)
    wire = Wire(relay, other)
    settle(wire)
    assert other.held() == set(mail)
    remover, tag = purge(rng, KEY, price=8)
    put_all(relay, [envelope(rng, price=8, tag=tag) for _ in range(ROOM - 1)], seed=4)
    put_all(relay, [remover], seed=6)
    settle(wire)
    now = 0.0
    while not relay.held() >= set(mail) and now < 5000:
        now = min(relay.node.next_deadline(), other.node.next_deadline())
        for each in (relay, other):
            each.node.handle_timer(now)
        settle(wire, now=now)
    assert relay.held() >= set(mail)
    assert not wire.link.closed


def test_who_brings_it_while_the_purge_is_here_is_refused():
    rng = random.Random(9)
    relay = Relay(policy=POLICY)
    remover, tag = purge(rng, KEY, price=10)
    message = envelope(rng, tag=tag, expiry_hour=HOUR)
    put_all(relay, [message])
    put_all(relay, [envelope(rng, price=8) for _ in range(ROOM)], seed=4)
    assert relay.node.log.find(envelope_id(message)).state is EntryState.DISPLACED
    put_all(relay, [remover], seed=5)
    assert put_all(relay, [message], seed=6).refused == {0: Refusal.PURGED}
