# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept for members who are away, without I/O: a store that is a list, and hours and peers that are numbers."""

import itertools
import random
from collections import Counter

import pytest

from relay.core.envelope import decode_envelope, envelope_id
from relay.core.errors import DecodeError
from relay.libp2p import keeper as keeping
from relay.libp2p.berty import KeptSeal, decode_kept, decode_seal, name_of, sender_of
from relay.libp2p.cid import raw
from relay.libp2p.keeper import Keeper
from tests.unit.libp2p.berty_bytes import digest, entry, seal

TOPIC = "/orbitdb/bafyreiabc/0123_wesh_group_messages"
OTHER = "/orbitdb/bafyreiabc/4567_wesh_group_messages"
HOUR = 496_000
ANA, BEN, CLEO = b"ana", b"ben", b"cleo"


class One:
    """A keeper, beside a store that others may share."""

    def __init__(self, store=None):
        self.counts = Counter()
        self.keeper = Keeper(count=self._count)
        self.keeper.hour = HOUR
        self.store = {} if store is None else store
        self.now = 0.0

    def _count(self, event, amount=1):
        self.counts[event] += amount

    def join(self, peer, *topics, address=None):
        for topic in topics or (TOPIC,):
            assert self.keeper.subscribed(peer, topic, address=address or f"of {peer!r}", now=self.now)
        self.read()

    def leave(self, peer, *topics):
        for topic in topics or (TOPIC,):
            self.keeper.left(peer, topic, self.now)

    def read(self):
        while names := self.keeper.take_unread():
            for envelope in self.store.values():
                self.keeper.found(envelope, self.now)
            self.keeper.read(names, self.now)

    def put(self, kept, hour=HOUR):
        envelopes = kept.wrap(hour)
        self.store |= {envelope_id(envelope): envelope for envelope in envelopes}
        self.keeper.stored(kept, tuple(envelope_id(envelope) for envelope in envelopes), hour, self.now)
        return envelopes

    def say(self, peer, payload, topic=TOPIC, order=1, address=None):
        """A seal of a peer; returns what was kept of it."""
        kept = self.keeper.take_seal(
            payload, peer=peer, address=address or f"of {peer!r}", topic=topic, order=order, now=self.now
        )
        for each in kept or ():
            self.put(each)
        return kept

    def given(self, peer, *, until_s=20.0, taken=True):
        """Let time go by, and return when a peer was given what."""
        found, end = [], self.now + until_s
        while True:
            offered, due_s = self.keeper.next_offer(peer, self.now)
            if offered is not None:
                found.append((round(self.now, 1), offered.kept.payload))
                self.keeper.offered(peer, offered, taken=taken, now=self.now)
            elif due_s is None or due_s > end:
                return found
            else:
                self.now = due_s

    def fetch(self, blocks):
        """Fetch all that is queued from who has these blocks; returns the digests that were asked for."""
        asked = []
        while (fetch := self.keeper.next_fetch(self.now)) is not None:
            asked.append(fetch.digest)
            kept = self.keeper.fetched(fetch, blocks.get(fetch.digest), self.now)
            if kept is not None:
                self.put(kept)
        return asked

    def block(self, found, peer):
        place = self.keeper.place(found, peer)
        return None if place is None else self.keeper.unwrapped(place, self.store)


def chain(length, topic=TOPIC):
    """Entries of which each links to the one before; returns them by digest, and the digest of the last."""
    blocks, last = {}, None
    for number in range(length):
        block = entry(topic, [raw(last)] if last else [], b"%d" % number)
        last = digest(block)
        blocks[last] = block
    return blocks, last


# -- seals ----------------------------------------------------------------------------


def test_who_comes_later_is_given_the_seal_three_times_and_its_sender_is_not():
    one = One()
    one.join(ANA)
    assert len(one.say(ANA, seal(b"r"))) == 1
    assert one.given(ANA) == []
    one.join(BEN)
    began = one.now
    # His store drops what comes before it is ready.
    times = [time - began for time, payload in one.given(BEN) if payload == seal(b"r")]
    assert times == pytest.approx([0.3, 2.0, 8.0], abs=0.1)
    assert one.given(BEN) == []


