# SPDX-License-Identifier: GPL-2.0-or-later
"""What members say at one relay and others hear at another at once: without I/O, keys of Berty's, or a mesh between."""

from dataclasses import replace

import pytest

from relay.core.envelope import SIZES, envelope_id
from relay.core.errors import DecodeError
from relay.core.messages import LiveDatagram
from relay.libp2p import keeper as keeping
from relay.libp2p import live
from relay.libp2p.berty import KeptBlock, KeptSeal, name_of, sender_of
from relay.libp2p.live import KIND, Pace, decode_live, identity_of, is_of, open_live, seal_live
from tests.unit.libp2p.berty_bytes import digest, entry, seal
from tests.unit.libp2p.test_keeper import ANA, BEN, HOUR, OTHER, TOPIC, One

NAME = name_of(TOPIC)


def said(kept):
    return seal_live(kept.content.encode(), name_of(kept.topic))


def test_a_seal_of_one_relay_is_offered_at_once_at_another_and_becomes_the_same_envelopes():
    here, there = One(), One()
    here.join(ANA)
    there.join(BEN)
    (kept,) = here.say(ANA, seal(b"r"))
    heard = there.keeper.heard(said(kept), there.now)
    assert heard.content == kept.content
    assert heard.wrap(HOUR) == kept.wrap(HOUR)
    offered, _ = there.keeper.next_offer(BEN, there.now)
    assert offered.kept.payload == seal(b"r")
    # It was told to all relays, and is told to none again.
    assert heard.is_told
    assert not kept.is_told
    # The other copy, and that of the store, are known.
    assert there.keeper.heard(said(kept), there.now) is None
    for envelope in kept.wrap(HOUR):
        there.keeper.found(envelope, there.now)
    assert there.counts["live_known"] == 1
    assert there.counts["live_received"] == 1


def test_a_block_is_served_once_this_store_has_it_and_refused_if_it_is_of_another_log():
    there = One()
    there.join(BEN)
    block = entry(TOPIC)
    heard = there.keeper.heard(seal_live(KeptBlock(block).encode(), NAME), there.now)
    assert there.keeper.place(digest(block), BEN) is None
    there.put(heard)
    assert there.keeper.place(digest(block), BEN) is not None
    with pytest.raises(DecodeError):
        there.keeper.heard(seal_live(KeptBlock(entry(OTHER)).encode(), NAME), there.now)


def test_where_nobody_is_in_the_group_nothing_is_taken():
    here, there = One(), One()
    here.join(ANA)
    there.join(BEN, OTHER)
    (kept,) = here.say(ANA, seal(b"r"))
    assert there.keeper.heard(said(kept), there.now) is None
    # Nor where he has left: the store has it for who comes.
    there.join(BEN)
    there.leave(BEN)
    assert there.keeper.heard(said(kept), there.now) is None
    assert there.counts == {"live_elsewhere": 2}


def test_a_datagram_shows_no_envelope_no_length_and_not_which_of_two_topics_it_is_of():
    kept = [KeptSeal(sender_of(NAME, ANA), 1, seal(b"r", b"x" * size)) for size in (1, 150)]
    datagrams = [seal_live(each.encode(), NAME) for each in kept]
    assert {len(each.data) for each in datagrams} == {SIZES[0]}
    first, second = (each.data for each in datagrams)
    # Of one topic they have the bucket in common, which is one of 32, and nothing else.
    assert first[0] == second[0] == NAME.bucket
    common = sum(a == b for a, b in zip(first[1:], second[1:], strict=True))
    assert common < 12, "as many as chance makes"
    for envelope in keeping.Kept(TOPIC, kept[0]).wrap(HOUR):
        pieces = {envelope[at : at + 8] for at in range(len(envelope) - 8)} | {envelope_id(envelope)[:16]}
        assert not any(piece in first or piece == datagrams[0].identity for piece in pieces)
    # Whoever hears it twice, of two relays, hears one.
    assert seal_live(kept[0].encode(), NAME) == datagrams[0]


def test_what_is_not_what_it_says_is_refused():
    there = One()
    there.join(BEN)
    whole = seal_live(KeptSeal(b"12345678", 1, seal(b"r")).encode(), NAME)
    assert open_live(decode_live(whole), NAME)
    turned = bytes([whole.data[-1] ^ 1])
    for broken in (
        replace(whole, identity=bytes(16)),
        again(whole.data[:-1]),
        again(whole.data[:-1] + turned),
        again(b"\xff" + whole.data[1:]),
        again(bytes([NAME.bucket]) + bytes(255)),
        again(b"x"),
    ):
        try:
            assert there.keeper.heard(broken, there.now) is None
        except DecodeError:
            continue
    assert "live_received" not in there.counts
    for content in (b"\0nothing", b"\1short", b"\2" + b"no entry", KeptSeal(b"12345678", 1, b"no seal").encode()):
        with pytest.raises(DecodeError):
            there.keeper.heard(seal_live(content, NAME), there.now)


def again(data):
    return LiveDatagram(kind=KIND, identity=identity_of(data), data=data)


def said_by(sender, name):
    return seal_live(KeptSeal(sender, 1, seal(b"r", sender)).encode(), name)


def test_whoever_knows_a_topic_takes_no_more_than_its_own_part():
    there = One()
    there.join(BEN)
    there.join(ANA, OTHER)
    taken = sum(there.keeper.heard(said_by(b"%08d" % number, NAME), there.now) is not None for number in range(400))
    assert taken == keeping.HEARD.burst
    assert there.counts["live_refused"] == 400 - taken
    assert there.keeper.heard(said_by(b"12345678", name_of(OTHER)), there.now) is not None


def test_topics_of_one_bucket_cost_no_more_than_their_part_of_the_time():
    there = One()
    mine = [topic for number in range(4000) if name_of(topic := f"/orbitdb/{number}").bucket == NAME.bucket]
    there.join(BEN, *mine)
    strange = again(bytes([NAME.bucket]) + bytes(255))
    count = int(keeping.TRIED.burst / len(mine)) + 10
    for _ in range(count):
        assert there.keeper.heard(strange, there.now) is None
    assert there.counts["live_refused"] >= 9
    there.now += 3600
    assert there.keeper.heard(strange, there.now) is None
    assert there.counts["live_elsewhere"] == count + 1 - there.counts["live_refused"]


def test_what_a_relay_says_is_bounded_and_what_is_too_long_goes_by_the_store_alone():
    pace = Pace(0.0)
    assert sum(pace.may_say(256, 0.0) for _ in range(200)) == live.SAID.burst
    assert pace.may_say(256, 10.0)
    pace = Pace(0.0)
    assert sum(pace.may_say(SIZES[-1], 0.0) for _ in range(200)) == live.SAID_BYTES.burst // SIZES[-1]
    longest = live.CAPACITIES[-1] - 1
    assert len(seal_live(bytes(longest), NAME).data) == SIZES[-1]
    assert seal_live(bytes(longest + 1), NAME) is None
    assert is_of(decode_live(seal_live(b"x", NAME)), NAME)
    assert not is_of(decode_live(seal_live(b"x", NAME)), name_of(OTHER))
