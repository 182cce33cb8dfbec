# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes that are found by who knows a name (docs/protocol.md section 12.9).

Other systems address what they keep for somebody by a name that several people know or can reckon: a tag of the day,
a topic. From such a name follow the bucket, the tag and the key of envelopes that look like all others. Whoever
knows the name can find, count and open them, and make more of them; nobody can purge them. Wrapping is deterministic:
the same content under the same name is the same envelopes, whoever wraps it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    sodium_pad,
    sodium_unpad,
)
from nacl.exceptions import CryptoError

from relay.core.codec import Reader
from relay.core.envelope import (
    BUCKET_BITS,
    HEADER_BYTES,
    NONCE_BYTES,
    SIZES,
    TAG_BYTES,
    EnvelopeType,
    Header,
    decode_envelope,
    grind,
    in_bucket,
)
from relay.core.errors import DecodeError
from relay.core.noise import KEY_BYTES, KeyPair
from relay.core.noise import TAG_BYTES as AEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION: Final = 1
CAPACITIES: Final = tuple(size - HEADER_BYTES - NONCE_BYTES - KEY_BYTES - AEAD_BYTES for size in SIZES)
"""Bytes of padded plaintext by size class: 176, 944, 4016, 16304, as of a post on a notice board."""
MAX_PIECES: Final = 4
"""Envelopes that one content takes at most."""
DIGEST_BYTES: Final = 16
_HEAD_BYTES: Final = 3 + DIGEST_BYTES
PIECE_BYTES: Final = CAPACITIES[-1] - 1 - _HEAD_BYTES
"""Content in a full envelope: 16,284 bytes."""
MAX_CONTENT_BYTES: Final = MAX_PIECES * PIECE_BYTES

_BUCKET, _SEAL, _ONCE, _TAG, _WORK = (
    b"mesh-relay/1 named " + use for use in (b"bucket", b"seal", b"once", b"tag", b"work")
)
_NO_NONCE: Final = bytes(12)
"""Each key seals one plaintext: it follows from it."""
_CLEAR_BYTES: Final = HEADER_BYTES - TAG_BYTES


@dataclass(frozen=True, slots=True)
class Name:
    """A name that envelopes are found by; ``secret`` (32 bytes) is all that follows from it."""

    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, use: bytes, value: bytes) -> Name:
        """Return the name that ``value`` is for one ``use``, a text that says for what, so that two uses never meet."""
        return cls(hashlib.sha256(b"mesh-relay/1 name" + len(use).to_bytes(1, "big") + use + value).digest())

    @property
    def bucket(self) -> int:
        """The bucket of its envelopes, below 2^BUCKET_BITS; the same every day, so a name should change itself."""
        return hmac.digest(self.secret, _BUCKET, "sha256")[0] >> 8 - BUCKET_BITS

    def derive(self, use: bytes, data: bytes) -> bytes:
        """Return 32 bytes that only who knows the name can reckon, other ones for each use."""
        return hmac.digest(self.secret, use + data, "sha256")

    def tag(self, ephemeral: bytes) -> bytes:
        """The tag of an envelope. It is the hash of no key that anybody knows, so nothing purges it."""
        return in_bucket(self.bucket, self.derive(_TAG, ephemeral)[:TAG_BYTES])


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPiece:
    """What was in one envelope: piece ``index`` of ``count`` of the content with this ``digest``."""

    index: int
    count: int
    digest: bytes
    data: bytes = field(repr=False)


def wrap(content: bytes, name: Name, *, expiry_hour: int, price: int) -> tuple[bytes, ...]:
    """Return the envelopes that hold a content; ValueError where it is empty or takes more than MAX_PIECES.

    ``price`` has to be the same for all who should come to the same envelopes.
    """
    if not 1 <= len(content) <= MAX_CONTENT_BYTES:
        raise ValueError(f"content of {len(content)} bytes, 1 to {MAX_CONTENT_BYTES} fit")
    digest = hashlib.sha256(content).digest()[:DIGEST_BYTES]
    parts = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]
    return tuple(
        _wrap(bytes([VERSION, index, len(parts)]) + digest + part, name, expiry_hour=expiry_hour, price=price)
        for index, part in enumerate(parts)
    )


def unwrap(envelope: bytes, name: Name) -> NamedPiece | None:
    """Return what is in an envelope, or None for whatever is not under this name.

    Costs one HMAC for an envelope under another name. It may be of anybody who knows the name.
    """
    ephemeral = envelope[HEADER_BYTES : HEADER_BYTES + KEY_BYTES]
    if not hmac.compare_digest(envelope[_CLEAR_BYTES:HEADER_BYTES], name.tag(ephemeral)):
        return None
    try:
        header = decode_envelope(envelope)
        if header.type is not EnvelopeType.MESSAGE:
            return None
        padded = crypto_aead_chacha20poly1305_ietf_decrypt(
            envelope[HEADER_BYTES + KEY_BYTES : -NONCE_BYTES],
            envelope[:HEADER_BYTES],
            _NO_NONCE,
            name.derive(_SEAL, ephemeral),
        )
        return _decode_piece(sodium_unpad(padded, CAPACITIES[header.size_class]))
    except (DecodeError, CryptoError):
        return None


def join(pieces: Iterable[NamedPiece]) -> bytes | None:
    """Return the content of these pieces of one digest, or None while one is missing or what they make is another."""
    found = list(pieces)
    if not found:
        return None
    count, digest = found[0].count, found[0].digest
    by_index = {piece.index: piece.data for piece in found if (piece.count, piece.digest) == (count, digest)}
    if len(by_index) < count:
        return None
    content = b"".join(by_index[index] for index in range(count))
    return content if hashlib.sha256(content).digest()[:DIGEST_BYTES] == digest else None


def _decode_piece(plaintext: bytes) -> NamedPiece:
    reader = Reader(plaintext)
    version, index, count = reader.u8(), reader.u8(), reader.u8()
    if version != VERSION or not index < count <= MAX_PIECES:
        raise DecodeError("a piece of another version, or of no content")
    return NamedPiece(index=index, count=count, digest=reader.bytes(DIGEST_BYTES), data=reader.rest())


def _wrap(plaintext: bytes, name: Name, *, expiry_hour: int, price: int) -> bytes:
    size_class = next(place for place, capacity in enumerate(CAPACITIES) if len(plaintext) < capacity)
    padded = sodium_pad(plaintext, CAPACITIES[size_class])
    clear = Header(
        type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=expiry_hour, tag=bytes(TAG_BYTES)
    ).encode()[:_CLEAR_BYTES]
    # As in all other envelopes the payload begins with a point of the curve; this one depends on all that is sealed.
    ephemeral = KeyPair.from_private(name.derive(_ONCE, clear + padded)).public
    header = clear + name.tag(ephemeral)
    sealed = crypto_aead_chacha20poly1305_ietf_encrypt(padded, header, _NO_NONCE, name.derive(_SEAL, ephemeral))
    return grind(
        header + ephemeral + sealed,
        price=price,
        random_bytes=lambda count: name.derive(_WORK, header)[:count],
    )
