# SPDX-License-Identifier: GPL-2.0-or-later
"""Notice boards: who can post, what holds, what somebody with the card can do to the others, and what relays see."""

import asyncio
import io
import itertools
import os
import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.cli import main
from relay.cli.bulletin import NewPosts
from relay.client.bulletin import Bulletin
from relay.client.bulletin_book import MAX_BULLETINS, BulletinBook
from relay.client.errors import BulletinError, ContactError, PrivateFileError
from relay.client.inbox import MAX_SEEN, Outcome
from relay.client.post import (
    CAPACITIES,
    MAX_COUNTER,
    MAX_SLOT_AND_BODY_BYTES,
    PostBody,
    PostKind,
    decode_post,
    open_post,
    seal_post,
)
from relay.client.posts import MAX_SLOTS, PostStore
from relay.client.seal import buckets_to_read
from relay.core.envelope import envelope_id, make_tag
from relay.core.errors import DecodeError
from relay.core.messages import Subscribe, Window
from tests.client.bulletin_vectors import CAMP, header_of, sealed_anew, sign
from tests.client.helpers import HOUR_S, NOW_HOUR, NOW_S, PRICE, Person
from tests.client.online import Holding, RelayProcess, User
from tests.client.test_transcripts import Logging

P = 2**255 - 19


