# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay's lasting key, where the operator wants one: the file `relay.key` beside the store.

Only the relay's user and root can read it, whatever folder it lies in; otherwise
it is not used, since whoever has it can pass for this relay.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

from relay.core.errors import RelayError
from relay.core.noise import KEY_BYTES, KeyPair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODE: Final = 0o600
_OTHERS: Final = 0o077
#: 64 digits and what an editor may leave around them.
_MAX_BYTES: Final = 128
_HEX: Final = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")


class KeyFileError(RelayError):
    """A key that cannot be used or written; the message has the remedy."""


def load_key(path: Path) -> KeyPair | None:
    """Return the key in ``path`` (32 bytes, or as many in hexadecimal), None when there is no file; KeyFileError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            content = os.read(descriptor, _MAX_BYTES + 1) if stat.S_ISREG(mode) else b""
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(
            f"{path}: cannot be read: {error.strerror}; it must be a plain file of the user that the relay runs as"
        ) from error
    if not stat.S_ISREG(mode):
        raise KeyFileError(f"{path}: no plain file; move it away, and the relay makes a new key")
    if mode & _OTHERS:
        raise KeyFileError(
            f"{path}: open to other users, who can pass for this relay if they read it; close it with "
            f"`chmod {MODE:o} {path}`, or remove it, and the relay makes a new key"
        )
    digits = _HEX.fullmatch(content)
    private = bytes.fromhex(digits[1].decode()) if digits else content
    if len(private) != KEY_BYTES:
        raise KeyFileError(
            f"{path}: holds no key ({KEY_BYTES} bytes, or {2 * KEY_BYTES} hexadecimal digits); restore it from a "
            "backup, or remove it: the relay then makes a new one, and whoever noted the old one needs that"
        )
    return KeyPair.from_private(private)


def load_or_make_key(path: Path, random_bytes: Callable[[int], bytes]) -> KeyPair:
    """Return the key in ``path``, made and on disk if there was none; KeyFileError.

    Only for whoever holds the lock of the store beside it: two at once would each make one.
    """
    key = load_key(path)
    if key is not None:
        return key
    key = KeyPair.generate(random_bytes)
    fresh = path.with_name(f"{path.name}.new")
    try:
        # What a start that was cut short left there has no claim to stay, nor its permissions.
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private.hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyFileError(
            f"{path}: cannot be written: {error.strerror}; give the folder to the user that the relay runs as"
        ) from error
    return key
