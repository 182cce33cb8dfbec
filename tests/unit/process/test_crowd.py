# SPDX-License-Identifier: GPL-2.0-or-later
from relay.process.crowd import Places

MOST, PER_ADDRESS = 256, 8


def test_a_place_is_given_up_by_whoever_has_the_most_and_was_first():
    class Silent:
        def __init__(self, address):
            self.address = address
            self.dropped = False

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
