# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dial in vain costs, and whom."""

import random

from relay.bluetooth.kinds import HALF_S, MAX_KINDS, Failures, kind_of


def test_a_failure_costs_those_that_are_alike_and_is_forgotten():
    failures = Failures()
    near, far = kind_of(is_steady=False, rssi_dbm=-50), kind_of(is_steady=False, rssi_dbm=-80)
    for _ in range(8):
        failures.note(near, 0.0)
    assert (failures.of(near, 0.0), failures.of(far, 0.0), failures.total(0.0)) == (8, 0, 8)
    assert failures.of(kind_of(is_steady=True, rssi_dbm=-50), 0.0) == 0
    assert [failures.of(near, count * HALF_S) for count in (1, 2, 3, 5)] == [4, 2, 1, 0]
    failures.note(near, HALF_S)
    assert failures.total(HALF_S) == 5


def test_there_are_no_more_kinds_than_the_bound_says():
    draw = random.Random(1)
    strengths = [None, *range(-1000, 1000, 7)]
    kinds = {kind_of(is_steady=draw.random() < 0.5, rssi_dbm=strength) for strength in strengths for _ in range(9)}
    assert 2 < len(kinds) <= MAX_KINDS
