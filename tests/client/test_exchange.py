# SPDX-License-Identifier: GPL-2.0-or-later
"""From one person's outbox to another's inbox and back, over envelopes that come in any order, or not at all."""

import errno
import io
import os
import random
import resource
import tempfile
import threading
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.client import outbox
from relay.client.body import file_body, spool, text_body
from relay.client.errors import DatabaseError, SendError
from relay.client.inbox import Outcome
from relay.client.outbox import AGAIN_MIN_S, BATCH_PIECES, MAX_WAIT_S, Acknowledged
from relay.client.pieces import MAX_BODY_BYTES, MAX_WHOLE_BYTES, PIECE_BYTES, Inner, Kind, piece_count
from relay.client.seal import seal
from relay.core.envelope import (
    NONCE_BYTES,
    SIZES,
    EnvelopeType,
    decode_envelope,
    envelope_id,
    grind,
    price_paid,
)
from tests.client.helpers import HOUR_S, NOW_HOUR, NOW_S, PRICE, Person

HEAD = len(b"\x05a.jpg")
FILE_SIZES = sorted(
    {
        max(0, border - HEAD + change)
        for border in (0, 87, 855, 3927, MAX_WHOLE_BYTES, 2 * PIECE_BYTES, 3 * PIECE_BYTES)
        for change in (-1, 0, 1)
    }
)


def is_empty(database):
    return not any(database.rows(f"SELECT 1 FROM {table}") for table in ("sent", "envelope", "body"))  # noqa: S608


@pytest.fixture
def alice(tmp_path):
    with Person(tmp_path / "alice", 1) as person:
        yield person


@pytest.fixture
def bob(tmp_path, alice):
    with Person(tmp_path / "bob", 2, contacts=[alice]) as person:
        yield person


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    with Person(folder / "alice", 3) as alice, Person(folder / "bob", 4, contacts=[alice]) as bob:
        yield alice, bob


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from(FILE_SIZES) | st.integers(0, 5 * PIECE_BYTES),
    seed=st.integers(),
    repeated=st.booleans(),
)
def test_a_file_of_any_size_arrives_as_it_was_in_any_order_with_repetitions(pair, size, seed, repeated):
    alice, bob = pair
    rng = random.Random(seed)
    content = rng.randbytes(size)
    (message_id,) = alice.send_file(content, "a.jpg", bob)
    envelopes = alice.envelopes()
    assert len(envelopes) == piece_count(size + HEAD)
    if repeated:
        envelopes += rng.choices(envelopes, k=3)
    rng.shuffle(envelopes)
    outcomes = bob.receive(envelopes)
    assert outcomes.count(Outcome.STORED) == piece_count(size + HEAD)
    assert set(outcomes) <= {Outcome.STORED, Outcome.DUPLICATE}
    (message,) = bob.inbox.messages()
    assert (message.name, message.size, message.sent_minute) == ("a.jpg", size, 60 * NOW_HOUR)
    assert (message.sender, message.message_id) == (alice.identity.static.public, message_id)
    assert b"".join(bob.inbox.content(message)) == content

    bob.inbox.take(message)
    assert bob.inbox.messages() == []
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 1
    receipts = bob.envelopes()
    assert [len(receipt) for receipt in receipts[-1:]] == [256]
    assert alice.receive(receipts[-1:] * 2) == [Outcome.RECEIPT, Outcome.DUPLICATE]
    assert alice.envelopes() == []
    assert alice.outbox.progress(message_id).is_received


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.integers(1, 40_000).map("é".__mul__))
def test_a_text_of_any_length_arrives_as_it_was(text):
    with (
        tempfile.TemporaryDirectory() as folder,
        Person(Path(folder) / "a", 1) as alice,
        Person(Path(folder) / "b", 2) as bob,
    ):
        alice.send_text(text, bob)
        bob.receive(reversed(alice.envelopes()))
        assert bob.inbox_contents() == [("", text.encode())]


