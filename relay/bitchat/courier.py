# SPDX-License-Identifier: GPL-2.0-or-later
"""The courier's letter: sealed to somebody who is away, found by a tag that changes each day.

The tag follows from the recipient's *public* Noise key, which every announce broadcasts: whoever heard one announce
knows all tags of that recipient, of all days.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from typing import Final

from relay.bitchat.tlv import decode_tlvs, encode_tlvs
from relay.core.errors import DecodeError

TAG_BYTES: Final = 16
MAX_CIPHERTEXT_BYTES: Final = 16 * 1024
MAX_COPIES: Final = 8
"""More are cut down to it, as iPhones do."""
DAY_MS: Final = 86_400_000
MAX_LIFETIME_MS: Final = DAY_MS
"""How long a letter lives at most."""
EXPIRY_SLACK_MS: Final = 3_600_000
"""What a sender's clock may be ahead, beyond the lifetime: iPhones allow as much."""
MAX_UNKNOWN_BYTES: Final = 256
"""What may be in a letter that nobody knows yet, in all."""

_TAG, _EXPIRY, _CIPHERTEXT, _COPIES, _PREKEY = 1, 2, 3, 4, 5
_TAG_CONTEXT: Final = b"bitchat-courier-tag-v1"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Letter:
    """One letter. ``expiry_ms``: milliseconds since the Unix epoch; ``copies``: to how many couriers it may go.

    ``prekey`` names the recipient's key of one use that it is sealed to, where it is; ``unknown`` is kept as it came.
    """

    tag: bytes
    expiry_ms: int
    ciphertext: bytes = field(repr=False)
    copies: int = 1
    prekey: int | None = None
    unknown: tuple[tuple[int, bytes], ...] = ()

    def encode(self) -> bytes:
        """Return the payload of a courier packet."""
        values = [
            (_TAG, self.tag),
            (_EXPIRY, self.expiry_ms.to_bytes(8, "big")),
            (_CIPHERTEXT, self.ciphertext),
        ]
        if self.copies > 1:
            values.append((_COPIES, bytes([self.copies])))
        if self.prekey is not None:
            values.append((_PREKEY, self.prekey.to_bytes(4, "big")))
        return encode_tlvs([*values, *self.unknown], 2)

    def to_deliver(self) -> Letter:
        """Return it as it is handed over, and kept: not to be given to further couriers, so the same for all copies."""
        return replace(self, copies=1)


def decode_letter(payload: bytes) -> Letter:
    """Return the letter; DecodeError for what an iPhone would not read either."""
    values: dict[int, bytes] = {}
    unknown = []
    for kind, value in decode_tlvs(payload, 2, strict=True):
        if kind in {_TAG, _EXPIRY, _CIPHERTEXT, _COPIES, _PREKEY}:
            values[kind] = value
        else:
            unknown.append((kind, value))
    lengths = {_TAG: TAG_BYTES, _EXPIRY: 8, _COPIES: 1, _PREKEY: 4}
    if any(len(value) != lengths.get(kind, len(value)) for kind, value in values.items()):
        raise DecodeError("a field of a letter with another length than its own")
    if not {_TAG, _EXPIRY, _CIPHERTEXT} <= values.keys():
        raise DecodeError("a letter without tag, expiry or content")
    if not 1 <= len(values[_CIPHERTEXT]) <= MAX_CIPHERTEXT_BYTES:
        raise DecodeError(f"{len(values[_CIPHERTEXT])} bytes in a letter, 1 to {MAX_CIPHERTEXT_BYTES}")
    if sum(3 + len(value) for _, value in unknown) > MAX_UNKNOWN_BYTES:
        raise DecodeError(f"more than {MAX_UNKNOWN_BYTES} bytes in a letter that nobody knows")
    return Letter(
        tag=values[_TAG],
        expiry_ms=int.from_bytes(values[_EXPIRY], "big"),
        ciphertext=values[_CIPHERTEXT],
        copies=min(max(1, values.get(_COPIES, b"\1")[0]), MAX_COPIES),
        prekey=int.from_bytes(values[_PREKEY], "big") if _PREKEY in values else None,
        unknown=tuple(unknown),
    )


def recipient_tag(noise_key: bytes, day: int) -> bytes:
    """Return the tag of a recipient on a UTC ``day`` (days since the Unix epoch)."""
    return hmac.digest(noise_key, _TAG_CONTEXT + day.to_bytes(4, "big"), "sha256")[:TAG_BYTES]


def candidate_tags(noise_key: bytes, time_ms: int) -> tuple[bytes, ...]:
    """Return the tags that a letter may have now, of the day before, of today and of tomorrow."""
    day = min(max(0, time_ms // DAY_MS), 0xFFFF_FFFE)
    return tuple(recipient_tag(noise_key, at) for at in (max(0, day - 1), day, day + 1))
