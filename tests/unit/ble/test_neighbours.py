# SPDX-License-Identifier: GPL-2.0-or-later
"""Which neighbour is dialled over Bluetooth, and when."""

import random

import pytest

from relay.ble.neighbours import (
    FORGET_S,
    GRACE_S,
    MAX_DELAY_S,
    MAX_HEARD,
    MAX_VISITED,
    QUIET_S,
    RECENT_S,
    STEADY_HEARD_S,
    STEADY_S,
    TENURE_S,
    VISITED_S,
    End,
    Neighbours,
)
from relay.bluetooth.gatt import make_beacon

OWN_SALT = b"\x80\0\0"
LESSER = b"\x10\0\0"
GREATER = b"\xf0\0\0"
OWN_NEWS = bytes(16)
NEWS = b"n" * 16


def make(max_neighbours=3, seed=1):
    neighbours = Neighbours(max_neighbours=max_neighbours, random=random.Random(seed).random)
    neighbours.news(OWN_NEWS, [], 0.0)
    return neighbours


def choose(neighbours, now):
    """The one to dial now, if any."""
    chosen = neighbours.choose(OWN_SALT, now)
    assert len(chosen) <= 1
    return chosen[0] if chosen else None


def hear_and_choose(neighbours, device, now):
    neighbours.heard_again(device, now)
    return choose(neighbours, now)


def test_the_one_with_the_greater_salt_dials_at_once_the_other_after_the_grace():
    neighbours = make()
    neighbours.heard("lesser", make_beacon(NEWS, LESSER), 0.0)
    assert choose(neighbours, 0.0) == "lesser"
    neighbours.heard("greater", make_beacon(NEWS, GREATER), 0.0)
    assert hear_and_choose(neighbours, "greater", GRACE_S - 1) is None
    assert hear_and_choose(neighbours, "greater", GRACE_S) == "greater"
    assert neighbours.dialled == 2


def test_after_a_session_it_is_the_others_turn_again():
    neighbours = make()
    neighbours.heard("greater", make_beacon(NEWS, GREATER), 0.0)
    neighbours.news(OWN_NEWS, [NEWS], 10.0)
    assert hear_and_choose(neighbours, "greater", 60.0) is None
    neighbours.news(OWN_NEWS, [], 61.0)
    assert hear_and_choose(neighbours, "greater", 62.0) is None
    assert hear_and_choose(neighbours, "greater", 60.0 + GRACE_S) == "greater"
    neighbours.ended("greater", End.CLOSED, 85.0)
    assert hear_and_choose(neighbours, "greater", 84.0 + GRACE_S) is None
    assert hear_and_choose(neighbours, "greater", 85.0 + GRACE_S) == "greater"


def test_the_other_gets_its_turn_after_an_absence_too():
    neighbours = make()
    neighbours.heard("greater", make_beacon(NEWS, GREATER), 0.0)
    assert choose(neighbours, 60.0) is None
    assert hear_and_choose(neighbours, "greater", 61.0) is None
    assert hear_and_choose(neighbours, "greater", 60.0 + GRACE_S) == "greater"


def test_our_own_other_adapter_is_no_neighbour():
    neighbours = make()
    neighbours.heard("device", make_beacon(OWN_NEWS, LESSER), 0.0)
    assert hear_and_choose(neighbours, "device", GRACE_S) is None


def test_what_bluez_has_let_go_of_is_not_dialled_until_it_is_heard_again():
    neighbours = make()
    neighbours.heard("device", make_beacon(NEWS, LESSER), 0.0)
    neighbours.gone("device")
    assert choose(neighbours, 1.0) is None
    neighbours.heard_again("device", 2.0)
    assert choose(neighbours, 2.0) == "device"


def test_of_two_relays_with_the_same_salt_both_wait():
    neighbours = make()
    neighbours.heard("same", make_beacon(NEWS, OWN_SALT), 0.0)
    assert hear_and_choose(neighbours, "same", GRACE_S - 1) is None
    assert hear_and_choose(neighbours, "same", GRACE_S) == "same"


def test_a_neighbour_with_a_session_on_any_link_is_left_in_peace_until_that_ends():
    neighbours = make()
    neighbours.news(OWN_NEWS, [b"x" * 16, NEWS], 0.0)
    neighbours.heard("device", make_beacon(NEWS, LESSER), 0.0)
    assert choose(neighbours, 1.0) is None
    neighbours.news(OWN_NEWS, [b"x" * 16], 2.0)
    assert choose(neighbours, 2.0) == "device"


