# SPDX-License-Identifier: GPL-2.0-or-later
"""Time: what the relay believes, and what it never does because of a clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.control.status import ClockRefusedError
from relay.core.clock import LAST_HOUR, SKEW_HOURS, STEP_S, Clock, jittered
from relay.core.envelope import MAX_LIFETIME_HOURS
from relay.run.timekeeper import Timekeeper
from tests.unit.core.memory import BUILD_HOUR, Relay


@pytest.mark.parametrize(("spread", "least", "most"), [(0.5, 50, 150), (0.25, 75, 125), (1, 0, 200)])
def test_a_jittered_time_is_around_the_time(spread, least, most):
    assert jittered(100, 0.0, spread=spread) == least
    assert jittered(100, 0.5, spread=spread) == 100
    assert most - 0.1 < jittered(100, 0.9999, spread=spread) < most


YEAR_S = 365 * 86400.0
WALL = (BUILD_HOUR + 50) * 3600.0


def clock(**kwargs):
    return Clock(now=1000.0, build_hour=BUILD_HOUR, **kwargs)


def test_without_a_trusted_clock_there_is_no_hour_and_every_hour_from_the_build_on_is_taken():
    untrusted = clock()
    assert untrusted.hour(1000.0) is None
    assert untrusted.window(1000.0) == (BUILD_HOUR, LAST_HOUR)
    untrusted.observe(now=1001.0, wall_s=WALL, trusted=False)
    assert untrusted.hour(2000.0) is None
    assert not untrusted.expired_by_wall(expiry_hour=0, now=1e9)


def test_a_trusted_clock_takes_what_expires_within_a_lifetime_and_some_skew():
    trusted = clock()
    trusted.observe(now=1000.0, wall_s=WALL, trusted=True)
    assert trusted.hour(1000.0) == BUILD_HOUR + 50
    assert trusted.hour(1000.0 + 3600) == BUILD_HOUR + 51
    assert trusted.window(1000.0) == (BUILD_HOUR + 51, BUILD_HOUR + 50 + MAX_LIFETIME_HOURS + SKEW_HOURS)
    assert trusted.expired_by_wall(expiry_hour=BUILD_HOUR + 50, now=1000.0)
    assert not trusted.expired_by_wall(expiry_hour=BUILD_HOUR + 51, now=1000.0)


def test_a_time_that_cannot_be_true_is_taken_neither_from_the_operator_nor_from_the_system(monkeypatch):
    node = Relay().node
    keeper = Timekeeper(node, trust_system_clock=True)
    for unix_s in (0, BUILD_HOUR * 3600 - 1, int(WALL + 20.1 * YEAR_S), 99_999_999_999):
        with pytest.raises(ClockRefusedError, match=r"check the year.*`relay clock set now`"):
            keeper.set(unix_s, 0.0)
        monkeypatch.setattr("time.time", lambda at=unix_s: float(at))
        keeper.observe(0.0)
        assert node.clock.hour(0.0) is None
    for unix_s in (WALL, WALL + 19 * YEAR_S):
        monkeypatch.setattr("time.time", lambda at=unix_s: at)
        keeper.observe(0.0)
        assert node.clock.hour(0.0) == unix_s // 3600
    keeper.set(int(WALL), 0.0)
    assert node.clock.hour(0.0) == WALL // 3600


def test_a_clock_that_loses_trust_leaves_nothing_behind_that_tells_it_from_others():
    lost = clock()
    lost.observe(now=1000.0, wall_s=WALL, trusted=True)
    lost.observe(now=1001.0, wall_s=WALL + 1, trusted=False)
    assert lost.window(1001.0) == clock().window(1001.0) == (BUILD_HOUR, LAST_HOUR)


def test_residence_counts_over_restarts_and_ignores_every_wall_clock():
    first = clock(residence_s=500.0)
    for wall_s in (0.0, WALL, WALL + 30 * YEAR_S, -YEAR_S):
        first.observe(now=1010.0, wall_s=wall_s, trusted=True)
        assert first.residence_s(1010.0) == 510.0


@given(st.floats(-60 * YEAR_S, 400_000 * YEAR_S), st.booleans())
def test_whatever_the_wall_says_the_window_fits_the_wire(wall_s, trusted):
    strange = clock()
    strange.observe(now=1000.0, wall_s=wall_s, trusted=trusted)
    first, last = strange.window(1000.0)
    assert 0 <= first <= last <= LAST_HOUR


@pytest.mark.parametrize(
    "steps", [[7200.0], [-7200.0], [10 * YEAR_S], [-10 * YEAR_S], [0.9 * STEP_S] * 2, [STEP_S / 10] * 11]
)
def test_a_clock_that_is_set_begins_a_new_era_at_once_or_by_and_by(steps):
    stepped = clock(residence_s=100.0)
    stepped.observe(now=1000.0, wall_s=WALL, trusted=True)
    began = stepped.era_start_s
    wall_s, now = WALL, 1000.0
    for step in steps:
        now += 60
        wall_s += 60 + step
        stepped.observe(now=now, wall_s=wall_s, trusted=True)
    assert stepped.era_start_s > began
    assert stepped.era_start_s <= stepped.residence_s(now)


def test_a_clock_that_only_runs_begins_no_era():
    steady = clock()
    steady.observe(now=1000.0, wall_s=WALL, trusted=True)
    began = steady.era_start_s
    for hour in range(1, 24 * 365, 24):
        steady.observe(now=1000.0 + 3600 * hour, wall_s=WALL + 3600.2 * hour, trusted=True)
    assert steady.era_start_s == began


def test_the_first_reading_begins_an_era_for_what_came_before_it():
    late = clock(residence_s=100.0)
    late.observe(now=4600.0, wall_s=WALL, trusted=True)
    assert late.era_start_s == 3700.0
