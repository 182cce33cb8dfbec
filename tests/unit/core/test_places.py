# SPDX-License-Identifier: GPL-2.0-or-later
"""Places and memory: shared between interfaces as the store is."""

import pytest

from relay.core.budget import Budget
from relay.core.places import Places
from relay.core.shares import furthest_above, shares


def fill(places, *who):
    """Let (interface, address, has a session) in, numbered from 1."""
    for number, (interface, peer, is_proven) in enumerate(who, 1):
        places.take(number, interface, peer, is_proven=is_proven)


@pytest.mark.parametrize(
    ("interface", "fractions", "part"),
    [("a", {}, 50), ("a", {"a": 0.7}, 70), ("b", {"a": 0.7}, 30), ("b", {"a": 1.0}, 0), ("b", {"x": 0.2}, 40)],
)
def test_what_nobody_named_is_divided_evenly(interface, fractions, part):
    assert shares({"a", "b"}, fractions, 100)(interface) == pytest.approx(part)


def test_the_furthest_above_its_share_is_not_who_has_most():
    assert furthest_above({"a": 60, "b": 40}, {"a": 0.7, "b": 0.3}, 100) == "b"


def test_a_named_share_holds_whoever_comes_first():
    places = Places(10, {"wlan0": 0.3})
    fill(places, *[("eth0", f"fd00::{number}", True) for number in range(10)])
    for number in range(20, 23):
        loser = places.loser("wlan0", f"phone {number}")
        assert loser is not None
        places.leave(loser)
        places.take(number, "wlan0", f"phone {number}")
    assert places.loser("wlan0", "phone 4") is None
    assert places.loser("eth0", "fd00::99") is None


def test_of_another_interface_the_address_with_the_most_gives_way_first_one_without_a_session():
    places = Places(5, {})
    fill(
        places, ("eth0", "a", True), ("eth0", "b", True), ("eth0", "b", True), ("eth0", "b", False), ("eth0", "a", True)
    )
    assert places.loser("wlan0") == 4
    places.prove(4)
    assert places.loser("wlan0") == 2


def test_an_interface_above_its_share_takes_from_none_that_is_not_further_above():
    places = Places(4, {})
    fill(places, *[("eth0", "a", True)] * 2, *[("wlan0", "b", True)] * 2)
    assert places.loser("eth0", "c") == 1
    assert places.loser("wlan0", "c") == 3
    assert places.of_peer("eth0", "a") == 2


def test_places_that_were_left_leave_nothing_behind():
    places = Places(2, {})
    for number in range(100):
        places.take(number, f"eth{number}", "a", is_proven=False)
        places.leave(number)
        places.leave(number)
    assert (len(places), places._interfaces, places._peers, places._unproven) == (0, {}, {}, set())


def test_a_budget_counts_what_is_held_now():
    budget = Budget(100, {})
    for number in range(3):
        budget.open(number, "eth0", "")
        budget.note(number, 30)
    assert not budget.is_exceeded
    budget.note(1, 41)
    assert budget.is_exceeded
    assert budget.worst() == 1
    budget.close(1)
    budget.note(1, 1000)
    assert budget.held_bytes == 60


def test_256_addresses_of_one_interface_do_not_make_another_one_go():
    budget = Budget(1000, {})
    budget.open(0, "wlan0", "phone")
    budget.note(0, 300)
    for number in range(1, 257):
        budget.open(number, "eth0", f"fd00::{number}")
        budget.note(number, 3)
    assert budget.is_exceeded
    assert budget.worst() != 0