def test_a_short_text_takes_the_smallest_envelope_and_nothing_is_shared_between_pieces(alice, bob):
    alice.send_text("a" * 87, bob)
    alice.send_text("a" * 88, bob)
    alice.send_file(bytes(3 * PIECE_BYTES), "zeros", bob)
    envelopes = alice.envelopes()
    assert [len(one) for one in envelopes] == [256, 1024, 16384, 16384, 16384, 256]
    headers = [decode_envelope(one) for one in envelopes]
    assert len({header.tag for header in headers}) == len(headers)
    assert {header.expiry_hour for header in headers} == {NOW_HOUR + 72}
    assert all(
        price_paid(envelope_id(one), header.size_class) >= PRICE for one, header in zip(envelopes, headers, strict=True)
    )


def test_a_group_message_is_a_message_of_its_own_for_each_member(alice, bob, tmp_path):
    with Person(tmp_path / "carol", 9) as carol:
        ids = alice.send_text("to all", bob, carol)
        assert len(set(ids)) == 2
        envelopes = alice.envelopes()
        assert sorted(bob.receive(envelopes), key=str) == [None, Outcome.STORED]
        carol.receive(envelopes)
        assert bob.inbox_contents() == carol.inbox_contents() == [("", b"to all")]
        assert [one.message_id for one in bob.inbox.messages()] == ids[:1]


def test_nothing_is_shown_while_a_piece_is_missing_and_all_after_it_came_days_later(alice, bob):
    content = random.Random(5).randbytes(3 * PIECE_BYTES)
    alice.send_file(content, "a.bin", bob, days=7)
    envelopes = alice.envelopes()
    bob.receive(envelopes[:2] + envelopes[3:])
    assert bob.inbox.messages() == []
    (partial,) = bob.inbox.partials()
    assert (partial.pieces, partial.missing) == (4, 1)
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 0
    bob.reopen()
    bob.inbox.prune(NOW_S + 100 * HOUR_S)
    bob.receive(envelopes[2:3], NOW_S + 100 * HOUR_S)
    assert bob.inbox_contents() == [("a.bin", content)]
    assert bob.inbox.partials() == []


def test_messages_that_arrive_mixed_do_not_mix(alice, bob, tmp_path):
    contents = [random.Random(seed).randbytes(2 * PIECE_BYTES + seed) for seed in range(4)]
    with Person(tmp_path / "carol", 9) as carol:
        for number, content in enumerate(contents):
            (alice, carol)[number % 2].send_file(content, f"{number}", bob)
        envelopes = alice.envelopes() + carol.envelopes()
        random.Random(6).shuffle(envelopes)
        opened = [bob.inbox.try_open(envelope) for envelope in envelopes]
        assert set(bob.inbox.accept(opened, NOW_S)) == {Outcome.STORED}
    assert sorted(bob.inbox_contents()) == [(f"{number}", content) for number, content in enumerate(contents)]


def test_receipts_at_once_are_those_of_what_has_just_come(alice, bob):
    alice.send_text("one", bob)
    bob.receive(alice.envelopes())
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S) == 0
    alice.send_text("two", bob)
    bob.receive(alice.envelopes())
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 1
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S + HOUR_S, at_once=True) == 1


def test_a_message_that_was_taken_does_not_come_again_not_even_worked_anew(alice, bob):
    alice.send_text("once", bob)
    (envelope,) = alice.envelopes()
    bob.receive([envelope])
    bob.inbox.take(bob.inbox.messages()[0])
    bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
    bob.reopen()
    copy = grind(envelope[:-NONCE_BYTES], price=0, random_bytes=random.Random(8).randbytes)
    assert envelope_id(copy) != envelope_id(envelope)
    for now_s in (NOW_S, NOW_S + 50 * HOUR_S, NOW_S + 96 * HOUR_S - 1):
        bob.inbox.prune(now_s)
        assert set(bob.receive([envelope, copy], now_s)) == {Outcome.DUPLICATE}
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 0
    bob.inbox.prune(NOW_S + 96 * HOUR_S)
    assert bob.database.rows("SELECT * FROM received") == []
    assert bob.receive([envelope, copy], NOW_S + 96 * HOUR_S) == [Outcome.EXPIRED] * 2


