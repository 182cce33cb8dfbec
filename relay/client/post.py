# SPDX-License-Identifier: GPL-2.0-or-later
"""One post on a notice board, as bytes: signed, then sealed to all who read (docs/protocol.md section 12.8).

Whoever has the card can seal, so what counts is the signature. It covers the whole header: a reader who seals a post
anew can give it neither a longer life nor a tag that its purge would miss.
"""

import enum
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
    sodium_pad,
    sodium_unpad,
)
from nacl.exceptions import CryptoError

from relay.client.bulletin import Bulletin
from relay.client.pieces import split_file_head
from relay.client.seal import LIFETIMES_DAYS, Sealed
from relay.core.codec import Reader, Writer
from relay.core.envelope import (
    HEADER_BYTES,
    NONCE_BYTES,
    SIZES,
    EnvelopeType,
    Header,
    bucket_of_day,
    decode_envelope,
    grind,
    make_tag,
)
from relay.core.errors import DecodeError
from relay.core.noise import KEY_BYTES, TAG_BYTES, KeyPair

POST_VERSION: Final = 1
POST_ID_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64
MAX_SLOT_BYTES: Final = 64
MAX_COUNTER: Final = 2**32 - 1
CAPACITIES: Final = tuple(size - HEADER_BYTES - NONCE_BYTES - KEY_BYTES - TAG_BYTES for size in SIZES)
"""Bytes of padded plaintext by size class: 176, 944, 4016, 16304."""
MAX_SLOT_AND_BODY_BYTES: Final = CAPACITIES[-1] - 1 - SIGNATURE_BYTES - (1 + 1 + POST_ID_BYTES + 2 + 4 + 1)
"""16,214: signature, padding, and what precedes the slot take the rest."""

_CONTEXT: Final = b"mesh-relay/1 post"
_NO_NONCE: Final = bytes(12)
"""Each key seals one post."""
_MAX_AGE_MINUTES: Final = 60 * 24 * LIFETIMES_DAYS[-1]


class PostKind(enum.IntEnum):
    """What a post is."""

    TEXT = 0
    FILE = 1
    WITHDRAWN = 2
    """There is nothing in its slot any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostBody:
    """What is signed of a post, after the header.

    `post_id` (16 bytes) is random; `age_minutes` is how long before the expiry of the envelope it was posted; of the
    posts in one `slot` (1 to 64 bytes of UTF-8) the one with the greatest `counter` holds.
    """

    kind: PostKind
    post_id: bytes
    age_minutes: int
    counter: int
    slot: str
    body: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the bytes."""
        slot = self.slot.encode()
        writer = Writer().u8(POST_VERSION).u8(self.kind).bytes(self.post_id).u16(self.age_minutes).u32(self.counter)
        return bytes(writer.u8(len(slot)).bytes(slot).bytes(self.body))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPost:
    """A post that is proven to be of who may post to `bulletin` (its public key, 32 bytes).

    `rank` (32 bytes) decides between two of one counter.
    """

    bulletin: bytes
    expiry_hour: int
    post: PostBody
    rank: bytes


def decode_post(data: bytes) -> PostBody:
    """Return what was signed; DecodeError for any other bytes than `PostBody.encode` gives."""
    reader = Reader(data)
    if (version := reader.u8()) != POST_VERSION:
        raise DecodeError(f"post version {version}, expected {POST_VERSION}")
    code = reader.u8()
    try:
        kind = PostKind(code)
    except ValueError:
        raise DecodeError(f"unknown kind of post {code}") from None
    post_id = reader.bytes(POST_ID_BYTES)
    if (age_minutes := reader.u16()) > _MAX_AGE_MINUTES:
        raise DecodeError(f"posted {age_minutes} minutes before its expiry, at most {_MAX_AGE_MINUTES}")
    counter = reader.u32()
    if not 1 <= (slot_bytes := reader.u8()) <= MAX_SLOT_BYTES:
        raise DecodeError(f"slot of {slot_bytes} bytes, 1 to {MAX_SLOT_BYTES}")
    try:
        slot = reader.bytes(slot_bytes).decode()
    except UnicodeDecodeError:
        raise DecodeError("the slot is no UTF-8") from None
    body = reader.rest()
    if kind is PostKind.FILE:
        split_file_head(body)
    elif bool(body) is (kind is PostKind.WITHDRAWN):
        raise DecodeError("a text has a byte, and what is withdrawn none")
    return PostBody(kind=kind, post_id=post_id, age_minutes=age_minutes, counter=counter, slot=slot, body=body)


