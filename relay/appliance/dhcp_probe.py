# SPDX-License-Identifier: GPL-2.0-or-later
"""As much of DHCP (RFC 2131, 2132) and router advertisements (RFC 4861) as it takes to notice who serves a segment."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.appliance.constants import ELECTION_BYTES, ELECTION_OPTION
from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: op, htype, hlen, hops, xid, secs, flags, four addresses, chaddr, sname, file, cookie.
_HEADER: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE: Final = b"\x63\x82\x53\x63"
_REQUEST, _REPLY = 1, 2
_ETHERNET: Final = 1
_BROADCAST: Final = 0x8000
_PAD, _END = 0, 255
_TYPE, _WANTED = 53, 55
_DISCOVER, _OFFER = 1, 2
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_UDP: Final = struct.Struct("!HHHH")
_UDP_PROTOCOL: Final = 17
SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
#: Router, subnet mask: what any server gives; and ours.
_ASKED: Final = bytes((1, 3, ELECTION_OPTION))
_ADVERTISEMENT: Final = 134
#: Type, code, checksum, hop limit, flags, router lifetime.
_ROUTER: Final = struct.Struct("!BBHBBH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Somebody hands out addresses; ``election`` is what a relay says of itself, None of any other server."""

    transaction: int
    election: bytes | None


def encode_probe(transaction: int, address: bytes) -> bytes:
    """An IPv4 packet to everybody that asks for offers; ``address``: 6 bytes, of the interface."""
    message = _HEADER.pack(
        _REQUEST,
        _ETHERNET,
        6,
        0,
        transaction,
        0,
        _BROADCAST,
        *(bytes(4),) * 4,
        address.ljust(16, b"\0"),
        bytes(64),
        bytes(128),
        _COOKIE,
    ) + bytes((_TYPE, 1, _DISCOVER, _WANTED, len(_ASKED), *_ASKED, _END))
    # A checksum of 0 is "none" in UDP over IPv4 (RFC 768).
    datagram = _UDP.pack(CLIENT_PORT, SERVER_PORT, _UDP.size + len(message), 0) + message
    header = _IPV4.pack(0x45, 0, _IPV4.size + len(datagram), 0, 0, 64, _UDP_PROTOCOL, 0, bytes(4), b"\xff\xff\xff\xff")
    return header[:10] + _checksum(header).to_bytes(2, "big") + header[12:] + datagram


def decode_offer(packet: bytes) -> Offer:
    """The offer in an IPv4 packet; raise DecodeError for everything else."""
    if len(packet) < _IPV4.size or packet[0] >> 4 != 4 or packet[9] != _UDP_PROTOCOL:
        raise DecodeError("not UDP over IPv4")
    start = 4 * (packet[0] & 15)
    message = packet[start + _UDP.size :]
    if start < _IPV4.size or len(message) < _HEADER.size:
        raise DecodeError("too short")
    if int.from_bytes(packet[start + 2 : start + 4], "big") != CLIENT_PORT:
        raise DecodeError("not to a client")
    op, _, _, _, transaction, *_, cookie = _HEADER.unpack_from(message)
    if op != _REPLY or cookie != _COOKIE:
        raise DecodeError("not an answer")
    options = dict(_options(message[_HEADER.size :]))
    if options.get(_TYPE) != bytes((_OFFER,)):
        raise DecodeError("not an offer")
    election = options.get(ELECTION_OPTION, b"")
    return Offer(transaction=transaction, election=election if len(election) == ELECTION_BYTES else None)


def is_router(message: bytes) -> bool:
    """Whether an ICMPv6 message advertises a way out; relays advertise addresses and no way (lifetime 0)."""
    if len(message) < _ROUTER.size:
        return False
    kind, _, _, _, _, lifetime_s = _ROUTER.unpack_from(message)
    return bool(kind == _ADVERTISEMENT and lifetime_s > 0)


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Code and value of each option; ends at the first that is cut off."""
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            return
        yield data[at], data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
