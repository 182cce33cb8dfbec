# SPDX-License-Identifier: GPL-2.0-or-later
from relay.core.stats import LinkKind
from relay.run.watch import MAX_REMEMBERED, MISSED_S, NOTE_S, RECENT_S, Watch

ETH0 = LinkKind.TCP, "eth0"


def test_recent_is_what_came_in_the_last_ten_minutes_and_then_it_is_over():
    watch = Watch(0.0)
    count, told = 0, []
    for minute in range(31):
        now = 60.0 * minute
        # Something happens in each of the minutes 10 to 15.
        count += 10 <= minute < 15
        watch.note(now, {"evicted": count}, [])
        told.append(watch.recent({"evicted": count})["evicted"])
    assert told[9:16] == [0, 1, 2, 3, 4, 5, 5]
    assert told[19] == 5
    assert told[25] == 0
    assert len(watch._noted) <= RECENT_S / NOTE_S + 2


def test_what_is_noted_often_is_kept_in_steps():
    watch = Watch(0.0)
    for second in range(10_000):
        watch.note(second / 10, {"evicted": second}, [])
    assert len(watch._noted) <= RECENT_S / NOTE_S + 2


def test_where_a_relay_was_is_missed_for_a_day_and_no_crowd_of_adapters_grows_memory():
    watch = Watch(0.0)
    assert watch.alone_s(50.0) is None
    watch.note(100.0, {}, [ETH0])
    assert (watch.alone_s(100.0), watch.alone_s(160.0)) == (0.0, 60.0)
    assert watch.missed(100.0 + MISSED_S - 1) == {ETH0}
    assert watch.missed(100.0 + MISSED_S) == set()
    for number in range(10 * MAX_REMEMBERED):
        watch.note(200.0 + number, {}, [(LinkKind.TCP, f"usb{number}")])
    assert len(watch.missed(1000.0)) == MAX_REMEMBERED
