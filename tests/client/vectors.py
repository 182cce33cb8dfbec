# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes tests/vectors/payload.json: `python -m tests.client.vectors > tests/vectors/payload.json`."""

import hashlib
import hmac
import io
import json
import random
import sys

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt, crypto_scalarmult, sodium_pad

from relay.client.body import file_body, text_body
from relay.client.card import Card
from relay.client.group import Group
from relay.client.identity import Identity
from relay.client.pieces import PIECE_BYTES, Inner, Kind, Part, piece_count
from relay.client.seal import CAPACITIES, buckets_to_read, expiry_hour, seal
from relay.client.text import safe_file_name
from relay.core.envelope import Header, bucket_of_day, decode_envelope, envelope_id, make_tag
from relay.core.noise import HandshakeState, KeyPair, X
from tests.client.helpers import DAY, NOW_HOUR

ALICE, BOB = (Identity.generate(random.Random(f"payload vectors {name}").randbytes) for name in ("alice", "bob"))
MESSAGE_ID = bytes(range(16))
GROUP = Group(id=bytes(range(16, 32)), version=3, name="Chör", members=(Card.of(ALICE), Card.of(BOB)))
FILE_NAMES = ("photo.jpg", "../../.bashrc", "", "a/b\\c.txt", "-rf", "gpj.\u202eexe", "é" * 150, "nul\0byte", " x. ")


def build():
    return {
        "comment": "docs/protocol.md section 12. Bytes in hex. Made by tests/client/vectors.py.",
        "contacts": [contact(ALICE, ""), contact(BOB, "Bob & Zoë")],
        "buckets": [
            {"rendezvous": BOB.rendezvous.hex(), "day": day, "bucket": bucket_of_day(BOB.rendezvous, day)}
            for day in (0, DAY, DAY + 1)
        ],
        "buckets_to_read": {
            "rendezvous": BOB.rendezvous.hex(),
            "now_hour": NOW_HOUR,
            "buckets": list(buckets_to_read(BOB.rendezvous, NOW_HOUR)),
        },
        "sealed": [
            sealed("text", *inners_of(text_body("Grüße über drei Netze"))),
            sealed("longest text of the smallest envelope", *inners_of(text_body("a" * 87))),
            sealed("file", *inners_of(file_body(from_bytes(b"content" * 50), "ü.txt"))),
            sealed("text to a group", *inners_of(text_body("Grüße", GROUP))),
            sealed("file to a group", *inners_of(file_body(from_bytes(b"content"), "ü.txt", GROUP))),
            sealed("receipt", make_inner(Kind.RECEIPT, None, b"")),
            *(
                sealed(f"piece {inner.part.index} of a file", inner)
                for inner in inners_of(file_body(from_bytes(pattern(PIECE_BYTES + 50)), "large.bin"))
            ),
        ],
        "refused": [{"why": why, "envelope": envelope.hex()} for why, envelope in refused()],
        "sequences": [{"then": list(comments), "outcomes": list(outcomes)} for comments, outcomes in sequences()],
        "file_names": [{"name": name, "safe": safe_file_name(name)} for name in FILE_NAMES],
    }


def sequences():
    """Sealed messages by their comment, all with one ID, in the order of arrival; what becomes of each."""
    piece, rest = "piece 0 of a file", "piece 1 of a file"
    yield (piece, rest, piece), ("stored", "stored", "duplicate")
    yield (rest, piece, rest), ("stored", "stored", "duplicate")
    yield (piece, "file", rest), ("stored", "conflict", "stored")
    yield (piece, "text", piece, rest), ("stored", "conflict", "duplicate", "stored")
    yield ("text", piece, "text"), ("stored", "conflict", "duplicate")
    yield ("text", "longest text of the smallest envelope"), ("stored", "conflict")
    yield ("text", "file"), ("stored", "conflict")


def from_bytes(content):
    return io.BytesIO(content)


def pattern(length):
    """Bytes i = i * 7 mod 251, so that the vectors need not carry them."""
    return bytes(index * 7 % 251 for index in range(length))


def contact(identity, name):
    card = Card.of(identity)
    return {
        "private": identity.static.private.hex(),
        "public": identity.static.public.hex(),
        "rendezvous": identity.rendezvous.hex(),
        "card": card.encode().hex(),
        "name": name,
        "uri": card.to_uri(name),
        "fingerprint": card.fingerprint,
    }


