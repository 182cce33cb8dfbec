# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes: what senders make, and what relays take for one."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.envelope import (
    BUCKET_BITS,
    HEADER_BYTES,
    PURGE_KEY_BYTES,
    SIZES,
    EnvelopeType,
    Header,
    bucket_of_day,
    cid,
    decode_envelope,
    decode_header,
    envelope_id,
    grind,
    leading_zero_bits,
    make_purge,
    make_tag,
    price_paid,
)
from relay.core.errors import DecodeError
from tests.unit.core.memory import HOUR, envelope, purge

headers = st.builds(
    Header,
    type=st.just(EnvelopeType.MESSAGE),
    size_class=st.integers(0, 3),
    expiry_hour=st.integers(0, 2**32 - 1),
    tag=st.binary(min_size=16, max_size=16),
) | st.builds(
    Header,
    type=st.just(EnvelopeType.PURGE),
    size_class=st.just(0),
    expiry_hour=st.integers(0, 2**32 - 1),
    tag=st.binary(min_size=16, max_size=16),
)


@given(headers)
def test_a_header_comes_back_as_it_was(header):
    data = header.encode()
    assert len(data) == HEADER_BYTES
    assert decode_header(data) == header


@given(st.binary(max_size=40) | headers.map(Header.encode))
def test_any_bytes_are_one_header_or_none(data):
    try:
        header = decode_header(data)
    except DecodeError:
        return
    assert header.encode() == data[:HEADER_BYTES]


@given(
    headers, st.sampled_from([0, 24, 255, 256, 257, 1024, 4096, 16383, 16384, 16385]), st.randoms(use_true_random=False)
)
def test_only_the_length_that_the_class_says_is_an_envelope(header, length, rng):
    data = (header.encode() + rng.randbytes(max(0, length - HEADER_BYTES)))[:length]
    try:
        assert decode_envelope(data) == header
    except DecodeError:
        assert length != SIZES[header.size_class] or header.type is EnvelopeType.PURGE
    else:
        assert length == SIZES[header.size_class]


@pytest.mark.parametrize("size_class", range(4))
def test_every_single_changed_header_byte_is_noticed_or_changes_its_meaning(size_class):
    rng = random.Random(size_class)
    good = envelope(rng, size_class=size_class)
    header = decode_envelope(good)
    for position in range(HEADER_BYTES):
        bad = bytearray(good)
        bad[position] ^= 0xFF
        try:
            assert decode_envelope(bytes(bad)) != header
        except DecodeError:
            assert position < 4


@pytest.mark.parametrize(
    ("position", "value", "complaint"),
    [(0, 0, "version 0"), (0, 2, "version 2"), (1, 2, "unknown"), (2, 4, "unknown"), (3, 1, "unknown")],
)
def test_versions_types_and_classes_to_come_are_refused_by_name(position, value, complaint):
    bad = bytearray(envelope(random.Random(0)))
    bad[position] = value
    with pytest.raises(DecodeError, match=complaint):
        decode_envelope(bytes(bad))


def test_a_purge_proves_itself_by_its_key():
    rng = random.Random(1)
    key = rng.randbytes(PURGE_KEY_BYTES)
    data, tag = purge(rng, key)
    header = decode_envelope(data)
    assert (header.type, header.tag, len(data)) == (EnvelopeType.PURGE, tag, 256)
    assert data[HEADER_BYTES : HEADER_BYTES + PURGE_KEY_BYTES] == key
    for position in range(8, 248):
        bad = bytearray(data)
        bad[position] ^= 1
        with pytest.raises(DecodeError):
            decode_envelope(bytes(bad))
    # The bucket is the reader's business: no key proves it.
    bad = bytearray(data)
    bad[8] ^= 1 << 8 - BUCKET_BITS
    assert decode_envelope(bytes(bad)).tag != tag


def test_a_purge_of_another_size_does_not_exist():
    tag = make_tag(1, bytes(32))
    header = Header(type=EnvelopeType.PURGE, size_class=1, expiry_hour=HOUR, tag=tag).encode()
    with pytest.raises(DecodeError, match="256"):
        decode_envelope(header + bytes(1000))


def test_an_envelope_is_an_ipfs_block():
    # What IPFS prints for the empty raw block.
    assert cid(hashlib.sha256(b"").digest()) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert envelope_id(b"") == hashlib.sha256(b"").digest()


@given(st.integers(0, 256))
def test_work_is_the_leading_zero_bits(bits):
    identity = ((1 << (256 - bits)) - 1).to_bytes(32, "big")
    assert leading_zero_bits(identity) == bits
    assert [price_paid(identity, size_class) for size_class in range(4)] == [bits, bits - 2, bits - 4, bits - 6]


@pytest.mark.parametrize("size_class", range(4))
@pytest.mark.parametrize("price", [0, 1, 5])
def test_grinding_pays_the_price_and_leaves_the_message_alone(size_class, price):
    rng = random.Random(price)
    data = envelope(rng, size_class=size_class, price=price)
    decode_envelope(data)
    assert price_paid(envelope_id(data), size_class) >= price


def test_the_nonce_wraps_around_rather_than_ending():
    unworked = Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=HOUR, tag=bytes(16)).encode() + bytes(224)
    data = grind(unworked, price=6, random_bytes=lambda n: b"\xff" * n)
    assert leading_zero_bits(envelope_id(data)) >= 6
    assert data[:-8] == unworked


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1), st.integers(0, 2**BUCKET_BITS - 1))
def test_tags_and_buckets_are_what_the_protocol_says(key, day, bucket):
    digest = hashlib.sha256(b"mesh-relay/1 purge tag" + key).digest()
    assert (
        f"{int.from_bytes(make_tag(bucket, key)):0128b}" == f"{bucket:05b}" + f"{int.from_bytes(digest):0256b}"[5:128]
    )
    digest = hashlib.sha256(b"mesh-relay/1 bucket" + day.to_bytes(4, "big") + key).digest()
    assert f"{int.from_bytes(digest):0256b}".startswith(f"{bucket_of_day(key, day):05b}")
    assert Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=0, tag=make_tag(bucket, key)).bucket == bucket


def test_a_purge_pays_like_any_other():
    rng = random.Random(3)
    data = make_purge(
        tag=make_tag(9, bytes(32)), purge_key=bytes(32), expiry_hour=HOUR, price=7, random_bytes=rng.randbytes
    )
    assert price_paid(envelope_id(data), 0) >= 7
