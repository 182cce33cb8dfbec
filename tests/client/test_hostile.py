# SPDX-License-Identifier: GPL-2.0-or-later
"""Senders who lie, flood or contradict themselves harm neither others' messages nor the disk."""

import hashlib
import random

import pytest

from relay.client import inbox as inbox_module
from relay.client.inbox import Outcome
from relay.client.pieces import PIECE_BYTES, Inner, Kind, Part
from relay.client.seal import expiry_hour, seal
from relay.core.envelope import envelope_id
from tests.client.helpers import HOUR_S, NOW_HOUR, NOW_S, PRICE, Person

CONTENT = random.Random(1).randbytes(2 * PIECE_BYTES)
DIGEST = hashlib.sha256(CONTENT).digest()
ID = b"0123456789abcdef"


@pytest.fixture
def bob(tmp_path, friend):
    with Person(tmp_path / "bob", 2, contacts=[friend]) as person:
        yield person


@pytest.fixture
def friend(tmp_path):
    with Person(tmp_path / "friend", 3) as person:
        yield person


@pytest.fixture
def mallory(tmp_path):
    with Person(tmp_path / "mallory", 4) as person:
        yield person


def piece(sender, recipient, index, *, expiry=None, **changes):
    """An envelope with one half of CONTENT, or with lies about it."""
    fields = {"kind": Kind.TEXT, "message_id": ID, "size": len(CONTENT), "digest": DIGEST, "content": CONTENT} | changes
    place = Part(index=index, size=fields["size"], digest=fields["digest"])
    start = index * PIECE_BYTES
    return envelope_of(
        sender,
        recipient,
        Inner(
            kind=fields["kind"],
            message_id=fields["message_id"],
            reply_rendezvous=bytes(16),
            age_minutes=72 * 60,
            sequence=1,
            part=place,
            data=fields["content"][start : start + PIECE_BYTES],
        ),
        expiry=expiry,
    )


def whole(sender, recipient, data, message_id=ID, kind=Kind.TEXT, expiry=None):
    inner = Inner(
        kind=kind,
        message_id=message_id,
        reply_rendezvous=bytes(16),
        age_minutes=72 * 60,
        sequence=1,
        part=None,
        data=data,
    )
    return envelope_of(sender, recipient, inner, expiry=expiry)


def envelope_of(sender, recipient, inner, *, expiry=None):
    return seal(
        inner.encode(),
        sender=sender.identity.static,
        recipient=recipient.card,
        now_hour=NOW_HOUR,
        expiry_hour=expiry_hour(NOW_HOUR, 3) if expiry is None else expiry,
        price=0,
        random_bytes=sender.random.randbytes,
    ).envelope


@pytest.mark.parametrize(
    "lie",
    [
        {"size": 2 * PIECE_BYTES + 1, "content": CONTENT + b"x"},
        {"digest": bytes(32)},
        {"kind": Kind.FILE},
    ],
)
def test_a_sender_who_contradicts_himself_is_refused_and_his_first_word_holds(bob, mallory, lie):
    assert bob.receive([piece(mallory, bob, 0)]) == [Outcome.STORED]
    assert bob.receive([piece(mallory, bob, 1, **lie)]) == [Outcome.CONFLICT]
    assert bob.receive([whole(mallory, bob, b"short")]) == [Outcome.CONFLICT]
    assert bob.receive([piece(mallory, bob, 1)]) == [Outcome.STORED]
    assert bob.inbox_contents() == [("", CONTENT)]
    assert bob.receive([piece(mallory, bob, 1, **lie)]) == [Outcome.CONFLICT]


def test_another_sender_with_the_same_message_id_is_another_message(bob, mallory, friend):
    lies = bytes(len(CONTENT))
    order = [
        piece(mallory, bob, 1, content=lies),
        piece(friend, bob, 0),
        piece(mallory, bob, 0, content=lies, digest=DIGEST),
        piece(friend, bob, 1),
        whole(mallory, bob, b"late"),
    ]
    assert bob.receive(order) == [Outcome.STORED] * 4 + [Outcome.CONFLICT]
    (message,) = bob.inbox.messages()
    assert message.sender == friend.identity.static.public
    assert b"".join(bob.inbox.content(message)) == CONTENT


def test_pieces_that_do_not_give_their_digest_are_dropped_without_receipt(bob, mallory):
    lies = CONTENT[:-1] + b"\0"
    bob.receive([piece(mallory, bob, index, content=lies) for index in (0, 1)])
    assert bob.inbox.messages() == []
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 0
    assert bob.database.rows("SELECT * FROM piece") == []
    assert bob.receive([piece(mallory, bob, 1)]) == [Outcome.DUPLICATE]


