# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever brings much waits for himself: of what waits for a phone each link has its turn, and of each its senders."""

import tracemalloc

from relay.bitchat.fragments import IPHONE_MAX_PIECES, LIFETIME_S, MAX_PASSING_OF_RELAYS, Passing, Piece
from relay.bitchat.outbox import MAX_WAITING_BYTES, Group, Outbox
from relay.bitchat.packet import PacketType, make_packet
from relay.core.rate import Rate

RATE = Rate(per_s=1000.0, burst=1000.0)


def packet(sender, *, kind=PacketType.MESSAGE, number=0, signed=True):
    made = make_packet(kind, b"%d" % number, sender=sender, timestamp_ms=number)
    return made.signed(b"\1" * 64) if signed else made


def fill(box, origin, sender, count, *, size=500, **other):
    for number in range(count):
        frame = sender + bytes(size - 8)
        box.put(packet(sender, number=number, **other), Group((frame,), 100.0), origin)


def order(box, seconds):
    return [frame[:8] for now in range(seconds) for frame in box.take(float(now))]


def test_a_link_that_brings_little_waits_for_one_packet_of_one_that_brings_much():
    box = Outbox(0.0, RATE)
    fill(box, 1, b"eve.....", 50)
    box.take(0.0)
    fill(box, 2, b"ana.....", 1)
    assert b"ana....." in order(box, 3)[:2]


def test_as_many_names_as_he_likes_gain_nothing_nor_do_packets_that_nobody_can_check():
    box = Outbox(0.0, RATE)
    for number in range(100):
        fill(box, 1, b"%08d" % number, 1, kind=PacketType.NOISE_ENCRYPTED, signed=False)
    fill(box, 1, b"ana.....", 1)
    fill(box, 2, b"ben.....", 1)
    assert {b"ana.....", b"ben....."} <= set(order(box, 4)[:4])


def test_of_one_sender_the_announce_goes_first_and_then_what_came_first():
    box = Outbox(0.0, RATE)
    for number, kind in enumerate((PacketType.MESSAGE, PacketType.MESSAGE, PacketType.ANNOUNCE)):
        box.put(packet(b"ana.....", kind=kind, number=number), Group((bytes([number]),), 9.0), 1)
    assert box.take(0.0) == [b"\2", b"\0", b"\1"]


def test_without_room_who_has_the_most_gives_way_and_all_that_is_lost_is_counted():
    box = Outbox(0.0, RATE)
    fill(box, 2, b"ana.....", 3)
    fill(box, 1, b"eve.....", 300)
    assert box.held_bytes <= MAX_WAITING_BYTES
    assert box.lost == 303 - box.held_bytes // 500
    sent = order(box, 100)
    assert sent.count(b"ana.....") == 3
    assert len(sent) + box.lost == 303
    fill(box, 1, b"eve.....", 2)
    lost = box.lost
    assert box.take(100.5) == []
    assert (box.lost, box.held_bytes) == (lost + 2, 0), "what is too late is lost, too"
    fill(box, 1, b"eve.....", 2)
    box.clear()
    assert (box.lost, box.held_bytes, box.next_s(101.0)) == (lost + 4, 0, None)


def test_pieces_of_one_packet_follow_each_other():
    box = Outbox(0.0, RATE)
    box.put(packet(b"ana....."), Group(tuple(b"a%d" % n + bytes(500) for n in range(4)), 9.0), 1)
    box.put(packet(b"ben....."), Group((b"b0" + bytes(500),), 9.0), 2)
    assert [frame[:1] for now in range(6) for frame in box.take(float(now))] == [b"a"] * 4 + [b"b"]


def test_so_many_sets_of_pieces_of_a_link_pass_at_a_time_and_one_that_is_whole_makes_room():
    passing = Passing()

    def may(number, index, *, link=1, now=0.0):
        piece = Piece(set_id=b"%08d" % number, index=index, count=2, whole_type=2, data=b"x")
        return passing.may_pass(link, b"ana.....", piece, now, most=3)

    assert [may(number, 0) for number in range(4)] == [True, True, True, False]
    assert may(0, 0), "a piece that came before"
    assert may(9, 0, link=2), "of another link"
    assert may(1, 1), "its last piece"
    assert may(3, 0)
    assert not may(4, 0)
    assert may(4, 0, now=LIFETIME_S), "and the others are over"
    passing.forget(1)
    assert may(5, 0)


def test_what_is_known_of_sets_that_pass_takes_little_memory_however_many_pieces_they_say_they_have():
    """Nine megabytes for one link it once was."""
    passing = Passing()
    tracemalloc.start()
    for number in range(MAX_PASSING_OF_RELAYS):
        piece = Piece(set_id=b"%08d" % number, index=0, count=IPHONE_MAX_PIECES, whole_type=2, data=b"x")
        assert passing.may_pass("relays", b"ana.....", piece, 0.0, most=MAX_PASSING_OF_RELAYS)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < MAX_PASSING_OF_RELAYS * 2048
