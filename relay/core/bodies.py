# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies from the store, each checked against its identity when it is read (docs/protocol.md section 10.7)."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.core.log import AdmittedLog

    ReadBodies = Callable[[Sequence[int]], list[bytes | None]]


class Bodies:
    """Gives out what is held, and only as it was when it came."""

    def __init__(self, log: AdmittedLog, read_bodies: ReadBodies) -> None:
        self._log = log
        self._read_bodies = read_bodies
        #: What is held by the log and was not there, or was something else.
        self.damaged: list[int] = []

    def read(self, seqs: Sequence[int]) -> list[bytes | None]:
        """Return the envelopes of sequence numbers that are held; None, and noted, for what is damaged."""
        if not seqs:
            return []
        bodies = self._read_bodies(seqs)
        identities = self._log.identities(seqs)
        try:
            found = [sha256(body).digest() for body in bodies]  # type: ignore[arg-type] # the exception is for None
        except TypeError:
            found = []
        if found == identities:
            return bodies
        return [self._checked(*each) for each in zip(seqs, bodies, identities, strict=True)]

    def _checked(self, seq: int, body: object, identity: bytes) -> bytes | None:
        if is_body(body, identity):
            return body
        # In a damaged store the neighbour of what was asked for may have come in its place.
        [again] = self._read_bodies([seq])
        if is_body(again, identity):
            return again
        self.damaged.append(seq)
        return None


def is_body(body: object, identity: bytes) -> TypeGuard[bytes]:
    """Tell whether something read is the envelope of an identity; a damaged record may be of any type."""
    return isinstance(body, bytes) and sha256(body).digest() == identity