def test_a_neighbour_that_has_connected_is_not_dialled():
    neighbours = make()
    neighbours.connected("device", is_connected=True)
    neighbours.heard("device", make_beacon(NEWS, LESSER), 0.0)
    assert choose(neighbours, 0.0) is None
    neighbours.connected("device", is_connected=False)
    assert choose(neighbours, 0.0) == "device"


def test_no_more_than_so_many_are_dialled_at_once():
    neighbours = make(max_neighbours=2)
    for number in range(4):
        neighbours.heard(f"device{number}", make_beacon(NEWS, bytes([number, 0, 0])), 0.0)
    first, second = neighbours.choose(OWN_SALT, 0.0)
    assert first != second
    assert neighbours.choose(OWN_SALT, 0.0) == []
    neighbours.ended(first, End.BUSY, 1.0)
    (third,) = neighbours.choose(OWN_SALT, 1.0)
    assert third not in {first, second}


@pytest.mark.parametrize("end", [End.UNREACHABLE, End.BUSY, End.TURNED_AWAY])
def test_the_unreachable_are_dialled_later_each_time_but_never_given_up(end):
    neighbours = make()
    now = 0.0
    delays = []
    for _ in range(12):
        while True:
            neighbours.heard("device", make_beacon(NEWS, LESSER), now)
            if choose(neighbours, now) is not None:
                break
            now += 1.0
        if delays:
            delays[-1] = now - delays[-1]
        neighbours.ended("device", end, now)
        delays.append(now)
    waited = delays[:-1]
    assert 0.5 * end.value <= waited[0] <= 1.5 * end.value + 1
    assert all(delay <= 1.5 * MAX_DELAY_S + 1 for delay in waited)
    assert waited[-1] >= 0.5 * MAX_DELAY_S
    assert len({round(delay / min(end.value * 2**count, MAX_DELAY_S), 2) for count, delay in enumerate(waited)}) > 6


def test_after_a_real_session_a_lost_neighbour_is_dialled_again_soon():
    neighbours = make()
    now = 0.0
    for _ in range(8):
        neighbours.heard("device", make_beacon(NEWS, LESSER), now)
        assert choose(neighbours, now) == "device"
        neighbours.ended("device", End.UNREACHABLE, now)
        now += 2 * MAX_DELAY_S
    neighbours.heard("device", make_beacon(NEWS, LESSER), now)
    assert choose(neighbours, now) == "device"
    neighbours.ended("device", End.CLOSED, now + STEADY_S, ran_s=STEADY_S)
    neighbours.heard("device", make_beacon(NEWS, LESSER), now + STEADY_S)
    assert choose(neighbours, now + STEADY_S + 1.5 * End.CLOSED.value) == "device"


def test_one_of_another_version_is_left_alone_until_it_has_another_salt():
    neighbours = make()
    neighbours.heard("device", make_beacon(NEWS, LESSER), 0.0)
    assert choose(neighbours, 0.0) == "device"
    neighbours.ended("device", End.UNUSABLE, 0.0)
    for now in range(0, 100_000, 60):
        neighbours.heard("device", make_beacon(NEWS, LESSER), now)
        assert choose(neighbours, now) is None
    neighbours.heard("device", make_beacon(NEWS, b"\x11\0\0"), 100_000.0)
    assert choose(neighbours, 100_000.0) == "device"


def test_who_was_not_heard_just_now_is_not_dialled_and_in_the_end_forgotten():
    neighbours = make()
    neighbours.heard("device", make_beacon(NEWS, LESSER), 0.0)
    assert choose(neighbours, RECENT_S) is None
    assert len(neighbours) == 1
    assert choose(neighbours, FORGET_S) is None
    assert len(neighbours) == 0


def quiet_session(neighbours, began_s=0.0):
    """A session with the neighbour in which nothing happened for long, and which then ended."""
    neighbours.news(OWN_NEWS, [NEWS], began_s)
    ended_s = began_s + QUIET_S
    neighbours.news(OWN_NEWS, [], ended_s)
    return ended_s


def test_a_neighbour_to_which_nothing_is_new_on_either_side_is_not_dialled_for_nothing():
    neighbours = make()
    now = quiet_session(neighbours)
    neighbours.heard("device", make_beacon(NEWS, LESSER), now)
    assert choose(neighbours, now) is None
    # Another salt does not hide it.
    neighbours.heard("again", make_beacon(NEWS, b"\x20\0\0"), now)
    assert choose(neighbours, now) is None


