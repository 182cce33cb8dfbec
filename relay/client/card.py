# SPDX-License-Identifier: GPL-2.0-or-later
"""What two people exchange so that one can write to the other: a contact card, as a URI or a QR code."""

import base64
import binascii
import hashlib
import urllib.parse
from dataclasses import dataclass, field
from typing import Final

from relay.client.errors import CardError
from relay.client.identity import RENDEZVOUS_BYTES, Identity
from relay.core.codec import Reader, Writer
from relay.core.errors import DecodeError
from relay.core.noise import KEY_BYTES

CARD_VERSION: Final = 1
CHECKSUM_BYTES: Final = 4
"""Of a card misread or cut, one in 2^32 passes."""
URI_PREFIX: Final = "mesh-relay:contact/"
MAX_URI_CHARACTERS: Final = 1024
"""A card has 90; the rest is room for a name of 64 characters, percent-encoded (12 characters each at worst)."""

_TAKEN_BY: Final = {URI_PREFIX: "relay contact add", "mesh-relay:bulletin": "relay bulletin follow"}
"""Which command takes which kind of card."""
_AROUND: Final = "<>\"'\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{ZERO WIDTH NO-BREAK SPACE}"
_NAME_PARAMETER: Final = "name"
_CHECKSUM_CONTEXT: Final = b"mesh-relay/1 card"
_FINGERPRINT_CONTEXT: Final = b"mesh-relay/1 fingerprint"
_FINGERPRINT_GROUPS: Final = 8
_P: Final = (1 << 255) - 19
#: u of all points of order 1, 2, 4 and 8, on the curve and on its twist.
_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """`static` (32 bytes) is the key to seal to, `rendezvous` (16 bytes) finds the bucket of a day."""

    static: bytes
    rendezvous: bytes = field(repr=False)

    @classmethod
    def of(cls, identity: Identity) -> "Card":
        """Return the card to give to others."""
        return cls(static=identity.static.public, rendezvous=identity.rendezvous)

    def encode(self) -> bytes:
        """Return 53 bytes: version, static key, rendezvous key, checksum."""
        return pack_card(_CHECKSUM_CONTEXT, self.static, self.rendezvous)

    @classmethod
    def decode(cls, data: bytes) -> "Card":
        """Return the card of 53 bytes; DecodeError for anything else."""
        static, rendezvous = unpack_card(_CHECKSUM_CONTEXT, data)
        if _is_low_order(static):
            raise DecodeError("card key is of low order")
        return cls(static=static, rendezvous=rendezvous)

    def to_uri(self, suggested_name: str = "") -> str:
        """Return the card as a URI; the name is only a suggestion to whoever adds it."""
        return make_uri(URI_PREFIX, self.encode(), suggested_name)

    @property
    def is_low_order(self) -> bool:
        """Whether sealing to this card would protect nothing."""
        return _is_low_order(self.static)

    @property
    def fingerprint(self) -> str:
        """Eight groups of five digits (128 bits) to compare aloud."""
        return fingerprint_of(_FINGERPRINT_CONTEXT + self.static + self.rendezvous)


def parse_uri(uri: str) -> tuple[Card, str]:
    """Return the card and the suggested name ('' for none), which is text from a stranger; CardError otherwise."""
    _, data, name = split_uri(uri, "contact", URI_PREFIX)
    try:
        return Card.decode(data), name
    except DecodeError as error:
        raise CardError(f"the contact URI is damaged or of a newer version ({error}); copy it again") from None


def pack_card(context: bytes, key: bytes, secret: bytes) -> bytes:
    """Return 53 bytes: version, a key of 32 bytes, one of 16, and a checksum that tells kinds of cards apart."""
    body = bytes(Writer().u8(CARD_VERSION).bytes(key).bytes(secret))
    return body + _checksum(context, body)


def unpack_card(context: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Return the two keys of `pack_card`; DecodeError for anything else."""
    reader = Reader(data)
    version = reader.u8()
    key = reader.bytes(KEY_BYTES)
    secret = reader.bytes(RENDEZVOUS_BYTES)
    checksum = reader.bytes(CHECKSUM_BYTES)
    reader.end()
    if version != CARD_VERSION:
        raise DecodeError(f"card version {version}, expected {CARD_VERSION}")
    if checksum != _checksum(context, data[:-CHECKSUM_BYTES]):
        raise DecodeError("card checksum does not match")
    return key, secret


def make_uri(prefix: str, data: bytes, suggested_name: str) -> str:
    """Return a card as a URI, with a name unless that is ''."""
    text = base64.urlsafe_b64encode(data).decode().rstrip("=")
    query = f"?{_NAME_PARAMETER}={urllib.parse.quote(suggested_name, safe='')}" if suggested_name else ""
    return prefix + text + query


def split_uri(uri: str, what: str, *prefixes: str) -> tuple[str, bytes, str]:
    """Return which of `prefixes` a URI has, its card's bytes and the suggested name; CardError otherwise.

    Taken as mail and messengers bring it: in angle brackets or quotation marks, and broken by spaces and line ends,
    none of which a URI has inside (RFC 3986, appendix C). `what` is the kind of card, for errors.
    """
    uri = "".join(uri.split()).strip(_AROUND)
    if len(uri) > MAX_URI_CHARACTERS:
        raise CardError(f"a {what} URI has at most {MAX_URI_CHARACTERS} characters, this one {len(uri)}")
    # Scheme names ignore case (RFC 3986, section 3.1), and QR readers use that.
    prefix = next((prefix for prefix in prefixes if uri[: len(prefix)].lower() == prefix), None)
    if prefix is None:
        other = next((command for start, command in _TAKEN_BY.items() if uri.lower().startswith(start)), None)
        if other is not None:
            raise CardError(f"this is no {what} URI; what takes it is: {other}")
        raise CardError(f"a {what} URI begins with {' or '.join(prefixes)}; copy the whole of it")
    text, _, query = uri[len(prefix) :].partition("?")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise CardError(f"the {what} URI has characters that do not belong there; copy it again") from None
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != text:
        raise CardError(f"the {what} URI is damaged; copy it again")
    return prefix, data, _suggested_name(query)


def fingerprint_of(data: bytes) -> str:
    """Eight groups of five digits (128 bits) to compare aloud, of some context and keys."""
    digest = hashlib.sha256(data).digest()
    groups = (int.from_bytes(digest[2 * group : 2 * group + 2], "big") for group in range(_FINGERPRINT_GROUPS))
    return " ".join(f"{group:05d}" for group in groups)


def _suggested_name(query: str) -> str:
    """Return the first `name` of a query by RFC 3986, in which a plus is a plus; '' for none."""
    for parameter in query.split("&"):
        key, _, value = parameter.partition("=")
        if key == _NAME_PARAMETER:
            return urllib.parse.unquote(value)
    return ""


def _checksum(context: bytes, body: bytes) -> bytes:
    return hashlib.sha256(context + body).digest()[:CHECKSUM_BYTES]


def _is_low_order(public: bytes) -> bool:
    """Whether every secret shared with `public` is zero, so that sealing to it would protect nothing.

    By what such keys are, as a book of contacts may have thirty thousand to look at. X25519 ignores the top bit and
    takes the rest modulo p (RFC 7748, section 5).
    """
    return (int.from_bytes(public, "little") & (1 << 255) - 1) % _P in _LOW_ORDER
