# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies from the store, each checked against its identity when it is read (docs/protocol.md section 10.7).

Hashing costs a relay half as much again as serving does, so what everybody asks for is
checked once in each period only. Whoever gets a body hashes it, too.
"""

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
        self._period = 1

    def begin_period(self) -> None:
        """Check again what is read from now on; called every ten minutes (relay.run.engine)."""
        # One byte an entry: after 42 hours one that was last read exactly then is trusted once more.
        self._period = self._period % 255 + 1

    def read(self, seqs: Sequence[int], *, again: bool = False) -> list[bytes | None]:
        """Return the envelopes of sequence numbers that are held; None, and noted, for what is damaged.

        ``again``: check also what was checked in this period.
        """
        if not seqs:
            return []
        bodies = self._read_bodies(seqs)
        if not again and self._log.were_checked(seqs, self._period) and None not in bodies:
            return bodies
        identities = self._log.identities(seqs)
        try:
            found = [sha256(body).digest() for body in bodies]  # type: ignore[arg-type] # the exception is for None
        except TypeError:
            found = []
        if found == identities:
            self._log.note_checked(seqs, self._period)
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
