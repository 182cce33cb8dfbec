# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures in the format of minisign, checked: what `minisign -Vm FILE -P KEY` checks.

Format: https://jedisct1.github.io/minisign/, "Signature format" (prehashed, `ED`) and "Public key format". There are
no certificates, so nothing here asks for the time. image/minisign.py makes keys and signatures.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

ALGORITHM_KEY: Final = b"Ed"
ALGORITHM_PREHASHED: Final = b"ED"
NUMBER_BYTES: Final = 8
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_COMMENT: Final = "trusted comment: "


class OtherKeyError(ValueError):
    """Signed, with a key that is none of those asked for."""


def key_number(public: str) -> bytes:
    """By which signatures name a public key, as it stands on a web page; raise ValueError for what is none."""
    raw = base64.b64decode(public, validate=True)
    if not raw.startswith(ALGORITHM_KEY) or len(raw) != len(ALGORITHM_KEY) + NUMBER_BYTES + KEY_BYTES:
        raise ValueError("no public key of minisign")
    return raw[len(ALGORITHM_KEY) : -KEY_BYTES]


def verify(digest: bytes, text: str, public: str) -> str:
    """Return the trusted comment of a signature, the text of FILE.minisig; raise ValueError, or OtherKeyError.

    :param digest: BLAKE2b of what is signed (:func:`digest_of`)
    """
    _, first, trusted, second = text.splitlines()
    head = base64.b64decode(first, validate=True)
    over_all = base64.b64decode(second, validate=True)
    if not trusted.startswith(_COMMENT) or len(head) != len(ALGORITHM_PREHASHED) + NUMBER_BYTES + SIGNATURE_BYTES:
        raise ValueError("no signature of minisign")
    comment = trusted.removeprefix(_COMMENT)
    signature = head[-SIGNATURE_BYTES:]
    if head[:-SIGNATURE_BYTES] != ALGORITHM_PREHASHED + key_number(public):
        raise OtherKeyError("signed with another key")
    key = VerifyKey(base64.b64decode(public)[-KEY_BYTES:])
    try:
        key.verify(digest, signature)
        key.verify(signature + comment.encode(), over_all)
    except BadSignatureError as error:
        raise ValueError("the signature is not valid") from error
    return comment


def digest_of(data: bytes) -> bytes:
    """What is signed of ``data``."""
    return hashlib.blake2b(data).digest()
