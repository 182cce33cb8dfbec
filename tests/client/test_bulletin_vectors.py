# SPDX-License-Identifier: GPL-2.0-or-later
"""The vectors of notice boards are what this client makes, and what a second one from the text of the protocol reads.

The second one is below: docs/protocol.md section 12.8, on primitives only, nothing of relay.
"""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_scalarmult_base,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)

from relay.client.bulletin import Bulletin, parse_bulletin_uri
from relay.client.bulletin_book import BulletinBook
from relay.client.database import Database
from relay.client.errors import CardError
from relay.client.identity import Identity
from relay.client.outbox import Outbox
from relay.client.post import open_post
from relay.client.posts import PostStore
from relay.core.envelope import decode_envelope
from tests.client.bulletin_vectors import build
from tests.client.helpers import NOW_S

PATH = Path(__file__).parents[1] / "vectors" / "bulletin.json"
VECTORS = json.loads(PATH.read_text())
CAMP = {
    key: bytes.fromhex(value)
    for key, value in VECTORS["bulletin"].items()
    if isinstance(value, str) and " " not in value
}
BULLETIN = Bulletin(public=CAMP["public"], read_key=CAMP["read_key"])
by_why = {"ids": lambda vector: vector["why"]}


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def hmac_sha256(key, *parts):
    return hmac.digest(key, b"".join(parts), "sha256")


def test_the_vectors_are_what_this_client_makes():
    assert build() == VECTORS, (
        "if the change is meant: python -m tests.client.bulletin_vectors > tests/vectors/bulletin.json"
    )


def test_a_second_client_derives_the_same_keys_and_cards():
    public, read_key = CAMP["public"], CAMP["read_key"]
    assert crypto_sign_seed_keypair(CAMP["seed"])[0] == public
    assert hmac_sha256(read_key, b"mesh-relay/1 bulletin rendezvous", public)[:16] == CAMP["rendezvous"]
    assert hmac_sha256(read_key, b"mesh-relay/1 bulletin seal", public) == CAMP["seal_key"]
    for key, what, kind in ((public, "card", "card"), (CAMP["seed"], "posting_key", "posting key")):
        data = b"\1" + key + read_key
        assert data + sha256(f"mesh-relay/1 bulletin {kind}".encode(), data)[:4] == CAMP[what]
    for vector, path, what in zip(
        VECTORS["takes"][:4:2], ("bulletin", "bulletin-key"), ("card", "posting_key"), strict=True
    ):
        assert vector["uri"] == f"mesh-relay:{path}/" + base64.urlsafe_b64encode(CAMP[what]).decode().rstrip("=")
    digest = sha256(b"mesh-relay/1 bulletin fingerprint", public, read_key)
    groups = [f"{digest[i] << 8 | digest[i + 1]:05d}" for i in range(0, 16, 2)]
    assert VECTORS["bulletin"]["fingerprint"] == " ".join(groups)


@pytest.mark.parametrize("vector", VECTORS["posts"], ids=lambda vector: vector["comment"])
def test_a_second_client_reads_what_this_one_posted(vector):
    envelope = bytes.fromhex(vector["envelope"])
    header, payload = envelope[:24], envelope[24:-8]
    assert payload[:32] == crypto_scalarmult_base(bytes.fromhex(vector["ephemeral_private"]))
    key = hmac_sha256(CAMP["seal_key"], payload[:32])
    padded = crypto_aead_chacha20poly1305_ietf_decrypt(payload[32:], header, bytes(12), key)
    plaintext, mark, rest = padded.rpartition(b"\x80")
    assert mark
    assert not any(rest)
    signature, post = plaintext[:64], plaintext[64:]
    crypto_sign_open(signature + b"mesh-relay/1 post" + CAMP["public"] + header + post, CAMP["public"])
    assert sha256(header, post).hex() == vector["rank"]
    assert (post[0], post[1], post[2:18].hex()) == (1, vector["kind"], vector["post_id"])
    assert post[18:24] == vector["age_minutes"].to_bytes(2, "big") + vector["counter"].to_bytes(4, "big")
    assert post[25 : 25 + post[24]].decode() == vector["slot"]
    assert sha256(post[25 + post[24] :]).hex() == vector["body_sha256"]
    # In the smallest class that holds it, with the tag that only who may post can make.
    assert envelope[2] == next(c for c in range(4) if len(plaintext) < (176, 944, 4016, 16304)[c])
    purge_key = hmac_sha256(CAMP["seed"], b"mesh-relay/1 bulletin purge", post[2:18])
    digest = sha256(b"mesh-relay/1 purge tag", purge_key)
    day = (VECTORS["bulletin"]["now_hour"] // 24).to_bytes(4, "big")
    bucket = sha256(b"mesh-relay/1 bucket", day, CAMP["rendezvous"])[0] >> 3
    assert bucket == VECTORS["bulletin"]["buckets"][0]
    assert header[8:] == bytes([bucket << 3 | digest[0] & 7]) + digest[1:16] == bytes.fromhex(vector["tag"])
    # And the purge is one that relays take.
    assert decode_envelope(bytes.fromhex(vector["purge"])).tag == header[8:]
    assert sha256(envelope).hex() == vector["id"]


@pytest.mark.parametrize("vector", VECTORS["posts"], ids=lambda vector: vector["comment"])
def test_this_client_reads_the_vectors(vector):
    post = open_post(bytes.fromhex(vector["envelope"]), BULLETIN).post
    assert (post.counter, post.slot, int(post.kind)) == (vector["counter"], vector["slot"], vector["kind"])
    assert hashlib.sha256(post.body).hexdigest() == vector["body_sha256"]


@pytest.mark.parametrize("vector", VECTORS["refused"], **by_why)
def test_this_client_refuses_the_posts_that_are_to_be_refused(vector):
    assert open_post(bytes.fromhex(vector["envelope"]), BULLETIN) is None


@pytest.mark.parametrize("vector", VECTORS["takes"], **by_why)
def test_this_client_takes_the_cards_that_are_to_be_taken(vector):
    bulletin, name = parse_bulletin_uri(vector["uri"])
    assert (bulletin.public, bulletin.read_key, name) == (CAMP["public"], CAMP["read_key"], vector["name"])
    assert bulletin.seed == (CAMP["seed"] if vector["posts"] else None)


@pytest.mark.parametrize("vector", VECTORS["refuses"], **by_why)
def test_this_client_refuses_the_cards_that_are_to_be_refused(vector):
    with pytest.raises(CardError):
        parse_bulletin_uri(vector["uri"])


@pytest.mark.parametrize("vector", VECTORS["states"], **by_why)
def test_the_newest_state_holds(vector, tmp_path):
    with Database(tmp_path / "data") as database:
        book = BulletinBook(tmp_path / "config")
        book.add(BULLETIN, "camp")
        posts = PostStore(database, book, Outbox(database, Identity.generate(bytes)))
        read = posts.reader(VECTORS["bulletin"]["now_hour"])
        for envelope in vector["envelopes"]:
            posts.accept([read(bytes.fromhex(envelope))], NOW_S)
        assert "".join(post.text for post in posts.posts(BULLETIN, NOW_S)) == vector["holds"]
