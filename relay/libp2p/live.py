# SPDX-License-Identifier: GPL-2.0-or-later
"""What a member writes goes to members at other relays at once, as live datagrams (docs/berty.md). Free of I/O.

It is sealed by the topic's name, and otherwise than in the envelopes that the store has of it: so no datagram shows
of an envelope that it is Berty's. The same content under the same name is the same datagram, whoever says it.

    bucket u8 || once (16) || mark (8) || sealed: the content, padded to a size class
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final, NamedTuple

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    sodium_pad,
    sodium_unpad,
)
from nacl.exceptions import CryptoError

from relay.core.codec import Reader
from relay.core.envelope import BUCKET_BITS, SIZES
from relay.core.errors import DecodeError
from relay.core.messages import LIVE_ID_BYTES, LiveDatagram
from relay.core.noise import TAG_BYTES as AEAD_BYTES
from relay.core.rate import Bucket, Rate

if TYPE_CHECKING:
    from relay.core.named import Name

KIND: Final = 2
"""Of docs/links.md section 4."""
GATEWAY: Final = "berty"
_ONCE_BYTES: Final = 16
_MARK_BYTES: Final = 8
_HEAD_BYTES: Final = 1 + _ONCE_BYTES + _MARK_BYTES
CAPACITIES: Final = tuple(size - _HEAD_BYTES - AEAD_BYTES for size in SIZES)
"""Bytes of padded content by size; what is longer than 16,342 bytes goes by the store alone."""
_ONCE, _MARK, _KEY = (b"berty live " + use for use in (b"once", b"mark", b"seal"))
_NO_NONCE: Final = bytes(12)
"""Each key seals one content: it follows from it."""
#: What one relay says of seals, and as much of blocks: a lively group. All other relays carry it, 64 KiB a second by
#: one interface (relay.core.live); who brings a backlog has most of it go by the store.
SAID: Final = Rate(per_s=8.0, burst=64.0)
SAID_BYTES: Final = Rate(per_s=16_384.0, burst=float(192 << 10))


class Said(NamedTuple):
    """A datagram that was read as far as it can be without the name of its topic."""

    bucket: int
    once: bytes
    mark: bytes
    head: bytes
    sealed: bytes


def seal_live(content: bytes, name: Name) -> LiveDatagram | None:
    """Return the datagram of a content; None where that is too long for one."""
    capacity = next((each for each in CAPACITIES if len(content) < each), None)
    if capacity is None:
        return None
    padded = sodium_pad(content, capacity)
    once = name.derive(_ONCE, padded)[:_ONCE_BYTES]
    head = bytes([name.bucket]) + once + name.derive(_MARK, once)[:_MARK_BYTES]
    sealed = crypto_aead_chacha20poly1305_ietf_encrypt(padded, head, _NO_NONCE, name.derive(_KEY, once))
    return LiveDatagram(kind=KIND, identity=identity_of(head + sealed), data=head + sealed)


def identity_of(data: bytes) -> bytes:
    """Return the identity that a datagram has to have."""
    return hashlib.sha256(data).digest()[:LIVE_ID_BYTES]


def decode_live(datagram: LiveDatagram) -> Said:
    """Read what came; raise DecodeError."""
    data = datagram.data
    if datagram.identity != identity_of(data):
        raise DecodeError("a datagram under the identity of another")
    if len(data) not in SIZES:
        raise DecodeError("a datagram of no size class")
    reader = Reader(data)
    bucket, once, mark = reader.u8(), reader.bytes(_ONCE_BYTES), reader.bytes(_MARK_BYTES)
    if bucket >= 1 << BUCKET_BITS:
        raise DecodeError("a datagram of no bucket")
    return Said(bucket, once, mark, data[:_HEAD_BYTES], reader.rest())


def is_of(said: Said, name: Name) -> bool:
    """Whether a datagram is under a name, as far as one HMAC tells."""
    return hmac.compare_digest(said.mark, name.derive(_MARK, said.once)[:_MARK_BYTES])


def open_live(said: Said, name: Name) -> bytes:
    """Return the content of a datagram of a name; raise DecodeError. It may be of anybody who knows the name."""
    key = name.derive(_KEY, said.once)
    try:
        padded = crypto_aead_chacha20poly1305_ietf_decrypt(said.sealed, said.head, _NO_NONCE, key)
        return sodium_unpad(padded, len(padded))
    except (CryptoError, ValueError) as error:
        raise DecodeError("a datagram that its name does not open") from error


class Pace:
    """What this relay says is bounded."""

    def __init__(self, now: float) -> None:
        self._count = Bucket(SAID, now)
        self._bytes = Bucket(SAID_BYTES, now)

    def may_say(self, size: int, now: float) -> bool:
        """Whether so many bytes may be said now."""
        return self._count.take(1.0, now) and self._bytes.take(float(size), now)
