# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes tests/vectors/bulletin.json: `python -m tests.client.bulletin_vectors > tests/vectors/bulletin.json`."""

import base64
import hashlib
import json
import random
import sys

from nacl.bindings import crypto_sign, crypto_sign_seed_keypair, sodium_pad

from relay.client.bulletin import CARD_PREFIX, POSTING_PREFIX, Bulletin
from relay.client.card import Card, pack_card
from relay.client.identity import Identity
from relay.client.pieces import file_head
from relay.client.post import CAPACITIES, PostBody, PostKind, encrypt, open_post, seal_post
from relay.client.seal import buckets_to_read, expiry_hour
from relay.core.envelope import EnvelopeType, Header, bucket_of_day, envelope_id, make_purge, make_tag
from tests.client.helpers import DAY, NOW_HOUR

CAMP, OTHER = (Bulletin.generate(random.Random(f"bulletin vectors {name}").randbytes) for name in ("camp", "other"))
EXPIRY = expiry_hour(NOW_HOUR, 3)
AGE = 60 * (EXPIRY - NOW_HOUR) - 5
COUNTER = 60 * NOW_HOUR + 6
POST_ID = bytes(range(16))
CARD_CONTEXT, POSTING_CONTEXT = b"mesh-relay/1 bulletin card", b"mesh-relay/1 bulletin posting key"


def build():
    return {
        "comment": "docs/protocol.md section 12.8. Bytes in hex. Made by tests/client/bulletin_vectors.py.",
        "bulletin": {
            "seed": CAMP.seed.hex(),
            "public": CAMP.public.hex(),
            "read_key": CAMP.read_key.hex(),
            "rendezvous": CAMP.rendezvous.hex(),
            "seal_key": CAMP.seal_key.hex(),
            "card": CAMP.for_readers.encode().hex(),
            "posting_key": CAMP.encode().hex(),
            "fingerprint": CAMP.fingerprint,
            "now_hour": NOW_HOUR,
            "buckets": list(buckets_to_read(CAMP.rendezvous, NOW_HOUR)),
        },
        "takes": [{"why": why, "uri": uri, "name": name, "posts": posts} for why, uri, name, posts in takes()],
        "refuses": [{"why": why, "uri": uri} for why, uri in refuses()],
        "posts": [
            posted("text", PostKind.TEXT, "Grüße über drei Netze".encode()),
            posted("longest text of the smallest envelope, in this slot", PostKind.TEXT, b"a" * 82),
            posted("file", PostKind.FILE, file_head("ü.txt") + b"content" * 50),
            posted("longest text there is, in this slot", PostKind.TEXT, b"a" * 16_210),
            posted("withdrawn", PostKind.WITHDRAWN, b""),
        ],
        "refused": [{"why": why, "envelope": envelope.hex()} for why, envelope in refused()],
        "states": list(states()),
    }


def takes():
    card, key = CAMP.for_readers.to_uri(), CAMP.to_uri()
    yield "card", card, "", False
    yield "card with a name", CAMP.for_readers.to_uri("Küche & Bar"), "Küche & Bar", False
    yield "posting key", key, "", True
    yield "posting key with a name", CAMP.to_uri("camp"), "camp", True
    yield "scheme and kind in capitals", card.replace(CARD_PREFIX, CARD_PREFIX.upper()), "", False
    yield "a parameter of later versions", card + "?x=1&name=camp", "camp", False