def inners_of(body):
    is_whole = piece_count(body.size) == 1
    return [
        make_inner(
            body.kind,
            None if is_whole else Part(index=index, size=body.size, digest=body.digest),
            data,
            is_to_group=body.is_to_group,
        )
        for index, data in enumerate(body.slices())
    ]


def make_inner(kind, part, data, *, is_to_group=False):
    return Inner(
        kind=kind,
        message_id=MESSAGE_ID,
        reply_rendezvous=ALICE.rendezvous,
        # Sent at five past the hour.
        age_minutes=60 * (expiry_hour(NOW_HOUR, 3) - NOW_HOUR) - 5,
        sequence=60 * NOW_HOUR + 6,
        is_to_group=is_to_group,
        part=part,
        data=data,
    )


def sealed(comment, inner):
    plaintext = inner.encode()
    ephemeral, nonce_start = (hashlib.sha256(f"{comment} {what}".encode()).digest() for what in ("e", "nonce"))
    drawn = iter((ephemeral, nonce_start[:8]))
    result = seal(
        plaintext,
        sender=ALICE.static,
        recipient=Card.of(BOB),
        now_hour=NOW_HOUR,
        expiry_hour=expiry_hour(NOW_HOUR, 3),
        price=4,
        random_bytes=lambda count: next(drawn)[:count],
    )
    header = decode_envelope(result.envelope)
    return {
        "comment": comment,
        "sender_private": ALICE.static.private.hex(),
        "recipient_public": BOB.static.public.hex(),
        "recipient_rendezvous": BOB.rendezvous.hex(),
        "recipient_private": BOB.static.private.hex(),
        "ephemeral_private": ephemeral.hex(),
        "nonce_start": nonce_start[:8].hex(),
        "now_hour": NOW_HOUR,
        "expiry_hour": header.expiry_hour,
        "price": 4,
        "inner": {
            "kind": inner.code,
            "message_id": inner.message_id.hex(),
            "reply_rendezvous": inner.reply_rendezvous.hex(),
            "age_minutes": inner.age_minutes,
            "sequence": inner.sequence,
            "index": inner.part.index if inner.part else None,
            "size": inner.part.size if inner.part else None,
            "digest": inner.part.digest.hex() if inner.part else None,
            "data_sha256": hashlib.sha256(inner.data).hexdigest(),
        },
        "plaintext": plaintext.hex(),
        "purge_key": result.purge_key.hex(),
        "tag": result.tag.hex(),
        "envelope": result.envelope.hex(),
        "id": envelope_id(result.envelope).hex(),
    }


def refused():
    good = make_inner(Kind.TEXT, None, b"refused").encode()
    intact = dishonest(sodium_pad(good, CAPACITIES[0]))
    yield "tag of another purge key", dishonest(sodium_pad(good, CAPACITIES[0]), purge_key=bytes(32))
    yield "expiry changed on the way", intact[:7] + bytes((intact[7] ^ 1,)) + intact[8:]
    yield "bucket changed on the way", intact[:8] + bytes((intact[8] ^ 8,)) + intact[9:]
    yield "padding without its mark", dishonest(bytes(CAPACITIES[0]))
    yield "inner version 2", dishonest(sodium_pad(b"\2" + good[1:], CAPACITIES[0]))
    yield "kind 3", dishonest(sodium_pad(good[:1] + b"\3" + good[2:], CAPACITIES[0]))
    of_group = good[:1] + b"\x40" + good[2:40]
    nobody = Group(id=bytes(16), version=0, name="", members=()).encode()
    yield "group without members", dishonest(sodium_pad(of_group + nobody + b"refused", CAPACITIES[0]))
    yield (
        "group with more members than fit",
        dishonest(sodium_pad(of_group + nobody[:-1] + b"\2" + bytes(48), CAPACITIES[0])),
    )
    yield "receipt to a group", dishonest(sodium_pad(good[:1] + b"\x42" + good[2:40], CAPACITIES[0]))
    yield "receipt with data", dishonest(sodium_pad(good[:1] + b"\2" + good[2:], CAPACITIES[0]))
    yield "age of 168 hours and a minute", dishonest(sodium_pad(good[:34] + b"\x27\x61" + good[36:], CAPACITIES[0]))
    yield "file without a name", dishonest(sodium_pad(good[:1] + b"\1" + good[2:40], CAPACITIES[0]))
    part = (1).to_bytes(4, "big") + (PIECE_BYTES + 7).to_bytes(8, "big") + bytes(32)
    pieced = good[:1] + b"\x80" + good[2:40]
    yield "piece shorter than its place", dishonest(sodium_pad(pieced + part + b"short", CAPACITIES[0]))
    part = (0).to_bytes(4, "big") + (7).to_bytes(8, "big") + hashlib.sha256(b"refused").digest()
    yield "piece of what fits one envelope", dishonest(sodium_pad(pieced + part + b"refused", CAPACITIES[0]))

    yield (
        "piece beyond the last one",
        dishonest(sodium_pad(pieced + place(2, PIECE_BYTES + 7) + b"refused", CAPACITIES[0])),
    )
    yield "more than 4 GiB", dishonest(sodium_pad(pieced + place(265_597, 4 * 1024**3 + 1) + b"?", CAPACITIES[0]))
    yield (
        "receipt with bit 7",
        dishonest(sodium_pad(good[:1] + b"\x82" + pieced[2:] + place(1, PIECE_BYTES), CAPACITIES[0])),
    )
    yield (
        "file whose name runs past the end",
        dishonest(sodium_pad(good[:1] + b"\1" + good[2:40] + b"\2n", CAPACITIES[0])),
    )
    yield "inner cut", dishonest(sodium_pad(good[:39], CAPACITIES[0]))
    yield "text without a byte", dishonest(sodium_pad(good[:40], CAPACITIES[0]))
    someone = Group(id=bytes(16), version=0, name="", members=(Card.of(ALICE),)).encode()
    yield "text to a group without a byte", dishonest(sodium_pad(of_group + someone, CAPACITIES[0]))
    padded = sodium_pad(good, CAPACITIES[0])
    yield "ephemeral key of low order", careless(padded, ephemeral=None, sender=ALICE.static)
    yield "sender's key of low order", careless(padded, ephemeral=KeyPair.from_private(bytes(range(32))), sender=None)


