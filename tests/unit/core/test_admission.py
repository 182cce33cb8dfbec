# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is let in and who leaves, against a plain model and by what an operator is promised."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.core import admission as admission_module
from relay.core.admission import MAX_HOURS_PER_INTERFACE, Admission, Policy
from relay.core.clock import Clock
from relay.core.envelope import CLASS_OF_SIZE, SIZES, EnvelopeType, Header, envelope_id, price_paid
from relay.core.log import AdmittedLog, EntryState
from relay.core.messages import Refusal
from relay.core.stats import Evicted, Rejected, Total
from tests.unit.core.memory import BUILD_HOUR, HOUR, Relay, client, envelope, put_all, settle


def identity_of_price(rng, price, size_class):
    """An identity with exactly the work that pays ``price`` for its class."""
    bits = price + 2 * size_class
    return ((1 << (255 - bits)) | rng.getrandbits(255 - bits)).to_bytes(32, "big")


def header(size_class=0, expiry_hour=HOUR, tag=bytes(16), kind=EnvelopeType.MESSAGE):
    return Header(type=kind, size_class=size_class, expiry_hour=expiry_hour, tag=tag)


class AdmissionMachine(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 2**32),
        max_bytes=st.sampled_from([4096, 4096, 16_384, 20_000]),
        max_envelopes=st.sampled_from([3, 8, 16, 16, 40]),
        shares=st.dictionaries(st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.25, 0.5]), max_size=2),
        min_price=st.sampled_from([0, 0, 2]),
    )
    def start(self, seed, max_bytes, max_envelopes, shares, min_price):
        self.rng = random.Random(seed)
        self.policy = Policy(max_bytes=max_bytes, max_envelopes=max_envelopes, shares=shares, min_price=min_price)
        self.log = AdmittedLog()
        self.clock = Clock(now=0.0, build_hour=BUILD_HOUR)
        self.admission = Admission(self.policy, self.log, self.clock)
        self.entries = []  # of everything held or pending
        self.interfaces = set()
        self.first_pending = 1
        self.admitted = self.evicted = self.left = 0

    # the model

    def used(self, interface, entries):
        return sum(self.policy.units(e.size_class) for e in entries if e.interface == interface)

    def share(self, interface, known):
        if interface in self.policy.shares:
            return self.policy.shares[interface] * self.policy.max_bytes
        unnamed = known - self.policy.shares.keys()
        return max(0.0, 1.0 - sum(self.policy.shares.values())) * self.policy.max_bytes / len(unnamed)

    def expected(self, newcomer):
        """What the rule in docs/protocol.md says, the slow way: None (refused) or the seqs that leave."""
        units = self.policy.units(newcomer.size_class)
        known = self.interfaces | {newcomer.interface}
        entries, victims = list(self.entries), set()
        within = self.used(newcomer.interface, entries) + units <= self.share(newcomer.interface, known)
        while self.policy.max_bytes - sum(self.policy.units(e.size_class) for e in entries) < units:

            def above(interface, entries=entries):
                extra = units if interface == newcomer.interface else 0
                return self.used(interface, entries) + extra - self.share(interface, known)

            loser = max(known, key=lambda interface: (above(interface), interface))
            held = [e for e in entries if e.interface == loser and e.held]
            least = min(held, key=lambda e: (e.price, e.expiry_hour, e.seq), default=None)
            if least is None or (least.price >= newcomer.price and not (within and loser != newcomer.interface)):
                return None
            entries.remove(least)
            victims.add(least.seq)
        return victims

    # what happens

    @rule(
        interface=st.integers(0, 3),
        size_class=st.sampled_from([0, 0, 0, 1, 2, 3]),
        highest_price=st.integers(0, 9),
        number=st.integers(1, 12),
    )
    def newcomers(self, interface, size_class, highest_price, number):
        for _ in range(number):
            price, expiry_hour = self.rng.randint(0, highest_price), HOUR + self.rng.randint(0, 3)
            self.newcomer(interface, size_class, price, expiry_hour)

    def newcomer(self, interface, size_class, price, expiry_hour):
        newcomer = SimpleNamespace(
            interface=interface, size_class=size_class, price=price, expiry_hour=expiry_hour, held=False, seq=0
        )
        identity = identity_of_price(self.rng, price, size_class)
        decision = self.admission.decide(
            header=header(size_class, expiry_hour), price=price, interface=interface, now=0.0
        )
        if price < self.policy.min_price:
            assert decision.refusal is Refusal.UNDERPAID
            return
        expected = self.expected(newcomer)
        if expected is None:
            assert decision.refusal is Refusal.FULL
            return
        assert decision.refusal is None
        assert set(decision.victims) == expected
        self.check_guarantees(newcomer, decision.victims)
        newcomer.seq = self.log.append(
            identity=identity,
            header=header(size_class, expiry_hour),
            price=price,
            interface=interface,
            arrived_s=0.0,
            state=EntryState.PENDING,
        )
        for seq in decision.victims:
            self.log.drop_body(seq)
        self.entries = [e for e in self.entries if e.seq not in expected] + [newcomer]
        self.interfaces.add(interface)
        self.admitted += 1
        self.evicted += len(expected)

    def check_guarantees(self, newcomer, victims):
        units = self.policy.units(newcomer.size_class)
        known = self.interfaces | {newcomer.interface}
        by_seq = {e.seq: e for e in self.entries}
        within = self.used(newcomer.interface, self.entries) + units <= self.share(newcomer.interface, known)
        for seq in victims:
            victim = by_seq[seq]
            assert victim.held, "an envelope left before it was even stored"
            if not (within and victim.interface != newcomer.interface):
                assert victim.price < newcomer.price, "a newcomer displaced what paid as much"
            if victim.interface != newcomer.interface:
                assert self.used(victim.interface, self.entries) > self.share(victim.interface, known), (
                    "an interface lost an envelope of its guaranteed share"
                )

    @rule()
    def commit(self):
        last = self.log.next_seq - 1
        if last < self.first_pending:
            return
        self.log.commit(self.first_pending, last)
        for entry in self.entries:
            if not entry.held:
                entry.held = True
        self.first_pending = last + 1

    @precondition(lambda self: any(e.held for e in self.entries))
    @rule(data=st.data(), number=st.integers(1, 5))
    def leave(self, data, number):
        """Expiry and purges take envelopes away behind admission's back."""
        for _ in range(number):
            held = [e for e in self.entries if e.held]
            if held:
                entry = data.draw(st.sampled_from(held))
                self.log.drop_body(entry.seq)
                self.entries.remove(entry)
                self.left += 1

    @rule(interface=st.integers(0, 3))
    def price_is_what_a_newcomer_needs(self, interface):
        """Whoever pays the price asked, and waits for commits, gets in with the largest envelope."""
        self.commit()
        price = self.admission.price(interface)
        largest = SimpleNamespace(interface=interface, size_class=3, price=price, expiry_hour=HOUR, held=False, seq=0)
        if price <= 60 and self.policy.max_bytes >= SIZES[3] and len(self.entries) < 2:
            assert self.expected(largest) is not None

    @invariant()
    def no_limit_is_ever_exceeded(self):
        if not hasattr(self, "entries"):
            return
        assert self.log.held_count == len(self.entries) <= self.policy.max_envelopes
        assert self.log.held_bytes == sum(SIZES[e.size_class] for e in self.entries) <= self.policy.max_bytes
        assert self.admitted == len(self.entries) + self.evicted + self.left


AdmissionMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class TestAdmission(AdmissionMachine.TestCase):
    pass


def test_who_always_has_something_under_way_does_not_keep_the_hours():
    rng = random.Random(5)
    relay = Relay()

    def free(number):
        while price_paid(envelope_id(found := envelope(rng, expiry_hour=HOUR + number)), 0):
            pass
        return found

    put_all(relay, [free(n) for n in range(MAX_HOURS_PER_INTERFACE)])
    enemy, enemys_wire = client(relay, seed=11)
    honest, honests_wire = client(relay, seed=12)
    for number in range(5):
        enemy.session.put(free(MAX_HOURS_PER_INTERFACE - 1))
        settle(enemys_wire, commit=False)
        honest.session.put(envelope(rng, expiry_hour=HOUR + 1000 + number, price=8))
        settle(honests_wire, commit=False)
        assert len(relay.node.log.hours[1]) == MAX_HOURS_PER_INTERFACE
        settle(honests_wire, enemys_wire)
    assert honest.acknowledged == {*range(5)}
    assert enemy.acknowledged == {*range(5)}


@pytest.mark.parametrize("seed", range(40))
def test_hours_are_few_and_go_to_those_who_paid(seed, monkeypatch):
    """Whoever names every hour keeps out nobody who paid more, and nobody leaves before it was stored."""
    print("seed", seed)
    monkeypatch.setattr(admission_module, "MAX_HOURS_PER_INTERFACE", 3)
    rng = random.Random(seed)
    log = AdmittedLog()
    admission = Admission(Policy(max_bytes=1 << 20, max_envelopes=1000), log, Clock(now=0.0, build_hour=BUILD_HOUR))
    first_pending, best = 1, {}
    for _ in range(300):
        if rng.random() < 0.3 and log.next_seq > first_pending:
            log.commit(first_pending, log.next_seq - 1)
            first_pending = log.next_seq
        if rng.random() < 0.1 and (held := list(log.entries(EntryState.HELD))):
            log.drop_body(rng.choice(held).seq)
        hour, price = HOUR + rng.randrange(7), rng.randrange(6)
        identity = identity_of_price(rng, price, 0)
        here = list(log.entries(EntryState.HELD, EntryState.PENDING))
        decision = admission.decide(header=header(expiry_hour=hour), price=price, interface=0, now=0.0)
        crowded = len(log.hours.get(0, ())) >= 3 and hour not in log.hours[0]
        if not crowded:
            assert (decision.refusal, decision.victims) == (None, ())
        elif decision.refusal is None:
            gone = [entry for entry in here if entry.seq in decision.victims]
            assert len({entry.header.expiry_hour for entry in gone}) == 1
            assert len(gone) == len(decision.victims)
            assert all(entry.state is EntryState.HELD and entry.price < price for entry in gone)
        else:
            assert decision.refusal is Refusal.HOURS
            best = {}
            for entry in here:
                its = entry.header.expiry_hour
                best[its] = max(best.get(its, -9), entry.price)
            settled = first_pending == log.next_seq
            assert not settled or min(best.values()) >= price
            continue
        for seq in decision.victims:
            log.drop_body(seq)
        log.append(
            identity=identity,
            header=header(expiry_hour=hour),
            price=price,
            interface=0,
            arrived_s=0.0,
            state=EntryState.PENDING,
        )
        assert len(log.hours[0]) <= 3