def seal_post(
    post: PostBody,
    bulletin: Bulletin,
    *,
    now_hour: int,
    expiry_hour: int,
    price: int,
    random_bytes: Callable[[int], bytes],
) -> tuple[Sealed, OpenedPost]:
    """Return a post in the smallest envelope that holds it, and as readers see it; ValueError when none does."""
    if bulletin.seed is None:
        raise ValueError("without its posting key nothing is posted")
    signed = post.encode()
    needed = SIGNATURE_BYTES + len(signed) + 1
    size_class = next((place for place, capacity in enumerate(CAPACITIES) if needed <= capacity), None)
    if size_class is None:
        raise ValueError(f"post of {len(signed)} bytes, at most {CAPACITIES[-1] - 1 - SIGNATURE_BYTES} fit")
    purge_key = bulletin.purge_key(post.post_id)
    tag = make_tag(bucket_of_day(bulletin.rendezvous, now_hour // 24), purge_key)
    header = Header(type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=expiry_hour, tag=tag).encode()
    _, signing_key = crypto_sign_seed_keypair(bulletin.seed)
    signature = crypto_sign(_signed(bulletin, header, signed), signing_key)[:SIGNATURE_BYTES]
    unworked = header + encrypt(
        sodium_pad(signature + signed, CAPACITIES[size_class]), header, bulletin, random_bytes=random_bytes
    )
    envelope = grind(unworked, price=price, random_bytes=random_bytes)
    opened = OpenedPost(bulletin=bulletin.public, expiry_hour=expiry_hour, post=post, rank=_rank(header, signed))
    return Sealed(envelope=envelope, purge_key=purge_key, tag=tag), opened


def encrypt(padded: bytes, header: bytes, bulletin: Bulletin, *, random_bytes: Callable[[int], bytes]) -> bytes:
    """Return the payload that holds a padded plaintext of one of CAPACITIES: what everybody with the card can do."""
    # Messages begin with such a key, and to relays posts are like them: half of all random bytes are no point's.
    ephemeral = KeyPair.generate(random_bytes).public
    key = hmac.digest(bulletin.seal_key, ephemeral, "sha256")
    return ephemeral + crypto_aead_chacha20poly1305_ietf_encrypt(padded, header, _NO_NONCE, key)


def open_post(envelope: bytes, bulletin: Bulletin) -> OpenedPost | None:
    """Return what is in an envelope, or None for whatever is not an intact post of who may post to `bulletin`.

    Costs one decryption for an envelope to somebody else, and one check of a signature for what was sealed by somebody
    with the card.
    """
    try:
        header = decode_envelope(envelope)
        if header.type is not EnvelopeType.MESSAGE:
            return None
        clear, payload = envelope[:HEADER_BYTES], envelope[HEADER_BYTES:-NONCE_BYTES]
        key = hmac.digest(bulletin.seal_key, payload[:KEY_BYTES], "sha256")
        padded = crypto_aead_chacha20poly1305_ietf_decrypt(payload[KEY_BYTES:], clear, _NO_NONCE, key)
        plaintext = sodium_unpad(padded, CAPACITIES[header.size_class])
        signature, signed = plaintext[:SIGNATURE_BYTES], plaintext[SIGNATURE_BYTES:]
        if len(signature) < SIGNATURE_BYTES:
            return None
        crypto_sign_open(signature + _signed(bulletin, clear, signed), bulletin.public)
        post = decode_post(signed)
    except (DecodeError, CryptoError):
        return None
    return OpenedPost(bulletin=bulletin.public, expiry_hour=header.expiry_hour, post=post, rank=_rank(clear, signed))


def _signed(bulletin: Bulletin, header: bytes, post: bytes) -> bytes:
    return _CONTEXT + bulletin.public + header + post


def _rank(header: bytes, post: bytes) -> bytes:
    return hashlib.sha256(header + post).digest()