def test_news_on_either_side_and_long_silence_make_it_worth_a_visit():
    neighbours = make()
    now = quiet_session(neighbours)
    neighbours.heard("device", make_beacon(b"m" * 16, LESSER), now)
    assert choose(neighbours, now) == "device", "theirs is new"

    neighbours = make()
    now = quiet_session(neighbours)
    neighbours.heard("device", make_beacon(NEWS, LESSER), now)
    neighbours.news(b"o" * 16, [], now)
    assert choose(neighbours, now) == "device", "ours is new"

    neighbours = make()
    now = quiet_session(neighbours) + VISITED_S
    neighbours.heard("device", make_beacon(NEWS, LESSER), now)
    assert choose(neighbours, now) == "device", "long ago"


def test_a_session_that_broke_while_something_was_new_is_made_again():
    neighbours = make()
    neighbours.news(OWN_NEWS, [NEWS], 0.0)
    neighbours.news(OWN_NEWS, [], QUIET_S - 1)
    neighbours.heard("device", make_beacon(NEWS, LESSER), QUIET_S)
    assert choose(neighbours, QUIET_S) == "device", "theirs was fresh"

    neighbours = make()
    neighbours.news(OWN_NEWS, [NEWS], 0.0)
    neighbours.news(b"o" * 16, [NEWS], 2 * QUIET_S)
    neighbours.news(b"o" * 16, [], 3 * QUIET_S - 1)
    neighbours.heard("device", make_beacon(NEWS, LESSER), 3 * QUIET_S)
    assert choose(neighbours, 3 * QUIET_S) == "device", "ours was fresh"


class Air:
    """A relay listens for 4 s, and then again, when all that it dialled has answered or not."""

    def __init__(self, *, max_neighbours=3, seed=1):
        self.neighbours = make(max_neighbours, seed)
        self.draw = random.Random(seed)
        self.now = 0.0
        self.heard_full = 0

    def listen(self, *, honest, fresh_a_s, kept=(), rssi_dbm=-60):
        for second in range(4):
            now = self.now + second
            for name in (*honest, *kept):
                self.hear(name, now, rssi_dbm)
            for _ in range(fresh_a_s):
                self.hear(self.draw.randbytes(6).hex(), now, rssi_dbm)
        self.now += 4

    def hear(self, name, now, rssi_dbm):
        # A device says the same for as long as it has its address.
        salt = b"\0" + random.Random(name).randbytes(2)
        if not self.neighbours.heard(name, make_beacon(NEWS, salt), now, rssi_dbm=rssi_dbm):
            self.heard_full += 1

    def dial(self, honest):
        """Return who of the honest was dialled; the others do not answer."""
        chosen = self.neighbours.choose(OWN_SALT, self.now)
        found = [name for name in chosen if name in honest]
        for name in set(chosen) - set(found):
            self.neighbours.ended(name, End.UNREACHABLE, self.now + 8)
        self.now += 8 if chosen else 12
        return found


@pytest.mark.parametrize("fresh_a_s", [0, 10, 50, 200])
@pytest.mark.parametrize("kept", [0, 10])
@pytest.mark.parametrize("seed", range(5))
def test_whoever_invents_relays_does_not_keep_the_honest_from_each_other(fresh_a_s, kept, seed):
    """Ten a second, each once, kept a relay from linking for over 240 s. Or the same ten for ever."""
    air = Air(seed=seed)
    fakes = [f"fake {number}" for number in range(kept)]
    while not air.dial(["honest"]):
        assert air.now < (40 if fresh_a_s <= 50 and not kept else 120), air.now
        air.listen(honest=["honest"], fresh_a_s=fresh_a_s, kept=fakes)
        assert len(air.neighbours) <= MAX_HEARD
    assert air.heard_full == 0 or fresh_a_s >= 50


def test_a_stronger_transmitter_takes_the_blame_for_itself_only():
    air = Air(max_neighbours=1)
    fakes = [f"fake {number}" for number in range(40)]
    for _ in range(3):
        air.listen(honest=[], fresh_a_s=0, kept=fakes, rssi_dbm=-40)
        air.dial([])
    # One that is heard for the first time, and from farther away.
    air.listen(honest=[], fresh_a_s=0, kept=fakes, rssi_dbm=-40)
    air.hear("honest", air.now, -75)
    assert "honest" in air.dial(["honest"])