# -- what senders and operators see, on whole relays -----------------------


@pytest.mark.parametrize(
    ("kwargs", "refusal"),
    [
        ({"expiry_hour": BUILD_HOUR - 1}, Refusal.BELOW_FLOOR),
        ({"expiry_hour": 0}, Refusal.BELOW_FLOOR),
        ({"price": 0}, Refusal.UNDERPAID),
        ({"size_class": 3, "price": 4}, Refusal.CLASS),
        ({"price": 4}, None),
        ({"size_class": 2, "price": 4}, None),
    ],
)
def test_each_wrong_envelope_is_refused_with_its_reason_and_counted(kwargs, refusal):
    relay = Relay(policy=Policy(max_bytes=1 << 20, max_envelopes=100, min_price=4, classes=0b0111))
    rng = random.Random(1)
    one = envelope(rng, **{"price": 4, **kwargs})
    while refusal is Refusal.UNDERPAID and one[-1] and _price(one) >= 4:
        one = envelope(rng)
    peer = put_all(relay, [one])
    if refusal is None:
        assert peer.acknowledged == {0}
    else:
        assert peer.refused == {0: refusal}
        assert relay.count(Rejected[refusal.name]) == 1
        assert relay.store.rows == {}


def _price(data):
    return price_paid(envelope_id(data), CLASS_OF_SIZE[len(data)])


@pytest.mark.parametrize(
    ("hours", "refusal"),
    [
        (-1000, Refusal.EXPIRED),
        (0, Refusal.EXPIRED),
        (1, None),
        (170, None),
        (171, Refusal.FAR_FUTURE),
        (10**6, Refusal.FAR_FUTURE),
    ],
)
def test_with_a_trusted_clock_expired_and_far_future_envelopes_are_refused(hours, refusal):
    relay = Relay(trusted_hour=HOUR)
    peer = put_all(relay, [envelope(random.Random(2), expiry_hour=HOUR + hours)])
    assert peer.refused.get(0) is refusal
    assert (peer.acknowledged == {0}) == (refusal is None)
    if refusal:
        assert relay.count(Rejected[refusal.name]) == 1


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"\x01", Refusal.MALFORMED),
        (b"\x01\x07" + bytes(254), Refusal.MALFORMED),
        (b"\x01\x01" + bytes(254), Refusal.MALFORMED),
        (b"\x01" + bytes(254), Refusal.WRONG_SIZE),
        (b"\x01" + bytes(1023), Refusal.WRONG_SIZE),
        (b"\x01\x00\x03" + bytes(16_382), Refusal.WRONG_SIZE),
        (b"\x02" + bytes(255), Refusal.VERSION),
        (bytes(256), Refusal.VERSION),
    ],
)
def test_what_is_no_envelope_is_refused_with_its_reason_and_the_session_goes_on(data, refusal):
    relay = Relay()
    peer, wire = client(relay)
    good = envelope(random.Random(3))
    peer.session.put(data)
    peer.session.put(good)
    settle(wire)
    assert peer.refused == {0: refusal}
    assert peer.acknowledged == {1}
    assert relay.count(Rejected[refusal.name]) == 1


