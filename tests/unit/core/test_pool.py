# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is shared: who holds the most gives way, and sums are true after anything."""

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.pool import GONE, Pool
from relay.core.rate import Bucket, Rate


def test_who_holds_the_most_gives_way_by_number_and_by_bytes():
    pool = Pool(most=10, most_bytes=100, life_s=60.0)
    pool.put("mine", 1, origin="ana", now=0.0, size=40)
    for number in range(100):
        pool.put(number, 1, origin="eve", now=0.0, size=1)
    assert len(pool) == 10
    assert "mine" in pool
    for number in range(100):
        pool.put(f"large {number}", 1, origin="eve", now=0.0, size=30)
    assert "mine" in pool
    assert pool.held_bytes <= 100


def test_of_one_origin_the_part_that_holds_the_most_gives_way_by_number_and_by_bytes():
    pool = Pool(most=10, most_bytes=1000, life_s=60.0)
    pool.put("hers", 1, origin="all", part="ana", now=0.0, size=1)
    pool.put("hers, too", 1, origin="all", part="ana", now=0.0, size=1)
    for number in range(100):
        pool.put(number, 1, origin="all", part="eve", now=0.0, size=1)
    assert {"hers", "hers, too"} <= {key for key, _ in pool.items()}
    assert pool.get(99) == 1
    pool.put("one", 1, origin="all", part="mallory", now=0.0, size=999)
    assert {"hers", "hers, too"} <= {key for key, _ in pool.items()}
    # When its links are closed it is a part as before, and one that is forgotten makes no hole.
    pool.leave("all")
    for number in range(100):
        pool.put(number, 1, origin=GONE, part="eve", now=0.0, size=1)
    assert "hers" in dict(pool.items())
    pool.pop("hers")
    assert pool.get("hers, too") == 1


def test_closed_links_are_one_origin_so_that_coming_again_gains_nothing():
    pool = Pool(most=10, most_bytes=1, life_s=60.0)
    for link in ("ana", "ben"):
        for number in range(3):
            pool.put((link, number), 1, origin=link, now=0.0)
    for link in range(100):
        pool.put(link, 1, origin=link, now=0.0)
        pool.leave(link)
    assert all((link, number) in pool for link in ("ana", "ben") for number in range(3))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "pop", "leave", "expire"]),
            st.integers(0, 8),
            st.sampled_from(["a", "b", GONE]),
            st.integers(0, 30),
        ),
        max_size=60,
    )
)
def test_sums_are_true_and_bounds_hold_after_anything(steps):
    pool, now = Pool(most=5, most_bytes=60, life_s=10.0), 0.0
    ends = {}
    for what, key, origin, size in steps:
        now += 1.0
        if what == "put":
            pool.put(key, size, origin=origin, now=now, size=size, part=size % 3)
            ends[key] = now + 10.0
        elif what == "pop":
            pool.pop(key)
        elif what == "leave":
            pool.leave(origin)
        else:
            pool.expire(now)
            assert all(ends[kept] > now for kept, _ in pool.items())
        assert len(pool) <= 5
        assert pool.held_bytes == sum(value for _, value in pool.items()) <= 60
        assert sum(map(len, pool._of_origin.values())) == len(pool)


def test_a_rate_is_what_it_says():
    bucket, taken = Bucket(Rate(per_s=10.0, burst=5.0), 0.0), 0
    for tick in range(1000):
        taken += bucket.take(1, tick / 100)
    assert 104 <= taken <= 105
    bucket.spend(30, 10.0)
    assert 12.5 < bucket.open_at(10.0) < 13.1
    assert bucket.open_at(13.2) == 13.2
