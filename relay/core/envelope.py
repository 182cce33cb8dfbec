# SPDX-License-Identifier: GPL-2.0-or-later
"""The envelope: one immutable block (docs/protocol.md section 2).

``version u8 | type u8 | size class u8 | 0 u8 | expiry hour u32 | tag 16 | payload | nonce 8``
"""

from __future__ import annotations

import base64
import enum
import hashlib
import struct
from typing import TYPE_CHECKING, NamedTuple

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ENVELOPE_VERSION = 1
#: Bytes of an envelope by size class; the only lengths there are.
SIZES = (256, 1024, 4096, 16384)
MAX_ENVELOPE_BYTES = SIZES[-1]
CLASS_OF_SIZE = {size: size_class for size_class, size in enumerate(SIZES)}
ALL_CLASSES = (1 << len(SIZES)) - 1

HEADER_BYTES = 24
TAG_BYTES = 16
NONCE_BYTES = 8
ID_BYTES = 32
PURGE_KEY_BYTES = 32
#: Longest time between sealing and expiry that a relay with a clock accepts.
MAX_LIFETIME_HOURS = 168
#: Expiries are rounded down to so many hours, so that they tell the time of sending to six hours only.
EXPIRY_STEP_HOURS = 6
#: What stands of the recipient in every envelope: 32 buckets. No fewer bits than a client may be asked for, as the
#: mail of a full store would be more to fetch; no more, because the rest would only name the recipient
#: (docs/threat-model.md section 2 has the table of crowds against bytes).
BUCKET_BITS = 5
#: Work that a class costs beyond the price: each class is four times the one before
#: it, so two more bits keep the price per byte the same.
CLASS_BITS = 2

#: version, type, class, reserved, expiry hour, tag
HEADER = struct.Struct(">BBBBI16s")

_CID_PREFIX = b"\x01\x55\x12\x20"  # CIDv1, raw, sha2-256, 32 bytes
_PURGE_CONTEXT = b"mesh-relay/1 purge tag"
_BUCKET_CONTEXT = b"mesh-relay/1 bucket"
_BUCKET_SHIFT = 8 - BUCKET_BITS
_REST_MASK = (1 << _BUCKET_SHIFT) - 1


class EnvelopeVersionError(DecodeError):
    """An envelope of another version of the protocol."""


class EnvelopeSizeError(DecodeError):
    """An envelope whose length is not the one of its class."""


class EnvelopeType(enum.IntEnum):
    """What an envelope asks of a relay."""

    MESSAGE = 0
    PURGE = 1


_TYPES = tuple(EnvelopeType)
_PURGE = EnvelopeType.PURGE
_new_tuple = tuple.__new__


class Header(NamedTuple):
    """The clear part of an envelope: all that a relay ever learns of it.

    ``size_class`` indexes SIZES, ``expiry_hour`` counts whole hours since the
    Unix epoch, ``tag`` is 16 bytes: bucket (5 bits) and truncated purge-key hash (123 bits).
    """

    type: EnvelopeType
    size_class: int
    expiry_hour: int
    tag: bytes

    @property
    def bucket(self) -> int:
        """The recipient's bucket of the day, below 2^BUCKET_BITS."""
        return self.tag[0] >> _BUCKET_SHIFT

    def encode(self) -> bytes:
        """Return the 24 header bytes."""
        return HEADER.pack(ENVELOPE_VERSION, self.type, self.size_class, 0, self.expiry_hour, self.tag)


def decode_header(data: bytes) -> Header:
    """Decode the first 24 bytes of ``data``; raise DecodeError on anything not canonical."""
    if len(data) < HEADER_BYTES:
        raise DecodeError("truncated envelope header")
    version, kind, size_class, reserved, expiry_hour, tag = HEADER.unpack_from(data)
    if version != ENVELOPE_VERSION:
        raise EnvelopeVersionError(f"envelope version {version}, expected {ENVELOPE_VERSION}")
    if kind >= len(_TYPES) or reserved or size_class >= len(SIZES):
        raise DecodeError("unknown envelope type, class or reserved byte")
    if kind and size_class:
        raise DecodeError("a purge has 256 bytes")
    # Without Header's own constructor, which is Python's: every envelope passes here.
    return _new_tuple(Header, (_TYPES[kind], size_class, expiry_hour, tag))


def decode_envelope(data: bytes) -> Header:
    """Check a whole envelope (length, header, purge body) and return its header."""
    header = decode_header(data)
    kind, size_class, _, _ = header
    if len(data) != SIZES[size_class]:
        raise EnvelopeSizeError(f"{len(data)} bytes, class says {SIZES[size_class]}")
    if kind is _PURGE:
        key_end = HEADER_BYTES + PURGE_KEY_BYTES
        if any(data[key_end:-NONCE_BYTES]):
            raise DecodeError("purge padding is not zero")
        if make_tag(header.bucket, data[HEADER_BYTES:key_end]) != header.tag:
            raise DecodeError("purge key does not match its tag")
    return header


