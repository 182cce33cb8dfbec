# SPDX-License-Identifier: GPL-2.0-or-later
"""A visit lasts as long as it is of use."""

import pytest

from relay.client.patience import MAX_VISIT_PATIENCES, MIN_BYTES_PER_S, Patience


def started():
    patience = Patience(60.0)
    patience.start(0.0)
    return patience


def length_of(patience, every_s, wanted_bytes):
    """How long a relay keeps a visitor that gives so much so often, and how often that was worth something."""
    now, worth = 0.0, 0
    while patience.left_s(now) >= every_s:
        now += every_s
        worth += patience.brought(wanted_bytes, now)
    return now, worth


def test_little_now_and_then_gives_little_more_time():
    assert length_of(started(), 1.0, 0) == (60.0, 0)
    # 256 bytes each five seconds are worth 1.28 of the five.
    length_s, worth = length_of(started(), 5.0, 256)
    assert (length_s, worth) == (pytest.approx(60 / (1 - 1.28 / 5), abs=6), 0)


def test_what_comes_at_the_pace_of_a_bad_radio_gives_as_much_as_a_visit_may_last():
    length_s, worth = length_of(started(), 5.0, 6 * MIN_BYTES_PER_S)
    assert length_s == MAX_VISIT_PATIENCES * 60.0
    assert worth > MAX_VISIT_PATIENCES / 2


def test_much_at_once_gives_no_more_than_the_whole_patience():
    patience = started()
    assert patience.brought(10**9, 30.0)
    assert patience.left_s(30.0) == 60.0


def test_after_a_rest_a_relay_has_all_the_time_again():
    patience = started()
    assert patience.is_endless(5000.0)
    patience.start(5000.0)
    assert patience.is_endless(5000.0), "it breaks off and goes on, and that is the same visit"
    patience.rest()
    patience.start(5000.0)
    assert (patience.left_s(5000.0), patience.is_endless(5000.0)) == (60.0, False)


def test_what_several_short_sessions_bring_counts_together():
    patience = started()
    worth = 0
    for session in range(12):
        patience.start(10.0 * session)
        worth += patience.brought(5_000, 10.0 * session + 5)
    assert worth == 4
