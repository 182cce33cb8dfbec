# SPDX-License-Identifier: GPL-2.0-or-later
"""The name relay.local on one segment (RFC 6762), for whoever serves it: questions in, answers out."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final

GROUP: Final = IPv4Address("224.0.0.251")
NAME: Final = (b"relay", b"local")
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


def answer_query(packet: bytes, address: IPv4Address) -> bytes | None:
    """The answer, if the packet asks for relay.local; any bytes are taken."""
    if len(packet) < _HEADER.size:
        return None
    _, flags, count, *_ = _HEADER.unpack_from(packet)
    if flags & 0xF800:  # an answer, or not a standard query
        return None
    at = _HEADER.size
    for _ in range(min(count, MAX_QUESTIONS)):
        name, at = _name(packet, at)
        if name is None or at + _QUESTION.size > len(packet):
            return None
        kind, of = _QUESTION.unpack_from(packet, at)
        at += _QUESTION.size
        if name == NAME and kind in {_A, _ANY} and of & ~_TOP == _IN:
            return announce(address)
    return None


def announce(address: IPv4Address, *, ttl_s: int = TTL_S) -> bytes:
    """A packet that says who relay.local is; with ``ttl_s`` 0, that this one no longer is."""
    name = b"".join(bytes((len(label),)) + label for label in NAME) + b"\0"
    record = _RECORD.pack(_A, _TOP | _IN, ttl_s, 4) + address.packed
    return _HEADER.pack(0, _RESPONSE, 0, 1, 0, 0) + name + record


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