def test_strangers_cannot_fill_the_disk_nor_keep_contacts_out(bob, mallory, friend, tmp_path, monkeypatch):
    monkeypatch.setattr(inbox_module, "MAX_STRANGER_BYTES", 3 * PIECE_BYTES)
    with Person(tmp_path / "other", 9) as other:
        begun = [piece(mallory, bob, 0, message_id=bytes([number] * 16)) for number in range(5)]
        assert bob.receive(begun) == [Outcome.STORED] * 3 + [Outcome.FULL] * 2
        refused = whole(other, bob, b"another key does not help")
        assert bob.receive([refused]) == [Outcome.FULL]
        assert (
            bob.receive([whole(friend, bob, b"hello"), piece(friend, bob, 0, message_id=bytes(16))])
            == [Outcome.STORED] * 2
        )
        held = sum(len(data) for (data,) in bob.database.rows("SELECT data FROM piece"))
        assert held == 4 * PIECE_BYTES + 5

        # Refused is not seen: with the room back it is worth fetching again.
        assert bob.inbox.unseen([envelope_id(refused)]) == [envelope_id(refused)]
        later_s = NOW_S + 96 * HOUR_S
        bob.inbox.prune(later_s)
        assert bob.database.rows("SELECT bytes FROM pool WHERE name = x''") == []
        assert bob.receive([whole(other, bob, b"later", expiry=NOW_HOUR + 120)], later_s) == [Outcome.STORED]


def test_messages_taken_make_room_for_bytes_but_still_count_until_they_expire(bob, mallory, monkeypatch):
    monkeypatch.setattr(inbox_module, "MAX_STRANGER_BYTES", 100)
    monkeypatch.setattr(inbox_module, "MAX_STRANGER_MESSAGES", 3)
    texts = [whole(mallory, bob, bytes(90), message_id=bytes([number] * 16)) for number in range(4)]
    for number in range(3):
        assert bob.receive(texts[number : number + 2])[0] is Outcome.STORED
        (message,) = bob.inbox.messages()
        bob.inbox.take(message)
    assert bob.receive(texts[3:]) == [Outcome.FULL]
    bob.inbox.prune(NOW_S + 95 * HOUR_S)
    assert bob.receive(texts[3:]) == [Outcome.FULL]


def test_a_contact_is_bounded_too(bob, friend, monkeypatch):
    monkeypatch.setattr(inbox_module, "MAX_CONTACT_BYTES", PIECE_BYTES)
    monkeypatch.setattr(inbox_module, "MAX_CONTACT_MESSAGES", 2)
    envelopes = [piece(friend, bob, 0), piece(friend, bob, 1), piece(friend, bob, 0, message_id=bytes(16))]
    assert bob.receive(envelopes) == [Outcome.STORED, Outcome.FULL, Outcome.FULL]


def test_a_message_that_claims_gigabytes_takes_what_it_sent(bob, mallory):
    size = 4 * 1024**3
    assert bob.receive([piece(mallory, bob, 0, size=size)]) == [Outcome.STORED]
    assert bob.database.path.stat().st_size < 1_000_000


def test_expiries_that_no_honest_sender_sets_are_refused_because_they_would_be_remembered(bob, mallory):
    times = [NOW_HOUR - 24, NOW_HOUR - 23, NOW_HOUR + 192, NOW_HOUR + 193, 2**32 - 1]
    envelopes = [
        whole(mallory, bob, b"x", message_id=bytes([number] * 16), expiry=time) for number, time in enumerate(times)
    ]
    assert bob.receive(envelopes) == [
        Outcome.EXPIRED,
        Outcome.STORED,
        Outcome.STORED,
        Outcome.FAR_FUTURE,
        Outcome.FAR_FUTURE,
    ]


def test_a_message_is_remembered_until_its_last_piece_has_expired(bob, mallory):
    envelopes = [piece(mallory, bob, 0, expiry=NOW_HOUR + 96), piece(mallory, bob, 1, expiry=NOW_HOUR + 6)]
    bob.receive(envelopes)
    bob.inbox.take(bob.inbox.messages()[0])
    later_s = NOW_S + 100 * HOUR_S
    bob.inbox.prune(later_s)
    assert bob.receive(envelopes, later_s) == [Outcome.DUPLICATE, Outcome.EXPIRED]


def test_what_is_remembered_of_others_envelopes_is_bounded(bob, monkeypatch):
    monkeypatch.setattr(inbox_module, "MAX_SEEN", 10)
    identities = [bytes([number] * 32) for number in range(20)]
    bob.inbox.note_seen((identity, NOW_HOUR + number) for number, identity in enumerate(identities))
    assert bob.inbox.unseen(identities) == identities[:10]


def test_senders_choose_message_ids_and_still_every_receipt_is_queued_once(bob, mallory, friend):
    # The same ID from two senders, and again from one of them after the first has been forgotten.
    bob.receive([whole(mallory, bob, b"a", expiry=NOW_HOUR - 20), whole(friend, bob, b"b")])
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=NOW_S, at_once=True) == 2
    for message in bob.inbox.messages():
        bob.inbox.take(message)
    later_s = NOW_S + 5 * HOUR_S
    bob.inbox.prune(later_s)
    assert bob.receive([whole(mallory, bob, b"c")], later_s) == [Outcome.STORED]
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=later_s, at_once=True) == 1
    assert bob.outbox.queue_due_receipts(price=PRICE, now_s=later_s, at_once=True) == 0
    assert len(bob.envelopes(later_s)) == 3


def test_a_hostile_file_name_names_a_file_in_the_folder(bob, mallory):
    bob.receive([whole(mallory, bob, bytes([11]) + b"../../../.x" + b"data", kind=Kind.FILE)])
    assert bob.inbox_contents() == [("_x", b"data")]
    assert bob.receive([whole(mallory, bob, b"\xffshort", message_id=bytes(16), kind=Kind.FILE)]) == [None]
    assert bob.receive([whole(mallory, bob, b"", message_id=bytes(16), kind=Kind.FILE)]) == [None]