def test_what_is_not_taken_is_offered_again_until_it_is():
    one = One()
    one.join(ANA)
    one.say(ANA, seal(b"r"))
    one.join(BEN)
    refused = one.given(BEN, until_s=300, taken=False)
    # Later each time, and at least once in a minute.
    gaps = [round(later - sooner) for (sooner, _), (later, _) in itertools.pairwise(refused)]
    assert gaps == sorted(gaps)
    assert 8 <= len(refused) <= 20
    assert max(gaps) <= keeping.MAX_RETRY_S + 0.1
    assert len(one.given(BEN, until_s=200)) == 3


def test_of_one_sender_the_newest_few_are_given_and_the_newest_first():
    one = One()
    one.join(ANA)
    payloads = [seal(b"r", b"box %d" % number) for number in range(10)]
    for number, payload in enumerate(payloads):
        one.say(ANA, payload, order=number)
    # Of another clock: it came last, and is the newest.
    one.say(ANA, seal(b"r", b"late"), order=3)
    one.join(BEN)
    given = [payload for _, payload in one.given(BEN, until_s=0.5)]
    assert given == [seal(b"r", b"late"), payloads[9], payloads[8], payloads[7]]


def test_a_relay_that_never_saw_the_topic_has_it_all_from_the_store():
    store = {}
    first, second = One(store), One(store)
    first.join(ANA)
    first.say(ANA, seal(b"r"))
    blocks, last = chain(3)
    first.keeper.provided(last, ANA)
    assert len(first.fetch(blocks)) == 3
    assert second.keeper.place(last, BEN) is None
    second.join(BEN)
    assert [payload for _, payload in second.given(BEN, until_s=0.5)] == [seal(b"r")]
    assert all(second.block(found, BEN) == block for found, block in blocks.items())
    # What comes to the store while he is there he is given, too.
    later = first.say(ANA, seal(b"r", b"later"), order=2)[0]
    for envelope in later.wrap(HOUR):
        second.keeper.found(envelope, second.now)
    assert seal(b"r", b"later") in [payload for _, payload in second.given(BEN)]


def test_all_relays_make_the_same_envelopes_and_they_say_nothing():
    stores = {}, {}
    for store in stores:
        one = One(store)
        one.join(ANA)
        one.say(ANA, seal(b"r" * 20, b"b" * 900), order=7)
        blocks, last = chain(1)
        one.keeper.provided(last, ANA)
        one.fetch(blocks)
    assert stores[0] == stores[1]
    assert len(stores[0]) == 2
    for envelope in stores[0].values():
        assert decode_envelope(envelope).bucket == name_of(TOPIC).bucket
        for told in (b"orbitdb", b"0123_wesh", b"r" * 20, b"b" * 20, ANA, b"sealed", last):
            assert told not in envelope


def test_the_direct_channel_tells_no_topic_but_the_rotation_does_once_it_was_seen_on_one():
    one = One()
    one.join(ANA, TOPIC, OTHER)
    # Nobody knows: under both, and whoever has the key finds out.
    assert {kept.topic for kept in one.say(ANA, seal(b"r1", b"a"), topic=None)} == {TOPIC, OTHER}
    one.say(ANA, seal(b"r1", b"b"), topic=TOPIC)
    assert {kept.topic for kept in one.say(ANA, seal(b"r1", b"c"), topic=None)} == {TOPIC}
    one.join(BEN, OTHER)
    assert one.given(BEN, until_s=1) == []
    one.join(CLEO, TOPIC)
    assert {payload for _, payload in one.given(CLEO, until_s=1)} == {
        seal(b"r1", b"c"),
        seal(b"r1", b"b"),
        seal(b"r1", b"a"),
    }
    # Who says of somebody else's rotation that it is of his topic takes nothing from it.
    one.join(b"liar", "/orbitdb/x/lies")
    one.say(b"liar", seal(b"r1", b"lie"), topic="/orbitdb/x/lies")
    assert {kept.topic for kept in one.say(ANA, seal(b"r1", b"d"), topic=None)} == {TOPIC}


def test_a_seal_that_came_by_guess_teaches_no_other_relay_a_rotation():
    store = {}
    first, second = One(store), One(store)
    first.join(ANA, TOPIC, OTHER)
    first.say(ANA, seal(b"r1"), topic=None)
    second.join(ANA, TOPIC, OTHER)
    assert {kept.topic for kept in second.say(ANA, seal(b"r1", b"next"), topic=None)} == {TOPIC, OTHER}


