# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of a session and their codecs (docs/protocol.md section 6).

A message is a type byte and a body. Every decoder here is total: a value or a
DecodeError. Fixed binary codecs rather than CBOR: general CBOR decoders act on
semantic tags (regular expressions, big fractions) that a peer may send.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.core.codec import MAX_U32, Reader, Writer
from relay.core.envelope import ALL_CLASSES, BUCKET_BITS, ID_BYTES, SIZES
from relay.core.errors import DecodeError
from relay.core.frames import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class MessageType(enum.IntEnum):
    """First byte of every message."""

    HELLO = 0x01
    GOODBYE = 0x02
    PING = 0x03
    PONG = 0x04
    SAME = 0x05
    PRICE = 0x06
    NEWS = 0x07
    PUT = 0x10
    ACK = 0x11
    REFUSE = 0x12
    SUBSCRIBE = 0x20
    CAUGHT_UP = 0x21
    FETCH = 0x22
    ENVELOPE = 0x23
    MISSING = 0x24
    OFFER = 0x30
    RECONCILE = 0x31
    CREDIT = 0x32
    LIVE = 0x40
    UPDATE = 0x41


#: Lanes (section 5): a small envelope never waits for a large one, nor for a list.
OFFER_LANE = 1
RECONCILE_LANE = 2
_LANES_BY_SIZE = (3, 4, 5, 6)


def lane_of(envelope_bytes: int) -> int:
    """Return the lane on which an envelope of that length travels."""
    for lane, size in zip(_LANES_BY_SIZE, SIZES, strict=True):
        if envelope_bytes <= size:
            return lane
    return _LANES_BY_SIZE[-1]


class Role(enum.IntEnum):
    """What a peer says it is."""

    CLIENT = 0
    RELAY = 1


class Refusal(enum.IntEnum):
    """Why a relay did not take an envelope; also the metric's reason."""

    MALFORMED = 1
    EXPIRED = 2
    FAR_FUTURE = 3
    BELOW_FLOOR = 4
    UNDERPAID = 5
    FULL = 6
    CLASS = 7
    HOURS = 8
    PURGED = 9
    GONE = 10
    STORAGE = 11
    WRONG_SIZE = 12
    VERSION = 13


class Goodbye(enum.IntEnum):
    """Why a peer ends a session; also the metric's reason."""

    SHUTTING_DOWN = 1
    PROTOCOL = 2
    DECODE = 3
    BUSY = 4
    SELF = 5
    TIMEOUT = 6
    SECRET_REQUIRED = 7
    VERSION = 8
    LIMIT = 9
    SLOW_READER = 10
    DONE = 11


#: Bounds that keep a message under MAX_MESSAGE_BYTES.
MAX_FETCH_IDS = 256
OFFER_BYTES = ID_BYTES + 1 + 4
MAX_OFFERS = 400
MAX_ACK_RANGES = 1024
MAX_REFUSALS = 1024
#: Offers that may be unsettled at a time; the receiver gives credit for settled ones.
#: 64 hostile relays can make a relay remember 65,536 wanted identities, 22 MB.
OFFER_WINDOW = 1024
#: 32 other sessions with relays can be recognised at most; 16 bytes each.
MAX_SAME_MACS = 32
SAME_MAC_BYTES = 16

#: Of a live datagram (LIVE).
LIVE_ID_BYTES = 16
MAX_LIVE_BYTES = 16 << 10
#: Relays that pass a live datagram on after the one that its gateway gave it to: a mesh across a town has fewer.
MAX_HOPS = 32


class Window(enum.IntEnum):
    """What a subscription asks for by its arrival: so few, because the choice tells of the last visit."""

    ALL = 0
    DAY = 1
    HOUR = 2


#: Seconds of the relay's running time: a little more than the name says, because clocks of client and relay
#: do not run at quite the same speed.
WINDOW_S: Final[dict[Window, float]] = {Window.ALL: float("inf"), Window.DAY: 25 * 3600.0, Window.HOUR: 75 * 60.0}
#: About 1,024 envelopes are to match a prefix: enough to hide in, few enough to fetch.
MATCHES_LOG2: Final = 10


def prefix_bits_of(held: int) -> int:
    """Return how many bits of a bucket a relay that holds so many envelopes asks its clients for."""
    return max(0, min(held.bit_length() - MATCHES_LOG2, BUCKET_BITS))