def test_what_was_looked_at_need_not_be_fetched_again_until_it_expires(alice, bob):
    alice.send_text("hello", bob)
    (envelope,) = alice.envelopes()
    identity, other = envelope_id(envelope), bytes(32)
    assert bob.inbox.unseen([other, identity]) == [other, identity]
    bob.receive([envelope])
    assert bob.inbox.unseen([other, identity]) == [other]
    bob.inbox.note_seen([(other, NOW_HOUR + 6)])
    assert bob.inbox.unseen([other, identity]) == []
    bob.inbox.prune(NOW_S + 30 * HOUR_S)
    assert bob.inbox.unseen([other, identity]) == [other]


def test_a_receipt_counts_only_from_the_recipient(alice, bob, tmp_path):
    (message_id,) = alice.send_text("hello", bob)
    with Person(tmp_path / "mallory", 9) as mallory:
        # Mallory claims to have received what she was never sent.
        forged = forge_receipt(mallory, alice, message_id)
        assert alice.receive([forged]) == [Outcome.DUPLICATE]
        assert len(alice.envelopes()) == 1
    assert alice.receive([forge_receipt(bob, alice, bytes(16))]) == [Outcome.DUPLICATE]
    bob.receive(alice.envelopes())
    bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
    assert alice.receive(bob.envelopes()) == [Outcome.RECEIPT]
    alice.reopen()
    assert alice.envelopes() == []
    assert alice.outbox.progress(message_id).is_received
    assert alice.database.rows("SELECT * FROM body") == []


def forge_receipt(sender, recipient, message_id):
    inner = Inner(
        kind=Kind.RECEIPT,
        message_id=message_id,
        reply_rendezvous=sender.identity.rendezvous,
        age_minutes=24 * 60,
        sequence=1,
        data=b"",
    )
    return seal(
        inner.encode(),
        sender=sender.identity.static,
        recipient=recipient.card,
        now_hour=NOW_HOUR,
        expiry_hour=NOW_HOUR + 24,
        price=0,
        random_bytes=sender.random.randbytes,
    ).envelope


def test_someone_who_is_no_contact_gets_a_receipt_too(alice, bob):
    bob.send_text("hello stranger", alice)
    alice.receive(bob.envelopes())
    assert alice.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 1
    assert bob.receive(alice.envelopes()) == [Outcome.RECEIPT]
    assert bob.envelopes() == []


def test_a_receipt_looks_like_a_short_text_that_lives_for_seven_days(alice, bob):
    alice.send_text("hello", bob, days=7)
    bob.receive(alice.envelopes())
    bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
    bob.send_text("hello", alice, days=7)
    text, receipt = sorted(bob.envelopes(), key=lambda one: alice.inbox.try_open(one).inner.kind)
    assert [alice.inbox.try_open(one).inner.kind for one in (text, receipt)] == [Kind.TEXT, Kind.RECEIPT]
    # All that stands in the clear, but for the tag, of which five bits are not random.
    assert text[:8] == receipt[:8]
    assert decode_envelope(text).bucket == decode_envelope(receipt).bucket
    assert len(text) == len(receipt)
    assert sum(a == b for a, b in zip(text[9:], receipt[9:], strict=True)) < 16


def test_a_message_to_oneself_arrives_and_is_receipted(alice):
    (message_id,) = alice.send_text("note", alice)
    alice.receive(alice.envelopes())
    alice.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
    assert alice.receive(alice.envelopes()) == [Outcome.DUPLICATE, Outcome.RECEIPT]
    assert alice.outbox.progress(message_id).is_received
    assert alice.inbox_contents() == [("", b"note")]