def test_what_is_known_is_not_kept_again_and_what_is_no_seal_never():
    one = One()
    one.join(ANA)
    one.join(BEN)
    assert len(one.say(ANA, seal(b"r"))) == 1
    # Passed on by another, as it is.
    assert one.say(BEN, seal(b"r"), topic=None) == []
    assert one.counts["seals_known"] == 1
    # Of whom no topic is known nothing is taken, and he is not to think so.
    assert one.say(CLEO, seal(b"r2"), topic=None) is None
    assert one.counts["seals_elsewhere"] == 1
    for junk in (b"", b"\xff", seal(b""), seal(b"r" * 65), seal(b"r", b"x" * 70_000)):
        with pytest.raises(DecodeError):
            one.say(ANA, junk)


def test_what_the_store_has_not_said_it_has_is_put_again_for_who_gives_it_directly():
    one = One()
    one.join(ANA)
    first = one.keeper.take_seal(seal(b"r"), peer=ANA, address="a", topic=TOPIC, order=1, now=0.0)
    again = one.keeper.take_seal(seal(b"r"), peer=ANA, address="a", topic=None, order=2, now=0.0)
    assert again == first
    one.put(*first)
    assert one.keeper.take_seal(seal(b"r"), peer=ANA, address="a", topic=None, order=3, now=0.0) == []


def test_what_exceeds_the_budget_of_an_address_is_not_taken(monkeypatch):
    monkeypatch.setattr(keeping, "KEPT", keeping.Rate(per_s=1.0, burst=3.0))
    one = One()
    one.join(ANA)
    taken = [one.say(ANA, seal(b"r", b"%d" % number), order=number) for number in range(5)]
    assert [kept is None for kept in taken] == [False] * 3 + [True] * 2
    assert one.counts["seals_limited"] == 2


def test_what_waits_is_published_once_for_who_subscribed():
    one = One()
    one.join(ANA)
    for number in range(3):
        one.say(ANA, seal(b"r", b"%d" % number), order=number)
    one.join(BEN)
    assert one.keeper.take_to_publish(one.now + 1) == []
    (published,) = one.keeper.take_to_publish(one.now + 3)
    assert published.kept.payload == seal(b"r", b"2")
    assert one.keeper.take_to_publish(one.now + 4) == []
    one.now += 4
    one.join(CLEO)
    # Not for each of a crowd.
    assert one.keeper.take_to_publish(one.now + 3) == []
    assert len(one.keeper.take_to_publish(one.now + 10)) == 1


# -- blocks ---------------------------------------------------------------------------


def test_blocks_are_kept_with_all_that_they_link_to_and_given_to_who_shares_the_topic():
    one = One()
    one.join(ANA)
    blocks, last = chain(50)
    one.keeper.provided(last, ANA)
    assert set(one.fetch(blocks)) == set(blocks)
    assert one.counts["blocks_kept"] == 50
    one.join(CLEO, OTHER)
    for found, block in blocks.items():
        assert one.block(found, ANA) == block
        assert one.keeper.place(found, CLEO) is None
        assert one.keeper.place(found, b"stranger") is None
    # Once more it is not asked for.
    one.keeper.provided(last, ANA)
    assert one.fetch(blocks) == []


def test_a_block_of_no_topic_of_his_is_not_kept_and_not_asked_for_again():
    one = One()
    one.join(ANA)
    one.join(CLEO, OTHER)
    foreign = [b"a photo", entry(OTHER), entry("")]
    for block in foreign:
        one.keeper.provided(digest(block), ANA)
    assert len(one.fetch({digest(block): block for block in foreign})) == 3
    assert one.counts["blocks_foreign"] == 3
    assert one.store == {}
    one.keeper.provided(digest(b"a photo"), ANA)
    assert one.fetch({}) == []


def test_of_who_is_in_no_group_nothing_is_fetched():
    one = One()
    one.join(ANA)
    one.keeper.provided(digest(b"x"), b"stranger")
    one.keeper.wanted(digest(b"x"), b"stranger")
    assert one.fetch({}) == []


def test_what_is_wanted_is_asked_of_who_shares_a_topic_and_of_nobody_else():
    one = One()
    one.join(BEN)
    one.join(CLEO, OTHER)
    blocks, last = chain(1)
    one.keeper.wanted(last, BEN)
    assert one.keeper.next_fetch(one.now) is None  # nobody else is there
    one.join(ANA)
    one.keeper.wanted(last, BEN)
    assert one.keeper.sharing(BEN) == {ANA, BEN}
    assert one.fetch(blocks) == [last]
    assert one.block(last, BEN) == blocks[last]


