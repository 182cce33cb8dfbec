# SPDX-License-Identifier: GPL-2.0-or-later
"""REQUEST_SYNC: what a phone has, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.bitchat.gcs import Filter, decode_filter
from relay.bitchat.packet import PacketType
from relay.bitchat.tlv import decode_tlvs, encode_tlvs
from relay.core.errors import DecodeError

_P, _MODULUS, _FILTER, _TYPES, _SINCE, _FRAGMENTS = 1, 2, 3, 4, 5, 6

TYPE_BITS: Final = {
    PacketType.ANNOUNCE: 0,
    PacketType.MESSAGE: 1,
    PacketType.LEAVE: 2,
    PacketType.NOISE_HANDSHAKE: 3,
    PacketType.NOISE_ENCRYPTED: 4,
    PacketType.FRAGMENT: 5,
    PacketType.REQUEST_SYNC: 6,
    PacketType.FILE_TRANSFER: 7,
    PacketType.BOARD_POST: 8,
    PacketType.PREKEY_BUNDLE: 9,
    PacketType.GROUP_MESSAGE: 10,
}
"""Which bit of a request asks for which type; the others ask for what we do not know."""
_MAX_TYPES_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSync:
    """A request.

    ``types`` are bits of TYPE_BITS, or None where the phone does not say: Androids never do, and then announces and
    public messages are meant. ``since_ms``: of packets older than this the filter says nothing, so they are not meant.
    """

    filter: Filter
    types: int | None = None
    since_ms: int | None = None

    @property
    def is_of_iphone(self) -> bool:
        """Whether it says which types it covers, which only iPhones do."""
        return self.types is not None

    def asks_for(self, kind: PacketType) -> bool:
        """Whether packets of a type are meant."""
        if self.types is None:
            return kind in {PacketType.ANNOUNCE, PacketType.MESSAGE}
        return kind in TYPE_BITS and bool(self.types >> TYPE_BITS[kind] & 1)


def decode_request_sync(payload: bytes) -> RequestSync:
    """Return the request; DecodeError where parameters or filter are missing, or out of range."""
    p = modulus = data = types = since_ms = None
    for kind, value in decode_tlvs(payload, 2):
        if kind == _P and len(value) == 1:
            p = value[0]
        elif kind == _MODULUS and len(value) == 4:
            modulus = int.from_bytes(value, "big")
        elif kind == _FILTER:
            data = value
        elif kind == _TYPES and 1 <= len(value) <= _MAX_TYPES_BYTES:
            types = int.from_bytes(value, "little")
        elif kind == _SINCE and len(value) == 8:
            since_ms = int.from_bytes(value, "big")
    if p is None or modulus is None or data is None:
        raise DecodeError("a request without parameters or filter")
    return RequestSync(filter=decode_filter(p, modulus, data), types=types, since_ms=since_ms)


def encode_request_sync(
    p: int, modulus: int, data: bytes, *, types: int | None = None, since_ms: int | None = None
) -> bytes:
    """Return the payload of a request for which :func:`relay.bitchat.gcs.encode_filter` made modulus and data."""
    values = [(_P, bytes([p])), (_MODULUS, modulus.to_bytes(4, "big")), (_FILTER, data)]
    if types is not None:
        values.append((_TYPES, types.to_bytes(max(1, -(-types.bit_length() // 8)), "little")))
    if since_ms is not None:
        values.append((_SINCE, since_ms.to_bytes(8, "big")))
    return encode_tlvs(values, 2)
