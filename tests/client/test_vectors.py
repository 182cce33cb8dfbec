# SPDX-License-Identifier: GPL-2.0-or-later
"""The vectors are what this client makes, and what a second one written from the text of the protocol reads.

The second one is below: docs/protocol.md section 12, on primitives only, nothing of relay.
"""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from urllib.parse import quote

import nacl.bindings
import nacl.exceptions
import pytest
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)

from relay.client.card import parse_uri
from relay.client.database import Database
from relay.client.errors import CardError
from relay.client.identity import Identity
from relay.client.inbox import Inbox
from relay.client.pieces import decode_inner
from relay.client.seal import unseal
from relay.core.errors import DecodeError
from relay.core.noise import KeyPair
from tests.client.helpers import NOW_S
from tests.client.vectors import build

PATH = Path(__file__).parents[1] / "vectors" / "payload.json"
VECTORS = json.loads(PATH.read_text())
by_comment = pytest.mark.parametrize("vector", VECTORS["sealed"], ids=lambda vector: vector["comment"])


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def hmac_sha256(key, *parts):
    return hmac.digest(key, b"".join(parts), "sha256")


def open_payload(envelope, private):
    """Return sender, plaintext and purge key of an envelope, by RFC-less hand."""
    assert len(envelope) == (256, 1024, 4096, 16384)[envelope[2]]
    payload = envelope[24:-8]
    name = b"Noise_X_25519_ChaChaPoly_SHA256"
    h = ck = name.ljust(32, b"\0")
    h = sha256(h, b"mesh-relay/1 seal", envelope[:8], bytes([envelope[8] >> 3]))
    h = sha256(h, crypto_scalarmult_base(private))

    def mix(secret):
        prk = hmac_sha256(ck, secret)
        first = hmac_sha256(prk, b"\1")
        return first, hmac_sha256(prk, first, b"\2")

    ephemeral, sealed_static, sealed_inner = payload[:32], payload[32:80], payload[80:]
    h = sha256(h, ephemeral)
    ck, key = mix(crypto_scalarmult(private, ephemeral))
    sender = crypto_aead_chacha20poly1305_ietf_decrypt(sealed_static, h, bytes(12), key)
    h = sha256(h, sealed_static)
    ck, key = mix(crypto_scalarmult(private, sender))
    padded = crypto_aead_chacha20poly1305_ietf_decrypt(sealed_inner, h, bytes(12), key)
    h = sha256(h, sealed_inner)
    export_key = hmac_sha256(ck, b"relay-noise-export-v1", h)
    purge_key = hmac_sha256(export_key, b"mesh-relay/1 purge", b"\1")
    digest = sha256(b"mesh-relay/1 purge tag", purge_key)
    assert (envelope[8] & 7, envelope[9:24]) == (digest[0] & 7, digest[1:16])
    plaintext, mark, rest = padded.rpartition(b"\x80")
    assert mark
    assert not any(rest)
    return sender, plaintext, purge_key


def read_inner(plaintext):
    fields = {
        "kind": plaintext[1] & 0x7F,
        "message_id": plaintext[2:18].hex(),
        "reply_rendezvous": plaintext[18:34].hex(),
        "age_minutes": int.from_bytes(plaintext[34:36], "big"),
        "sequence": int.from_bytes(plaintext[36:40], "big"),
        "index": None,
        "size": None,
        "digest": None,
    }
    data = plaintext[40:]
    if plaintext[1] & 0x80:
        fields["index"] = int.from_bytes(data[:4], "big")
        fields["size"] = int.from_bytes(data[4:12], "big")
        fields["digest"] = data[12:44].hex()
        data = data[44:]
    return fields | {"data_sha256": hashlib.sha256(data).hexdigest()}


def test_the_vectors_are_what_this_client_makes():
    assert build() == VECTORS, "if the change is meant: python -m tests.client.vectors > tests/vectors/payload.json"


