# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies from the store, each checked against its identity when it is read (docs/protocol.md section 10.7).

Hashing costs a relay half as much again as serving does, so what everybody asks for is
checked once in each period only. Whoever gets a body hashes it, too.
"""

from __future__ import annotations

import enum
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.core.log import AdmittedLog

    ReadBodies = Callable[[Sequence[int]], Sequence["bytes | Unread | None"]]


class Unread(enum.Enum):
    """In the place of a body that may well be there: the medium or the system failed to read it this time."""

    NOW = enum.auto()


UNREAD: Final = Unread.NOW
#: A body is given up when it could not be read, and so many periods of ten minutes later still not.
UNREAD_PERIODS: Final = 2
_PERIODS: Final = 255


class Bodies:
    """Gives out what is held, and only as it was when it came."""

    def __init__(self, log: AdmittedLog, read_bodies: ReadBodies) -> None:
        self._log = log
        self._read_bodies = read_bodies
        #: What is held by the log and was not there, or was something else.
        self.damaged: list[int] = []
        #: How often the medium failed to read one.
        self.failed_reads = 0
        self._period = 1
        #: In which period one could not be read first.
        self._unread: dict[int, int] = {}

    def begin_period(self) -> None:
        """Check again what is read from now on; called every ten minutes (relay.run.engine)."""
        # One byte an entry: after 42 hours one that was last read exactly then is trusted once more.
        self._period = self._period % _PERIODS + 1
        self._unread = {seq: since for seq, since in self._unread.items() if self._log.is_held(seq)}

    def read(self, seqs: Sequence[int], *, again: bool = False) -> list[bytes | None]:
        """Return the envelopes of sequence numbers that are held; None for what is damaged, and noted, or not read.

        ``again``: check also what was checked in this period, and what is known of its header.
        """
        if not seqs:
            return []
        bodies = self._read_bodies(seqs)
        if self._unread:
            self._note_read(seqs, bodies)
        is_whole = None not in bodies and UNREAD not in bodies
        if is_whole and not again and self._log.were_checked(seqs, self._period):
            return bodies  # type: ignore[return-value] # neither is in there
        identities = self._log.identities(seqs)
        try:
            found = [sha256(body).digest() for body in bodies]  # type: ignore[arg-type] # the exception is for others
        except TypeError:
            found = []
        if found == identities and (not again or self._log.are_headers_of(seqs, bodies)):  # type: ignore[arg-type]
            self._log.note_checked(seqs, self._period)
            return bodies  # type: ignore[return-value] # what has a digest is bytes
        return [self._checked(*each, again=again) for each in zip(seqs, bodies, identities, strict=True)]

    def _checked(self, seq: int, body: object, identity: bytes, *, again: bool) -> bytes | None:
        if self._is_sound(body, seq, identity, again=again):
            return body
        # In a damaged store the neighbour of what was asked for may have come in its place.
        [reread] = self._read_bodies([seq])
        if self._is_sound(reread, seq, identity, again=again):
            return reread
        self.failed_reads += reread is UNREAD
        if reread is not UNREAD or self._is_given_up(seq):
            self._note_read([seq], [None])
            self.damaged.append(seq)
        return None

    def _is_sound(self, body: object, seq: int, identity: bytes, *, again: bool) -> TypeGuard[bytes]:
        # By what is known of it recipients find it, so a damaged tag would hide a good body for ever. It goes only
        # where it is at hand to be stored anew.
        return is_body(body, identity) and (not again or self._log.are_headers_of([seq], [body]))

    def _note_read(self, seqs: Sequence[int], bodies: Sequence[object]) -> None:
        for seq, body in zip(seqs, bodies, strict=True):
            if body is not UNREAD:
                self._unread.pop(seq, None)

    def _is_given_up(self, seq: int) -> bool:
        """Tell of what cannot be read whether that is so for long: what passes must not cost an acknowledged body."""
        first = self._unread.setdefault(seq, self._period)
        return (self._period - first) % _PERIODS >= UNREAD_PERIODS


def is_body(body: object, identity: bytes) -> TypeGuard[bytes]:
    """Tell whether something read is the envelope of an identity; a damaged record may be of any type."""
    return isinstance(body, bytes) and sha256(body).digest() == identity
