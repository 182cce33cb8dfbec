# SPDX-License-Identifier: GPL-2.0-or-later
"""When envelopes leave: never before their time, and always in the end."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.admission import Policy
from relay.core.envelope import envelope_id
from relay.core.messages import Refusal
from relay.core.node import ADMITTED_PER_ENVELOPE
from relay.core.retention import FORGET_RESIDENCES, RETIRED
from relay.core.stats import Dropped, Histogram, Total
from tests.unit.core.memory import BUILD_HOUR, Relay, client, envelope, purge, put_all, settle
from tests.unit.core.test_refusals import stored

WEEK_S = 168 * 3600.0
YEAR_S = 365 * 86400.0
WALL = BUILD_HOUR * 3600.0


def retire(relay, now):
    relay.node.retire(now, save_clock=True)
    relay.commit(now)


@pytest.mark.parametrize("trusted", [False, True])
@given(
    steps=st.lists(
        st.tuples(st.floats(0, 7200), st.sampled_from([-60, -30, -1, -0.001, 0, 0.001, 1, 14, 60])), max_size=8
    ),
    observed_before=st.booleans(),
)
def test_a_clock_set_back_and_forth_by_years_deletes_nothing_before_its_residence(steps, trusted, observed_before):
    relay = Relay()
    if observed_before:
        relay.node.observe_clock(now=0.0, wall_s=WALL, trusted=trusted)
    one = envelope(random.Random(1), expiry_hour=BUILD_HOUR + 150)
    assert put_all(relay, [one]).acknowledged == {0}
    now = 1.0
    for wait_s, years in steps:
        now += wait_s
        relay.node.observe_clock(now=now, wall_s=WALL + now + years * YEAR_S, trusted=True)
        retire(relay, now)
        assert relay.held() == {one}
    retire(relay, WEEK_S - 1)
    if not observed_before or any(years for _, years in steps):
        assert relay.held() == {one}
    retire(relay, WEEK_S + 3601)
    assert relay.held() == set()
    assert relay.count(Total.EXPIRED) == 1


def test_with_a_trusted_clock_an_envelope_leaves_at_its_hour_and_its_identity_with_it():
    relay = Relay(trusted_hour=BUILD_HOUR)
    rng = random.Random(2)
    soon, late = envelope(rng, expiry_hour=BUILD_HOUR + 3), envelope(rng, expiry_hour=BUILD_HOUR + 30)
    put_all(relay, [soon, late])
    retire(relay, 3 * 3600 - 1)
    assert relay.held() == {soon, late}
    retire(relay, 3 * 3600)
    assert relay.held() == {late}
    assert envelope_id(soon) not in relay.node.log
    assert put_all(relay, [soon], now=3.0 * 3600).refused == {0: Refusal.EXPIRED}
    assert relay.stats.distribution(Histogram.RESIDENCE_S).sum == pytest.approx(3 * 3600)


def test_without_a_clock_it_leaves_after_its_residence_and_is_not_taken_again_for_three_more():
    relay = Relay(policy=Policy(max_bytes=1 << 20, max_envelopes=1000, residence_s=1000.0))
    one = envelope(random.Random(3))
    put_all(relay, [one], now=5.0)
    retire(relay, 1004.0)
    assert relay.held() == {one}
    retire(relay, 1006.0)
    assert relay.held() == set()
    assert put_all(relay, [one], now=1500.0).refused == {0: Refusal.GONE}
    retire(relay, 1004.0 + (FORGET_RESIDENCES - 1) * 1000.0)
    assert envelope_id(one) in relay.node.log
    retire(relay, 1006.0 + (FORGET_RESIDENCES - 1) * 1000.0)
    assert len(relay.node.log) == 0
    assert put_all(relay, [one], now=9010.0).acknowledged == {0}


def test_residence_goes_on_after_a_restart_as_if_the_relay_had_been_off_for_no_time():
    relay = Relay()
    one = envelope(random.Random(4))
    put_all(relay, [one])
    retire(relay, WEEK_S / 2)
    again = Relay(store=relay.store, now=77.0)
    retire(again, 77.0 + WEEK_S / 2 - 2)
    assert again.held() == {one}
    retire(again, 77.0 + WEEK_S / 2 + 2)
    assert again.held() == set()


def test_memory_of_what_left_is_bounded_and_what_is_forgotten_early_is_counted():
    relay = Relay(policy=Policy(max_bytes=40 << 10, max_envelopes=40))
    remembered = ADMITTED_PER_ENVELOPE * 40
    rng = random.Random(5)
    for _ in range(12):
        key = rng.randbytes(32)
        killer, tag = purge(rng, key)
        put_all(relay, [envelope(rng, tag=tag) for _ in range(18)] + [killer])
        retire(relay, 1.0)
        assert len(relay.node.log) <= remembered
    forgotten = relay.count(Dropped.ADMITTED_FULL)
    assert 12 * 19 - forgotten == len(relay.node.log)
    assert 12 * 19 - remembered <= forgotten <= 12 * 19 - remembered * 7 // 8
    assert len(relay.store.rows) == len(relay.node.log)


def test_what_expires_in_one_hour_leaves_in_slices():
    """A town's evening, written to leave at noon, would else hold everything else up at noon."""
    rows = stored(3 * RETIRED)
    policy = Policy(max_bytes=1 << 30, max_envelopes=4 * RETIRED, residence_s=1000.0)
    relay = Relay(policy=policy)
    relay.node.log.load(rows)
    held = [relay.node.log.held_count]
    relay.node.retire(2000.0, save_clock=False)
    held.append(relay.node.log.held_count)
    while relay.node.has_work:
        relay.node.run_slice(2000.0)
        held.append(relay.node.log.held_count)
    assert held[0] == len(rows)
    assert all(before - after <= RETIRED for before, after in pairwise(held))
    assert held[-1] == 0
    assert relay.count(Total.EXPIRED) == len(rows)


def test_nothing_that_waits_for_its_commit_leaves():
    relay = Relay(policy=Policy(max_bytes=1 << 20, max_envelopes=20, residence_s=10.0))
    peer, wire = client(relay)
    one = envelope(random.Random(6))
    peer.session.put(one)
    settle(wire, commit=False)
    relay.node.retire(1e6, save_clock=False)
    relay.commit(1e6)
    settle(wire, now=1e6)
    assert peer.acknowledged == {0}
    assert relay.held() == {one}
