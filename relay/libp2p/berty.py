# SPDX-License-Identifier: GPL-2.0-or-later
"""Berty's bytes, as far as they can be read without its keys, and what a relay keeps of them (docs/berty.md).

A member announces the heads of a log sealed: on the topic at each write, and by a direct channel to whoever subscribes.
Which topic a seal is of only its rotation tells, to who has seen it on the topic. The entries of the log are blocks,
and each says openly which log it is of, which is the name of the topic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.core.codec import Reader
from relay.core.envelope import MAX_LIFETIME_HOURS
from relay.core.errors import DecodeError
from relay.core.named import MAX_CONTENT_BYTES, Name
from relay.libp2p.wire import as_bytes, fields

#: A seal with its length before it; then the receiver resets the stream.
DIRECT_PROTOCOL: Final = "/go-orbit-db/direct-channel/1.2.0"
USE: Final = b"berty topic"
PRICE: Final = 8
"""Work in each envelope: a step of the ladder of all senders. It is fixed, as two relays have to come to the same."""
_TOPIC_PREFIX: Final = "/orbitdb/"
#: Of Berty's: 150.
_MAX_TOPIC_BYTES: Final = 256
#: How what is kept begins; a guess is a seal of which its sender did not tell the topic.
_SEAL, _BLOCK, _GUESS = 1, 2, 3
SENDER_BYTES: Final = 8
_ORDER_BYTES: Final = 8
_SEAL_HEAD_BYTES: Final = 1 + SENDER_BYTES + _ORDER_BYTES
MAX_SEAL_BYTES: Final = MAX_CONTENT_BYTES - _SEAL_HEAD_BYTES
MAX_BLOCK_BYTES: Final = MAX_CONTENT_BYTES - 1
MAX_ORDER: Final = (1 << 8 * _ORDER_BYTES) - 1
MAX_ROTATION_BYTES: Final = 64
_MAX_FIELDS: Final = 16
_DAY_HOURS: Final = 24
_SENDER: Final = b"berty sender"


def is_topic(topic: str) -> bool:
    """Whether a topic is of a log that we keep."""
    return topic.startswith(_TOPIC_PREFIX) and len(topic.encode()) <= _MAX_TOPIC_BYTES


def name_of(topic: str) -> Name:
    """The name under which all of a topic is kept."""
    return Name.of(USE, topic.encode())


def expiry_hour(hour: int) -> int:
    """When what is kept at an hour ends: the same for all of a day, so that several relays make the same envelopes."""
    return hour - hour % _DAY_HOURS + MAX_LIFETIME_HOURS


def sender_of(name: Name, peer: bytes) -> bytes:
    """By what the seals of a sender are told from others' in what is kept: says who it is to nobody who has not met."""
    return name.derive(_SENDER, peer)[:SENDER_BYTES]


def decode_seal(payload: bytes) -> bytes:
    """Return the rotation of a seal (OrbitDBMessageHeads); raise DecodeError."""
    box = rotation = b""
    for number, value in fields(payload, _MAX_FIELDS):
        if number == 2:
            box = as_bytes(value)
        elif number == 3:
            rotation = as_bytes(value)
    if not box or not 0 < len(rotation) <= MAX_ROTATION_BYTES:
        raise DecodeError("a seal without its box or rotation")
    return rotation


@dataclass(frozen=True, slots=True)
class KeptSeal:
    """A seal as it is kept; of two of one sender the one with the higher ``order`` is newer."""

    sender: bytes
    order: int
    payload: bytes
    is_guess: bool = False

    def encode(self) -> bytes:
        """Return what the envelopes hold."""
        kind = _GUESS if self.is_guess else _SEAL
        return bytes([kind]) + self.sender + self.order.to_bytes(_ORDER_BYTES) + self.payload


@dataclass(frozen=True, slots=True)
class KeptBlock:
    """A block as it is kept."""

    block: bytes

    def encode(self) -> bytes:
        """Return what the envelopes hold."""
        return bytes([_BLOCK]) + self.block


def decode_kept(content: bytes) -> KeptSeal | KeptBlock:
    """Read what envelopes held; raise DecodeError."""
    reader = Reader(content)
    kind = reader.u8()
    if kind == _BLOCK:
        return KeptBlock(reader.rest())
    if kind not in (_SEAL, _GUESS):
        raise DecodeError("kept in a way that is not known here")
    sender, order = reader.bytes(SENDER_BYTES), int.from_bytes(reader.bytes(_ORDER_BYTES))
    return KeptSeal(sender, order, reader.rest(), kind == _GUESS)


def order_at(unix_s: float) -> int:
    """The order of a seal that came without one, as senders number their own: by nanoseconds."""
    return min(max(0, int(unix_s * 1e9)), MAX_ORDER)