def test_what_a_kill_kept_from_being_fetched_is_asked_of_the_next_who_comes():
    store = {}
    blocks, last = chain(5)
    killed, after = One(store), One(store)
    killed.join(ANA)
    killed.keeper.provided(last, ANA)
    fetch = killed.keeper.next_fetch(killed.now)
    killed.put(killed.keeper.fetched(fetch, blocks[last], killed.now))
    # Only the last one of them was stored.
    after.join(ANA)
    assert set(after.fetch(blocks)) == set(blocks) - {last}


def test_what_nobody_has_is_given_up_after_a_few_tries():
    one = One()
    one.join(ANA)
    one.keeper.provided(digest(b"x"), ANA)
    assert len(one.fetch({})) == keeping.MAX_TRIES
    assert one.counts["blocks_not_found"] == 1


def test_a_block_is_wrapped_anew_when_it_would_end_soon_and_its_owner_is_here():
    one = One()
    one.join(ANA)
    blocks, last = chain(1)
    one.keeper.provided(last, ANA)
    one.fetch(blocks)
    ends = one.keeper.place(last, ANA).held.expiry_hour
    one.keeper.hour = ends - keeping.REFRESH_HOURS
    one.keeper.provided(last, ANA)
    assert one.fetch(blocks) == []
    one.keeper.hour += 1
    one.keeper.provided(last, ANA)
    fetch = one.keeper.next_fetch(one.now)
    # It need not be asked for.
    assert one.keeper.unwrapped(fetch.place, one.store) == blocks[last]
    one.put(one.keeper.fetched(fetch, blocks[last], one.now), hour=one.keeper.hour)
    assert one.keeper.place(last, ANA).held.expiry_hour > ends


def test_a_block_in_several_envelopes_is_whole_or_not_there():
    one = One()
    one.join(ANA)
    block = entry(TOPIC, (), random.Random(1).randbytes(40_000))
    one.keeper.provided(digest(block), ANA)
    one.fetch({digest(block): block})
    assert len(one.store) == 3
    assert one.block(digest(block), ANA) == block
    other = One(one.store)
    other.join(BEN)
    assert other.block(digest(block), BEN) == block
    place = other.keeper.place(digest(block), BEN)
    del other.store[place.held.identities[1]]
    assert other.block(digest(block), BEN) is None
    other.keeper.lost(digest(block), place)
    assert other.keeper.place(digest(block), BEN) is None


# -- who lies and floods --------------------------------------------------------------


def test_what_was_wrapped_under_the_name_by_who_knows_it_is_read_as_a_strangers():
    one = One()
    name = name_of(TOPIC)
    junk = [b"\x09", b"\x02no entry", b"\x02" + entry(OTHER), b"\x01short", KeptSeal(bytes(8), 1, b"no seal").encode()]
    for content in junk:
        for envelope in keeping.wrap(content, name, expiry_hour=HOUR + 100, price=8):
            one.store[envelope_id(envelope)] = envelope
    one.join(BEN)
    assert one.counts["kept_malformed"] == len(junk)
    assert one.keeper.block_count == 0
    assert one.given(BEN) == []


def test_ten_thousand_topics_of_one_are_bounded_and_those_of_others_are_read_in_their_turn():
    one = One()
    refused = 0
    for number in range(10_000):
        refused += not one.keeper.subscribed(b"flood", f"/orbitdb/x/{number}", address="flood", now=0.0)
    assert refused == 10_000 - keeping.MAX_TOPICS
    one = One()
    for number in range(1000):
        one.keeper.subscribed(b"flood", f"/orbitdb/x/{number}", address="flood", now=0.0)
    one.keeper.subscribed(ANA, TOPIC, address="ana", now=0.0)
    assert name_of(TOPIC) in one.keeper.take_unread()