def refuses():
    card, key = CAMP.for_readers.to_uri(), CAMP.to_uri()
    yield "card of a person", Card.of(Identity.generate(random.Random(1).randbytes)).to_uri()
    yield "card called a posting key", card.replace(CARD_PREFIX, POSTING_PREFIX)
    yield "posting key called a card", key.replace(POSTING_PREFIX, CARD_PREFIX)
    yield "cut", card[:-2]
    yield "a letter changed", card[:30] + ("A" if card[30] != "A" else "B") + card[31:]
    for why, public in (
        ("posting key of low order", bytes.fromhex("01" + 31 * "00")),
        ("posting key that is no point", bytes.fromhex("02" + 31 * "00")),
        ("posting key that is not encoded as it should be", bytes.fromhex("f0" + 30 * "ff" + "7f")),
        # -CAMP plus the point of order 2 is on the curve, and not in the large subgroup.
        ("posting key outside the large subgroup", outside_the_subgroup(CAMP.public)),
    ):
        yield why, uri_of(CARD_PREFIX, pack_card(CARD_CONTEXT, public, CAMP.read_key))
    newer = bytes([2]) + CAMP.for_readers.encode()[1:49]
    yield "card of version 2", uri_of(CARD_PREFIX, newer + hashlib.sha256(CARD_CONTEXT + newer).digest()[:4])


def outside_the_subgroup(public):
    """Add (0, -1), which turns (x, y) into (-x, -y) on a twisted Edwards curve."""
    y = int.from_bytes(public, "little") & (1 << 255) - 1
    sign = public[31] >> 7
    return ((2**255 - 19 - y) | (1 - sign) << 255).to_bytes(32, "little")


def uri_of(prefix, data):
    return prefix + base64.urlsafe_b64encode(data).decode().rstrip("=")


def post(kind=PostKind.TEXT, body=b"refused", **changes):
    fields = {"kind": kind, "post_id": POST_ID, "age_minutes": AGE, "counter": COUNTER, "slot": "gate", "body": body}
    return PostBody(**(fields | changes))


def posted(comment, kind, body):
    ephemeral, nonce_start = (hashlib.sha256(f"{comment} {what}".encode()).digest() for what in ("e", "nonce"))
    drawn = iter((ephemeral, nonce_start[:8]))
    one = post(kind, body)
    sealed, opened = seal_post(
        one,
        CAMP,
        now_hour=NOW_HOUR,
        expiry_hour=EXPIRY,
        price=4,
        random_bytes=lambda count: next(drawn)[:count],
    )
    purge = make_purge(tag=sealed.tag, purge_key=sealed.purge_key, expiry_hour=EXPIRY, price=0, random_bytes=bytes)
    return {
        "comment": comment,
        "ephemeral_private": ephemeral.hex(),
        "nonce_start": nonce_start[:8].hex(),
        "expiry_hour": EXPIRY,
        "price": 4,
        "kind": int(kind),
        "post_id": one.post_id.hex(),
        "age_minutes": one.age_minutes,
        "counter": one.counter,
        "slot": one.slot,
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "rank": opened.rank.hex(),
        "purge_key": sealed.purge_key.hex(),
        "tag": sealed.tag.hex(),
        "envelope": sealed.envelope.hex(),
        "id": envelope_id(sealed.envelope).hex(),
        "purge": purge.hex(),
    }


def header_of(bulletin=CAMP, size_class=0, expiry=EXPIRY, purge_key=None):
    """The header that a post of POST_ID has."""
    tag = make_tag(bucket_of_day(bulletin.rendezvous, DAY), purge_key or bulletin.purge_key(POST_ID))
    return Header(type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=expiry, tag=tag).encode()


def sign(signed, header, seed=CAMP.seed, public=CAMP.public, context=b"mesh-relay/1 post"):
    _, key = crypto_sign_seed_keypair(seed)
    return crypto_sign(context + public + header + signed, key)[:64]


def sealed_anew(signature, signed, header, bulletin=CAMP):
    """What whoever has the card can make."""
    return sealed_as_it_is(sodium_pad(signature + signed, CAPACITIES[header[2]]), header, bulletin)


def sealed_as_it_is(padded, header, bulletin=CAMP):
    return header + encrypt(padded, header, bulletin, random_bytes=random.Random(padded).randbytes) + bytes(8)