@by_comment
def test_a_second_client_reads_what_this_one_sealed(vector):
    envelope = bytes.fromhex(vector["envelope"])
    sender, plaintext, purge_key = open_payload(envelope, bytes.fromhex(vector["recipient_private"]))
    assert sender == crypto_scalarmult_base(bytes.fromhex(vector["sender_private"]))
    assert plaintext.hex() == vector["plaintext"]
    assert purge_key.hex() == vector["purge_key"]
    assert envelope[8:24].hex() == vector["tag"]
    assert envelope[80 - 56 : 56] == crypto_scalarmult_base(bytes.fromhex(vector["ephemeral_private"]))
    day = (vector["now_hour"] // 24).to_bytes(4, "big")
    bucket = sha256(b"mesh-relay/1 bucket", day, bytes.fromhex(vector["recipient_rendezvous"]))[0] >> 3
    assert envelope[8] >> 3 == bucket
    assert envelope[4:8] == vector["expiry_hour"].to_bytes(4, "big")
    work = 256 - int.from_bytes(sha256(envelope), "big").bit_length()
    assert work >= vector["price"] + 2 * envelope[2]
    assert sha256(envelope).hex() == vector["id"]
    assert read_inner(plaintext) == vector["inner"]


@by_comment
def test_this_client_reads_the_vectors(vector):
    recipient = Identity(
        static=KeyPair.from_private(bytes.fromhex(vector["recipient_private"])),
        rendezvous=bytes.fromhex(vector["recipient_rendezvous"]),
    )
    unsealed = unseal(bytes.fromhex(vector["envelope"]), recipient)
    assert unsealed.plaintext.hex() == vector["plaintext"]
    assert decode_inner(unsealed.plaintext).message_id.hex() == vector["inner"]["message_id"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["why"])
def test_this_client_refuses_what_is_to_be_refused(vector):
    bob = VECTORS["contacts"][1]
    recipient = Identity(
        static=KeyPair.from_private(bytes.fromhex(bob["private"])), rendezvous=bytes.fromhex(bob["rendezvous"])
    )
    unsealed = unseal(bytes.fromhex(vector["envelope"]), recipient)
    if unsealed is not None:
        with pytest.raises(DecodeError):
            decode_inner(unsealed.plaintext)


@pytest.mark.parametrize(
    "vector",
    [vector for vector in VECTORS["refused"] if "of low order" in vector["why"]],
    ids=lambda vector: vector["why"],
)
def test_a_client_that_does_not_look_at_shared_secrets_takes_what_anybody_could_have_sealed(vector, monkeypatch):

    def careless(private, public):
        try:
            return nacl.bindings.crypto_scalarmult(private, public)
        except nacl.exceptions.RuntimeError:
            return bytes(32)

    monkeypatch.setitem(open_payload.__globals__, "crypto_scalarmult", careless)
    private = bytes.fromhex(VECTORS["contacts"][1]["private"])
    _, plaintext, _ = open_payload(bytes.fromhex(vector["envelope"]), private)
    assert plaintext.endswith(b"refused")


@pytest.mark.parametrize("vector", VECTORS["sequences"], ids=lambda vector: ", ".join(vector["then"]))
def test_what_comes_first_decides_what_a_message_is(vector, tmp_path):
    bob = VECTORS["contacts"][1]
    recipient = Identity(
        static=KeyPair.from_private(bytes.fromhex(bob["private"])), rendezvous=bytes.fromhex(bob["rendezvous"])
    )
    envelopes = {sealed["comment"]: bytes.fromhex(sealed["envelope"]) for sealed in VECTORS["sealed"]}
    with Database(tmp_path / "data") as database:
        inbox = Inbox(database, recipient, lambda _: True)
        for comment, outcome in zip(vector["then"], vector["outcomes"], strict=True):
            opened = inbox.try_open(envelopes[comment])
            assert [found.value for found in inbox.accept([opened], NOW_S)] == [outcome], comment


@pytest.mark.parametrize("vector", VECTORS["contacts"], ids=lambda vector: vector["name"])
def test_a_second_client_makes_the_same_cards(vector):
    keys = bytes.fromhex(vector["public"] + vector["rendezvous"])
    card = b"\1" + keys
    card += sha256(b"mesh-relay/1 card", card)[:4]
    assert card.hex() == vector["card"]
    uri = "mesh-relay:contact/" + base64.urlsafe_b64encode(card).decode().rstrip("=")
    assert vector["uri"] == uri + (f"?name={quote(vector['name'], safe='')}" if vector["name"] else "")
    digest = sha256(b"mesh-relay/1 fingerprint", keys)
    assert vector["fingerprint"] == " ".join(f"{digest[i] << 8 | digest[i + 1]:05d}" for i in range(0, 16, 2))


CARDS = json.loads((PATH.parent / "card.json").read_text())


@pytest.mark.parametrize("vector", CARDS["takes"], ids=lambda vector: vector["why"])
def test_this_client_takes_the_cards_that_are_to_be_taken(vector):
    card, name = parse_uri(vector["uri"])
    assert (card.static.hex(), card.rendezvous.hex()) == (CARDS["static"], CARDS["rendezvous"])
    assert name == vector["name"]


def test_suggested_names_are_what_the_text_says():
    assert {vector["why"]: vector["name"] for vector in CARDS["takes"]} == {
        "without a name": "",
        "a name of unreserved characters alone": "Zoe-1._~",
        "everything else is percent-encoded": "Zoë & Ben + 1 = 3 #?/%",
        "hexadecimal digits in either case": "Zoë",
        "a plus is a plus": "a+b",
        "bytes that are no UTF-8 become U+FFFD": "a\ufffdb",
        "a percent sign without two digits stays": "100%",
        "scheme and word in any case": "",
        "unknown parameters, before and after": "Ben",
        "of two names the first": "Ben",
        "an empty query": "",
    }


@pytest.mark.parametrize("vector", CARDS["refuses"], ids=lambda vector: vector["why"])
def test_this_client_refuses_the_cards_that_are_to_be_refused(vector):
    with pytest.raises(CardError):
        parse_uri(vector["uri"])
