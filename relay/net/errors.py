# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with radios, each told with its remedy."""

from __future__ import annotations

import errno
import os

from relay.core.errors import RelayError
from relay.process.supervisor import kind_of


class KernelRefusedError(RelayError):
    """The kernel said no. ``code``: its errno."""

    def __init__(self, what: str, code: int) -> None:
        remedy = "; run it as root or with CAP_NET_ADMIN" if code in {errno.EPERM, errno.EACCES} else ""
        super().__init__(f"could not {what}: {os.strerror(code)}{remedy}")
        self.code = code


class UnsuitableError(RelayError):
    """A radio cannot do what the configuration asks of it; trying again alone will not help."""


class NotThereError(RelayError):
    """An interface that the configuration names is not there (yet)."""


class BlockedError(RelayError):
    """The radio is switched off by rfkill."""


class LostError(RelayError):
    """A radio that had joined has left, been reset or been unplugged."""


class ForeignStateError(RelayError):
    """The record of what was found cannot be read, or somebody else has what we would make."""


def words_of(error: Exception) -> str:
    """What may be told of an error: the text of one that is not ours can hold an address."""
    return str(error) if isinstance(error, RelayError) else kind_of(error)
