# SPDX-License-Identifier: GPL-2.0-or-later
"""A visit lasts as long as it is of use."""

from relay.client.patience import FAIR_BYTES, MAX_VISIT_PATIENCES, Patience


def length_of(patience, every_s, wanted_bytes, *, is_ours=False, most=100_000):
    """How long a relay keeps a visitor that gives so much so often."""
    now = 0.0
    while patience.left_s(now) >= every_s and now < most:
        now += every_s
        patience.brought(wanted_bytes, now, is_ours=is_ours)
    return now


def test_little_now_and_then_gives_no_more_time():
    assert length_of(Patience(60.0, 0.0), 5.0, 256) == 60.0
    assert length_of(Patience(60.0, 0.0), 1.0, 0) == 60.0


def test_what_comes_at_the_pace_of_a_slow_radio_does():
    assert length_of(Patience(60.0, 0.0), 5.0, 10_000) == MAX_VISIT_PATIENCES * 60.0
    assert length_of(Patience(60.0, 0.0), 50.0, FAIR_BYTES) == MAX_VISIT_PATIENCES * 60.0


def test_what_is_for_us_always_does():
    assert length_of(Patience(60.0, 0.0), 50.0, 256, is_ours=True) >= 100_000


def test_after_a_rest_a_relay_has_all_the_time_again():
    patience = Patience(60.0, 0.0)
    patience.restart(1000.0)
    assert patience.left_s(1000.0) == 60.0
