# SPDX-License-Identifier: GPL-2.0-or-later
from relay.process.crowd import Places

MOST, PER_ADDRESS = 256, 8


def test_a_place_is_given_up_by_whoever_has_the_most_and_was_first():
    class Silent:
        def __init__(self, address):
            self.address = address
            self.dropped = self.is_waiting = False

        def drop(self):
            self.dropped = True

    told = []
    places = Places(most=MOST, per_address=PER_ADDRESS, on_dropped=lambda: told.append(1))
    phone = Silent("phone")
    places.enter(phone)
    hostile = [Silent("one") for _ in range(20)]
    for connection in hostile:
        places.enter(connection)
    assert [connection.dropped for connection in hostile] == [True] * 12 + [False] * 8
    others = [Silent(str(number)) for number in range(2 * MOST)]
    for connection in others:
        places.enter(connection)
        assert len(places) <= MOST
    # The newest are there, and the one address with several gave up first.
    assert not any(connection.dropped for connection in others[-MOST // 2 :])
    assert sum(not connection.dropped for connection in hostile) <= 1
    every = [phone, *hostile, *others]
    assert len(told) == sum(connection.dropped for connection in every) == len(every) - len(places)


def test_who_waits_for_an_answer_keeps_the_place_however_many_addresses_come():
    """One with many addresses, who came anew all the time, let nobody stay until the answer was made."""

    class Asking:
        def __init__(self, address, *, is_waiting):
            self.address = address
            self.is_waiting = is_waiting
            self.dropped = False

        def drop(self):
            self.dropped = True

    told = []
    places = Places(most=4, per_address=4, on_dropped=lambda: told.append(1))
    phone = Asking("phone", is_waiting=True)
    places.enter(phone)
    silent = [Asking(str(number), is_waiting=False) for number in range(100)]
    for connection in silent:
        places.enter(connection)
    assert [connection.dropped for connection in silent] == [True] * 97 + [False] * 3
    asking = [Asking(str(number), is_waiting=True) for number in range(200, 300)]
    for connection in asking:
        places.enter(connection)
    # Three find a place of the silent ones. All wait now, and who comes has none, until somebody is answered.
    assert [connection.dropped for connection in asking] == [False] * 3 + [True] * 97
    assert not phone.dropped
    assert len(told) == 97 + 3 + 97
    asking[0].is_waiting = False
    newcomer = Asking("other phone", is_waiting=False)
    places.enter(newcomer)
    assert (asking[0].dropped, newcomer.dropped) == (True, False)
    # Who has several gives way all the same, his silent one first.
    places = Places(most=4, per_address=4)
    greedy = [Asking("greedy", is_waiting=number != 2) for number in range(4)]
    for connection in (*greedy, Asking("phone", is_waiting=True), Asking("phone 2", is_waiting=True)):
        places.enter(connection)
        assert len(places) <= 4
    assert [connection.dropped for connection in greedy] == [True, False, True, False]
    # Of one address that has as many as it may, those who wait are answered first.
    places = Places(most=4, per_address=2)
    same = [Asking("one", is_waiting=True) for _ in range(5)]
    for connection in same:
        places.enter(connection)
    assert [connection.dropped for connection in same] == [False, False, True, True, True]
