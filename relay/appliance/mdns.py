# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of relays on one segment (RFC 6762): questions in, answers out.

relay.local is whoever serves the segment. A relay that its operator gave another name is found by that, too; it is
said to who asks for it, and never before.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

GROUP: Final = IPv4Address("224.0.0.251")
#: Of whoever serves, and by default of every relay; in lower case and without `.local`, as all names here.
NAME: Final = "relay"
_TOP_DOMAIN: Final = b"local"
#: Questions looked at in one packet; a phone asks for a few names at once.
MAX_QUESTIONS: Final = 32
#: Soon wrong when another relay takes over.
TTL_S: Final = 30

_HEADER: Final = struct.Struct("!HHHHHH")
_QUESTION: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")
_RESPONSE: Final = 0x8400
_A, _ANY, _IN = 1, 255, 1
#: In a question: answer to me alone; in a record: forget what you knew.
_TOP: Final = 0x8000


def asked_for(packet: bytes, names: Container[str]) -> str | None:
    """Which of ``names`` a packet asks the address of, the first one; any bytes are taken."""
    if len(packet) < _HEADER.size:
        return None
    _, flags, count, *_ = _HEADER.unpack_from(packet)
    if flags & 0xF800:  # an answer, or not a standard query
        return None
    at = _HEADER.size
    for _ in range(min(count, MAX_QUESTIONS)):
        labels, at = _name(packet, at)
        if labels is None or at + _QUESTION.size > len(packet):
            return None
        kind, of = _QUESTION.unpack_from(packet, at)
        at += _QUESTION.size
        if labels[1:] != (_TOP_DOMAIN,) or kind not in {_A, _ANY} or of & ~_TOP != _IN:
            continue
        name = labels[0].decode("ascii", "replace")
        if name in names:
            return name
    return None


def announce(address: IPv4Address, name: str = NAME, *, ttl_s: int = TTL_S) -> bytes:
    """A packet that says who ``name`` is; with ``ttl_s`` 0, that this one no longer is."""
    encoded = b"".join(bytes((len(label),)) + label for label in (name.encode("ascii"), _TOP_DOMAIN)) + b"\0"
    record = _RECORD.pack(_A, _TOP | _IN, ttl_s, 4) + address.packed
    return _HEADER.pack(0, _RESPONSE, 0, 1, 0, 0) + encoded + record


def _name(packet: bytes, at: int) -> tuple[tuple[bytes, ...] | None, int]:
    """A name in lower case and where it ends; None when it is cut off. Of a compressed one only what stands there."""
    labels: list[bytes] = []
    while at < len(packet):
        length = packet[at]
        if length == 0:
            return tuple(labels), at + 1
        if length >= 0xC0:
            # Points back to a name that was none of ours, or else was answered already.
            return (), at + 2
        if length > 63 or at + 1 + length > len(packet):
            return None, at
        labels.append(packet[at + 1 : at + 1 + length].lower())
        at += 1 + length
    return None, at