def refused():
    header, good = header_of(), post().encode()
    signature = sign(good, header)
    intact = sealed_anew(signature, good, header)
    yield "not signed", sealed_anew(bytes(64), good, header)
    yield "signed by somebody else", sealed_anew(sign(good, header, seed=OTHER.seed), good, header)
    yield "post of another bulletin", sealed_anew(sign(good, header, OTHER.seed, OTHER.public), good, header)
    yield (
        "post of another bulletin of the same hand",
        sealed_anew(sign(good, header, public=OTHER.public), good, header),
    )
    yield "signed for something else", sealed_anew(sign(good, header, context=b"mesh-relay/2 post"), good, header)
    yield "sealed to another bulletin", sealed_anew(signature, good, header, OTHER)
    longer = header_of(expiry=EXPIRY + 24)
    yield "given a longer life by a reader", sealed_anew(signature, good, longer)
    away = header_of(purge_key=bytes(32))
    yield "given another tag by a reader", sealed_anew(signature, good, away)
    later = post(counter=COUNTER + 1).encode()
    yield "made newer by a reader", sealed_anew(signature, later, header)
    elsewhere = post(slot="pier").encode()
    yield "hung into another slot by a reader", sealed_anew(signature, elsewhere, header)
    yield "expiry changed on the way", intact[:7] + bytes((intact[7] ^ 1,)) + intact[8:]
    yield "tag changed on the way", intact[:23] + bytes((intact[23] ^ 1,)) + intact[24:]
    yield "payload changed on the way", intact[:100] + bytes((intact[100] ^ 1,)) + intact[101:]
    yield "padding without its mark", sealed_as_it_is(bytes(CAPACITIES[0]), header)
    yield "less than a signature", sealed_anew(signature[:63], b"", header)
    for why, signed in (
        ("nothing signed", b""),
        ("post version 2", b"\2" + good[1:]),
        ("kind 3", good[:1] + b"\3" + good[2:]),
        ("age of 168 hours and a minute", post(age_minutes=10_081).encode()),
        ("slot without a byte", good[:24] + b"\0" + b"refused"),
        ("slot of 65 bytes", post(slot="s" * 65, body=b"?").encode()),
        ("slot that is no UTF-8", good[:25] + b"\xff" + good[26:]),
        ("slot that runs past the end", good[:24] + b"\x40gate"),
        ("text without a byte", post(body=b"").encode()),
        ("file without a name", post(PostKind.FILE, b"").encode()),
        ("file whose name runs past the end", post(PostKind.FILE, b"\2n").encode()),
        ("withdrawn, with a body", post(PostKind.WITHDRAWN, b"x").encode()),
    ):
        yield why, sealed_anew(sign(signed, header), signed, header)


def states():
    """Posts in one slot, in the order of arrival, and the text that holds then ('' for none)."""
    old, new, tie, gone = (
        {"text": text, "envelope": state(text, counter, kind).hex()}
        for text, counter, kind in (
            ("old", COUNTER, PostKind.TEXT),
            ("new", COUNTER + 1, PostKind.TEXT),
            ("as new", COUNTER + 1, PostKind.TEXT),
            ("", COUNTER + 2, PostKind.WITHDRAWN),
        )
    )
    greater = max((new, tie), key=lambda one: rank_of(one["envelope"]))
    for why, arrived, holds in (
        ("the newer one holds", (old, new), "new"),
        ("in whatever order they come", (new, old), "new"),
        ("of two with one counter the greater hash", (new, tie), greater["text"]),
        ("in whatever order, too", (tie, new), greater["text"]),
        ("what is withdrawn is gone", (new, gone), ""),
        ("and stays so", (gone, new, old), ""),
    ):
        yield {"why": why, "envelopes": [one["envelope"] for one in arrived], "holds": holds}


def state(text, counter, kind):
    signed = post(kind, text.encode(), counter=counter, post_id=hashlib.sha256(text.encode()).digest()[:16]).encode()
    header = header_of(purge_key=CAMP.purge_key(signed[2:18]))
    return sealed_anew(sign(signed, header), signed, header)


def rank_of(envelope):
    return open_post(bytes.fromhex(envelope), CAMP).rank


if __name__ == "__main__":
    json.dump(build(), sys.stdout, indent=1, ensure_ascii=True)
    print()
