# SPDX-License-Identifier: GPL-2.0-or-later
"""Who the user is: an X25519 key pair and a rendezvous key (docs/protocol.md section 12)."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from relay.client.errors import PrivateFileError
from relay.client.files import create_private, ensure_private_folder, read_private
from relay.core.noise import KEY_BYTES, KeyPair

RENDEZVOUS_BYTES: Final = 16
"""As long as a tag: it keeps buckets from strangers, and a longer one would only lengthen cards."""

FILE_NAME: Final = "identity.json"
FILE_VERSION: Final = 1
MAX_FILE_BYTES: Final = 4096
"""The file has about 150 bytes; whatever is larger was not written here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`static` proves who sent; `rendezvous` (16 bytes) tells contacts in which bucket to leave mail."""

    static: KeyPair
    rendezvous: bytes = field(repr=False)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> "Identity":
        """Return a fresh identity; `random_bytes(n)` must give n unpredictable bytes."""
        return cls(static=KeyPair.generate(random_bytes), rendezvous=random_bytes(RENDEZVOUS_BYTES))

    def save(self, folder: Path) -> None:
        """Write the identity into `folder`; PrivateFileError when it holds one already."""
        ensure_private_folder(folder)
        path = folder / FILE_NAME
        content = {
            "version": FILE_VERSION,
            "private": base64.b64encode(self.static.private).decode(),
            "rendezvous": base64.b64encode(self.rendezvous).decode(),
        }
        try:
            create_private(path, json.dumps(content, indent=1).encode() + b"\n")
        except FileExistsError:
            raise PrivateFileError(
                f"{path} exists and is never overwritten; without it nobody can read what is under way to you. "
                "Move it away first if you want to start anew"
            ) from None

    def save_first(self, folder: Path) -> tuple["Identity", bool]:
        """Save unless another command does so in this moment; return the identity there is now, and if it is this."""
        try:
            self.save(folder)
        except PrivateFileError:
            if (other := Identity.load(folder)) is None:
                raise
            return other, False
        return self, True

    @classmethod
    def load(cls, folder: Path) -> "Identity | None":
        """Return the identity in `folder`, or None; PrivateFileError when it is damaged or open to others."""
        path = folder / FILE_NAME
        content = read_private(path, MAX_FILE_BYTES)
        if content is None:
            return None
        ensure_private_folder(folder)
        try:
            fields = json.loads(content)
            version = fields["version"]
            private = base64.b64decode(fields["private"], validate=True)
            rendezvous = base64.b64decode(fields["rendezvous"], validate=True)
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
            raise PrivateFileError(f"{path} is damaged; restore it from a backup, or move it away") from None
        if version != FILE_VERSION:
            raise PrivateFileError(f"{path} has version {version!r}, this program reads {FILE_VERSION}; update it")
        if len(private) != KEY_BYTES or len(rendezvous) != RENDEZVOUS_BYTES:
            raise PrivateFileError(f"{path} is damaged; restore it from a backup, or move it away")
        return cls(static=KeyPair.from_private(private), rendezvous=rendezvous)
