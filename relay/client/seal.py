# SPDX-License-Identifier: GPL-2.0-or-later
"""One envelope sealed to one recipient, and opened again (docs/protocol.md section 12).

The payload is one message of `Noise_X_25519_ChaChaPoly_SHA256` whose prologue holds what the header says
in clear and whose exporter gives the purge key, so that every bit of the envelope but its nonce is
authenticated: the first eight bytes and the bucket by the prologue, the rest of the tag by the purge key behind it.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import nacl.exceptions
from nacl.bindings import sodium_pad, sodium_unpad

from relay.client.card import Card
from relay.client.identity import Identity
from relay.core.envelope import (
    EXPIRY_STEP_HOURS,
    HEADER_BYTES,
    NONCE_BYTES,
    SIZES,
    TAG_BYTES,
    EnvelopeType,
    Header,
    bucket_of_day,
    decode_envelope,
    envelope_id,
    grind,
    make_tag,
)
from relay.core.errors import DecodeError
from relay.core.noise import KEY_BYTES, HandshakeError, HandshakeState, KeyPair, X
from relay.core.noise import TAG_BYTES as AEAD_BYTES

LIFETIMES_DAYS: Final = (1, 3, 7)
"""Few, so that a lifetime says little about who chose it; the longest is what relays accept."""
PRICE_LADDER: Final = (4, 8, 12, 16)
"""Prices that are paid, so that the work put into an envelope does not tell which relay it was meant for.

One more step is sixteen times the work: a 16 KiB envelope takes about 0.6 ms, 10 ms, 0.16 s, 2.6 s on one
core of a desktop.
"""

SEAL_OVERHEAD: Final = KEY_BYTES + KEY_BYTES + AEAD_BYTES + AEAD_BYTES
"""e, the sealed static key, and the tag of the sealed payload: 96 bytes."""
CAPACITIES: Final = tuple(size - HEADER_BYTES - NONCE_BYTES - SEAL_OVERHEAD for size in SIZES)
"""Bytes of padded plaintext by size class: 128, 896, 3968, 16256."""
MAX_PLAINTEXTS: Final = tuple(capacity - 1 for capacity in CAPACITIES)
"""Padding takes at least one byte."""

_PROLOGUE: Final = b"mesh-relay/1 seal"
_PURGE_LABEL: Final = b"mesh-relay/1 purge"
_PURGE_KEY_BYTES: Final = 32
_CLEAR_BYTES: Final = HEADER_BYTES - TAG_BYTES
"""Version to expiry: what stands before the tag. With the bucket, all that is known before the purge key is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An envelope that is ready to be put, and the key that deletes it from relays."""

    envelope: bytes
    purge_key: bytes = field(repr=False)
    tag: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsealed:
    """What was in an envelope to us; `sender` is the static key that is proven to have sealed it."""

    identity: bytes
    header: Header
    sender: bytes
    plaintext: bytes = field(repr=False)


def expiry_hour(now_hour: int, lifetime_days: int) -> int:
    """Return when an envelope of now expires: up to six hours before its lifetime ends."""
    if lifetime_days not in LIFETIMES_DAYS:
        raise ValueError(f"lifetime of {lifetime_days} days, not one of {LIFETIMES_DAYS}")
    end = now_hour + 24 * lifetime_days
    return end - end % EXPIRY_STEP_HOURS


def smallest_class(plaintext_bytes: int) -> int:
    """Return the smallest size class that holds a plaintext; ValueError when none does."""
    for size_class, most in enumerate(MAX_PLAINTEXTS):
        if plaintext_bytes <= most:
            return size_class
    raise ValueError(f"plaintext of {plaintext_bytes} bytes, at most {MAX_PLAINTEXTS[-1]} fit")


def buckets_to_read(rendezvous: bytes, now_hour: int) -> tuple[int, ...]:
    """Return the buckets that can hold mail now, the likeliest first.

    Those of the days of sending from today back to the longest lifetime, then tomorrow's, for senders
    whose clock is ahead or who live at the turn of the day.
    """
    today = now_hour // 24
    days = [*range(today, today - LIFETIMES_DAYS[-1] - 1, -1), today + 1]
    return tuple(dict.fromkeys(bucket_of_day(rendezvous, day) for day in days if day >= 0))


def seal(
    plaintext: bytes,
    *,
    sender: KeyPair,
    recipient: Card,
    now_hour: int,
    expiry_hour: int,
    price: int,
    random_bytes: Callable[[int], bytes],
) -> Sealed:
    """Return `plaintext` in the smallest envelope that holds it; ValueError when none does."""
    size_class = smallest_class(len(plaintext))
    bucket = bucket_of_day(recipient.rendezvous, now_hour // 24)
    clear = Header(
        type=EnvelopeType.MESSAGE,
        size_class=size_class,
        expiry_hour=expiry_hour,
        tag=bytes(TAG_BYTES),
    ).encode()[:_CLEAR_BYTES]
    handshake = HandshakeState(
        X,
        initiator=True,
        prologue=_PROLOGUE + clear + bytes([bucket]),
        static=sender,
        remote_static=recipient.static,
        random_bytes=random_bytes,
    )
    payload = handshake.write_message(sodium_pad(plaintext, CAPACITIES[size_class]))
    purge_key = handshake.export(_PURGE_LABEL, _PURGE_KEY_BYTES)
    tag = make_tag(bucket, purge_key)
    unworked = clear + tag + payload
    return Sealed(
        envelope=grind(unworked, price=price, random_bytes=random_bytes),
        purge_key=purge_key,
        tag=tag,
    )


def unseal(envelope: bytes, recipient: Identity) -> Unsealed | None:
    """Return what is in an envelope, or None for whatever is not an intact message to `recipient`.

    Costs one X25519 and the opening of 48 bytes for an envelope to someone else. The caller asks for the
    buckets of the recipient only; the bucket that an envelope names is authenticated, not compared.
    """
    try:
        header = decode_envelope(envelope)
    except DecodeError:
        return None
    if header.type is not EnvelopeType.MESSAGE:
        return None
    handshake = HandshakeState(
        X,
        initiator=False,
        prologue=_PROLOGUE + envelope[:_CLEAR_BYTES] + bytes([header.bucket]),
        static=recipient.static,
        random_bytes=_no_random_bytes,
    )
    try:
        padded = handshake.read_message(envelope[HEADER_BYTES:-NONCE_BYTES])
        plaintext = sodium_unpad(padded, CAPACITIES[header.size_class])
    except (HandshakeError, nacl.exceptions.CryptoError):
        return None
    purge_key = handshake.export(_PURGE_LABEL, _PURGE_KEY_BYTES)
    sender = handshake.remote_static
    if sender is None or not hmac.compare_digest(make_tag(header.bucket, purge_key), header.tag):
        return None
    return Unsealed(identity=envelope_id(envelope), header=header, sender=sender, plaintext=plaintext)


def _no_random_bytes(count: int) -> bytes:
    raise AssertionError(f"the recipient of a one-way message draws nothing, asked for {count} bytes")
