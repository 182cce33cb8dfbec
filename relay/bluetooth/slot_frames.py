# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of a GATT slot (docs/ble.md section 5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from relay.bluetooth.gatt import VERSION
from relay.core.errors import DecodeError

HEADER: Final = struct.Struct("<BBB")
#: So that half of the sequence numbers are enough to tell old from new.
MAX_WINDOW: Final = 64


class Kind(IntEnum):
    """First byte of a frame."""

    DATA = 0
    ACK = 1
    OPEN = 2
    CLOSE = 3


class CloseReason(IntEnum):
    """Why a slot's stream ended; on the wire in CLOSE."""

    END = 0
    BUSY = 1
    PROTOCOL = 2
    TIMEOUT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame; ``sequence`` and ``acknowledged`` mean what its kind says."""

    kind: Kind
    sequence: int
    acknowledged: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the attribute value."""
        return HEADER.pack(self.kind, self.sequence, self.acknowledged) + self.payload

    @property
    def window(self) -> int:
        """Of an OPEN: the DATA frames that its sender takes unacknowledged."""
        return self.payload[1]

    @property
    def reason(self) -> CloseReason:
        """Of a CLOSE."""
        return CloseReason(self.payload[0])


def decode_frame(value: bytes) -> Frame:
    """Decode an attribute value; raise DecodeError."""
    if len(value) < HEADER.size:
        raise DecodeError(f"a frame of {len(value)} bytes, expected at least {HEADER.size}")
    kind, sequence, acknowledged = HEADER.unpack_from(value)
    payload = value[HEADER.size :]
    match kind:
        case Kind.DATA:
            is_right = len(payload) >= 1
        case Kind.ACK:
            is_right = not payload
        case Kind.OPEN:
            # A later version may say more.
            is_right = len(payload) >= 2 and payload[0] == VERSION and 1 <= payload[1] <= MAX_WINDOW
        case Kind.CLOSE:
            is_right = len(payload) >= 1 and payload[0] in CloseReason.__members__.values()
        case _:
            is_right = False
    if not is_right:
        raise DecodeError(f"a frame of kind {kind} that is none")
    return Frame(kind=Kind(kind), sequence=sequence, acknowledged=acknowledged, payload=payload)


def encode_open(nonce: int, answered: int, window: int) -> bytes:
    """Return OPEN: ``nonce`` of its sender's stream, and that of the OPEN it answers, else 0."""
    return Frame(kind=Kind.OPEN, sequence=nonce, acknowledged=answered, payload=bytes([VERSION, window])).encode()


def encode_close(nonce: int, reason: CloseReason) -> bytes:
    """Return CLOSE of the stream that began with ``nonce``."""
    return Frame(kind=Kind.CLOSE, sequence=nonce, acknowledged=0, payload=bytes([reason])).encode()
