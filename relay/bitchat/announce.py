# SPDX-License-Identifier: GPL-2.0-or-later
"""Announces, by which peers know each other's keys, and an identity of our own.

That an announce is signed proves that who made it has the signing key, and nothing of the Noise key in it: whoever
heard that one can announce it beside a signing key of his own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nacl.bindings import crypto_sign_seed_keypair

from relay.bitchat.packet import KEY_BYTES, ORIGIN_TTL, PEER_ID_BYTES, Packet, PacketType, make_packet
from relay.bitchat.tlv import decode_tlvs, encode_tlvs
from relay.core.errors import DecodeError
from relay.core.noise import KeyPair

if TYPE_CHECKING:
    from collections.abc import Callable

_NICKNAME, _NOISE_KEY, _SIGNING_KEY, _NEIGHBOURS, _CAPABILITIES, _GEOHASH = 1, 2, 3, 4, 5, 6

RELAY_MARK: Final = 0xF0
"""A value without content by which relays know each other's announces, so as not to carry them from island to island.

Phones skip it, as every value that they do not know. Who marks his own announce so is not carried; no one can mark
another's, as it is signed."""
MAX_NICKNAME_BYTES: Final = 255
"""Its length has one byte."""
NEUTRAL_NICKNAME: Final = "relay"
"""What a relay calls itself where the operator says nothing: the same for all, so it names none."""


def peer_id(noise_key: bytes) -> bytes:
    """Return the 8 bytes by which a peer is known: of the SHA-256 of its Noise static public key."""
    return hashlib.sha256(noise_key).digest()[:PEER_ID_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Announce:
    """What a peer says of itself; ``capabilities`` and ``geohash`` are as they came, None where it says nothing."""

    nickname: str
    noise_key: bytes
    signing_key: bytes
    neighbours: tuple[bytes, ...] = ()
    capabilities: bytes | None = None
    geohash: bytes | None = None
    is_relay: bool = False

    def encode(self) -> bytes:
        """Return the payload; ValueError for a nickname longer than 255 bytes."""
        values = [
            (_NICKNAME, self.nickname.encode()),
            (_NOISE_KEY, self.noise_key),
            (_SIGNING_KEY, self.signing_key),
        ]
        if self.neighbours:
            values.append((_NEIGHBOURS, b"".join(self.neighbours)))
        if self.capabilities is not None:
            values.append((_CAPABILITIES, self.capabilities))
        if self.geohash is not None:
            values.append((_GEOHASH, self.geohash))
        if self.is_relay:
            values.append((RELAY_MARK, b""))
        return encode_tlvs(values, 1)


def decode_announce(payload: bytes) -> Announce:
    """Return what an announce says; DecodeError where name or keys are missing or no name or keys."""
    values = dict(decode_tlvs(payload, 1))
    try:
        nickname = values[_NICKNAME].decode()
        noise_key, signing_key = values[_NOISE_KEY], values[_SIGNING_KEY]
    except (KeyError, UnicodeDecodeError):
        raise DecodeError("an announce without nickname or keys") from None
    if len(noise_key) != KEY_BYTES or len(signing_key) != KEY_BYTES:
        raise DecodeError(f"keys of {len(noise_key)} and {len(signing_key)} bytes, both have {KEY_BYTES}")
    near = values.get(_NEIGHBOURS, b"")
    if len(near) % PEER_ID_BYTES:
        near = b""
    return Announce(
        nickname=nickname,
        noise_key=noise_key,
        signing_key=signing_key,
        neighbours=tuple(near[at : at + PEER_ID_BYTES] for at in range(0, len(near), PEER_ID_BYTES)),
        capabilities=values.get(_CAPABILITIES),
        geohash=values.get(_GEOHASH),
        is_relay=RELAY_MARK in values,
    )


def read_announce(packet: Packet) -> Announce:
    """Return what a packet announces; DecodeError unless it is signed by, and named after, the keys in it."""
    announce = decode_announce(packet.payload)
    if peer_id(announce.noise_key) != packet.sender:
        raise DecodeError("an announce in the name of another Noise key")
    if not packet.is_signed_by(announce.signing_key):
        raise DecodeError("an announce that its own key did not sign")
    return announce


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Keys of a peer; a relay makes new ones at each start, and with each change of its address."""

    noise: KeyPair
    signing_public: bytes
    signing_secret: bytes = field(repr=False)

    @classmethod
    def from_seeds(cls, noise_private: bytes, signing_seed: bytes) -> Identity:
        """Return the identity of two secrets of 32 bytes."""
        public, secret = crypto_sign_seed_keypair(signing_seed)
        return cls(noise=KeyPair.from_private(noise_private), signing_public=public, signing_secret=secret)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> Identity:
        """Return a new identity; ``random_bytes(n)`` must give n unpredictable bytes."""
        return cls.from_seeds(random_bytes(KEY_BYTES), random_bytes(KEY_BYTES))

    @property
    def peer_id(self) -> bytes:
        """The 8 bytes by which we are known."""
        return peer_id(self.noise.public)

    def sign(self, packet: Packet) -> Packet:
        """Return a packet of ours, signed."""
        return packet.signed(self.signing_secret)

    def announce(self, nickname: str, timestamp_ms: int, *, is_relay: bool = False) -> Packet:
        """Return an announce for those to whom we are linked: neither neighbours nor a place are in it."""
        payload = Announce(
            nickname=nickname, noise_key=self.noise.public, signing_key=self.signing_public, is_relay=is_relay
        ).encode()
        return self.sign(
            make_packet(PacketType.ANNOUNCE, payload, sender=self.peer_id, timestamp_ms=timestamp_ms, ttl=ORIGIN_TTL)
        )