class Reader(Person):
    """A person who reads CAMP, or posts there."""

    def __init__(self, folder, seed, bulletin=CAMP):
        self.bulletin = bulletin
        super().__init__(folder, seed)

    def open(self):
        super().open()
        book = BulletinBook(self.folder / "config")
        if not book:
            book.add(self.bulletin, "camp")
        self.posts = PostStore(self.database, book, self.outbox, self.random.randbytes)

    def post(self, text, slot="gate", *, now_s=NOW_S, days=3):
        """Return the envelope of a post."""
        before = set(self.envelopes(now_s))
        self.posts.post_text(self.bulletin, text, slot, lifetime_days=days, price=PRICE, now_s=now_s)
        (new,) = set(self.envelopes(now_s)) - before
        return new

    def withdraw(self, slot="gate", *, now_s=NOW_S):
        before = set(self.envelopes(now_s))
        self.posts.withdraw(self.bulletin, slot, price=PRICE, now_s=now_s)
        (new,) = set(self.envelopes(now_s)) - before
        return new

    def read(self, *envelopes, now_s=NOW_S):
        """Look at envelopes as a collection does; return the outcome of each, None for what is no post."""
        look = self.posts.reader(int(now_s // 3600))
        opened = [look(envelope) for envelope in envelopes]
        outcomes = iter(self.posts.accept([one for one in opened if one is not None], now_s))
        return [None if one is None else next(outcomes) for one in opened]

    def texts(self, now_s=NOW_S):
        return [post.text for post in self.posts.posts(self.bulletin, now_s)]


@pytest.fixture
def poster(tmp_path):
    with Reader(tmp_path / "poster", 1) as person:
        yield person


@pytest.fixture
def reader(tmp_path):
    with Reader(tmp_path / "reader", 2, CAMP.for_readers) as person:
        yield person


# -- one post ----------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_a_post_or_refused(data):
    try:
        post = decode_post(data)
    except DecodeError:
        return
    assert post.encode() == data


@given(
    kind=st.sampled_from([PostKind.TEXT, PostKind.WITHDRAWN]),
    post_id=st.binary(min_size=16, max_size=16),
    age_minutes=st.integers(0, 10_080),
    counter=st.integers(0, 2**32 - 1),
    slot=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16),
    body=st.binary(min_size=1, max_size=100),
)
def test_a_post_reads_as_what_it_was(**fields):
    if fields["kind"] is PostKind.WITHDRAWN:
        fields["body"] = b""
    post = PostBody(**fields)
    assert decode_post(post.encode()) == post


@settings(max_examples=50, deadline=None)
@given(plaintext=st.binary(max_size=CAPACITIES[0] - 1), place=st.integers(0, 255), change=st.integers(1, 255))
def test_whatever_somebody_with_the_card_seals_is_no_post(plaintext, place, change):
    header = header_of()
    assert open_post(sealed_anew(plaintext[:64], plaintext[64:], header), CAMP) is None
    good = PostBody(kind=PostKind.TEXT, post_id=bytes(16), age_minutes=0, counter=1, slot="gate", body=b"x").encode()
    assert open_post(sealed_anew(sign(good, header), good, header), CAMP) is not None
    forged = bytearray(sign(good, header) + good)
    forged[place % len(forged)] ^= change
    assert open_post(sealed_anew(bytes(forged[:64]), bytes(forged[64:]), header), CAMP) is None


def test_posts_look_like_messages_to_relays(poster, reader):
    """Sizes, and the curve: half of all random bytes would be no public key, and have the top bit set."""
    posts = [poster.post("x" * length, f"{length}") for length in (1, 60, 800, 3000, 15_000) * 3]
    for payload in [envelope[24:] for envelope in posts]:
        u = int.from_bytes(payload[:32], "little")
        assert u < P
        assert pow(u**3 + 486_662 * u**2 + u, (P - 1) // 2, P) == 1
    assert {len(envelope) for envelope in posts} == {256, 1024, 4096, 16_384}
    assert {envelope[8] >> 3 for envelope in posts} == {buckets_to_read(CAMP.rendezvous, NOW_HOUR)[0]}
    assert len({envelope[9:24] for envelope in posts}) == len(posts)
    assert reader.read(*posts).count(Outcome.STORED) == len(posts)


def test_who_has_only_the_card_can_neither_post_nor_purge(reader, poster):
    with pytest.raises(BulletinError, match="posting key"):
        reader.posts.post_text(reader.bulletin, "x", "gate", lifetime_days=3, price=PRICE, now_s=NOW_S)
    with pytest.raises(ValueError, match="posting key"):
        reader.bulletin.purge_key(bytes(16))
    # The keys that a reader can derive are not those of the tag.
    envelope = poster.post("x")
    opened = open_post(envelope, reader.bulletin)
    for key in (reader.bulletin.seal_key, reader.bulletin.read_key.ljust(32, b"\0"), opened.rank):
        assert make_tag(envelope[8] >> 3, key) != envelope[8:24]
    assert make_tag(envelope[8] >> 3, CAMP.purge_key(opened.post.post_id)) == envelope[8:24]
    # Nor of anything else that a reader has: with all of that and another seed it is another one.
    guess = replace(CAMP.for_readers, seed=bytes(32))
    assert make_tag(envelope[8] >> 3, guess.purge_key(opened.post.post_id)) != envelope[8:24]


@pytest.mark.parametrize(
    ("slot", "size", "remedy"),
    [("", 0, "nothing to post"), ("a\nb", 1, "slot"), ("ü" * 33, 1, "64 bytes"), ("gate", 16_211, "smaller")],
)
def test_what_cannot_be_posted_is_told_with_the_remedy(poster, slot, size, remedy):
    with pytest.raises(BulletinError, match=remedy):
        poster.post("x" * size, slot)
    assert poster.envelopes() == []
    assert len(poster.post("x" * (MAX_SLOT_AND_BODY_BYTES - 4))) == 16_384


# -- what holds ---------------------------------------------------------------


def test_a_post_replaces_what_is_in_its_slot_and_nothing_else(poster, reader):
    first = [poster.post("at nine"), poster.post("soup", "kitchen")]
    assert reader.read(*first) == [Outcome.STORED] * 2
    second = poster.post("at ten")
    # The poster's own client offers the old state no longer, and says so.
    assert set(poster.envelopes()) == {first[1], second}
    assert [poster.outbox.progress(sent.message_id).is_replaced for sent in poster.outbox.log()] == [True, False, False]
    assert reader.read(second, second, first[0]) == [Outcome.STORED, Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert reader.texts() == poster.texts() == ["soup", "at ten"]
    assert [post.text for post in reader.posts.unshown(NOW_S)] == ["soup", "at ten"]
    assert poster.posts.unshown(NOW_S) == []


def test_all_readers_come_to_the_same_in_whatever_order_posts_arrive(tmp_path, poster):
    # The same key on another device, which has not read what was posted here: counters are the same.
    with Reader(tmp_path / "device", 9) as device:
        envelopes = [
            poster.post("one"),
            device.post("two"),
            poster.post("three"),
            device.withdraw(),
            poster.post("4", "b"),
        ]
    seen = set()
    for number, order in enumerate(itertools.permutations(envelopes)):
        if number % 10 == 0:
            with Reader(tmp_path / f"{number}", number, CAMP.for_readers) as one:
                one.read(*order)
                seen.add(tuple(one.texts()))
    assert len(seen) == 1


def test_what_was_withdrawn_or_has_expired_does_not_come_back(poster, reader):
    old = poster.post("old", days=7)
    new = poster.post("new", days=1)
    gone = poster.withdraw()
    for envelope in (new, gone):
        # Not before what it replaces, for those who come later.
        assert open_post(envelope, CAMP).expiry_hour == open_post(old, CAMP).expiry_hour
    reader.read(old)
    (post,) = reader.posts.unshown(NOW_S)
    assert reader.posts.mark_shown(post)
    assert not reader.posts.mark_shown(post)
    reader.read(gone, new, old)
    assert reader.texts() == []
    assert [one.kind for one in reader.posts.unshown(NOW_S)] == [PostKind.WITHDRAWN]
    later_s = NOW_S + 167 * HOUR_S
    reader.posts.prune(later_s)
    assert reader.read(old, now_s=later_s) in ([Outcome.DUPLICATE], [Outcome.EXPIRED])
    assert reader.texts(later_s) == []
    # And nothing of it is remembered for ever.
    reader.posts.prune(NOW_S + 193 * HOUR_S)
    assert reader.database.row("SELECT count(*) FROM post") == (0,)


def test_a_bulletin_keeps_its_newest_slots_whatever_came_first(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.client.posts.MAX_SLOTS", 8)
    assert MAX_SLOTS == 256
    with Reader(tmp_path / "poster", 1) as poster:
        envelopes = [poster.post(f"{number}", f"slot {number}") for number in range(20)]
        assert poster.texts() == [f"{number}" for number in range(12, 20)]
    for seed in range(3):
        random.Random(seed).shuffle(envelopes)
        with Reader(tmp_path / f"{seed}", seed, CAMP.for_readers) as reader:
            reader.read(*envelopes)
            assert reader.texts() == [f"{number}" for number in range(12, 20)]


def test_a_clock_that_is_wrong_keeps_nothing_from_being_read_later(poster, reader):
    envelope = poster.post("x", now_s=NOW_S)
    assert reader.read(envelope, now_s=NOW_S + 100 * HOUR_S) == [Outcome.EXPIRED]
    reader.posts.book.state = ()
    assert reader.posts.accept([open_post(envelope, CAMP)], NOW_S - 200 * HOUR_S) == [Outcome.FAR_FUTURE]
    assert reader.read(envelope) == [Outcome.STORED]


def test_what_a_clock_that_was_ahead_forgot_blocks_nothing_and_comes_again(poster, reader):
    poster.posts.post_file(CAMP, b"lake", "map.txt", "map", lifetime_days=1, price=PRICE, now_s=NOW_S)
    (file,) = poster.envelopes(NOW_S)
    text = poster.post("soup", "kitchen", days=7)
    reader.read(file, text)
    reader.posts.prune(NOW_S + 2 * 24 * HOUR_S)
    assert reader.texts() == ["soup"]
    assert [post.slot for post in reader.posts.unshown(NOW_S)] == ["kitchen"]
    reader.read(file)
    assert reader.texts() == ["lake", "soup"]


def test_who_posts_with_the_last_counter_is_told_of_by_those_whose_posts_do_not_hold(poster):
    """What no reader would show is not queued as if it were posted, nor taken in place of what holds."""

    def last(slot, post_id):
        post = PostBody(kind=PostKind.TEXT, post_id=post_id, age_minutes=0, counter=MAX_COUNTER, slot=slot, body=b"x")
        options = {"now_hour": NOW_HOUR, "expiry_hour": NOW_HOUR + 72, "price": PRICE, "random_bytes": os.urandom}
        return seal_post(post, CAMP, **options)[0].envelope

    # The greatest of many hashes holds; of one more it is greater nearly always.
    hostile = [last("gate", os.urandom(16)) for _ in range(200)]
    assert Outcome.STORED in poster.read(*hostile)
    before = list(poster.envelopes(NOW_S))
    refused = 0
    for _ in range(3):
        try:
            poster.post("soup")
        except BulletinError as error:
            refused += "counter" in str(error)
    assert refused >= 1
    assert len(list(poster.envelopes(NOW_S))) <= len(before) + 3 - refused


def test_whoever_may_post_takes_down_what_another_hung_into_a_slot_that_nobody_can_type(poster, reader):
    slot = "\n\u202egate"
    post = PostBody(kind=PostKind.TEXT, post_id=bytes(16), age_minutes=0, counter=9, slot=slot, body=b"x")
    options = {"now_hour": NOW_HOUR, "expiry_hour": NOW_HOUR + 72, "price": PRICE, "random_bytes": os.urandom}
    sealed, _ = seal_post(post, CAMP, **options)
    poster.read(sealed.envelope)
    (there,) = poster.posts.posts(CAMP, NOW_S)
    assert there.shown_slot == "\ufffd\ufffdgate"
    gone = poster.withdraw(there.shown_slot)
    reader.read(sealed.envelope, gone)
    assert reader.texts() == poster.texts() == []


def test_a_program_that_knows_nothing_of_a_new_bulletin_yet_forgets_none_of_its_posts(tmp_path):
    with Reader(tmp_path / "poster", 1) as running:
        book = BulletinBook(running.folder / "config")
        new = Bulletin.generate(random.Random(3).randbytes)
        book.add(new, "new")
        command = PostStore(running.database, book, running.outbox)
        command.post_text(new, "soup", "kitchen", lifetime_days=3, price=PRICE, now_s=NOW_S)
        running.posts.prune(NOW_S)
        assert [post.text for post in command.posts(new, NOW_S)] == ["soup"]


def test_of_two_commands_that_post_at_once_none_is_lost(tmp_path):
    with Reader(tmp_path / "poster", 1) as one, Reader(tmp_path / "poster", 2) as other:
        for number in range(4):
            (one, other)[number % 2].post(f"{number}", f"slot {number}")
        assert one.texts() == other.texts() == ["0", "1", "2", "3"]
        counters = [row for (row,) in one.database.rows("SELECT counter FROM post ORDER BY counter")]
        assert counters == list(range(counters[0], counters[0] + 4))


# -- names and keys -----------------------------------------------------------


def test_the_book_keeps_keys_and_loses_none_by_mistake(tmp_path):
    book, other = BulletinBook(tmp_path), BulletinBook(tmp_path)
    assert book.add(CAMP.for_readers, "Camp", is_own_word=True)[1]
    assert other.refresh()
    assert not other.refresh()
    assert (other.get("camp").name, other.name_of(CAMP.public)) == ("~Camp", "~Camp")
    with pytest.raises(BulletinError, match="there already, as '~Camp'"):
        other.add(CAMP.for_readers, "x")
    # The posting key comes later, and is not lost to a card, or by leaving.
    assert not other.add(CAMP, "x")[1]
    assert book.refresh()
    assert book.get("~camp").bulletin == CAMP
    with pytest.raises(BulletinError, match="there already"):
        book.add(CAMP.for_readers, "x")
    with pytest.raises(BulletinError, match="--forget-posting-key"):
        book.leave("camp")
    false = Bulletin(public=CAMP.public, read_key=bytes(16))
    with pytest.raises(BulletinError, match="false"):
        book.add(false, "x")
    someone = Bulletin.generate(os.urandom)
    with pytest.raises(BulletinError, match="taken"):
        book.add(someone, "CAMP")
    with pytest.raises(BulletinError, match="taken; give another with --name NAME"):
        book.add(someone, "CAMP", is_own_word=True)
    with pytest.raises(ContactError, match="invisible"):
        book.add(someone, "a\u202eb")
    assert [known.bulletin for known in BulletinBook(tmp_path)] == [CAMP]
    book.leave("camp", with_posting_key=True)
    with pytest.raises(BulletinError, match="relay bulletin list"):
        book.get("camp")
    path = tmp_path / "bulletins.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text('{"version": 1, "bulletins": {"x": 1}}')
    with pytest.raises(PrivateFileError, match="damaged"):
        book.refresh()


def test_no_more_bulletins_are_read_than_envelopes_can_be_tried_for(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.client.bulletin_book.MAX_BULLETINS", 2)
    assert MAX_BULLETINS == 64
    book = BulletinBook(tmp_path)
    for name in "ab":
        book.add(Bulletin.generate(os.urandom), name)
    with pytest.raises(BulletinError, match="leave one first"):
        book.add(Bulletin.generate(os.urandom), "c")


# -- strangers ----------------------------------------------------------------


def test_ten_thousand_posts_of_strangers_with_the_card_leave_the_honest_ones_and_take_no_room(poster, reader):
    """A hundred are sealed, the rest are copies with other nonces: each is opened all the same."""
    honest = [poster.post("at nine"), poster.post("soup", "kitchen")]
    post = PostBody(kind=PostKind.TEXT, post_id=bytes(16), age_minutes=0, counter=2**32 - 1, slot="gate", body=b"no")
    forged, header = post.encode(), header_of()
    junk = [sealed_anew(sign(forged, header, seed=os.urandom(32)), forged, header) for _ in range(100)]
    flood = [one[:-8] + number.to_bytes(8, "big") for one in junk for number in range(100)]
    old, new = honest[0], poster.post("at ten")
    assert set(reader.read(*flood[:5000], *honest, *flood[5000:], new, old)) == {
        None,
        Outcome.STORED,
        Outcome.DUPLICATE,
    }
    assert reader.texts() == ["soup", "at ten"]
    assert reader.database.row("SELECT count(*) FROM post") == (2,)
    reader.inbox.note_seen((envelope_id(one), NOW_HOUR + 1) for one in flood)
    assert reader.database.row("SELECT count(*) FROM seen")[0] <= MAX_SEEN


def test_old_states_that_a_reader_seals_anew_are_the_same_posts(poster, reader):
    old, new = poster.post("old"), poster.post("new")
    reader.read(old, new)
    header = old[:24]
    opened = open_post(old, CAMP)
    # Deterministic, so that a reader has the signature as the poster made it.
    signed = opened.post.encode()
    again = sealed_anew(sign(signed, header), signed, header)
    assert envelope_id(again) != envelope_id(old)
    assert reader.read(again) == [Outcome.DUPLICATE]
    assert reader.texts() == ["new"]
    # What holds, too: it would be shown again each time.
    holds = open_post(new, CAMP).post.encode()
    copies = [sealed_anew(sign(holds, new[:24]), holds, new[:24])[:-8] + os.urandom(8) for _ in range(20)]
    assert len({*copies}) == len(copies)
    assert {*reader.read(*copies)} == {Outcome.DUPLICATE}
    # And what the poster purges, all copies are purged by: they have its tag.
    assert again[8:24] == old[8:24]


def test_only_envelopes_of_its_buckets_are_tried(poster, reader, monkeypatch):
    tried = []
    monkeypatch.setattr("relay.client.posts.open_post", lambda envelope, _: tried.append(envelope))
    buckets = set(buckets_to_read(CAMP.rendezvous, NOW_HOUR))
    envelope = poster.post("x")
    envelopes = [envelope[:8] + bytes([bucket << 3]) + envelope[9:] for bucket in range(32)]
    assert reader.read(*envelopes, b"", envelope[:-1]) == [None] * 34
    assert {one[8] >> 3 for one in tried} == buckets
    assert len(tried) == len(buckets) < 32


# -- what relays see ----------------------------------------------------------


def follower(folder, name, *bulletins):
    user = User(folder, name)
    for number, bulletin in enumerate(bulletins):
        BulletinBook(user.config).add(bulletin, f"b{number}")
    return user


class Full(Logging):
    """A relay with so much that it asks for all bits of a bucket."""

    hello = replace(Logging.hello, prefix_bits=5)


class Old(Holding):
    """What it has came days ago, so only who asks for everything gets it. Cuts the first session that stays."""

    def __init__(self):
        super().__init__()
        self.is_followed = asyncio.Event()
        """By somebody who has been here and asks for no more than the last hour."""

    def on_event(self, session, event):
        held = self.held
        if isinstance(event, Subscribe) and event.window is not Window.ALL:
            self.held = {}
        super().on_event(session, event)
        self.held = held
        if isinstance(event, Subscribe) and event.follow:
            if event.window is Window.HOUR:
                self.is_followed.set()
            else:
                self.then.append(self.writers[session].close)


def test_who_reads_any_asks_for_everything_so_that_nobody_sees_which(tmp_path):
    async def run(user):
        relay = Full()
        async with relay.serving() as address, user.client(address) as client:
            await client.collect()
            asked = [event for _, seen in relay.sessions for event in seen if isinstance(event, Subscribe)]
        return {(one.prefix_bits, one.prefix, int(one.window)) for one in asked}

    nobody = asyncio.run(run(follower(tmp_path, "none")))
    assert {bits for bits, _, _ in nobody} == {5}
    bulletins = [Bulletin.generate(random.Random(number).randbytes) for number in range(6)]
    for number in (1, 6):
        assert asyncio.run(run(follower(tmp_path, f"{number}", *bulletins[:number]))) == {(0, 0, 0)}


def test_visits_are_the_same_whatever_was_posted_and_read_before(tmp_path):
    """Issue 11, item 12, for readers of notice boards: one has all posts, the other comes for the first time."""
    one = follower(tmp_path, "one", CAMP.for_readers)
    other = follower(tmp_path / "other", "one", CAMP.for_readers)
    (other.config / "identity.json").write_bytes((one.config / "identity.json").read_bytes())
    # A noon long after which no day ends.
    now_s = time.time() // 86_400 * 86_400 + 43_200

    async def run():
        relay = Full()
        async with relay.serving() as address:

            async def visit(user, at_s):
                async with user.client(address, clock=lambda: now_s + at_s) as client:
                    (outcome,) = await client.collect()
                    await client.deliver(again=False)
                    return outcome.collected.posts, [post.text for post in await client.posts("b0")]

            await visit(other, 0)
            with Reader(tmp_path / "poster", 1) as poster:
                for number in range(4):
                    envelope = poster.post(f"{number}", now_s=now_s)
                    relay.held[envelope_id(envelope)] = envelope
            first = await visit(one, 0)
            relay.transcripts()
            again = await visit(one, 3600), relay.transcripts()
            fresh = await visit(other, 3600), relay.transcripts()
            return first, again, fresh

    first, (again, seen), (fresh, of_fresh) = asyncio.run(run())
    assert first[1] == fresh[1] == ["3"]
    assert again == (0, ["3"])
    assert seen == of_fresh


def hung(tmp_path):
    """An envelope with a post of CAMP."""
    with Reader(tmp_path / "poster", 1) as poster:
        return poster.post("here for days", now_s=time.time())


def test_who_begins_to_read_finds_what_hung_there_before_also_in_a_program_that_runs_already(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.client.courier.CYCLE_S", 0.05)
    ben, envelope = User(tmp_path, "ben"), hung(tmp_path)

    async def run():
        relay = Old()
        relay.held[envelope_id(envelope)] = envelope
        async with (
            relay.serving() as address,
            ben.client(address) as running,
            ben.client(address) as command,
        ):
            # Both have looked at everything, and taken the post for somebody else's.
            (outcome,) = await command.collect()
            assert outcome.collected.envelopes == 1
            following = asyncio.ensure_future(running.follow())
            await relay.is_followed.wait()
            await command.follow_bulletin(CAMP.for_readers, "camp")
            await running.changed.wait()
            following.cancel()
            await asyncio.wait({following})
            return await running.new_posts(), await command.posts("camp")

    posts, same = asyncio.run(asyncio.wait_for(run(), 20))
    assert [post.text for post in posts] == ["here for days"]
    assert posts == same


def test_who_is_killed_when_he_has_just_begun_to_read_finds_what_hung_there_before(tmp_path, monkeypatch):
    ben, envelope = User(tmp_path, "ben"), hung(tmp_path)

    async def run():
        relay = Old()
        relay.held[envelope_id(envelope)] = envelope
        async with relay.serving() as address:
            async with ben.client(address) as client:
                await client.collect()
                with monkeypatch.context() as patch:

                    def killed(book, *arguments, **options):
                        add(book, *arguments, **options)
                        raise PrivateFileError("killed")

                    add = BulletinBook.add
                    patch.setattr(BulletinBook, "add", killed)
                    with pytest.raises(PrivateFileError):
                        await client.follow_bulletin(CAMP.for_readers, "camp")
            async with ben.client(address) as client:
                await client.collect()
                return await client.posts("camp")

    assert [post.text for post in asyncio.run(asyncio.wait_for(run(), 20))] == ["here for days"]


def test_a_visit_that_goes_on_meanwhile_takes_no_post_for_somebody_elses(tmp_path):
    ben, envelope = User(tmp_path, "ben"), hung(tmp_path)

    async def run():
        relay = Old()
        relay.held[envelope_id(envelope)] = envelope
        async with relay.serving() as address, ben.client(address) as visiting, ben.client(address) as command:
            known, loop = visiting._posts.reader, asyncio.get_running_loop()

            def overtaken(now_hour):
                look = known(now_hour)
                if not command.bulletins:
                    asyncio.run_coroutine_threadsafe(command.follow_bulletin(CAMP.for_readers, "camp"), loop).result()
                return look

            visiting._posts.reader = overtaken
            (before,) = await visiting.collect()
            (after,) = await visiting.collect()
            return before.collected.posts, after.collected.posts

    assert asyncio.run(asyncio.wait_for(run(), 20)) == (0, 1)


def test_one_post_that_cannot_be_saved_keeps_back_no_other_and_stays(tmp_path, capsys):
    ben = follower(tmp_path, "ben", CAMP.for_readers)
    now_s = time.time()
    with Reader(tmp_path / "poster", 1) as poster:
        poster.posts.post_file(CAMP, b"lake", "map.txt", "map", lifetime_days=3, price=PRICE, now_s=now_s)
        poster.post("soup", "kitchen", now_s=now_s)
        opened = [open_post(envelope, CAMP) for envelope in poster.envelopes(now_s)]

    async def run():
        async with ben.client("localhost:1") as client:
            client._posts.accept(opened, now_s)
            nowhere, somewhere = NewPosts(client, tmp_path / "gone"), NewPosts(client, ben.inbox)
            counts = [await nowhere.show(), await nowhere.show(), nowhere.kept, await somewhere.show()]
            return counts, await client.new_posts()

    assert asyncio.run(run()) == ([1, 0, 1, 1], [])
    said = capsys.readouterr()
    assert "bulletin b0 [kitchen]" in said.out
    assert said.err.count("cannot save") == 1
    assert (ben.inbox / "map.txt").read_bytes() == b"lake"


def test_who_replaces_files_again_and_again_does_not_fill_the_disk_of_who_follows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("relay.cli.bulletin._SAVED_BYTES", 3 * 15_000)
    ben = follower(tmp_path, "ben", CAMP.for_readers)
    now_s = time.time()

    async def run():
        async with ben.client("localhost:1") as client:
            new_posts = NewPosts(client, ben.inbox)
            with Reader(tmp_path / "poster", 1) as poster:
                for number in range(8):
                    content = bytes([number]) * 15_000
                    poster.posts.post_file(CAMP, content, "map.txt", "map", lifetime_days=3, price=PRICE, now_s=now_s)
                    (envelope,) = poster.envelopes(now_s)
                    client._posts.accept([open_post(envelope, CAMP)], now_s)
                    assert await new_posts.show() == 1
                poster.post("soup", "kitchen", now_s=now_s)
                client._posts.accept([open_post(envelope, CAMP) for envelope in poster.envelopes(now_s)], now_s)
                assert await new_posts.show() == 1
            (post, _) = await client.posts("b0")
            assert post.content == bytes([7]) * 15_000

    asyncio.run(run())
    assert len(list(ben.inbox.iterdir())) == 3
    said = capsys.readouterr().out
    assert said.count("relay bulletin show --dir") == 5
    assert "): soup" in said


# -- a real relay, and commands -------------------------------------------------


def test_commands_over_a_real_relay(tmp_path, monkeypatch, capsys):
    ana, ben = User(tmp_path, "ana"), User(tmp_path, "ben")
    relay = RelayProcess(tmp_path / "relay")

    def run(user, *arguments, status=0, stdin=""):
        with monkeypatch.context() as patch:
            for name, value in user.environ(relay.address).items():
                patch.setenv(name, value)
            patch.setattr("sys.stdin", io.StringIO(stdin))
            done = main(list(arguments))
        said = "".join(capsys.readouterr())
        assert done == status, said
        return said

    try:
        relay.start()
        created = run(ana, "bulletin", "create", "camp")
        (uri,) = [line for line in created.splitlines() if line.startswith("mesh-relay:bulletin/")]
        assert "█" in created
        assert "is taken; choose another" in run(ana, "bulletin", "create", "camp", status=1)
        posted = run(ana, "bulletin", "post", "camp", "at nine", "--slot", "gate")
        assert "[gate]: a relay has it on disk (durable). ID" in posted
        run(ana, "bulletin", "post", "camp", "\x1b[2Jred\nben (2026-11-28 18:00): no", "--slot", "x")
        # No number of bytes: of a long file no more is read than shows that it is too long.
        (tmp_path / "long").write_bytes(bytes(100_000))
        assert "this one has more" in run(ana, "bulletin", "post", "camp", "--file", str(tmp_path / "long"), status=1)
        (tmp_path / "map.txt").write_text("to the lake")
        run(ana, "bulletin", "post", "camp", "--file", str(tmp_path / "map.txt"), "--lifetime", "1")
        assert "You read ~camp" in run(ben, "bulletin", "follow", "-", stdin=f"<{uri[:40]}\n{uri[40:]}>\n")
        received = run(ben, "receive", "--dir", str(ben.inbox))
        assert "bulletin ~camp [gate] (" in received
        assert "): at nine\n" in received
        assert "\x1b" not in received
        assert "\n  | ben (2026-11-28 18:00): no" in received
        assert (ben.inbox / "map.txt").read_text() == "to the lake"
        assert "No new messages" in run(ben, "receive", "--dir", str(ben.inbox))
        run(ana, "bulletin", "post", "camp", "at ten", "--slot", "gate")
        run(ana, "bulletin", "withdraw", "camp", "--slot", "x")
        received = run(ben, "receive", "--dir", str(ben.inbox))
        assert "): at ten\n" in received
        assert "[x]" in received
        assert "(taken down)" in received
        shown = run(ben, "bulletin", "show", "camp")
        assert "): at ten\n  | (until " in shown
        assert "map.txt, 11 B; save it with: relay bulletin show --dir FOLDER" in shown
        assert "at nine" not in shown
        assert "red" not in shown
        # A reader cannot post; who is given the key can.
        assert "posting key" in run(ben, "bulletin", "post", "camp", "mine", status=1)
        key = run(ana, "bulletin", "card", "camp", "--posting-key")
        assert "Give it to nobody else" in key
        (key_uri,) = [line for line in key.splitlines() if line.startswith("mesh-relay:bulletin-key/")]
        assert "can post to ~camp" in run(ben, "bulletin", "follow", key_uri)
        run(ben, "bulletin", "post", "camp", "at eleven", "--slot", "gate")
        assert "): at eleven\n" in run(ana, "receive")
        listed = run(ana, "sent")
        assert "bulletin camp: text" in listed
        assert "replaced by a later post" in listed
        assert "not received" not in listed
        assert "--forget-posting-key" in run(ben, "bulletin", "leave", "camp", status=1)
        assert "You read ~camp no longer" in run(ben, "bulletin", "leave", "camp", "--forget-posting-key")
        assert run(ben, "bulletin", "list") == ""
        asyncio.run(purge_and_look(relay.address, ana, User(tmp_path, "carol")))
    finally:
        relay.stop()


async def purge_and_look(address, poster, reader):
    """Who comes after the purge of one who posts finds nothing of it."""
    async with poster.client(address) as client:
        _, post_id = await client.post_text("camp", "a mistake")
        await client.deliver()
        assert await client.purge(post_id) == 1
    async with poster.client(address, clock=lambda: time.time() + 3700) as client:
        bulletin = client.bulletins.get("camp").bulletin
        (outcome,) = await client.deliver()
        assert outcome.delivered.acknowledged == 1
    async with reader.client(address) as client:
        await client.follow_bulletin(bulletin.for_readers, "camp")
        await client.collect()
        assert [post.text for post in await client.posts("camp")] == ["to the lake", "at eleven"]
