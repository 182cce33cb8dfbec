# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiaddresses (https://github.com/multiformats/multiaddr), as far as a host on TCP reads them.

What it can dial is /ip4 or /ip6, then /tcp, then nothing or /p2p; all others are refused, and those who name them
also name one that is not, if they listen on TCP at all.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from relay.core.errors import DecodeError
from relay.libp2p.identity import MAX_PEER_BYTES, base58, from_base58
from relay.libp2p.wire import read_varint, varint

_IP4: Final = 4
_TCP: Final = 6
_IP6: Final = 41
_IP6ZONE: Final = 42
_P2P: Final = 421
#: Longer than any that can be dialled here.
MAX_ADDRESS_BYTES: Final = 256
MAX_ADDRESS_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An address (as numbers, without its scope), a port, and the peer ID that has to be there, if it is told."""

    host: str
    port: int
    peer: bytes | None = None

    def encode(self) -> bytes:
        """Return it in bytes."""
        ip = ipaddress.ip_address(self.host)
        at = varint(_IP4 if ip.version == 4 else _IP6) + ip.packed + varint(_TCP) + self.port.to_bytes(2)
        return at if self.peer is None else at + varint(_P2P) + varint(len(self.peer)) + self.peer

    def __str__(self) -> str:
        """Return it as people write it."""
        ip = ipaddress.ip_address(self.host)
        text = f"/ip{ip.version}/{ip}/tcp/{self.port}"
        return text if self.peer is None else f"{text}/p2p/{base58(self.peer)}"


def decode_address(data: bytes) -> TcpAddress:
    """Decode an address in bytes; raise DecodeError for one that cannot be dialled here."""
    if len(data) > MAX_ADDRESS_BYTES:
        raise DecodeError("an address is too long")
    try:
        code, at = read_varint(data, 0)
        if code not in (_IP4, _IP6):
            raise DecodeError("an address that is not of IP")
        size = 4 if code == _IP4 else 16
        host = ipaddress.ip_address(_take(data, at, size))
        code, at = read_varint(data, at + size)
        if code != _TCP:
            raise DecodeError("an address that is not of TCP")
        port = int.from_bytes(_take(data, at, 2))
        at += 2
        if at == len(data):
            return _checked(host, port, None)
        code, at = read_varint(data, at)
        size, at = read_varint(data, at)
    except IndexError:
        raise DecodeError("an address is cut") from None
    if code != _P2P or not 0 < size <= MAX_PEER_BYTES or at + size != len(data):
        raise DecodeError("an address that goes on after TCP")
    return _checked(host, port, data[at:])


def _take(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise DecodeError("an address is cut")
    return data[at : at + size]


def parse_address(text: str) -> TcpAddress:
    """Read an address as text; raise DecodeError for one that cannot be dialled here."""
    if len(text) > MAX_ADDRESS_CHARS:
        raise DecodeError("an address is too long")
    match text.split("/"):
        case ["", "ip4" | "ip6" as family, host, "tcp", port]:
            peer = None
        case ["", "ip4" | "ip6" as family, host, "tcp", port, "p2p", written]:
            peer = from_base58(written)
        case ["", "ip6zone", _, *rest] if rest:
            return parse_address("/" + "/".join(rest))
        case _:
            raise DecodeError("an address that cannot be dialled here")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise DecodeError("no IP address") from None
    if f"ip{ip.version}" != family or "%" in host or not port.isascii() or not port.isdecimal() or len(port) > 5:
        raise DecodeError("an address that is none")
    if peer is not None and not 0 < len(peer) <= MAX_PEER_BYTES:
        raise DecodeError("no peer ID has this length")
    return _checked(ip, int(port), peer)


def _checked(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, peer: bytes | None) -> TcpAddress:
    if not 0 < port < 65536 or ip.is_unspecified or ip.is_multicast:
        raise DecodeError("nobody can be dialled there")
    return TcpAddress(str(ip), port, peer)