def test_the_number_of_distinct_hours_of_an_interface_is_bounded():
    relay = Relay()
    rng = random.Random(4)
    peer = put_all(relay, [envelope(rng, expiry_hour=HOUR + n) for n in range(MAX_HOURS_PER_INTERFACE + 5)])
    assert set(peer.refused.values()) == {Refusal.HOURS}
    assert len(peer.refused) == 5
    other = put_all(relay, [envelope(rng, expiry_hour=HOUR + 10_000)], interface="eth7", seed=8)
    assert other.acknowledged == {0}
    again = put_all(relay, [envelope(rng, expiry_hour=HOUR)], seed=9)
    assert again.acknowledged == {0}


def test_a_flood_on_one_interface_leaves_the_others_their_share():
    relay = Relay(policy=Policy(max_bytes=64 << 10, max_envelopes=256))
    rng = random.Random(5)
    flood = put_all(relay, [envelope(rng) for _ in range(300)], interface="wlan0")
    assert len(flood.acknowledged) == 256
    quiet = put_all(relay, [envelope(rng) for _ in range(128)], interface="eth0", seed=6)
    assert len(quiet.acknowledged) == 128
    assert relay.count(Evicted.PRICE) == 128
    assert relay.count(Total.ACCEPTED) == 256 + 128
    more = put_all(relay, [envelope(rng) for _ in range(300)], interface="wlan0", seed=7)
    assert len(quiet.acknowledged & set(range(128))) == 128
    eth0 = relay.node.interface_number("eth0")
    assert sum(relay.node.log.held_by_interface[eth0]) >= 128
    assert set(more.refused.values()) <= {Refusal.FULL}
    assert relay.count(Rejected.FULL) == len(flood.refused) + len(more.refused)


def test_when_full_more_work_displaces_less_and_the_price_says_how_much():
    relay = Relay(policy=Policy(max_bytes=16 << 10, max_envelopes=64))
    rng = random.Random(6)
    put_all(relay, [envelope(rng, size_class=1) for _ in range(16)])
    peer, wire = client(relay, seed=4)
    price = relay.node.admission.price(relay.node.interface_number("eth1"))
    cheapest = min(_price(body) for body in relay.held())
    assert price == cheapest + 1
    peer.session.put(envelope(rng, size_class=1, price=price))
    settle(wire)
    assert peer.acknowledged == {0}
    assert relay.node.log.held_count == 16
    assert relay.count(Evicted.PRICE) == 1


def test_lowered_limits_let_the_cheapest_of_the_furthest_above_its_share_go_and_count_them():
    rng = random.Random(31)
    relay = Relay(policy=Policy(max_bytes=100 << 10, max_envelopes=100))
    modest = [envelope(rng, price=1) for _ in range(10)]
    greedy = [envelope(rng, price=n % 4 + 1) for n in range(60)]
    put_all(relay, modest, interface="eth0", seed=60)
    put_all(relay, greedy, interface="eth1", seed=61)
    again = Relay(2, store=relay.store, policy=Policy(max_bytes=40 << 10, max_envelopes=40))
    again.node.retire(1.0, save_clock=False)
    again.commit(1.0)
    held = again.held()
    assert len(held) == 40
    assert held >= set(modest), "within its share, nobody loses for another"
    assert again.count(Evicted.LIMIT) == 30
    cheapest_kept = min(price_paid(envelope_id(body), 0) for body in held - set(modest))
    dearest_gone = max(price_paid(envelope_id(body), 0) for body in set(greedy) - held)
    assert dearest_gone <= cheapest_kept
