# SPDX-License-Identifier: GPL-2.0-or-later
"""Our formats as scapy layers: to dissect, and for tests to build what nobody should send.

docs/protocol.md section 4.2 (big-endian) and docs/ble.md (little-endian). None is
bound to a layer below: where a record begins only the stream tells, and what an
attribute is only its UUID.
"""

# ruff: noqa: RUF012 - scapy's way to declare fields

from __future__ import annotations

from typing import Any, Final, TypeVar

from scapy.fields import ByteEnumField, ByteField, LEShortField, StrField, StrFixedLenField
from scapy.packet import Packet

from relay.bluetooth.gatt import COMPANY
from relay.bluetooth.slot_frames import Kind
from relay.core.news import DIGEST_BYTES, SALT_BYTES

PATTERNS: Final = {0: "XX", 3: "XXpsk3"}
KINDS: Final = {kind.value: kind.name for kind in Kind}

_P = TypeVar("_P", bound=Packet)


class RelayPreface(Packet):
    """What the first record of the dialling side holds (section 4.2)."""

    name = "mesh-relay preface"
    fields_desc = [
        ByteField("version", 1),
        ByteEnumField("pattern", 0, PATTERNS),
        StrFixedLenField("e", bytes(32), 32),
        StrField("tag", b""),
    ]


class RelayNews(Packet):
    """Manufacturer specific data of an advertisement (docs/ble.md section 2)."""

    name = "mesh-relay news"
    fields_desc = [
        LEShortField("company", COMPANY),
        StrFixedLenField("salt", bytes(SALT_BYTES), SALT_BYTES),
        StrFixedLenField("digest", bytes(DIGEST_BYTES), DIGEST_BYTES),
        StrField("more", b""),
    ]


class RelayInfo(Packet):
    """Value of INFO (docs/ble.md section 3)."""

    name = "mesh-relay info"
    fields_desc = [
        ByteField("version", 1),
        ByteEnumField("state", 0, {0: "room", 1: "busy"}),
        LEShortField("psm", 0),
        ByteField("slots", 0),
        StrField("more", b""),
    ]


class RelaySlotFrame(Packet):
    """One attribute value of RX or TX (docs/ble.md section 5)."""

    name = "mesh-relay slot frame"
    fields_desc = [
        ByteEnumField("kind", 0, KINDS),
        ByteField("sequence", 0),
        ByteField("acknowledged", 0),
        StrField("data", b""),
    ]


def dissect(layer: type[_P], data: bytes) -> _P | None:
    """Return ``data`` as ``layer``, or None if it is no such thing.

    scapy turns what an inner layer cannot read into raw bytes; the outermost one
    raises, and what it raises is not defined.
    """
    try:
        packet: _P = layer(data)
    except Exception:  # noqa: BLE001 - any bytes give a value or None
        return None
    return packet


def rest(layer: Packet) -> bytes:
    """Return the bytes behind ``layer`` as they were captured."""
    payload: Any = layer.payload
    return bytes(payload.original) if payload else b""