def test_of_two_devices_of_one_identity_both_receive_and_both_send(alice, bob, tmp_path):
    """A copied folder: neither device knows of the other, nor which numbers it has used."""
    with Person(tmp_path / "second", 2, contacts=[alice]) as second:
        assert second.card == bob.card
        second.random.seed(99)
        (message_id,) = alice.send_text("to both", bob)
        devices = (bob, second)
        for device in devices:
            assert device.receive(alice.envelopes()) == [Outcome.STORED]
            assert device.inbox_contents() == [("", b"to both")]
            assert device.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 1
        receipts = [envelope for device in devices for envelope in device.envelopes()]
        assert alice.receive(receipts) == [Outcome.RECEIPT, Outcome.DUPLICATE]
        assert alice.outbox.progress(message_id).is_received
        sent = [device.send_text(text, alice)[0] for device, text in zip(devices, ("one", "two"), strict=True)]
        assert alice.receive([device.envelopes()[0] for device in devices]) == [Outcome.STORED] * 2
        assert sorted(alice.inbox_contents()) == [("", b"one"), ("", b"two")]
        alice.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
        for device, message_id in zip(devices, sent, strict=True):
            # Each hears of both, and knows its own.
            assert set(device.receive(alice.envelopes())) == {Outcome.DUPLICATE, Outcome.RECEIPT}
            assert device.outbox.progress(message_id).is_received


def test_envelopes_are_offered_until_receipt_or_expiry_whatever_relays_have_said(alice, bob):
    (message_id,) = alice.send_file(bytes(2 * PIECE_BYTES), "f", bob)
    first, second, third = [pending.id for pending in alice.outbox.pending(NOW_S)]
    alice.outbox.mark_acknowledged([first], durable=True, now_s=NOW_S)
    alice.outbox.mark_acknowledged([first, second], durable=False, now_s=NOW_S)
    alice.reopen()
    assert [one.id for one in alice.outbox.pending(NOW_S + AGAIN_MIN_S - 1)] == [third]
    again_s = NOW_S + MAX_WAIT_S
    # What no relay has goes first.
    assert [(one.id, one.acknowledged) for one in alice.outbox.pending(again_s)] == [
        (third, Acknowledged.NO),
        (second, Acknowledged.VOLATILE),
        (first, Acknowledged.DURABLE),
    ]
    assert alice.outbox.errands(again_s, again=False) == [array("q", [third])]
    # A clock that was set back makes nothing wait for ever.
    assert len(list(alice.outbox.pending(NOW_S - MAX_WAIT_S))) == 3
    progress = alice.outbox.progress(message_id)
    assert (progress.pieces, progress.volatile, progress.durable) == (3, 1, 1)
    assert len(alice.envelopes(NOW_S + 71 * HOUR_S)) == 3
    assert alice.envelopes(NOW_S + 72 * HOUR_S) == []
    alice.outbox.mark_acknowledged([third], durable=False, now_s=NOW_S)
    alice.outbox.prune(NOW_S + 72 * HOUR_S)
    progress = alice.outbox.progress(message_id)
    assert (progress.is_expired, progress.is_never_sent) == (True, False)
    alice.outbox.prune(NOW_S + 96 * HOUR_S)
    assert alice.outbox.progress(message_id) is None
    assert is_empty(alice.database)


def test_what_no_relay_ever_had_is_told_of_until_the_user_has_read_it(alice, bob):
    """As when it was sent while the clock was two weeks behind, which was put right then."""
    then_s = NOW_S - 14 * 86_400
    (message_id,) = alice.send_text("lost", bob, now_s=then_s)
    (held_id,) = alice.send_text("held", bob, now_s=then_s)
    held = [one.id for one in alice.outbox.pending(then_s)][1]
    alice.outbox.mark_acknowledged([held], durable=False, now_s=then_s)
    for days in (0, 1, 30):
        alice.outbox.prune(NOW_S + days * 86_400)
        assert alice.outbox.progress(message_id).is_never_sent
        assert [one.message_id for one in alice.outbox.log()] == [message_id]
        assert alice.outbox.progress(held_id) is None
        assert list(alice.outbox.pending(NOW_S)) == []
    # Of its content nothing is left.
    assert alice.database.rows("SELECT * FROM body") == []
    assert alice.outbox.purge(message_id, price=PRICE, now_s=NOW_S) == 0
    assert alice.outbox.log() == []
    assert is_empty(alice.database)


