# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures in the format of minisign, which anybody can check with `minisign -Vm FILE -P KEY`.

Format: https://jedisct1.github.io/minisign/, "Signature format" (prehashed, `ED`)
and "Public key format"; checked by relay/board/signature.py. The secret key is kept unencrypted, in a format of our
own: 32 bytes of seed after 8 of key number, in base64, readable by its owner only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nacl.signing import SigningKey

from image.run import BuildError
from relay.board import signature
from relay.board.signature import ALGORITHM_KEY, ALGORITHM_PREHASHED, NUMBER_BYTES

if TYPE_CHECKING:
    from pathlib import Path

SEED_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKey:
    """``number`` tells verifiers which key it is; it is random."""

    number: bytes
    seed: bytes = field(repr=False)

    def public(self) -> str:
        """What goes on a web page and after ``minisign -P``."""
        key = bytes(SigningKey(self.seed).verify_key)
        return base64.b64encode(ALGORITHM_KEY + self.number + key).decode()


def generate(path: Path) -> SecretKey:
    """Make a key, in a file that must not exist yet."""
    key = SecretKey(number=os.urandom(NUMBER_BYTES), seed=os.urandom(SEED_BYTES))
    text = base64.b64encode(key.number + key.seed) + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}; name a file that does not exist yet") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return key


def load(path: Path) -> SecretKey:
    """Read a key that :func:`generate` made."""
    try:
        raw = base64.b64decode(path.read_bytes().strip(), validate=True)
    except (OSError, binascii.Error) as error:
        raise BuildError(f"{path}: no signing key; `python -m image key FILE` makes one") from error
    if len(raw) != NUMBER_BYTES + SEED_BYTES:
        raise BuildError(f"{path}: no signing key; `python -m image key FILE` makes one")
    return SecretKey(number=raw[:NUMBER_BYTES], seed=raw[NUMBER_BYTES:])


def sign(path: Path, key: SecretKey, comment: str) -> str:
    """The text of FILE.minisig; ``comment`` (one line) is signed with it."""
    return _sign(_hash(path), key, path.name, comment)


def sign_bytes(data: bytes, key: SecretKey, name: str, comment: str) -> str:
    """The same for ``data``, called ``name``."""
    return _sign(signature.digest_of(data), key, name, comment)


def _sign(digest: bytes, key: SecretKey, name: str, comment: str) -> str:
    signing = SigningKey(key.seed)
    signed = signing.sign(digest).signature
    over_all = signing.sign(signed + comment.encode()).signature
    return (
        f"untrusted comment: signature of {name}\n"
        f"{base64.b64encode(ALGORITHM_PREHASHED + key.number + signed).decode()}\n"
        f"trusted comment: {comment}\n"
        f"{base64.b64encode(over_all).decode()}\n"
    )


def verify(path: Path, signature_text: str, public: str) -> str:
    """Return the trusted comment, or raise BuildError."""
    try:
        return signature.verify(_hash(path), signature_text, public)
    except signature.OtherKeyError as error:
        raise BuildError(f"{path}: signed with another key") from error
    except ValueError as error:
        raise BuildError(f"{path}: the signature is not valid") from error


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).digest()