_PUT_HEADER = struct.Struct(">BI")
_OFFER = struct.Struct(">32sBI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message of both sides.

    A client leaves the relay's fields at their defaults, so that hellos of
    clients are all alike. ``window`` is the first and last expiry hour that is
    accepted, ``prefix_bits`` what a subscription is to tell of a bucket (section 6.1), ``updates`` whether UPDATE is
    known.
    """

    role: Role
    durable: bool = False
    slow: bool = False
    updates: bool = False
    price: int = 0
    classes: int = ALL_CLASSES
    window: tuple[int, int] = (0, MAX_U32)
    prefix_bits: int = 0
    max_puts: int = 0

    def encode(self) -> bytes:
        """Return type byte and body."""
        writer = Writer().u8(MessageType.HELLO).u8(self.role)
        writer.u8(self.durable | self.slow << 1 | self.updates << 2)
        writer.u8(self.price).u8(self.classes).u32(self.window[0]).u32(self.window[1])
        return bytes(writer.u8(self.prefix_bits).u16(self.max_puts))


def decode_hello(reader: Reader) -> Hello:
    """Decode a hello; bytes after the known fields are for later versions and ignored."""
    role, flags, price, classes = reader.u8(), reader.u8(), reader.u8(), reader.u8()
    window = (reader.u32(), reader.u32())
    prefix_bits, max_puts = reader.u8(), reader.u16()
    if role > Role.RELAY:
        raise DecodeError("unknown role")
    return Hello(
        role=Role(role),
        durable=bool(flags & 1),
        slow=bool(flags & 2),
        updates=bool(flags & 4),
        price=price,
        classes=classes & ALL_CLASSES,
        window=window,
        prefix_bits=prefix_bits,
        max_puts=max_puts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Ask for envelopes by bucket prefix and window of arrival."""

    prefix_bits: int
    prefix: int
    window: Window = Window.ALL
    offers_only: bool = False
    follow: bool = True

    def encode(self) -> bytes:
        """Return type byte and body."""
        writer = Writer().u8(MessageType.SUBSCRIBE).u8(self.prefix_bits).u8(self.prefix).u8(self.window)
        return bytes(writer.u8(self.offers_only | self.follow << 1))


def decode_subscribe(reader: Reader) -> Subscribe:
    """Decode a subscription; the prefix must fit its bits."""
    bits, prefix, window, flags = reader.u8(), reader.u8(), reader.u8(), reader.u8()
    if bits > BUCKET_BITS or prefix >> bits or window >= len(Window) or flags > 0b11:
        raise DecodeError("bad prefix, window or flags")
    reader.end()
    return Subscribe(
        prefix_bits=bits,
        prefix=prefix,
        window=Window(window),
        offers_only=bool(flags & 1),
        follow=bool(flags & 2),
    )


@dataclass(frozen=True, slots=True)
class Offer:
    """One envelope on offer: 32-byte identity, size class, expiry hour."""

    identity: bytes
    size_class: int
    expiry_hour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Put numbers that are committed, as (first, count) ranges; ``durable`` or volatile."""

    durable: bool
    ranges: Sequence[tuple[int, int]] = field(default_factory=list)

    def numbers(self) -> Iterable[int]:
        """Yield every acknowledged put number."""
        for first, count in self.ranges:
            yield from range(first, first + count)


def encode_put(number: int, envelope: bytes) -> bytes:
    """Return a PUT: ``number`` is the sender's count of puts in this session."""
    return _PUT_HEADER.pack(MessageType.PUT, number) + envelope


PUT_HEADER_BYTES = _PUT_HEADER.size


def decode_put(message: bytes) -> tuple[int, bytes]:
    """Return put number and envelope of a whole PUT message."""
    if len(message) <= PUT_HEADER_BYTES:
        raise DecodeError("truncated put")
    _, number = _PUT_HEADER.unpack_from(message)
    return number, message[PUT_HEADER_BYTES:]


def to_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Fold sorted or unsorted distinct numbers into (first, count) ranges."""
    ranges: list[tuple[int, int]] = []
    first = previous = -2
    for number in sorted(numbers):
        if number == previous + 1:
            previous = number
            continue
        if first >= 0:
            ranges.append((first, previous - first + 1))
        first = previous = number
    if first >= 0:
        ranges.append((first, previous - first + 1))
    return ranges


def encode_acks(*, durable: bool, numbers: Iterable[int]) -> list[bytes]:
    """Return ACK messages that acknowledge all of ``numbers``."""
    ranges = to_ranges(numbers)
    messages = []
    for start in range(0, len(ranges), MAX_ACK_RANGES):
        writer = Writer().u8(MessageType.ACK).u8(durable)
        for first, count in ranges[start : start + MAX_ACK_RANGES]:
            writer.u32(first).varint(count)
        messages.append(bytes(writer))
    return messages


def decode_ack(reader: Reader, *, max_number: int) -> Ack:
    """Decode an ACK; numbers from ``max_number`` on were never put and are refused.

    Ranges ascend without overlap, so a message cannot expand beyond
    ``max_number`` numbers.
    """
    durable = reader.u8()
    ranges: list[tuple[int, int]] = []
    floor = 0
    while reader.remaining:
        first, count = reader.u32(), reader.varint()
        if first < floor or count == 0 or first + count > max_number:
            raise DecodeError("acknowledgement of what was not put")
        ranges.append((first, count))
        floor = first + count
    if durable > 1 or not ranges or len(ranges) > MAX_ACK_RANGES:
        raise DecodeError("bad acknowledgement")
    return Ack(durable=bool(durable), ranges=ranges)


def encode_refusals(refusals: Sequence[tuple[int, Refusal]], *, price: int) -> list[bytes]:
    """Return REFUSE messages; ``price`` is what the relay asks now."""
    messages = []
    for start in range(0, len(refusals), MAX_REFUSALS):
        writer = Writer().u8(MessageType.REFUSE).u8(price)
        for number, reason in refusals[start : start + MAX_REFUSALS]:
            writer.u32(number).u8(reason)
        messages.append(bytes(writer))
    return messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Puts not taken: (number, reason) pairs and the price asked now."""

    price: int
    refusals: Sequence[tuple[int, Refusal]]


def decode_refuse(reader: Reader, *, max_number: int) -> Refused:
    """Decode a REFUSE; unknown reasons (later versions) count as MALFORMED."""
    price = reader.u8()
    refusals = []
    while reader.remaining:
        number, reason = reader.u32(), reader.u8()
        if number >= max_number:
            raise DecodeError("refusal of what was not put")
        known = reason in Refusal._value2member_map_
        refusals.append((number, Refusal(reason) if known else Refusal.MALFORMED))
    if not refusals or len(refusals) > MAX_REFUSALS:
        raise DecodeError("bad refusal")
    return Refused(price=price, refusals=refusals)


def encode_ids(kind: MessageType, identities: Sequence[bytes]) -> list[bytes]:
    """Return FETCH or MISSING messages for 32-byte ``identities``."""
    return [
        bytes([kind]) + b"".join(identities[start : start + MAX_FETCH_IDS])
        for start in range(0, len(identities), MAX_FETCH_IDS)
    ]


def decode_ids(reader: Reader) -> list[bytes]:
    """Decode the body of FETCH or MISSING."""
    count, odd = divmod(reader.remaining, ID_BYTES)
    if odd or not 0 < count <= MAX_FETCH_IDS:
        raise DecodeError("bad list of identities")
    return [reader.bytes(ID_BYTES) for _ in range(count)]


def encode_offers(offers: Sequence[Offer]) -> list[bytes]:
    """Return OFFER messages."""
    return [
        bytes([MessageType.OFFER])
        + b"".join(
            _OFFER.pack(offer.identity, offer.size_class, offer.expiry_hour)
            for offer in offers[start : start + MAX_OFFERS]
        )
        for start in range(0, len(offers), MAX_OFFERS)
    ]


def decode_offers(reader: Reader) -> list[Offer]:
    """Decode the body of OFFER."""
    count, odd = divmod(reader.remaining, OFFER_BYTES)
    if odd or not 0 < count <= MAX_OFFERS:
        raise DecodeError("bad list of offers")
    offers = [Offer(*fields) for fields in _OFFER.iter_unpack(reader.rest())]
    if any(offer.size_class >= len(SIZES) for offer in offers):
        raise DecodeError("unknown size class")
    return offers


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDatagram:
    """What gateways say to each other, now or never: ``kind`` 0 to 255, ``identity`` 16 bytes, ``data`` 1 to 16,384.

    The kind says whose it is; relays know none. The identity is the same wherever this was heard.
    """

    kind: int
    identity: bytes
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return kind, identity and data; raise ValueError where they are out of bounds."""
        if len(self.identity) != LIVE_ID_BYTES or not 0 < len(self.data) <= MAX_LIVE_BYTES:
            raise ValueError(f"a live datagram of {len(self.data)} bytes, its identity of {len(self.identity)}")
        return bytes(Writer().u8(self.kind)) + self.identity + self.data


def decode_live_datagram(encoded: bytes, start: int) -> LiveDatagram:
    """Decode kind, identity and data, which is all from ``start`` on; as cheap as can be, as they are flooded."""
    begin = start + 1 + LIVE_ID_BYTES
    if not begin < len(encoded) <= begin + MAX_LIVE_BYTES:
        raise DecodeError(f"a live datagram has 1 to {MAX_LIVE_BYTES} bytes of data")
    return LiveDatagram(kind=encoded[start], identity=encoded[start + 1 : begin], data=encoded[begin:])


def encode_live(hops: int, encoded: bytes) -> bytes:
    """Return a LIVE of an encoded datagram; ``hops``: how many relays may pass it on after the next one."""
    return bytes([MessageType.LIVE, hops]) + encoded


def decode_live(message: bytes) -> tuple[int, LiveDatagram]:
    """Decode a whole LIVE: hops, which count as MAX_HOPS where there are more, and datagram."""
    return min(message[1], MAX_HOPS) if len(message) > 1 else 0, decode_live_datagram(message, 2)


def decode_macs(reader: Reader) -> list[bytes]:
    """Decode the body of SAME: MACs over other sessions' secrets."""
    count, odd = divmod(reader.remaining, SAME_MAC_BYTES)
    if odd or not 0 < count <= MAX_SAME_MACS:
        raise DecodeError("bad list of MACs")
    return [reader.bytes(SAME_MAC_BYTES) for _ in range(count)]


if 1 + MAX_OFFERS * OFFER_BYTES > MAX_MESSAGE_BYTES:  # pragma: no cover
    raise AssertionError("MAX_OFFERS does not fit a message")