def test_junk_seals_under_somebodys_topic_give_way_before_those_of_others(monkeypatch):
    monkeypatch.setattr(keeping, "MAX_SEALS", 100)
    one = One()
    one.join(ANA)
    one.join(CLEO, OTHER)
    one.say(ANA, seal(b"r", b"true"))
    one.say(CLEO, seal(b"q", b"true, too"), topic=OTHER)
    for number in range(300):
        one.keeper.take_seal(
            seal(b"junk", b"%d" % number), peer=b"%d" % number, address="flood", topic=TOPIC, order=2**63, now=one.now
        )
    assert len(one.keeper._seals) <= 100
    one.join(BEN, TOPIC, OTHER)
    given = {payload for _, payload in one.given(BEN, until_s=1)}
    assert {seal(b"r", b"true"), seal(b"q", b"true, too")} <= given


def test_seals_that_came_from_elsewhere_leave_none_out_that_was_taken_here():
    one = One()
    one.join(ANA)
    one.say(ANA, seal(b"r", b"true"), order=5)
    name = name_of(TOPIC)
    for number in range(20):
        forged = KeptSeal(sender_of(name, ANA), 2**64 - 1 - number, seal(b"r", b"forged %d" % number))
        for envelope in keeping.Kept(TOPIC, forged).wrap(HOUR):
            one.keeper.found(envelope, one.now)
    one.say(ANA, seal(b"r", b"true, too"), order=6)
    one.join(BEN)
    given = [payload for _, payload in one.given(BEN, until_s=1)]
    assert {seal(b"r", b"true"), seal(b"r", b"true, too")} <= set(given)
    assert len(given) == 2 + keeping.SEALS_OF_SENDER


def test_endless_links_and_blocks_of_one_address_end_with_its_budget(monkeypatch):
    monkeypatch.setattr(keeping, "KEPT", keeping.Rate(per_s=2.0, burst=300.0))
    one = One()
    one.join(b"flood", address="flood")
    one.join(ANA)
    kept = 0
    block = entry(TOPIC, (), b"0")
    one.keeper.provided(digest(block), b"flood")
    while (fetch := one.keeper.next_fetch(one.now)) is not None:
        # Each links to twenty that nobody has seen yet.
        links = [raw(digest(b"%d %d" % (kept, number))) for number in range(20)]
        kept += one.keeper.fetched(fetch, entry(TOPIC, links, b"%d" % kept), one.now) is not None
    assert kept <= keeping.KEPT.burst
    assert one.counts["blocks_not_queued"] > 0
    blocks, last = chain(5)
    one.keeper.provided(last, ANA)
    assert set(blocks) <= set(one.fetch(blocks))


def test_blocks_of_a_flooded_topic_give_way_before_those_of_others(monkeypatch):
    monkeypatch.setattr(keeping, "MAX_BLOCKS", 50)
    one = One()
    one.join(CLEO, OTHER)
    mine, last = chain(5, OTHER)
    one.keeper.provided(last, CLEO)
    one.fetch(mine)
    one.join(ANA)
    junk, last = chain(100)
    one.keeper.provided(last, ANA)
    one.fetch(junk)
    assert one.keeper.block_count == 50
    assert all(one.keeper.place(found, CLEO) for found in mine)


def test_a_topic_is_forgotten_some_time_after_its_last_subscriber():
    one = One()
    one.join(ANA)
    one.say(ANA, seal(b"r"))
    blocks, last = chain(3)
    one.keeper.provided(last, ANA)
    one.fetch(blocks)
    one.leave(ANA)
    assert ANA not in one.keeper
    one.keeper.expire(one.now + keeping.WANTED_S - 1)
    assert one.keeper.is_anybody_wanted()
    one.keeper.expire(one.now + keeping.WANTED_S + 1)
    assert not one.keeper.is_anybody_wanted()
    assert one.keeper.block_count == 0
    assert not one.keeper._by_bucket
    assert len(one.keeper._seals) == 0
    # It is all in the store.
    one.join(BEN)
    assert len(one.given(BEN, until_s=1)) == 1
    assert one.keeper.place(last, BEN)


def test_topics_of_other_systems_are_left_alone():
    one = One()
    for topic in ("chat", "/orbitdb", "/orbitdb/" + "x" * 300):
        assert not one.keeper.subscribed(ANA, topic, address="a", now=0.0)
    assert not one.keeper.is_anybody_wanted()


def test_what_is_kept_comes_back():
    for kept in (KeptSeal(b"sender12", 2**64 - 1, b"payload"), KeptSeal(b"sender12", 0, b"", is_guess=True)):
        assert decode_kept(kept.encode()) == kept
    assert decode_seal(seal(b"rotation")) == b"rotation"
