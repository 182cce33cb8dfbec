# SPDX-License-Identifier: GPL-2.0-or-later
"""UUIDs and values of the GATT service and the advertisement (docs/ble.md sections 1 to 3)."""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.core.news import DIGEST_BYTES, SALT_BYTES, news_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION: Final = 1

_BASE: Final = "ab07{:04x}-cc92-439d-ad42-3677ca4805bf"
SERVICE_UUID: Final = _BASE.format(0x01)
INFO_UUID: Final = _BASE.format(0x02)
SLOT_UUID: Final = _BASE.format(0x03)
RX_UUID: Final = _BASE.format(0x04)
#: INFO for relays that dial: whoever reads it has one of the places for relays, and none of those for phones.
RELAY_INFO_UUID: Final = _BASE.format(0x05)
#: Slots, each with a TX characteristic of its own, lest each client get everybody's notifications.
SLOTS: Final = 8
TX_UUIDS: Final = tuple(_BASE.format(0x10 + slot) for slot in range(SLOTS))
#: What SLOT says when none is free.
NO_SLOT: Final = 0xFF

#: "No company" of the Bluetooth assigned numbers.
COMPANY: Final = 0xFFFF

#: Largest attribute value there is (Bluetooth Core 5.4, Vol 3, Part F, 3.2.9).
MAX_VALUE_BYTES: Final = 512
#: What a notification or a write takes of the MTU: opcode and handle.
ATT_HEADER_BYTES: Final = 3
#: ATT_MTU of a connection on which nobody asked for more.
DEFAULT_MTU_BYTES: Final = 23

_INFO: Final = struct.Struct("<BBHB")


class State(IntEnum):
    """What INFO says of the room for another client; others than these mean busy."""

    ROOM = 0
    BUSY = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Value of INFO and RELAY INFO. ``psm`` 0: no channel here; ``slots`` 0: no slots here."""

    is_busy: bool
    psm: int
    slots: int

    def encode(self) -> bytes:
        """Return the 5 bytes of INFO."""
        return _INFO.pack(VERSION, State.BUSY if self.is_busy else State.ROOM, self.psm, self.slots)


def decode_info(value: bytes) -> Info:
    """Decode INFO, of which later versions may append bytes; raise DecodeError."""
    if len(value) < _INFO.size:
        raise DecodeError(f"INFO has {len(value)} bytes, expected at least {_INFO.size}")
    version, state, psm, slots = _INFO.unpack_from(value)
    if version != VERSION:
        raise DecodeError(f"INFO of version {version}, expected {VERSION}")
    return Info(is_busy=state != State.ROOM, psm=psm, slots=slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beacon:
    """What an advertisement says besides the service: who was here can tell whether there is news."""

    salt: bytes
    digest: bytes

    def encode(self) -> bytes:
        """Return the manufacturer's data, without the company."""
        return self.salt + self.digest

    def matches(self, news_values: Iterable[bytes]) -> bool:
        """Whether one of ``news_values`` (16 bytes each) is what the sender advertises."""
        return any(hmac.compare_digest(self.digest, news_digest(news, self.salt)) for news in news_values)


def make_beacon(news: bytes, salt: bytes) -> Beacon:
    """Make the beacon of a relay whose news value is ``news`` (16 bytes), under ``salt`` (3 bytes)."""
    return Beacon(salt=salt, digest=news_digest(news, salt))


def decode_beacon(data: bytes) -> Beacon:
    """Decode the manufacturer's data of company 0xFFFF, without the company; raise DecodeError."""
    if len(data) != SALT_BYTES + DIGEST_BYTES:
        raise DecodeError(f"a beacon of {len(data)} bytes, expected {SALT_BYTES + DIGEST_BYTES}")
    return Beacon(salt=data[:SALT_BYTES], digest=data[SALT_BYTES:])


def frame_bytes(mtu_bytes: int) -> int:
    """Return how long a frame may be on a connection with this ATT_MTU."""
    return min(mtu_bytes - ATT_HEADER_BYTES, MAX_VALUE_BYTES)
