# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes that are found by a name: deterministic, like all others to whoever does not know it, purged by nobody."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt, crypto_scalarmult_base

from relay.core.envelope import (
    HEADER_BYTES,
    NONCE_BYTES,
    SIZES,
    decode_envelope,
    envelope_id,
    make_tag,
    price_paid,
)
from relay.core.named import MAX_CONTENT_BYTES, MAX_PIECES, PIECE_BYTES, Name, NamedPiece, join, unwrap, wrap
from tests.vectors.make import pattern

NAME = Name.of(b"test", b"topic of the day")
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "named.json").read_text())


def opened(envelopes, name=NAME):
    return [unwrap(envelope, name) for envelope in envelopes]


@settings(max_examples=25)
@given(st.binary(min_size=1, max_size=5000), st.integers(0, 2**32 - 1))
def test_what_is_wrapped_comes_back_and_is_the_same_each_time(content, expiry_hour):
    envelopes = wrap(content, NAME, expiry_hour=expiry_hour, price=0)
    assert join(opened(envelopes)) == content
    assert wrap(content, NAME, expiry_hour=expiry_hour, price=0) == envelopes
    for envelope in envelopes:
        header = decode_envelope(envelope)
        assert (header.bucket, header.expiry_hour) == (NAME.bucket, expiry_hour)
        assert price_paid(envelope_id(envelope), header.size_class) >= 0


@pytest.mark.parametrize(
    ("size", "classes"),
    [
        (1, [0]),
        (156, [0]),
        (157, [1]),
        (PIECE_BYTES, [3]),
        (PIECE_BYTES + 1, [3, 0]),
        (MAX_CONTENT_BYTES, [3] * MAX_PIECES),
    ],
)
def test_a_content_takes_the_smallest_envelopes(size, classes):
    envelopes = wrap(bytes(size), NAME, expiry_hour=5, price=0)
    assert [SIZES.index(len(envelope)) for envelope in envelopes] == classes
    assert join(reversed(opened(envelopes))) == bytes(size)


@pytest.mark.parametrize("size", [0, MAX_CONTENT_BYTES + 1])
def test_what_does_not_fit_is_an_error(size):
    with pytest.raises(ValueError, match="bytes"):
        wrap(bytes(size), NAME, expiry_hour=5, price=0)


def test_other_names_uses_and_altered_envelopes_give_nothing():
    [envelope] = wrap(b"content", NAME, expiry_hour=5, price=0)
    assert unwrap(envelope, NAME).data == b"content"
    for other in (Name.of(b"test", b"other"), Name.of(b"tes", b"ttopic of the day"), Name(bytes(32))):
        assert unwrap(envelope, other) is None
    for at in range(len(envelope) - NONCE_BYTES):
        altered = envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]
        assert unwrap(altered, NAME) is None
    for cut in range(len(envelope)):
        assert unwrap(envelope[:cut], NAME) is None


def test_pieces_are_whole_or_nothing():
    first, second = opened(wrap(bytes(PIECE_BYTES) + b"end", NAME, expiry_hour=5, price=0))
    assert join([]) is None
    assert join([first]) is None
    assert join([first, first]) is None
    assert join([second, first, second]) == bytes(PIECE_BYTES) + b"end"
    forged = NamedPiece(index=1, count=2, digest=first.digest, data=b"lie")
    assert join([first, forged]) is None
    stranger = NamedPiece(index=1, count=3, digest=first.digest, data=b"")
    assert join([first, second, stranger]) == bytes(PIECE_BYTES) + b"end"


def test_no_key_that_follows_from_the_name_or_the_envelope_purges_it():
    [envelope] = wrap(b"content", NAME, expiry_hour=5, price=0)
    header, ephemeral = decode_envelope(envelope), envelope[HEADER_BYTES : HEADER_BYTES + 32]
    uses = (b"bucket", b"seal", b"once", b"tag", b"work", b"purge")
    known = [NAME.secret, ephemeral, envelope_id(envelope), b"content".ljust(32, b"\0")]
    known += [NAME.derive(b"mesh-relay/1 named " + use, data) for use in uses for data in (b"", ephemeral)]
    assert header.tag not in {make_tag(header.bucket, key) for key in known}


def test_the_payload_begins_as_all_others_do():
    """With a point of the curve, whose last bit is zero; the rest is as good as random."""
    envelopes = [wrap(b"%d" % number, NAME, expiry_hour=5, price=0)[0] for number in range(64)]
    assert all(envelope[HEADER_BYTES + 31] < 128 for envelope in envelopes)
    payloads = [envelope[HEADER_BYTES:-NONCE_BYTES] for envelope in envelopes]
    ones = sum(int.from_bytes(payload, "big").bit_count() for payload in payloads)
    assert abs(ones / (64 * 8 * len(payloads[0])) - 0.5) < 0.01
    assert len({envelope[8:24] for envelope in envelopes}) == 64


def by_the_text(name, plaintext, size, expiry_hour, nonce):
    """An envelope as docs/protocol.md section 12.9 says, without our code but for its nonce."""

    def f(use, data=b""):
        return hmac.digest(name, b"mesh-relay/1 named " + use + data, "sha256")

    size_class = [256, 1024, 4096, 16384].index(size)
    clear = bytes([1, 0, size_class, 0]) + expiry_hour.to_bytes(4, "big")
    padded = (plaintext + b"\x80").ljust(size - 24 - 8 - 48, b"\0")
    e = crypto_scalarmult_base(f(b"once", clear + padded))
    tag = f(b"tag", e)[:16]
    header = clear + bytes([f(b"bucket")[0] & 0xF8 | tag[0] & 0x07]) + tag[1:]
    sealed = crypto_aead_chacha20poly1305_ietf_encrypt(padded, header, bytes(12), f(b"seal", e))
    first = int.from_bytes(f(b"work", header)[:8], "big")
    assert (int.from_bytes(nonce, "big") - first) % 2**64 < 2**22
    return header + e + sealed + nonce


@pytest.mark.parametrize("vector", VECTORS["envelopes"], ids=lambda vector: vector["name"])
def test_vectors_are_what_the_text_says(vector):
    use, value = bytes.fromhex(vector["use"]), bytes.fromhex(vector["value"])
    content = bytes.fromhex(vector["content"]) if "content" in vector else pattern(vector["pattern_bytes"])
    secret = hashlib.sha256(b"mesh-relay/1 name" + bytes([len(use)]) + use + value).digest()
    assert secret.hex() == vector["secret"]
    assert hmac.digest(secret, b"mesh-relay/1 named bucket", "sha256")[0] >> 3 == vector["bucket"]
    envelopes = wrap(content, Name.of(use, value), expiry_hour=vector["expiry_hour"], price=vector["price"])
    assert [hashlib.sha256(envelope).hexdigest() for envelope in envelopes] == vector["identities"]
    assert envelopes[-1].hex() == vector["last_envelope"]
    digest = hashlib.sha256(content).digest()[:16]
    for index, envelope in enumerate(envelopes):
        plaintext = bytes([1, index, len(envelopes)]) + digest + content[16_284 * index :][:16_284]
        again = by_the_text(secret, plaintext, len(envelope), vector["expiry_hour"], envelope[-8:])
        assert again == envelope
