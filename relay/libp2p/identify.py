# SPDX-License-Identifier: GPL-2.0-or-later
"""identify and its push (https://github.com/libp2p/specs/blob/master/identify/README.md): a peer of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.core.errors import DecodeError
from relay.libp2p.multiaddr import TcpAddress, decode_address
from relay.libp2p.wire import as_bytes, as_text, bytes_field, fields

PROTOCOL: Final = "/ipfs/id/1.0.0"
PUSH_PROTOCOL: Final = "/ipfs/id/push/1.0.0"
#: go-libp2p reads no more of one.
MAX_MESSAGE_BYTES: Final = 8 << 10
#: Of a peer: kubo names 20 to 30.
MAX_PROTOCOLS: Final = 128
MAX_ADDRESSES: Final = 16
_MAX_FIELDS: Final = 512
_MAX_PROTOCOL_BYTES: Final = 128
_PROTOCOL_VERSION: Final = b"ipfs/0.1.0"
_AGENT: Final = b"mesh-relay"


@dataclass(frozen=True, slots=True)
class Identified:
    """What a peer speaks, and where it can be dialled; None: it did not say."""

    protocols: frozenset[str] | None
    addresses: tuple[TcpAddress, ...]
    is_relay: bool = False


def decode_identify(message: bytes) -> Identified:
    """Decode what a peer says; raise DecodeError. Addresses that cannot be dialled here are left out."""
    protocols: set[str] = set()
    addresses: list[TcpAddress] = []
    is_relay = False
    for number, value in fields(message, _MAX_FIELDS):
        if number == 6:
            is_relay = value == _AGENT
        elif number == 3:
            if len(protocols) < MAX_PROTOCOLS:
                protocols.add(as_text(value, _MAX_PROTOCOL_BYTES))
        elif number == 2 and len(addresses) < MAX_ADDRESSES:
            try:
                addresses.append(decode_address(as_bytes(value)))
            except DecodeError:
                continue
    return Identified(frozenset(protocols) or None, tuple(addresses), is_relay)


def encode_identify(
    *, key_message: bytes, addresses: list[TcpAddress], protocols: list[str], observed: TcpAddress | None
) -> bytes:
    """Return what we say of ourselves; ``observed``: where the peer's connection comes from."""
    out = bytes_field(1, key_message)
    out += b"".join(bytes_field(2, address.encode()) for address in addresses)
    out += b"".join(bytes_field(3, protocol.encode()) for protocol in protocols)
    if observed is not None:
        out += bytes_field(4, observed.encode())
    return out + bytes_field(5, _PROTOCOL_VERSION) + bytes_field(6, _AGENT)