def test_a_receipt_shows_that_a_relay_had_what_seemed_never_sent(alice, bob):
    (message_id,) = alice.send_text("hello", bob)
    bob.receive(alice.envelopes())
    alice.outbox.prune(NOW_S + 4 * 86_400)
    assert alice.outbox.progress(message_id).is_never_sent
    bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
    alice.receive(bob.envelopes())
    progress = alice.outbox.progress(message_id)
    assert (progress.is_received, progress.is_never_sent) == (True, False)


def test_what_was_never_sent_is_bounded(alice, bob, monkeypatch):
    monkeypatch.setattr(outbox, "MAX_NEVER_SENT", 2)
    ids = [alice.send_text("a", bob)[0] for _ in range(4)]
    alice.outbox.prune(NOW_S + 4 * 86_400)
    assert [one.message_id for one in alice.outbox.log()] == ids[2:]


def test_messages_are_numbered_for_each_recipient_apart_and_the_clock_cannot_turn_that_round(alice, bob, tmp_path):
    """No recipient learns how much is written to others."""
    with Person(tmp_path / "carol", 3) as carol:
        for now_s, recipients in (
            (NOW_S, (bob,)),
            (NOW_S, (bob, carol)),
            (NOW_S - 7200, (bob,)),
            (NOW_S + 600, (carol,)),
        ):
            alice.send_text("a", *recipients, now_s=now_s)
        envelopes = alice.envelopes(NOW_S - 7200)
        minute = int(NOW_S // 60)
        for person, sequences in ((bob, [minute, minute + 1, minute + 2]), (carol, [minute, minute + 10])):
            opened = [one for envelope in envelopes if (one := person.inbox.try_open(envelope))]
            assert sorted(one.inner.sequence for one in opened) == sequences


def test_a_relay_that_asks_more_gets_the_same_message_with_more_work(alice, bob):
    alice.send_text("hello", bob)
    (before,) = alice.outbox.pending(NOW_S)
    alice.outbox.raise_price(before.id, 12)
    (after,) = alice.outbox.pending(NOW_S)
    assert price_paid(envelope_id(after.envelope), 0) >= 12
    assert after.envelope[:-NONCE_BYTES] == before.envelope[:-NONCE_BYTES]
    assert bob.receive([before.envelope, after.envelope]) == [Outcome.STORED, Outcome.DUPLICATE]


def test_a_purge_goes_out_later_one_by_one_for_every_piece_and_stops_the_message(alice, bob):
    (message_id,) = alice.send_file(bytes(70 * PIECE_BYTES), "f", bob)
    tags = {decode_envelope(one).tag: decode_envelope(one) for one in alice.envelopes()}
    assert alice.outbox.purge(message_id, price=PRICE, now_s=NOW_S) == len(tags) == 71
    assert alice.outbox.purge(message_id, price=PRICE, now_s=NOW_S) == 0
    assert alice.outbox.progress(message_id).is_purged
    assert alice.outbox.progress(message_id).purges_left == 71
    assert alice.envelopes(NOW_S + 599) == []
    halfway = len(alice.envelopes(NOW_S + 2000))
    assert 0 < halfway < 71
    purges = [decode_envelope(one) for one in alice.envelopes(NOW_S + 3600)]
    assert {purge.tag for purge in purges} == set(tags)
    assert {purge.type for purge in purges} == {EnvelopeType.PURGE}
    assert {purge.expiry_hour for purge in purges} == {NOW_HOUR + 72}
    # Only what a relay has taken is done.
    ids = [pending.id for pending in alice.outbox.pending(NOW_S + 3600)]
    alice.outbox.mark_acknowledged(ids[:70], durable=True, now_s=NOW_S + 3600)
    assert alice.outbox.progress(message_id).purges_left == 1
    alice.outbox.mark_acknowledged(ids[70:], durable=False, now_s=NOW_S + 3600)
    assert alice.outbox.progress(message_id).purges_left == 0


def test_a_message_that_arrived_can_still_be_purged(alice, bob):
    (message_id,) = alice.send_text("hello", bob)
    (envelope,) = alice.envelopes()
    bob.receive([envelope])
    bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
    alice.receive(bob.envelopes())
    alice.reopen()
    assert alice.outbox.purge(message_id, price=PRICE, now_s=NOW_S) == 1
    (purge,) = alice.envelopes(NOW_S + 3600)
    assert decode_envelope(purge).tag == decode_envelope(envelope).tag


def test_only_what_was_sent_from_here_can_be_purged(alice, bob):
    bob.send_text("hello", alice)
    alice.receive(bob.envelopes())
    alice.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True)
    for message_id in (bytes(16), alice.inbox.messages()[0].message_id):
        with pytest.raises(SendError, match="no message of that ID"):
            alice.outbox.purge(message_id, price=PRICE, now_s=NOW_S)


