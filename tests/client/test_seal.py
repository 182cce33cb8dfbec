# SPDX-License-Identifier: GPL-2.0-or-later
"""What is sealed is read by its recipient, intact, and by nobody else."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult

from relay.client import seal as seal_module
from relay.client.card import Card
from relay.client.identity import Identity
from relay.client.seal import (
    LIFETIMES_DAYS,
    MAX_PLAINTEXTS,
    PRICE_LADDER,
    buckets_to_read,
    expiry_hour,
    seal,
    smallest_class,
    unseal,
)
from relay.core.envelope import (
    NONCE_BYTES,
    SIZES,
    bucket_of_day,
    decode_envelope,
    envelope_id,
    make_purge,
    make_tag,
    price_paid,
)
from relay.core.noise import HandshakeState, KeyPair, Token
from tests.client.helpers import DAY, NOW_HOUR

ALICE, BOB, MALLORY = (Identity.generate(random.Random(seed).randbytes) for seed in range(3))
BORDERS = sorted(
    {0, 1, *(most + change for most in MAX_PLAINTEXTS for change in (-1, 0, 1))} - {MAX_PLAINTEXTS[-1] + 1}
)


def seal_for_bob(plaintext, *, price=4, days=3, seed=7, now_hour=NOW_HOUR):
    return seal(
        plaintext,
        sender=ALICE.static,
        recipient=Card.of(BOB),
        now_hour=now_hour,
        expiry_hour=expiry_hour(now_hour, days),
        price=price,
        random_bytes=random.Random(seed).randbytes,
    )


@given(size=st.sampled_from(BORDERS) | st.integers(0, MAX_PLAINTEXTS[-1]), seed=st.integers())
def test_the_recipient_reads_what_was_sealed_and_knows_by_whom(size, seed):
    plaintext = random.Random(seed).randbytes(size)
    sealed = seal_for_bob(plaintext, seed=seed)
    unsealed = unseal(sealed.envelope, BOB)
    assert (unsealed.plaintext, unsealed.sender) == (plaintext, ALICE.static.public)
    assert unsealed.identity == envelope_id(sealed.envelope)
    assert unsealed.header == decode_envelope(sealed.envelope)
    assert len(sealed.envelope) == SIZES[smallest_class(size)]


@pytest.mark.parametrize("size", BORDERS)
def test_each_plaintext_goes_in_the_smallest_envelope_that_holds_it(size):
    envelope = seal_for_bob(bytes(size)).envelope
    smaller = [most for most, length in zip(MAX_PLAINTEXTS, SIZES, strict=True) if length < len(envelope)]
    assert all(size > most for most in smaller)


def test_what_fits_no_envelope_is_refused():
    with pytest.raises(ValueError, match="fit"):
        seal_for_bob(bytes(MAX_PLAINTEXTS[-1] + 1))


def test_nobody_but_the_recipient_opens_an_envelope_not_even_its_sender():
    envelope = seal_for_bob(b"secret").envelope
    assert unseal(envelope, MALLORY) is None
    assert unseal(envelope, ALICE) is None


def test_a_change_of_any_byte_but_the_nonce_is_noticed():
    envelope = seal_for_bob(b"secret").envelope
    for place in range(len(envelope) - NONCE_BYTES):
        for flip in (1, 0x80):
            changed = bytearray(envelope)
            changed[place] ^= flip
            assert unseal(bytes(changed), BOB) is None, place


def test_work_done_anew_leaves_the_message_as_it_was():
    # Whoever relays may do this, so the tag, not the identity, has to tell copies apart.
    envelope = seal_for_bob(b"secret").envelope
    reworked = envelope[:-NONCE_BYTES] + bytes(NONCE_BYTES)
    unsealed = unseal(reworked, BOB)
    assert unsealed.plaintext == b"secret"
    assert unsealed.identity != envelope_id(envelope)


@given(st.binary(max_size=1100))
def test_bytes_of_any_kind_are_not_for_us(data):
    assert unseal(data, BOB) is None
    assert unseal(seal_for_bob(b"").envelope[:24] + data.ljust(232, b"\0")[:232], BOB) is None


def test_a_purge_is_not_a_message():
    sealed = seal_for_bob(b"secret")
    header = decode_envelope(sealed.envelope)
    purge = make_purge(
        tag=sealed.tag,
        purge_key=sealed.purge_key,
        expiry_hour=header.expiry_hour,
        price=0,
        random_bytes=random.Random(1).randbytes,
    )
    assert decode_envelope(purge).tag == header.tag
    assert unseal(purge, BOB) is None


def test_the_tag_is_the_bucket_of_the_day_of_sending_and_the_hash_of_the_purge_key():
    for hour in (0, 23, 24):
        sealed = seal_for_bob(b"x", now_hour=NOW_HOUR + hour)
        header = decode_envelope(sealed.envelope)
        assert header.bucket == bucket_of_day(BOB.rendezvous, DAY + hour // 24)
        assert header.tag == make_tag(header.bucket, sealed.purge_key)


def test_whoever_has_the_recipients_key_can_make_what_anybody_sent_him(monkeypatch):
    """So no message proves to a third that its sender wrote it. To others he passes for nobody."""

    class Forger(HandshakeState):
        def _mix_secret(self, token):
            if token is Token.SS:
                self._symmetric.mix_key(crypto_scalarmult(BOB.static.private, ALICE.static.public))
            else:
                super()._mix_secret(token)

    def forged_for(recipient):
        with monkeypatch.context() as patch:
            patch.setattr(seal_module, "HandshakeState", Forger)
            return seal(
                b"never said",
                sender=KeyPair(private=BOB.static.private, public=ALICE.static.public),
                recipient=Card.of(recipient),
                now_hour=NOW_HOUR,
                expiry_hour=expiry_hour(NOW_HOUR, 3),
                price=4,
                random_bytes=random.Random(7).randbytes,
            ).envelope

    unsealed = unseal(forged_for(BOB), BOB)
    assert (unsealed.plaintext, unsealed.sender) == (b"never said", ALICE.static.public)
    assert unseal(forged_for(MALLORY), MALLORY) is None


def test_the_same_message_twice_has_nothing_in_common():
    one, two = (seal_for_bob(b"same", seed=seed) for seed in (1, 2))
    assert one.purge_key != two.purge_key
    assert one.tag[2:] != two.tag[2:]
    payloads = [sealed.envelope[24:] for sealed in (one, two)]
    assert sum(a == b for a, b in zip(*payloads, strict=True)) < 16


@settings(max_examples=30)
@given(now_hour=st.integers(0, 2**31), days=st.sampled_from(LIFETIMES_DAYS))
def test_expiries_tell_six_hours_and_stay_within_the_lifetime(now_hour, days):
    expiry = expiry_hour(now_hour, days)
    assert expiry % 6 == 0
    assert 0 <= now_hour + 24 * days - expiry < 6


def test_lifetimes_are_one_of_three():
    with pytest.raises(ValueError, match="lifetime of 2 days"):
        expiry_hour(NOW_HOUR, 2)


@pytest.mark.parametrize("size", [0, 500, 3000, 16000])
def test_the_price_is_paid_whatever_the_size(size):
    price = PRICE_LADDER[1]
    envelope = seal_for_bob(bytes(size), price=price).envelope
    assert price_paid(envelope_id(envelope), SIZES.index(len(envelope))) >= price


def test_mail_of_the_whole_longest_lifetime_is_looked_for_today_first():
    buckets = buckets_to_read(BOB.rendezvous, NOW_HOUR + 5)
    sent_days = range(DAY - 7, DAY + 2)
    assert set(buckets) == {bucket_of_day(BOB.rendezvous, day) for day in sent_days}
    assert buckets[:2] == (bucket_of_day(BOB.rendezvous, DAY), bucket_of_day(BOB.rendezvous, DAY - 1))
    assert buckets_to_read(BOB.rendezvous, 0)
