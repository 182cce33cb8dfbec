# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys and the peer IDs that they make (https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md).

Ed25519 alone: it is what go-libp2p, kubo, helia and Berty make by default. A peer with another kind of key is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nacl.bindings import crypto_sign, crypto_sign_BYTES, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from relay.core.errors import DecodeError
from relay.libp2p.wire import as_bytes, as_number, bytes_field, fields, number_field

if TYPE_CHECKING:
    from collections.abc import Callable

_SEED_BYTES: Final = 32
_PUBLIC_BYTES: Final = 32
_ED25519: Final = 1
#: Of an identity multihash: code 0, 36 bytes, which are the protocol buffer of an Ed25519 key.
_PEER_PREFIX: Final = b"\x00\x24"
_KEY_PREFIX: Final = b"\x08\x01\x12\x20"
#: Also of peers whose key is hashed (RSA), which DHT messages name.
MAX_PEER_BYTES: Final = 64
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class KeyKindError(DecodeError):
    """A public key that is not Ed25519's."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A key pair; ``secret``: the 64 bytes that libsodium signs by."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> Identity:
        """Return a fresh one."""
        return cls(*crypto_sign_seed_keypair(random_bytes(_SEED_BYTES)))

    @property
    def peer(self) -> bytes:
        """Our peer ID."""
        return peer_of(self.public)

    @property
    def key_message(self) -> bytes:
        """The public key as a protocol buffer."""
        return _KEY_PREFIX + self.public

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of a signature."""
        return crypto_sign(message, self.secret)[:crypto_sign_BYTES]


def decode_key(message: bytes) -> bytes:
    """Return the Ed25519 key in the protocol buffer of a public key; raise DecodeError, KeyKindError for another's."""
    kind, key = None, b""
    for number, value in fields(message, 4):
        if number == 1:
            kind = as_number(value)
        elif number == 2:
            key = as_bytes(value)
    if kind is None:
        raise DecodeError("a key without its kind")
    if kind != _ED25519:
        raise KeyKindError("a key that is not Ed25519's")
    if len(key) != _PUBLIC_BYTES:
        raise DecodeError("an Ed25519 key has 32 bytes")
    return key


def encode_key(public: bytes) -> bytes:
    """Return the protocol buffer of an Ed25519 key."""
    return number_field(1, _ED25519) + bytes_field(2, public)


def peer_of(public: bytes) -> bytes:
    """Return the peer ID of an Ed25519 key."""
    return _PEER_PREFIX + _KEY_PREFIX + public


def key_of(peer: bytes) -> bytes | None:
    """Return the Ed25519 key that a peer ID consists of; None for the ID of another kind of key."""
    prefix = _PEER_PREFIX + _KEY_PREFIX
    if len(peer) == len(prefix) + _PUBLIC_BYTES and peer.startswith(prefix):
        return peer[len(prefix) :]
    return None


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature of an Ed25519 key is true."""
    if len(signature) != crypto_sign_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except (CryptoError, ValueError):
        return False
    return True


def base58(data: bytes) -> str:
    """Write bytes in base58btc, as peer IDs are written."""
    number, text = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def from_base58(text: str) -> bytes:
    """Read a peer ID in base58btc; raise DecodeError."""
    if not 0 < len(text) <= 2 * MAX_PEER_BYTES:
        raise DecodeError("no peer ID has this length")
    number = 0
    for char in text:
        digit = _BASE58.find(char)
        if digit < 0:
            raise DecodeError("not base58btc")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8)
