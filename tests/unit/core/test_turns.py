# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose turn it is: who had least of the time, counted in what each turn took."""

from collections import Counter

from relay.core.turns import MAX_LEFT, SAVED_S, Turns

MS = 0.001


def make(*who):
    """Turns with sessions 0, 1, ...: (interface, address) each."""
    turns = Turns()
    for number, (interface, peer) in enumerate(who):
        turns.open(number, interface, peer)
    return turns


def serve(turns, cost, count, *, greedy=()):
    """Serve ``count`` turns; the ``greedy`` at once have something to do again. Returns who was served, in order."""
    served = []
    for _ in range(count):
        number = turns.next()
        served.append(number)
        if number in greedy:
            turns.add(number)
        turns.spent(cost(number) if callable(cost) else cost)
    return served


def test_each_who_waits_has_his_turn_once():
    turns = make(*[("eth0", str(number)) for number in range(5)])
    for number in (3, 1, 3, 4):
        turns.add(number)
    assert serve(turns, MS, 3) == [3, 1, 4]
    assert turns.next() is None
    assert not turns


def test_who_was_quiet_goes_before_all_who_were_not():
    flood = range(1, 257)
    turns = make(("eth0", "quiet"), *[("eth0", f"flood {number}") for number in flood])
    for number in flood:
        turns.add(number)
    serve(turns, MS, 2000, greedy=flood)
    for _ in range(20):
        # A tenth of a turn now and then: less than its part, which is one turn in 257.
        turns.add(0)
        assert serve(turns, lambda number: 0.1 * MS if number == 0 else MS, 30, greedy=flood)[0] == 0


def test_only_so_much_of_the_time_not_used_is_saved_up():
    turns = make(("eth0", "quiet"), ("eth0", "busy"))
    turns.add(1)
    serve(turns, MS, 100_000, greedy=[1])
    turns.add(0)
    first = serve(turns, MS, 1000, greedy=[0, 1])
    assert SAVED_S / 2 / MS - 2 <= first.index(1) <= SAVED_S / 2 / MS + 2
    served = Counter(serve(turns, MS, 100, greedy=[0, 1]))
    assert abs(served[0] - served[1]) <= 1


def test_time_in_which_nobody_had_anything_to_do_is_time_not_used():
    turns = make(("eth0", "quiet"), *[("eth0", f"busy {number}") for number in range(9)])
    turns.rest(10.0)
    for number in range(10):
        turns.add(number)
    assert serve(turns, MS, 10) == list(range(10))
    # All had saved up a second, and ten addresses make a turn cost ten times as much.
    for number in range(10):
        turns.add(number)
    served = Counter(serve(turns, lambda number: MS if number else 0.1 * MS, 2000, greedy=range(10)))
    turns.add(0)
    assert served[0] > served[1]
    turns.rest(1.0)
    assert turns.next() is not None


def test_a_newcomer_goes_before_those_who_are_busy_and_has_saved_up_nothing():
    turns = make(("eth0", "busy"))
    turns.add(0)
    serve(turns, MS, 5000, greedy=[0])
    turns.open(1, "eth0", "newcomer")
    turns.add(1)
    served = serve(turns, MS, 10, greedy=[0, 1])
    assert served.index(1) <= 1
    assert served.count(1) <= 6


def test_sessions_of_one_address_share_its_part():
    many = range(1, 29)
    turns = make(("eth0", "one"), *[("eth0", "many")] * 28)
    for number in range(29):
        turns.add(number)
    served = Counter(serve(turns, MS, 560, greedy=range(29)))
    assert 270 <= served[0] <= 290
    assert all(served[number] == served[1] for number in many)


def test_addresses_of_one_interface_share_its_part():
    many = range(1, 257)
    turns = make(("wlan0", "phone"), *[("eth0", f"fd00::{number}") for number in many])
    for number in range(257):
        turns.add(number)
    served = Counter(serve(turns, MS, 2570, greedy=range(257)))
    assert served[0] > 1000


def test_addresses_that_say_nothing_cost_those_of_their_interface_nothing():
    turns = make(("eth0", "honest"), ("wlan0", "busy"), *[("eth0", f"fd00::{number}") for number in range(255)])
    turns.add(0)
    turns.add(1)
    served = Counter(serve(turns, MS, 1000, greedy=[0, 1]))
    assert abs(served[0] - served[1]) <= 2


def test_an_interface_whose_last_address_left_and_came_again_does_not_begin_anew():
    turns = make(("eth0", "flood"), ("wlan0", "other"))
    turns.add(1)
    turns.add(0)
    serve(turns, lambda number: 1000 * MS if number == 0 else MS, 4, greedy=[1])
    turns.close(0)
    turns.open(2, "eth0", "another")
    turns.add(2)
    assert 2 not in serve(turns, MS, 100, greedy=[1])


def test_streams_without_an_address_are_nobodys_second():
    turns = make(("eth0", "phone"), *[("hci0", "")] * 3)
    for number in range(4):
        turns.add(number)
    served = Counter(serve(turns, MS, 600, greedy=range(4)))
    assert served[1] == served[2] == served[3]


def test_who_takes_long_is_served_less_often():
    turns = make(("eth0", "slow"), ("eth0", "fast"))
    turns.add(0)
    turns.add(1)
    served = Counter(serve(turns, lambda number: 10 * MS if number == 0 else MS, 110, greedy=[0, 1]))
    assert 9 <= served[1] / served[0] <= 11


def test_who_leaves_and_comes_again_does_not_begin_anew():
    turns = make(("eth0", "flood"), ("eth0", "other"))
    turns.add(1)
    turns.add(0)
    serve(turns, lambda number: 1000 * MS if number == 0 else MS, 4, greedy=[1])
    turns.close(0)
    turns.open(2, "eth0", "flood")
    turns.add(2)
    assert 2 not in serve(turns, MS, 100, greedy=[1])


def test_who_is_gone_has_no_turn_and_is_forgotten_at_last():
    turns = make(("eth0", "a"), ("eth0", "b"))
    turns.add(0)
    turns.close(0)
    assert turns.next() is None
    turns.add(0)
    assert not turns
    for number in range(10, 10 + 3 * MAX_LEFT):
        turns.open(number, "eth0", f"fd00::{number}")
        turns.add(number)
        turns.next()
        turns.spent(MS)
        turns.close(number)
    assert len(turns._clocks) <= MAX_LEFT + 2


def test_time_that_nobody_used_makes_up_for_what_those_had_who_have_gone():
    turns = make(("eth0", "a"), ("eth0", "b"))
    turns.add(0)
    turns.add(1)
    serve(turns, MS, 200, greedy=[0])
    turns.close(0)
    assert turns.next() is None
    assert ("eth0", "a") in turns._clocks, "it would begin anew"
    turns.rest(1.0)
    assert set(turns._clocks) == {("eth0", "b")}


def test_whoever_is_served_last_may_end_in_his_own_turn():
    turns = make(("eth0", "a"), ("eth0", "a"))
    turns.add(0)
    turns.add(1)
    assert turns.next() == 0
    turns.close(0)
    turns.spent(MS)
    assert turns.next() == 1
