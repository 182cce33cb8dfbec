# SPDX-License-Identifier: GPL-2.0-or-later
"""bitchat's packet: one block on the air, versions 1 and 2 (docs/bitchat.md).

``version u8 | type u8 | TTL u8 | timestamp ms u64 | flags u8 | length u16, in version 2 u32 | sender 8 |
[recipient 8] | [route: count u8, 8 each; version 2] | payload | [signature 64]``

Flags that nobody knows, and whatever follows the packet (padding), are dropped, as both apps do. A payload that was
compressed is carried, and its signature checked, as it came: another compressor makes other bytes of it.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Final

from nacl.bindings import crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError

from relay.core.codec import Reader
from relay.core.errors import DecodeError

PEER_ID_BYTES: Final = 8
SIGNATURE_BYTES: Final = 64
KEY_BYTES: Final = 32
PACKET_ID_BYTES: Final = 16
BROADCAST: Final = b"\xff" * PEER_ID_BYTES
"""Recipient of what is for all; a packet without a recipient is for all too."""
ORIGIN_TTL: Final = 7
"""TTL of a packet as its sender sends it; more than that is cut down to it, as iPhones do."""
MAX_PAYLOAD_BYTES: Final = 1 << 20
"""Longest payload, also once it is decompressed: what both apps put together from fragments at most."""
MAX_PACKET_BYTES: Final = MAX_PAYLOAD_BYTES + 16 + 2 * PEER_ID_BYTES + 1 + 255 * PEER_ID_BYTES + SIGNATURE_BYTES + 255
"""Longest packet, route, signature and padding included."""
PADDED_SIZES: Final = (256, 512, 1024, 2048)
"""Lengths to which packets are padded."""
_PADDING_RESERVE: Final = 16
"""A packet is padded to the first length that would hold so many bytes more."""
_MAX_PADDING: Final = 255
"""The length of the padding is its own content, so one byte long."""

_RECIPIENT, _SIGNATURE, _COMPRESSED, _ROUTE, _RSR = 1, 2, 4, 8, 16
_HEAD: Final = struct.Struct(">BBBQB")


class PacketType(enum.IntEnum):
    """Types that somebody uses; others pass."""

    ANNOUNCE = 0x01
    MESSAGE = 0x02
    LEAVE = 0x03
    COURIER = 0x04
    NOISE_HANDSHAKE = 0x10
    NOISE_ENCRYPTED = 0x11
    FRAGMENT = 0x20
    REQUEST_SYNC = 0x21
    FILE_TRANSFER = 0x22
    BOARD_POST = 0x23
    PREKEY_BUNDLE = 0x24
    GROUP_MESSAGE = 0x25
    PING = 0x26
    PONG = 0x27
    NOSTR_CARRIER = 0x28
    VOICE_FRAME = 0x29
    ANNOUNCE_V2 = 0x2C


UNSIGNED_TYPES: Final = frozenset({PacketType.NOISE_HANDSHAKE, PacketType.NOISE_ENCRYPTED, PacketType.FRAGMENT})
"""Nobody can check these but their recipient, or whoever has all pieces."""
PADDED_TYPES: Final = frozenset({PacketType.NOISE_HANDSHAKE, PacketType.NOISE_ENCRYPTED})
"""Padded on the air; the others are padded only for their signature."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Packet:
    """One packet; :func:`make_packet` makes one, :func:`decode_packet` reads one.

    ``body`` is the payload as it is on the air: if ``compressed``, the length of ``payload`` and its raw deflate.
    ``is_answer``: it answers a REQUEST_SYNC ("RSR"). ``timestamp_ms`` counts milliseconds since the Unix epoch.
    """

    version: int
    type: int
    ttl: int
    timestamp_ms: int
    sender: bytes
    recipient: bytes | None
    route: tuple[bytes, ...]
    body: bytes
    payload: bytes = field(compare=False)
    compressed: bool
    is_answer: bool
    signature: bytes | None

    @property
    def is_broadcast(self) -> bool:
        """Whether it is for all."""
        return self.recipient is None or self.recipient == BROADCAST

    @property
    def sync_id(self) -> bytes:
        """The 16 bytes by which both apps know a packet in a sync filter."""
        stamp = self.timestamp_ms.to_bytes(8, "big")
        return hashlib.sha256(bytes([self.type]) + self.sender + stamp + self.payload).digest()[:PACKET_ID_BYTES]

    @property
    def flood_id(self) -> bytes:
        """16 bytes by which we know a packet again.

        Other than :attr:`sync_id` it covers recipient and signature, else whoever alters the one or leaves out the
        other of a packet that need not have a signature could have the true one dropped as known.
        """
        recipient = BROADCAST if self.recipient is None else self.recipient
        return hashlib.sha256(self.sync_id + recipient + (self.signature or b"")).digest()[:PACKET_ID_BYTES]

    @property
    def held_bytes(self) -> int:
        """What it takes in memory: what was compressed is there twice."""
        return len(self.body) + (len(self.payload) if self.compressed else 0)

    def with_ttl(self, ttl: int) -> Packet:
        """Return the same packet with another TTL, which no signature covers."""
        return replace(self, ttl=ttl)

    def as_answer(self, *, is_answer: bool) -> Packet:
        """Return the same packet with TTL 0, as an answer to a REQUEST_SYNC; no signature covers that either."""
        return replace(self, ttl=0, is_answer=is_answer)

    def encode(self, *, padded: bool | None = None) -> bytes:
        """Return the bytes; padded as on the air unless ``padded`` says otherwise."""
        if padded is None:
            padded = self.type in PADDED_TYPES
        data = self._encode(self.ttl, is_answer=self.is_answer, signature=self.signature)
        return pad(data) if padded else data

    def signed_bytes(self) -> bytes:
        """Return what a signature covers: TTL 0, no signature, not marked as an answer, padded."""
        return pad(self._encode(0, is_answer=False, signature=None))

    def signed(self, secret_key: bytes) -> Packet:
        """Return the packet signed with a libsodium Ed25519 secret key of 64 bytes."""
        return replace(self, signature=crypto_sign(self.signed_bytes(), secret_key)[:SIGNATURE_BYTES])

    def is_signed_by(self, public_key: bytes) -> bool:
        """Whether the signature is of this Ed25519 key; False without one, and for what is no key."""
        if self.signature is None or len(public_key) != KEY_BYTES:
            return False
        try:
            crypto_sign_open(self.signature + self.signed_bytes(), public_key)
        except BadSignatureError:
            return False
        return True

    def _encode(self, ttl: int, *, is_answer: bool, signature: bytes | None) -> bytes:
        flags = (
            (_RECIPIENT if self.recipient is not None else 0)
            | (_SIGNATURE if signature is not None else 0)
            | (_COMPRESSED if self.compressed else 0)
            | (_ROUTE if self.route else 0)
            | (_RSR if is_answer else 0)
        )
        route = bytes([len(self.route)]) + b"".join(self.route) if self.route else b""
        return b"".join(
            (
                _HEAD.pack(self.version, self.type, ttl, self.timestamp_ms, flags),
                len(self.body).to_bytes(_length_bytes(self.version), "big"),
                self.sender,
                self.recipient or b"",
                route,
                self.body,
                signature or b"",
            )
        )