def place(index, size):
    return index.to_bytes(4, "big") + size.to_bytes(8, "big") + bytes(32)


def careless(padded, *, ephemeral, sender):
    """Seal as whoever has no key (None: one of zeros) could, to a recipient who does not look at shared secrets.

    On primitives: ours refuse.
    """
    expiry = expiry_hour(NOW_HOUR, 3)
    bucket = bucket_of_day(BOB.rendezvous, DAY)
    clear = Header(type=0, size_class=0, expiry_hour=expiry, tag=bytes(16)).encode()[:8]
    ck = h = b"Noise_X_25519_ChaChaPoly_SHA256".ljust(32, b"\0")
    for data in (b"mesh-relay/1 seal" + clear + bytes([bucket]), BOB.static.public):
        h = hashlib.sha256(h + data).digest()
    payload = ephemeral.public if ephemeral else bytes(32)
    h = hashlib.sha256(h + payload).digest()
    for key, plaintext in ((ephemeral, sender.public if sender else bytes(32)), (sender, padded)):
        shared = crypto_scalarmult(key.private, BOB.static.public) if key else bytes(32)
        secret = hmac.digest(ck, shared, "sha256")
        ck = hmac.digest(secret, b"\1", "sha256")
        k = hmac.digest(secret, ck + b"\2", "sha256")
        sealed_part = crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, h, bytes(12), k)
        h = hashlib.sha256(h + sealed_part).digest()
        payload += sealed_part
    exporter = hmac.digest(ck, b"relay-noise-export-v1" + h, "sha256")
    purge_key = hmac.digest(exporter, b"mesh-relay/1 purge\1", "sha256")
    return clear + make_tag(bucket, purge_key) + payload + bytes(8)


def dishonest(padded, purge_key=None):
    """Seal 128 bytes as they are, as a sender could who does not keep to the protocol."""
    expiry = expiry_hour(NOW_HOUR, 3)
    bucket = bucket_of_day(BOB.rendezvous, DAY)
    clear = Header(type=0, size_class=0, expiry_hour=expiry, tag=bytes(16)).encode()[:8]
    handshake = HandshakeState(
        X,
        initiator=True,
        prologue=b"mesh-relay/1 seal" + clear + bytes([bucket]),
        static=ALICE.static,
        remote_static=BOB.static.public,
        random_bytes=random.Random(padded).randbytes,
    )
    payload = handshake.write_message(padded)
    if purge_key is None:
        purge_key = handshake.export(b"mesh-relay/1 purge", 32)
    return clear + make_tag(bucket, purge_key) + payload + bytes(8)


if __name__ == "__main__":
    json.dump(build(), sys.stdout, indent=1, ensure_ascii=True)
    print()
