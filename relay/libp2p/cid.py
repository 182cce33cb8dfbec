# SPDX-License-Identifier: GPL-2.0-or-later
"""CIDs (https://github.com/multiformats/cid): what a block is called, by the SHA2-256 of it.

Other hash functions are refused: no block of ours has them, and none of Berty's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final, NamedTuple

from relay.core.errors import DecodeError
from relay.libp2p.identity import _BASE58, base58, from_base58
from relay.libp2p.wire import read_varint, varint

RAW: Final = 0x55
DAG_PB: Final = 0x70
DAG_CBOR: Final = 0x71
_IDENTITY: Final = 0x00
_SHA2_256: Final = 0x12
_DIGEST_BYTES: Final = 32
#: What people use of identity hashes is shorter.
_MAX_IDENTITY_BYTES: Final = 128
MAX_CID_BYTES: Final = 4 * 9 + _MAX_IDENTITY_BYTES
MAX_CID_CHARS: Final = 2 * MAX_CID_BYTES
_MULTIHASH_PREFIX: Final = bytes([_SHA2_256, _DIGEST_BYTES])
#: The empty raw block, in the CID itself: by it clients find out who is a gateway.
EMPTY: Final = "bafkqaaa"


class Cid(NamedTuple):
    """``digest``: 32 bytes of SHA2-256; or, where ``inline``, the block itself, which is in the CID."""

    version: int
    codec: int
    digest: bytes
    inline: bool = False

    @property
    def multihash(self) -> bytes:
        """Hash function, length and digest."""
        if self.inline:
            return varint(_IDENTITY) + varint(len(self.digest)) + self.digest
        return _MULTIHASH_PREFIX + self.digest

    def encode(self) -> bytes:
        """Return it in bytes."""
        return self.multihash if self.version == 0 else self.prefix() + self.multihash

    def prefix(self) -> bytes:
        """Version and codec, as they stand before the multihash of version 1."""
        return varint(1) + varint(self.codec)

    def block_prefix(self) -> bytes:
        """All but the digest: version, codec, hash function and length, of which bitswap tells."""
        return varint(self.version) + varint(self.codec) + self.multihash[: -len(self.digest) or None]

    def __str__(self) -> str:
        """Return it as it is written by most: base58btc of version 0, base32 of version 1."""
        data = self.encode()
        if self.version == 0:
            return base58(data)
        return "b" + base64.b32encode(data).decode().rstrip("=").lower()

    def holds(self, block: bytes) -> bool:
        """Whether this is the CID of a block."""
        return self.digest == (block if self.inline else hashlib.sha256(block).digest())


def raw(digest: bytes) -> Cid:
    """Return the CID of the raw block with a SHA2-256."""
    return Cid(1, RAW, digest)


def decode_cid(data: bytes) -> Cid:
    """Decode a CID in bytes; raise DecodeError."""
    if len(data) > MAX_CID_BYTES:
        raise DecodeError("a CID is too long")
    if data.startswith(_MULTIHASH_PREFIX):
        if len(data) != len(_MULTIHASH_PREFIX) + _DIGEST_BYTES:
            raise DecodeError("a CID of version 0 has 34 bytes")
        return Cid(0, DAG_PB, data[2:])
    try:
        version, at = read_varint(data, 0)
        codec, at = read_varint(data, at)
    except IndexError:
        raise DecodeError("a CID is cut") from None
    if version != 1:
        raise DecodeError("a CID of another version")
    digest, inline = decode_multihash(data[at:])
    return Cid(1, codec, digest, inline)


def decode_multihash(data: bytes) -> tuple[bytes, bool]:
    """Return the digest of a multihash, and whether it is the content itself; raise DecodeError."""
    try:
        code, at = read_varint(data, 0)
        size, at = read_varint(data, at)
    except IndexError:
        raise DecodeError("a multihash is cut") from None
    if len(data) - at != size:
        raise DecodeError("a multihash of another length than it says")
    if code == _SHA2_256 and size == _DIGEST_BYTES:
        return data[at:], False
    if code == _IDENTITY and size <= _MAX_IDENTITY_BYTES:
        return data[at:], True
    raise DecodeError("a hash function that is not used here")


def decode_block_prefix(prefix: bytes, block: bytes) -> Cid:
    """Return the CID of a block, by its prefix as bitswap sends it; raise DecodeError."""
    at, numbers = 0, []
    try:
        for _ in range(4):
            value, at = read_varint(prefix, at)
            numbers.append(value)
    except IndexError:
        raise DecodeError("a block's prefix is cut") from None
    version, codec, function, size = numbers
    if at != len(prefix) or version > 1 or function != _SHA2_256 or size != _DIGEST_BYTES:
        raise DecodeError("a block with a prefix that is not used here")
    if version == 0 and codec != DAG_PB:
        raise DecodeError("a CID of version 0 has the codec dag-pb")
    return Cid(version, codec, hashlib.sha256(block).digest())


def parse_cid(text: str) -> Cid:
    """Read a CID as people write it (base58btc, base32, base36 and base16 are in use); raise DecodeError."""
    if not 1 < len(text) <= MAX_CID_CHARS or not text.isascii():
        raise DecodeError("no CID has this length")
    if text.startswith("Qm") and len(text) == 46:
        return decode_cid(from_base58(text))
    base, rest = text[0], text[1:]
    if base not in _READERS:
        raise DecodeError("a CID in a base that is not read here")
    found = decode_cid(_READERS[base](rest))
    if found.version == 0:
        raise DecodeError("a CID of version 0 has no base")
    return found


def _from_base32(text: str) -> bytes:
    if text != text.lower():
        raise DecodeError("not base32")
    return _from_upper_base32(text.upper())


def _from_upper_base32(text: str) -> bytes:
    try:
        data = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error:
        raise DecodeError("not base32") from None
    if base64.b32encode(data).decode().rstrip("=") != text:
        raise DecodeError("base32 with bits to spare")
    return data


def _from_base36(text: str) -> bytes:
    number = 0
    for char in text:
        digit = "0123456789abcdefghijklmnopqrstuvwxyz".find(char)
        if digit < 0:
            raise DecodeError("not base36")
        number = number * 36 + digit
    zeros = len(text) - len(text.lstrip("0"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8)


def _from_base16(text: str) -> bytes:
    try:
        return binascii.unhexlify(text)
    except binascii.Error:
        raise DecodeError("not base16") from None


def _from_base58(text: str) -> bytes:
    if not all(char in _BASE58 for char in text):
        raise DecodeError("not base58btc")
    return from_base58(text)


_READERS: Final = {
    "b": _from_base32,
    "B": _from_upper_base32,
    "k": _from_base36,
    "f": _from_base16,
    "z": _from_base58,
}