def test_small_messages_are_offered_before_large_ones(alice, bob):
    alice.send_file(bytes(3 * PIECE_BYTES), "large", bob)
    alice.send_text("small", bob)
    assert len(alice.envelopes()[0]) == 256


def test_the_log_says_to_whom_and_when_and_never_what(alice, bob):
    marker = b"planted marker"
    text_ids = alice.send_text(marker.decode(), bob)
    file_ids = alice.send_file(marker * 3, marker.decode(), bob)
    log = alice.outbox.log()
    assert [(one.message_id, one.kind) for one in log] == [(text_ids[0], Kind.TEXT), (file_ids[0], Kind.FILE)]
    # Of the text and the file, not of what goes with them.
    assert [one.size for one in log] == [len(marker), 3 * len(marker)]
    assert {(one.recipient, one.sent_hour) for one in log} == {(bob.identity.static.public, NOW_HOUR)}
    alice.database.close()
    assert marker not in b"".join(path.read_bytes() for path in alice.folder.iterdir())
    alice.open()


def truncated(file):
    file.truncate(10)


def longer(file):
    file.seek(0, io.SEEK_END)
    file.write(b"more")


def altered(file):
    file.seek(50)
    file.write(b"x")


@pytest.mark.parametrize("change", [truncated, longer, altered])
def test_a_file_that_changes_while_it_is_sent_is_not_sent_in_part(alice, bob, change):
    file = io.BytesIO(bytes(100 * PIECE_BYTES))
    body = file_body(file, "f")
    change(file)
    with pytest.raises(SendError, match="changed"):
        alice.outbox.queue_message([bob.card], body, lifetime_days=1, price=PRICE, now_s=NOW_S)
    assert alice.envelopes() == []
    assert is_empty(alice.database)


def test_an_interrupted_group_message_goes_to_nobody(alice, bob, tmp_path):
    def interrupt(done, everything):
        assert everything == 2 * 101
        if done > 101 + BATCH_PIECES - 1:
            raise KeyboardInterrupt

    with Person(tmp_path / "carol", 9) as carol, pytest.raises(KeyboardInterrupt):
        alice.outbox.queue_message(
            [bob.card, carol.card],
            file_body(io.BytesIO(bytes(100 * PIECE_BYTES)), "f"),
            lifetime_days=1,
            price=PRICE,
            now_s=NOW_S,
            on_piece=interrupt,
        )
    assert alice.envelopes() == []
    assert alice.database.rows("SELECT * FROM body") == []


def test_a_pipe_is_sent_like_a_file_and_leaves_nothing_behind(alice, bob, tmp_path):
    content = random.Random(1).randbytes(300_000)
    with spool(io.BytesIO(content), tmp_path) as file:
        assert not [path for path in tmp_path.iterdir() if path.is_file()]
        alice.outbox.queue_message([bob.card], file_body(file, "x"), lifetime_days=1, price=PRICE, now_s=NOW_S)
    bob.receive(alice.envelopes())
    assert bob.inbox_contents() == [("x", content)]


