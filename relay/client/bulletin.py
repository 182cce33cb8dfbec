# SPDX-License-Identifier: GPL-2.0-or-later
"""A notice board's keys: what its readers hold, and what who posts holds (docs/protocol.md section 12.8).

`bulletin`, since a board is hardware in this project.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Self

from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_seed_keypair

from relay.client.card import fingerprint_of, make_uri, pack_card, split_uri, unpack_card
from relay.client.errors import CardError
from relay.client.identity import RENDEZVOUS_BYTES
from relay.core.errors import DecodeError

READ_KEY_BYTES: Final = 16
"""128 bits, as a rendezvous key has: a longer one would only lengthen cards."""
SEED_BYTES: Final = 32
CARD_PREFIX: Final = "mesh-relay:bulletin/"
POSTING_PREFIX: Final = "mesh-relay:bulletin-key/"

_CARD_CONTEXT: Final = b"mesh-relay/1 bulletin card"
_POSTING_CONTEXT: Final = b"mesh-relay/1 bulletin posting key"
_FINGERPRINT_CONTEXT: Final = b"mesh-relay/1 bulletin fingerprint"
_RENDEZVOUS_CONTEXT: Final = b"mesh-relay/1 bulletin rendezvous"
_SEAL_CONTEXT: Final = b"mesh-relay/1 bulletin seal"
_PURGE_CONTEXT: Final = b"mesh-relay/1 bulletin purge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulletin:
    """A notice board: `public` (32 bytes, Ed25519) proves its posts, `read_key` (16 bytes) finds and opens them.

    With `seed` (32 bytes, RFC 8032) one can post; a reader has None.
    """

    public: bytes
    read_key: bytes = field(repr=False)
    seed: bytes | None = field(default=None, repr=False)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> Self:
        """Return a new one, with its posting key; `random_bytes(n)` must give n unpredictable bytes."""
        return cls.of_seed(random_bytes(SEED_BYTES), random_bytes(READ_KEY_BYTES))

    @classmethod
    def of_seed(cls, seed: bytes, read_key: bytes) -> Self:
        """Return the one that this posting seed (32 bytes) posts to."""
        public, _ = crypto_sign_seed_keypair(seed)
        return cls(public=public, read_key=read_key, seed=seed)

    @property
    def for_readers(self) -> Self:
        """The same without its posting key."""
        return replace(self, seed=None)

    def encode(self) -> bytes:
        """Return 53 bytes: the posting key if it is here, else the card."""
        if self.seed is not None:
            return pack_card(_POSTING_CONTEXT, self.seed, self.read_key)
        return pack_card(_CARD_CONTEXT, self.public, self.read_key)

    @classmethod
    def decode_card(cls, data: bytes) -> Self:
        """Return what a card of 53 bytes lets read; DecodeError for anything else."""
        public, read_key = unpack_card(_CARD_CONTEXT, data)
        if not crypto_core_ed25519_is_valid_point(public):
            raise DecodeError("the card's posting key is none")
        return cls(public=public, read_key=read_key)

    @classmethod
    def decode_posting_key(cls, data: bytes) -> Self:
        """Return what a posting key of 53 bytes lets post to; DecodeError for anything else."""
        return cls.of_seed(*unpack_card(_POSTING_CONTEXT, data))

    def to_uri(self, suggested_name: str = "") -> str:
        """Return card or, if it is here, posting key as a URI: see `for_readers`."""
        prefix = CARD_PREFIX if self.seed is None else POSTING_PREFIX
        return make_uri(prefix, self.encode(), suggested_name)

    @property
    def rendezvous(self) -> bytes:
        """What the bucket of a day is made of, 16 bytes."""
        return hmac.digest(self.read_key, _RENDEZVOUS_CONTEXT + self.public, "sha256")[:RENDEZVOUS_BYTES]

    @property
    def seal_key(self) -> bytes:
        """What the key of each post is made of, 32 bytes."""
        return hmac.digest(self.read_key, _SEAL_CONTEXT + self.public, "sha256")

    def purge_key(self, post_id: bytes) -> bytes:
        """Return what removes a post (16-byte ID) from relays, 32 bytes; no reader can compute it."""
        if self.seed is None:
            raise ValueError("without its posting key nothing is purged")
        return hmac.digest(self.seed, _PURGE_CONTEXT + post_id, "sha256")

    @property
    def fingerprint(self) -> str:
        """Eight groups of five digits (128 bits) to compare aloud."""
        return fingerprint_of(_FINGERPRINT_CONTEXT + self.public + self.read_key)


def parse_bulletin_uri(uri: str) -> tuple[Bulletin, str]:
    """Return what a card or posting key is for, and the suggested name ('' for none), text from a stranger; CardError.

    Taken as mail and messengers bring it, as `relay.client.card.parse_uri` does.
    """
    prefix, data, name = split_uri(uri, "bulletin", CARD_PREFIX, POSTING_PREFIX)
    decode = Bulletin.decode_card if prefix == CARD_PREFIX else Bulletin.decode_posting_key
    try:
        return decode(data), name
    except DecodeError as error:
        raise CardError(f"the bulletin URI is damaged or of a newer version ({error}); copy it again") from None