class Messages(NamedTuple):
    """The clear parts of several envelopes that are whole and no purges, in columns."""

    size_classes: tuple[int, ...]
    expiry_hours: tuple[int, ...]
    tags: tuple[bytes, ...]


def decode_messages(envelopes: Sequence[bytes]) -> Messages | None:
    """Return of many what :func:`decode_envelope` returns of each, None if anything is amiss, or any is a purge."""
    lengths = [*map(len, envelopes)]
    if not lengths or min(lengths) < HEADER_BYTES:
        return None
    versions, kinds, classes, reserved, hours, tags = zip(*map(HEADER.unpack_from, envelopes), strict=True)
    if versions.count(ENVELOPE_VERSION) < len(lengths) or any(kinds) or any(reserved) or max(classes) >= len(SIZES):
        return None
    if lengths != [*map(SIZES.__getitem__, classes)]:
        return None
    return Messages(classes, hours, tags)


def envelope_id(data: bytes) -> bytes:
    """Return the 32-byte identity: SHA2-256 of the whole envelope."""
    return hashlib.sha256(data).digest()


def cid(identity: bytes) -> str:
    """Write an identity as a CIDv1 (raw, sha2-256) in base32, as IPFS prints it."""
    text = base64.b32encode(_CID_PREFIX + identity).decode("ascii")
    return "b" + text.rstrip("=").lower()


def leading_zero_bits(identity: bytes) -> int:
    """Count the leading zero bits of an identity: the work put into it."""
    return 8 * ID_BYTES - int.from_bytes(identity).bit_length()


def price_paid(identity: bytes, size_class: int) -> int:
    """Work per byte: leading zero bits less two for each class above the smallest."""
    return leading_zero_bits(identity) - CLASS_BITS * size_class


def bucket_of_day(rendezvous_key: bytes, day: int) -> int:
    """Return the bucket of a recipient for a UTC ``day`` (days since the Unix epoch).

    ``rendezvous_key`` is the secret that the recipient's contacts hold.
    """
    return hashlib.sha256(_BUCKET_CONTEXT + day.to_bytes(4, "big") + rendezvous_key).digest()[0] >> _BUCKET_SHIFT


def make_tag(bucket: int, purge_key: bytes) -> bytes:
    """Return the 16-byte tag of an envelope for ``bucket`` that ``purge_key`` deletes."""
    return in_bucket(bucket, hashlib.sha256(_PURGE_CONTEXT + purge_key).digest()[:TAG_BYTES])


def in_bucket(bucket: int, tag: bytes) -> bytes:
    """Return a 16-byte ``tag`` with its first 5 bits replaced by ``bucket``."""
    return bytes([bucket << _BUCKET_SHIFT | tag[0] & _REST_MASK]) + tag[1:]


def grind(unworked: bytes, *, price: int, random_bytes: Callable[[int], bytes]) -> bytes:
    """Append the nonce that makes header and payload pay ``price`` bits.

    ``unworked`` is the envelope without its last 8 bytes. The nonce starts at
    random, so that it does not tell how long the sender's machine took. Grinds
    from a midstate; expects ``2 ** (price + 2 * size_class)`` tries.
    """
    size_class = CLASS_OF_SIZE[len(unworked) + NONCE_BYTES]
    limit = 1 << (8 * ID_BYTES - max(0, price + CLASS_BITS * size_class))
    midstate = hashlib.sha256(unworked)
    nonce = int.from_bytes(random_bytes(NONCE_BYTES), "big")
    while True:
        attempt = midstate.copy()
        tail = nonce.to_bytes(NONCE_BYTES, "big")
        attempt.update(tail)
        if int.from_bytes(attempt.digest(), "big") < limit:
            return unworked + tail
        nonce = (nonce + 1) % (1 << 64)


def make_purge(
    *,
    tag: bytes,
    purge_key: bytes,
    expiry_hour: int,
    price: int,
    random_bytes: Callable[[int], bytes],
) -> bytes:
    """Return the 256-byte envelope that removes envelopes with ``tag``."""
    header = Header(type=EnvelopeType.PURGE, size_class=0, expiry_hour=expiry_hour, tag=tag).encode()
    padding = bytes(SIZES[0] - HEADER_BYTES - PURGE_KEY_BYTES - NONCE_BYTES)
    return grind(header + purge_key + padding, price=price, random_bytes=random_bytes)