def test_three_that_never_hang_up_give_way_to_who_waits_one_after_the_other():
    """They said that their salt is zero, so everybody dials them, and that they have nothing to say."""
    neighbours = make(max_neighbours=3)
    for name in "abc":
        neighbours.heard(name, make_beacon(name.encode() * 16, bytes(3)), 0.0)
    chosen = neighbours.choose(OWN_SALT, 0.0)
    assert sorted(chosen) == ["a", "b", "c"]
    for number, name in enumerate(chosen):
        assert neighbours.entered(name, float(number))
    assert neighbours.is_full
    now = TENURE_S - 10
    for _ in range(2):
        neighbours.heard("honest", make_beacon(NEWS, LESSER), now)
        assert neighbours.give_way(OWN_SALT, now) is None, "it has not been there for long"
        assert neighbours.choose(OWN_SALT, now) == []
        now += STEADY_HEARD_S
    now = TENURE_S
    neighbours.heard_again("honest", now)
    assert neighbours.give_way(OWN_SALT, now) == chosen[0]
    neighbours.ended(chosen[0], End.GAVE_WAY, now)
    neighbours.heard_again(chosen[0], now)
    assert neighbours.choose(OWN_SALT, now) == ["honest"]
    assert neighbours.entered("honest", now)
    # It is not the one that gave way which comes next.
    now += 0.4 * End.GAVE_WAY.value
    neighbours.heard_again(chosen[0], now)
    assert neighbours.give_way(OWN_SALT, now) is None


def test_nobody_gives_way_where_nobody_waits_nor_to_a_newcomer_or_one_who_is_linked():
    neighbours = make(max_neighbours=1)
    neighbours.heard("a", make_beacon(b"a" * 16, LESSER), 0.0)
    assert choose(neighbours, 0.0) == "a"
    assert neighbours.entered("a", 0.0)
    now = 2 * TENURE_S
    assert neighbours.give_way(OWN_SALT, now) is None
    neighbours.heard("new", make_beacon(NEWS, LESSER), now)
    assert neighbours.give_way(OWN_SALT, now) is None
    neighbours.heard_again("new", now + STEADY_HEARD_S)
    neighbours.news(OWN_NEWS, [NEWS], now)
    assert neighbours.give_way(OWN_SALT, now + STEADY_HEARD_S) is None, "there is a session by another link"
    neighbours.news(OWN_NEWS, [], now)
    assert neighbours.give_way(OWN_SALT, now + STEADY_HEARD_S) == "a"


def test_one_too_many_finds_no_place():
    neighbours = make(max_neighbours=1)
    for number in range(10):
        neighbours.heard(f"fake {number}", make_beacon(NEWS, bytes([0, 0, number])), 0.0)
        neighbours.ended(f"fake {number}", End.UNREACHABLE, 0.0)
    for name in "ab":
        neighbours.heard(name, make_beacon(name.encode() * 16, bytes([0, 1, 0])), 0.0)
    # After so many in vain several are dialled for one place.
    assert sorted(neighbours.choose(OWN_SALT, 0.0)) == ["a", "b"]
    assert neighbours.entered("a", 0.0)
    assert not neighbours.entered("b", 0.0)
    assert neighbours.choose(OWN_SALT, 0.0) == []


def test_a_dialled_neighbour_is_kept_however_many_others_appear():
    neighbours = make(max_neighbours=1)
    neighbours.heard("device", make_beacon(NEWS, LESSER), 0.0)
    assert choose(neighbours, 0.0) == "device"
    for number in range(2 * MAX_HEARD):
        neighbours.heard(f"device{number}", make_beacon(NEWS, LESSER), 1000.0)
    assert len(neighbours) == MAX_HEARD
    assert choose(neighbours, 1000.0) is None
    assert neighbours.dialled == 1


def test_what_is_remembered_of_past_sessions_is_bounded():
    neighbours = make()
    for number in range(4 * MAX_VISITED):
        quiet_values = [number.to_bytes(16, "big")]
        neighbours.news(OWN_NEWS, quiet_values, number * 2 * QUIET_S)
        neighbours.news(OWN_NEWS, [], (number * 2 + 1) * QUIET_S)
    assert len(neighbours._visited) == MAX_VISITED


def test_when_bluez_restarts_everything_begins_anew():
    neighbours = make()
    neighbours.heard("device", make_beacon(NEWS, LESSER), 0.0)
    neighbours.connected("device", is_connected=True)
    assert choose(neighbours, 0.0) is None
    neighbours.reset()
    neighbours.ended("device", End.CLOSED, 1.0)
    neighbours.heard("device", make_beacon(NEWS, LESSER), 1.0)
    assert choose(neighbours, 1.0) == "device"
