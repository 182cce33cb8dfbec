# SPDX-License-Identifier: GPL-2.0-or-later
"""Values with type and length in front, as in most payloads of bitchat; types nobody knows are skipped or kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.core.codec import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable


def decode_tlvs(data: bytes, length_bytes: int, *, strict: bool = False) -> list[tuple[int, bytes]]:
    """Return (type, value) in order, lengths being of 1 or 2 bytes; DecodeError where a value is cut off.

    Bytes at the end that are too few for type and length are ignored, as the apps do; where they are ``strict``,
    DecodeError.
    """
    reader, found = Reader(data), []
    while reader.remaining > (0 if strict else length_bytes):
        kind = reader.u8()
        found.append((kind, reader.bytes(reader.u8() if length_bytes == 1 else reader.u16())))
    return found


def encode_tlvs(values: Iterable[tuple[int, bytes]], length_bytes: int) -> bytes:
    """Return the bytes; ValueError for a value longer than its length can say."""
    out = bytearray()
    for kind, value in values:
        if len(value) >= 1 << 8 * length_bytes:
            raise ValueError(f"value of {len(value)} bytes, a length of {length_bytes} byte(s) cannot say that")
        out += bytes([kind]) + len(value).to_bytes(length_bytes, "big") + value
    return bytes(out)
