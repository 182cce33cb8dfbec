# SPDX-License-Identifier: GPL-2.0-or-later
"""What time a mesh believes, and what a liar can and cannot do by it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.bitchat.clock import (
    DISPUTED_MS,
    LAST_MS,
    MAX_WITNESSES,
    MIN_DISPUTING,
    MIN_WITNESSES,
    WITNESS_S,
    MeshClock,
)

T = 1_780_000_000_000


def clock():
    return MeshClock(earliest_ms=T - 10**9)


def hear(learning, link, off_ms=0.0, *, now=0.0, identity=None):
    learning.hear(link, identity or str(link).encode(), int(T + 1000 * now + off_ms), now)


def test_a_clock_to_trust_is_believed_whatever_phones_say():
    learning = clock()
    learning.trust(T, 0.0)
    for link in range(5):
        hear(learning, link, 10**6)
    assert learning.time_ms(10.0, 1) == T + 10_000
    assert not learning.is_learned(10.0)
    learning.trust(None, 10.0)
    assert learning.time_ms(10.0) == T + 10_000 + 10**6
    assert learning.is_learned(10.0)


def test_a_lone_phone_s_time_is_for_its_own_link_only():
    learning = clock()
    hear(learning, 1, 3_600_000)
    assert learning.time_ms(5.0, 1) == T + 3_605_000
    assert learning.time_ms(5.0, 2) is None
    assert learning.time_ms(5.0) is None
    hear(learning, 2, -60_000)
    assert learning.time_ms(0.0, 1) == T + 3_600_000
    assert learning.time_ms(0.0, 2) == T - 60_000
    assert learning.time_ms(0.0) is None


def test_one_identity_on_many_links_is_one_witness():
    learning = clock()
    for link in range(20):
        hear(learning, link, 10**6, identity=b"eve")
    assert learning.time_ms(0.0) is None
    assert learning.time_ms(0.0, 19) == T + 10**6
    assert learning.time_ms(0.0, 18) is None


def test_many_identities_on_one_link_are_one_witness():
    learning = clock()
    for number in range(20):
        hear(learning, 1, 10**6, identity=bytes([number]))
    assert learning.time_ms(0.0) is None


def test_what_is_before_this_program_or_after_this_century_is_no_time():
    learning = clock()
    for link, stamp in enumerate((0, T - 10**9 - 1, LAST_MS, 2**64 - 1)):
        learning.hear(link, bytes([link]), stamp, 0.0)
    assert all(learning.time_ms(0.0, link) is None for link in range(4))


def test_who_leaves_or_falls_silent_is_forgotten():
    learning = clock()
    for link in range(3):
        hear(learning, link)
    assert learning.time_ms(WITNESS_S) == T + 1000 * WITNESS_S
    learning.forget(2)
    assert learning.time_ms(WITNESS_S) is None
    assert learning.time_ms(WITNESS_S, 1) == T + 1000 * WITNESS_S
    assert learning.time_ms(WITNESS_S + 1, 1) is None


def test_witnesses_are_bounded():
    learning = clock()
    for link in range(1000):
        hear(learning, link)
    assert len(learning._witnesses) == MAX_WITNESSES


@settings(max_examples=50)
@given(
    st.lists(st.integers(-2000, 2000), min_size=2, max_size=12),
    st.lists(st.integers(-(10**8), 10**10), max_size=11),
    st.randoms(use_true_random=False),
)
def test_liars_who_are_fewer_move_nobody_out_of_what_the_honest_say(honest, liars, shuffle):
    liars = liars[: len(honest) - 1]
    said = honest + liars
    shuffle.shuffle(said)
    learning = clock()
    for link, off_ms in enumerate(said):
        hear(learning, link, off_ms)
    believed = learning.time_ms(0.0)
    if len(said) >= MIN_WITNESSES:
        assert T + min(honest) <= believed <= T + max(honest)
    else:
        assert believed is None


def test_liars_who_are_as_many_do_move_it_as_the_threat_model_says():
    learning = clock()
    for link, off_ms in enumerate((0, 0, -(10**8), -(10**8))):
        hear(learning, link, off_ms)
    assert learning.time_ms(0.0) == T - 10**8


def test_a_clock_to_trust_that_five_phones_contradict_is_told_and_kept():
    learning = clock()
    learning.trust(T + DISPUTED_MS + 1, 0.0)
    for link in range(MIN_DISPUTING):
        assert not learning.is_disputed(0.0)
        hear(learning, link)
    assert learning.is_disputed(0.0)
    assert learning.time_ms(0.0) == T + DISPUTED_MS + 1
    assert not learning.is_learned(0.0)
    learning.trust(T + DISPUTED_MS, 0.0)
    assert not learning.is_disputed(0.0)
    learning.trust(T - DISPUTED_MS - 1, 0.0)
    assert learning.is_disputed(0.0)
    learning.forget(0)
    assert not learning.is_disputed(0.0)