@pytest.mark.timeout(20)
def test_of_a_pipe_no_byte_beyond_the_limit_is_waited_for_or_kept(tmp_path):
    """It filled the disk with up to 256 KiB more, and waited for these."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe, os.fdopen(reading, "rb") as stream:
        pipe.write(bytes(1000))
        pipe.write(b"x")
        # The other end stays open, and says nothing more.
        with pytest.raises(SendError, match="at most 4 GiB"):
            spool(stream, tmp_path, 1000)
        pipe.write(bytes(1000))
        pipe.close()
        with spool(stream, tmp_path, 1000) as file:
            assert file.tell() == 1000


def test_a_pipe_that_the_disk_does_not_hold_is_told(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(SendError, match=f"cannot keep what comes in {tmp_path}: File too large; nothing of it"):
            spool(io.BytesIO(bytes(1 << 20)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Failing(io.BytesIO):
    """A file on a stick that fails: what comes after so many reads cannot be had."""

    def __init__(self, content, reads):
        super().__init__(content)
        self.reads = reads

    def read(self, size=-1):
        self.reads -= 1
        if self.reads < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("reads", [0, 1, 3, 5])
def test_a_file_that_cannot_be_read_to_its_end_is_told_and_nothing_of_it_is_sent(alice, bob, reads):
    """It ended the command with a traceback."""
    with pytest.raises(SendError, match="cannot read it: Input/output error; copy it"):
        alice.outbox.queue_message(
            [bob.card],
            file_body(Failing(bytes(100_000), reads), "f"),
            lifetime_days=1,
            price=PRICE,
            now_s=NOW_S,
        )
    assert alice.envelopes() == []


class Unread(io.FileIO):
    """A file that must not be read."""

    def read(self, size=-1):  # noqa: ARG002
        raise AssertionError("read")

    readinto = readall = read


def test_a_file_that_is_too_long_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate(MAX_BODY_BYTES)
    with Unread(path) as file, pytest.raises(SendError, match="at most 4 GiB"):
        file_body(file, "long")


def test_an_empty_text_is_refused_and_an_empty_file_is_not(alice, bob):
    with pytest.raises(SendError, match="nothing to send"):
        text_body("")
    alice.send_file(b"", "empty", bob)
    bob.receive(alice.envelopes())
    assert bob.inbox_contents() == [("empty", b"")]


def test_the_space_of_a_large_message_is_given_back_and_overwritten(alice, bob):
    marker = b"planted marker"
    alice.send_file(marker * 200_000, "f", bob)
    bob.receive(alice.envelopes())
    (message,) = bob.inbox.messages()
    bob.reopen()
    size = bob.database.path.stat().st_size
    assert size > 2_000_000
    bob.inbox.take(message)
    assert sum(path.stat().st_size for path in bob.folder.iterdir()) < size / 10
    assert marker not in b"".join(path.read_bytes() for path in bob.folder.iterdir())


def test_the_sizes_of_a_text_and_its_group_are_known_before_it_is_sealed(alice, bob):
    calls = []
    alice.outbox.queue_message(
        [bob.card],
        text_body("hello"),
        lifetime_days=1,
        price=PRICE,
        now_s=NOW_S,
        on_piece=lambda *numbers: calls.append(numbers),
    )
    assert calls == [(1, 1)]
    assert SIZES[0] == len(alice.envelopes()[0])


def test_prices_off_the_ladder_are_not_paid(alice, bob):
    with pytest.raises(ValueError, match="price 5"):
        alice.outbox.queue_message([bob.card], text_body("x"), lifetime_days=1, price=5, now_s=NOW_S)


def test_commands_at_the_same_time_wait_for_each_other(alice, bob):
    for number in range(80):
        alice.send_text(f"{number}", bob)
    envelopes = alice.envelopes()
    errors = []

    def receive(part):
        try:
            with Person(bob.folder, 2) as again:
                again.receive(part)
        except DatabaseError as error:
            errors.append(error)

    threads = [threading.Thread(target=receive, args=(envelopes[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(int(text) for _, text in bob.inbox_contents()) == list(range(80))


def test_two_commands_use_one_database(alice, bob):
    with Person(alice.folder, 1) as again:
        again.send_text("from another command", bob)
        assert len(alice.envelopes()) == 1
        alice.outbox.prune(NOW_S)
        alice.database.execute("BEGIN IMMEDIATE")
        again.database.execute("PRAGMA busy_timeout = 1")
        with pytest.raises(DatabaseError, match="another command"):
            again.send_text("meanwhile", bob)
        alice.database.execute("ROLLBACK")