def make_packet(
    kind: int,
    payload: bytes,
    *,
    sender: bytes,
    timestamp_ms: int,
    recipient: bytes | None = None,
    ttl: int = ORIGIN_TTL,
    version: int = 1,
    route: tuple[bytes, ...] = (),
    compress: bool = False,
) -> Packet:
    """Return a packet without a signature; ValueError for what no packet can hold."""
    if version not in {1, 2} or (route and version == 1):
        raise ValueError(f"version {version}: versions are 1 and 2, and only 2 has a route")
    if any(len(name) != PEER_ID_BYTES for name in (sender, *route, *([] if recipient is None else [recipient]))):
        raise ValueError(f"a peer ID has {PEER_ID_BYTES} bytes")
    body = payload
    compress = compress and bool(payload)
    if compress:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = len(payload).to_bytes(_length_bytes(version), "big") + deflate.compress(payload) + deflate.flush()
    most = 0xFFFF if version == 1 else MAX_PAYLOAD_BYTES
    if max(len(body), len(payload)) > most:
        raise ValueError(f"payload of {len(payload)} bytes, version {version} holds {most}")
    return Packet(
        version=version,
        type=kind,
        ttl=ttl,
        timestamp_ms=timestamp_ms,
        sender=sender,
        recipient=recipient,
        route=route,
        body=body,
        payload=payload,
        compressed=compress,
        is_answer=False,
        signature=None,
    )


