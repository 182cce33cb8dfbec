# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts that come together are admitted together: as if each had come alone, only sooner."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import admission
from relay.core.admission import Policy
from relay.core.envelope import EnvelopeType, decode_envelope, decode_messages
from relay.core.errors import DecodeError
from relay.core.log import EntryState
from relay.core.messages import Ack
from tests.unit.core.memory import HOUR, Relay, client, envelope, purge, settle

ALL_STATES = [state for state in EntryState if state is not EntryState.FORGOTTEN]


def bodies():
    """Whole envelopes of each class and type, and all that can be wrong with one."""
    rng = random.Random(1)
    whole = [envelope(rng, size_class=size_class) for size_class in (0, 0, 0, 1, 1, 2, 3)]
    removal, _ = purge(rng, bytes(32))
    one = whole[0]
    broken = [one[:10], one[:-1], one + b"x", b"", bytes([2]) + one[1:], one[:1] + b"\7" + one[2:]]
    broken += [one[:2] + b"\4" + one[3:], one[:2] + b"\1" + one[3:], one[:3] + b"\1" + one[4:]]
    return st.sampled_from([*whole * 8, removal, *broken])


@given(st.lists(bodies(), max_size=6))
def test_many_are_decoded_together_if_each_is_a_whole_message(envelopes):
    headers = []
    for body in envelopes:
        try:
            headers.append(decode_envelope(body))
        except DecodeError:
            headers.append(None)
    messages = decode_messages(envelopes)
    if not headers or any(header is None or header.type is EnvelopeType.PURGE for header in headers):
        assert messages is None
    else:
        assert messages is not None
        assert list(zip(messages.size_classes, messages.expiry_hours, messages.tags, strict=True)) == [
            (header.size_class, header.expiry_hour, header.tag) for header in headers
        ]


class Twins:
    """Two relays that are told the same: one all puts of a turn together, the other one after the other."""

    def __init__(self, seed, policy):
        self.rng = random.Random(seed)
        self.relays = [Relay(1, policy=policy, trusted_hour=HOUR - 100) for _ in range(2)]
        self.wires = [[client(relay, seed=n, interface=f"i{n}")[1] for n in range(2)] for relay in self.relays]
        self.sent = []
        self.keys = []
        self.number = self.together = 0

    def body(self):
        """Mostly what is new and welcome, now and then all that there has to be a decision about."""
        rng = self.rng
        what = rng.randrange(60)
        if what == 0 and self.sent:
            return rng.choice(self.sent[-9:] + self.sent)
        if what == 1:
            self.keys.append(rng.randbytes(32))
            return purge(rng, rng.choice(self.keys), expiry_hour=HOUR + rng.randrange(3))[0]
        if what == 2 and self.keys:
            _, tag = purge(rng, rng.choice(self.keys))
            return envelope(rng, tag=tag)
        if what == 3:
            return envelope(rng)[: rng.randrange(300)]
        hour = HOUR + (rng.choice([-200, 100, *range(20)]) if what == 4 else rng.randrange(4))
        return envelope(rng, size_class=rng.choice([0, 0, 0, 1, 2]), expiry_hour=hour, price=rng.choice([0, 0, 2]))

    def put(self, now):
        which = self.rng.randrange(2)
        items = []
        for _ in range(self.rng.choice([1, 2, 5, 9])):
            items.append((self.number, self.body()))
            self.sent.append(items[-1][1])
            self.number += 1
        refused = []
        for relay, wires, groups in zip(self.relays, self.wires, [[items], [[item] for item in items]], strict=True):
            fresh = len(relay.node.intake.pending.batch.inserts)
            take = relay.node.intake.take_puts
            refused.append([refusal for group in groups for refusal in take(wires[which].link, group, now)])
            taken = len(relay.node.intake.pending.batch.inserts) - fresh
        self.together += taken == len(items) > 1
        assert refused[0] == refused[1]

    def state(self, relay, wires):
        node, log = relay.node, relay.node.log
        return (
            list(log.entries(*ALL_STATES)),
            (log.held, log.pending, log.held_by_interface, log.hours, log.balance, log.next_seq, len(log)),
            [list(log.by_rank(interface)) for interface in range(1, 3)],
            [log.find(entry.identity) for entry in log.entries(*ALL_STATES)],
            (relay.store.rows, relay.store.bodies, relay.store.displaced, relay.store.state),
            node.intake.pending_bytes,
            [(wire.link.pending_bytes, wire.link.session.unanswered_bytes) for wire in wires],
            relay.counted(),
        )

    def check(self):
        one, other = (self.state(relay, wires) for relay, wires in zip(self.relays, self.wires, strict=True))
        assert one == other

    def settle(self, now):
        """Commit, or fail to, and read what is stored later."""
        fails = self.rng.randrange(8) == 0
        for relay in self.relays:
            if fails and (pending := relay.node.take_batch()) is not None:
                relay.node.commit_failed(pending, now)
            elif relay.node.needs_reload:
                relay.node.reload(relay.store.load())
            relay.work(now)


@pytest.mark.parametrize("max_bytes", [1 << 24, 60_000])
@pytest.mark.parametrize("seed", range(2))
def test_puts_that_come_together_are_taken_as_if_each_had_come_alone(seed, max_bytes):
    """Also in a store that is full, behind purges, or when a commit failed before."""
    twins = Twins(seed, Policy(max_bytes=max_bytes, max_envelopes=10_000, min_price=0))
    for step in range(100):
        now = float(step)
        twins.put(now)
        if twins.rng.randrange(3) == 0:
            twins.settle(now)
        twins.check()
    twins.settle(2000.0)
    twins.check()
    assert twins.together > 5


def test_of_the_same_twice_in_a_turn_one_is_taken_and_both_are_acknowledged():
    relay, rng = Relay(), random.Random(3)
    peer, wire = client(relay)
    one, other = envelope(rng), envelope(rng)
    for body in (one, one, other, one):
        peer.session.put(body)
    settle(wire)
    assert relay.held() == {one, other}
    assert [event.ranges for event in peer.of(Ack)] == [[(0, 4)]]


def test_new_hours_in_a_turn_are_counted_one_by_one(monkeypatch):
    monkeypatch.setattr(admission, "MAX_HOURS_PER_INTERFACE", 3)
    relay, rng = Relay(), random.Random(4)
    peer, wire = client(relay)
    for hours in ((0, 10), (0, 3, 5, 10)):
        for hour in hours:
            peer.session.put(envelope(rng, expiry_hour=HOUR + hour))
        settle(wire)
    # Who paid more may have made the hour of another one go; there are never more.
    assert len({decode_envelope(body).expiry_hour for body in relay.held()}) == 3


def test_most_of_what_comes_together_in_quiet_is_not_decided_over_one_by_one(monkeypatch):
    relay, rng = Relay(), random.Random(2)
    _, wire = client(relay)
    intake = relay.node.intake
    intake.take_puts(wire.link, [(0, envelope(rng)), (1, envelope(rng))], 0.0)
    monkeypatch.setattr(intake, "take", None)
    assert intake.take_puts(wire.link, [(number, envelope(rng)) for number in range(2, 60)], 0.0) == []
    relay.work()
    assert relay.node.log.committed_count == 60
