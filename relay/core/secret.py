# SPDX-License-Identifier: GPL-2.0-or-later
"""The mesh secret as its members write it (docs/protocol.md section 4.3)."""

from __future__ import annotations

import re
from typing import Final

from relay.core.errors import RelayError

#: Of the 32 bytes of the key.
SECRET_DIGITS: Final = 64
_HEX: Final = re.compile(rf"[0-9a-fA-F]{{{SECRET_DIGITS}}}")
#: Of the 16 there are. Drawn at random, 64 digits have fewer once in 10^15 times.
_MIN_DIFFERENT: Final = 8


class SecretError(RelayError):
    """A text that is no mesh secret; the message has the remedy, and nothing of the text."""


def mesh_secret(text: str) -> bytes | None:
    """Return the 32-byte pre-shared key of a mesh, None for the empty text; raise SecretError.

    No passphrase: whichever side of a handshake first proves that it knows the secret gives
    the other one means to try guesses at home, as often as he likes, and a phrase that
    people think of does not stand up to that however it is stretched.
    """
    if not text:
        return None
    if not _HEX.fullmatch(text):
        raise SecretError(
            f"a mesh secret is {SECRET_DIGITS} hexadecimal digits drawn at random, not a phrase, which can be guessed: "
            "`relay appliance cards` or `openssl rand -hex 32` makes one"
        )
    digits = text.lower()
    repeats = any(digits[step:] == digits[:-step] for step in range(1, SECRET_DIGITS // 2 + 1))
    if repeats or len(set(digits)) < _MIN_DIFFERENT:
        raise SecretError(
            "these digits were not drawn at random, so they can be guessed: "
            "`relay appliance cards` or `openssl rand -hex 32` draws them"
        )
    return bytes.fromhex(digits)
