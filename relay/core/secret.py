# SPDX-License-Identifier: GPL-2.0-or-later
"""The mesh secret as its members write it (docs/protocol.md section 4.3)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_SALT: Final = b"mesh-relay/1 secret"
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")


def mesh_secret(text: str) -> bytes | None:
    """Return the 32-byte pre-shared key of a mesh, None for the empty text.

    64 hex digits are the key; anything else is a passphrase, stretched by scrypt
    (RFC 7914: N 16384, r 8, p 1; 16 MiB), because whoever once answered a relay of
    the mesh that dialled him can guess offline.
    """
    if not text:
        return None
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    return hashlib.scrypt(text.encode(), salt=_SALT, n=1 << 14, r=8, p=1, maxmem=1 << 25, dklen=32)