def decode_packet(data: bytes) -> Packet:
    """Return the packet at the front of ``data``; DecodeError where there is none.

    What follows it is dropped. A payload is decompressed in at most the memory that it says it takes, itself bounded.
    """
    reader = Reader(data)
    version, kind, ttl, timestamp_ms, flags = _HEAD.unpack(reader.bytes(_HEAD.size))
    if version not in {1, 2}:
        raise DecodeError(f"packet version {version}, known are 1 and 2")
    length = reader.u16() if version == 1 else reader.u32()
    if length > MAX_PAYLOAD_BYTES:
        raise DecodeError(f"payload of {length} bytes, at most {MAX_PAYLOAD_BYTES}")
    sender = reader.bytes(PEER_ID_BYTES)
    recipient = reader.bytes(PEER_ID_BYTES) if flags & _RECIPIENT else None
    hops = reader.u8() if version == 2 and flags & _ROUTE else 0
    route = tuple(reader.bytes(PEER_ID_BYTES) for _ in range(hops))
    body = reader.bytes(length)
    signature = reader.bytes(SIGNATURE_BYTES) if flags & _SIGNATURE else None
    compressed = bool(flags & _COMPRESSED)
    return Packet(
        version=version,
        type=kind,
        ttl=ttl,
        timestamp_ms=timestamp_ms,
        sender=sender,
        recipient=recipient,
        route=route,
        body=body,
        payload=_inflate(body, _length_bytes(version)) if compressed else body,
        compressed=compressed,
        is_answer=bool(flags & _RSR),
        signature=signature,
    )


def expanded_bytes(data: bytes) -> int:
    """Return how long the payload at the front of ``data`` says it is once it is decompressed; 0 if it is none such.

    Nothing is decompressed, so that who has no more to spend is refused for the price of a glance.
    """
    if len(data) < _HEAD.size or data[0] not in {1, 2} or not data[_HEAD.size - 1] & _COMPRESSED:
        return 0
    flags, size = data[_HEAD.size - 1], _length_bytes(data[0])
    at = _HEAD.size + size + PEER_ID_BYTES + (PEER_ID_BYTES if flags & _RECIPIENT else 0)
    if data[0] == 2 and flags & _ROUTE:
        at += 1 + PEER_ID_BYTES * int.from_bytes(data[at : at + 1], "big")
    return int.from_bytes(data[at : at + size], "big")


def pad(data: bytes) -> bytes:
    """Return ``data`` padded as both apps pad it: to the next of four lengths, where at most 255 bytes are missing."""
    size = next((size for size in PADDED_SIZES if len(data) + _PADDING_RESERVE <= size), len(data))
    missing = size - len(data)
    return data + bytes([missing]) * missing if missing <= _MAX_PADDING else data


def _length_bytes(version: int) -> int:
    return 2 if version == 1 else 4


def _inflate(body: bytes, length_bytes: int) -> bytes:
    """Decompress into exactly as many bytes as the body says."""
    reader = Reader(body)
    size = int.from_bytes(reader.bytes(length_bytes), "big")
    if not 1 <= size <= MAX_PAYLOAD_BYTES:
        raise DecodeError(f"payload of {size} bytes once it is decompressed, 1 to {MAX_PAYLOAD_BYTES}")
    try:
        payload = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(reader.rest(), size + 1)
    except zlib.error:
        raise DecodeError("payload is no raw deflate") from None
    if len(payload) != size:
        raise DecodeError(f"payload is not the {size} bytes that it says")
    return payload
