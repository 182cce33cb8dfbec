# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes in: pieces kept until their message is whole, messages kept until the user has taken them.

Whoever has the user's card can send, so everything here is bounded, strangers share one pool, and what a
sender contradicts himself in is refused. What is refused is not marked as seen: it may find room later.
"""

import enum
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from relay.client.database import (
    KEEP_AFTER_EXPIRY_HOURS,
    RECEIVED_CLOSED,
    RECEIVED_COMPLETE,
    RECEIVED_PARTIAL,
    Database,
    piece_id,
    piece_range,
)
from relay.client.errors import TakenError
from relay.client.files import claim
from relay.client.group import Group
from relay.client.identity import Identity
from relay.client.outbox import note_receipt
from relay.client.pieces import (
    MAX_BODY_BYTES,
    Inner,
    Kind,
    decode_inner,
    piece_count,
    split_code,
    split_head,
)
from relay.client.seal import Unsealed, unseal
from relay.core.envelope import MAX_LIFETIME_HOURS
from relay.core.errors import DecodeError

MAX_STRANGER_BYTES: Final = 64 * 1024 * 1024
"""Of all strangers together, because keys cost nothing: some photos."""
MAX_CONTACT_BYTES: Final = MAX_BODY_BYTES + MAX_STRANGER_BYTES
"""What one contact's messages may take on disk until they are taken: one of the longest, and smaller ones."""
MAX_CONTACT_MESSAGES: Final = 16_384
"""Of one contact, in the eight days that a message is remembered: more than one a minute; 4 MiB without contents."""
MAX_STRANGER_MESSAGES: Final = 4_096
"""Of all strangers together, in eight days; 1 MiB without contents."""
MAX_SEEN: Final = 65_536
"""Envelopes known not to be worth fetching again: 2 MiB on disk. Whatever drops out is only looked at twice."""
SEEN_ID_BYTES: Final = 16
"""Of an identity: nobody gains by a collision that costs 2^64 hashes and makes one of his own envelopes overlooked."""

_CLAIMS_NAME: Final = ".taking.lock"
_STRANGERS: Final = b""
"""Name of the strangers' pool; a contact's is his static key."""
_READ_PIECES: Final = 16
"""Pieces in memory at once when a message is read: 256 KiB."""


class Outcome(enum.Enum):
    """What became of an opened envelope."""

    STORED = "stored"
    """The message is whole now, or a piece nearer to it; on disk."""
    RECEIPT = "receipt"
    """Says that a message of ours arrived, and `Outbox.progress` says so from now on."""
    DUPLICATE = "duplicate"
    """Was here before; a receipt for nothing that is waiting for one; or a post where a newer one hangs."""
    EXPIRED = "expired"
    """Could come again without end, because what is expired is not remembered."""
    FAR_FUTURE = "far_future"
    """Expires later than any honest envelope; would have to be remembered for as long."""
    CONFLICT = "conflict"
    """Says something else of the message than its first piece did."""
    FULL = "full"
    """The sender's share of the disk is used up, or that of strangers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An intact envelope to us: `sender` (static key, proven) says `inner`."""

    identity: bytes
    expiry_hour: int
    sender: bytes
    inner: Inner


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A whole and verified message; `name` is '' for a text, a safe file name otherwise; `size` is the content's.

    `group` is the one that it was sent to, by the sender's word. `sent_minute` is what the sender's clock showed
    (Unix minutes, UTC).
    """

    id: int
    sender: bytes
    message_id: bytes
    kind: Kind
    group: Group | None
    name: str
    size: int
    sent_minute: int
    head_bytes: int = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """A message of which pieces are missing."""

    sender: bytes
    message_id: bytes
    pieces: int
    missing: int


class Inbox:
    """Messages in. Times are Unix seconds (UTC)."""

    def __init__(self, database: Database, identity: Identity, is_contact: Callable[[bytes], bool]) -> None:
        """Receive for `identity`; `is_contact(static key)` says whose messages get a share of their own."""
        self._database = database
        self._identity = identity
        self._is_contact = is_contact
        self._claims = database.folder / _CLAIMS_NAME
        # A process killed between the last piece and the verification left that to this one.
        self._verify_whole()

    def try_open(self, envelope: bytes) -> Opened | None:
        """Return what an envelope says if it is intact and for us. Touches no disk."""
        unsealed: Unsealed | None = unseal(envelope, self._identity)
        if unsealed is None:
            return None
        try:
            inner = decode_inner(unsealed.plaintext)
        except DecodeError:
            return None
        return Opened(
            identity=unsealed.identity,
            expiry_hour=unsealed.header.expiry_hour,
            sender=unsealed.sender,
            inner=inner,
        )

    def accept(self, opened: Sequence[Opened], now_s: float) -> list[Outcome]:
        """Keep what these envelopes say, on disk when this returns, all in one commit; a list of equal length.

        Messages that are whole by it appear in `messages`, and their receipts in
        `Outbox.queue_due_receipts`.
        """
        now_hour = int(now_s // 3600)
        with self._database.transaction():
            outcomes = [self._accept(one, now_hour) for one in opened]
            self._bound_seen()
        self._verify_whole()
        if Outcome.RECEIPT in outcomes:
            self._database.sweep()
        return outcomes

    def unseen(self, identities: Iterable[bytes]) -> list[bytes]:
        """Return those envelope identities that have not been looked at yet, in their order."""
        return [
            identity
            for identity in identities
            if self._database.row("SELECT 1 FROM seen WHERE id = ?", identity[:SEEN_ID_BYTES]) is None
        ]

    def note_seen(self, envelopes: Iterable[tuple[bytes, int]], is_settled: Callable[[], bool] = lambda: True) -> None:
        """Remember (identity, expiry hour) of envelopes that are not for us, so that they are not fetched again.

        Unless, once nobody else can write, it is not settled that they are not.
        """
        with self._database.transaction():
            if not is_settled():
                return
            for identity, expiry_hour in envelopes:
                self._note_seen(identity, expiry_hour)
            self._bound_seen()

    def messages(self) -> list[Message]:
        """Return the messages that are whole and not taken yet, the oldest first.

        Of one sender in the order in which he sent them, whatever his clock did meanwhile.
        """
        rows = self._database.rows(
            # A clock that was set back does not put a message before those that it followed.
            "SELECT id, sender, message_id, kind, size, sent_minute FROM received WHERE state = ?"
            " ORDER BY max(sent_minute) OVER (PARTITION BY sender ORDER BY sequence, id), sender, sequence, id",
            RECEIVED_COMPLETE,
        )
        return [self._message(*row) for row in rows]

    def partials(self) -> list[Partial]:
        """Return the messages of which pieces are missing."""
        rows = self._database.rows(
            "SELECT sender, message_id, size, missing FROM received WHERE state = ? ORDER BY id", RECEIVED_PARTIAL
        )
        return [
            Partial(sender=sender, message_id=message_id, pieces=piece_count(size), missing=missing)
            for sender, message_id, size, missing in rows
        ]

    def content(self, message: Message) -> Iterator[bytes]:
        """Yield the text in UTF-8 or the content of the file, a piece at a time.

        TakenError at the end when that was not what was sent, so what was read counts only once it has ended.
        """
        row = self._database.row("SELECT digest FROM received WHERE id = ?", message.id)
        digest = hashlib.sha256()
        skip = message.head_bytes
        for data in self._pieces(message.id):
            digest.update(data)
            if content := data[skip:]:
                yield content
            skip = 0
        if row is None or digest.digest() != row[0]:
            raise TakenError("the message is not here any more as it was sent: another command has taken it")

    def claim(self, message: Message) -> int | None:
        """Have a message to oneself until `release`, to read and then `take` it; None when that cannot be.

        That is when another command is reading it, or has taken it. A claim ends with the process.
        """
        descriptor = claim(self._claims, message.id)
        if descriptor is None:
            return None
        is_here = self._database.row("SELECT 1 FROM received WHERE id = ? AND state = ?", message.id, RECEIVED_COMPLETE)
        if is_here is None:
            os.close(descriptor)
            return None
        return descriptor

    @staticmethod
    def release(claimed: int) -> None:
        """End a claim."""
        os.close(claimed)

    def take(self, message: Message) -> None:
        """Forget the content of a message that the user has; that it was here is remembered until it expires."""
        # When it was sent is nobody's business any more.
        self._database.execute(
            "UPDATE received SET state = ?, sent_minute = 0, sequence = 0 WHERE id = ?", RECEIVED_CLOSED, message.id
        )
        self._database.sweep()

    def prune(self, now_s: float) -> None:
        """Forget what can not arrive any more; whole messages stay until they are taken."""
        horizon = int(now_s // 3600) - KEEP_AFTER_EXPIRY_HOURS
        self._database.execute(
            "UPDATE received SET state = ? WHERE state = ? AND expiry_hour <= ?",
            RECEIVED_CLOSED,
            RECEIVED_PARTIAL,
            horizon,
        )
        self._database.sweep()
        with self._database.transaction():
            self._database.execute(
                "DELETE FROM received WHERE state = ? AND expiry_hour <= ? AND NOT stored_bytes",
                RECEIVED_CLOSED,
                horizon,
            )
            self._database.execute("DELETE FROM seen WHERE expiry_hour <= ?", horizon)

    def _accept(self, opened: Opened, now_hour: int) -> Outcome:
        if opened.expiry_hour <= now_hour - KEEP_AFTER_EXPIRY_HOURS:
            return Outcome.EXPIRED
        if opened.expiry_hour > now_hour + MAX_LIFETIME_HOURS + KEEP_AFTER_EXPIRY_HOURS:
            return Outcome.FAR_FUTURE
        if opened.inner.kind is Kind.RECEIPT:
            self._note_seen(opened.identity, opened.expiry_hour)
            was_new = note_receipt(self._database, opened.sender, opened.inner.message_id)
            return Outcome.RECEIPT if was_new else Outcome.DUPLICATE
        outcome = self._store(opened)
        if outcome is not Outcome.FULL:
            self._note_seen(opened.identity, opened.expiry_hour)
        return outcome

    def _store(self, opened: Opened) -> Outcome:
        inner = opened.inner
        size = inner.part.size if inner.part else len(inner.data)
        digest = inner.part.digest if inner.part else hashlib.sha256(inner.data).digest()
        row = self._database.row(
            "SELECT id, pool, kind, size, digest, state FROM received WHERE sender = ? AND message_id = ?",
            opened.sender,
            inner.message_id,
        )
        if row is None:
            pool = opened.sender if self._is_contact(opened.sender) else _STRANGERS
            if not self._has_room(pool, messages=1, size=len(inner.data)):
                return Outcome.FULL
            message = self._insert(opened, pool, size, digest)
        else:
            message, pool, kind, known_size, known_digest, state = row
            if (inner.code, size, digest) != (kind, known_size, known_digest):
                return Outcome.CONFLICT
            if state != RECEIVED_PARTIAL:
                return Outcome.DUPLICATE
            if self._database.row("SELECT 1 FROM piece WHERE id = ?", _place(message, inner)) is not None:
                return Outcome.DUPLICATE
            if not self._has_room(pool, messages=0, size=len(inner.data)):
                return Outcome.FULL
        self._database.execute("INSERT INTO piece VALUES (?, ?)", _place(message, inner), inner.data)
        self._database.execute(
            "UPDATE received SET missing = missing - 1, stored_bytes = stored_bytes + ?,"
            " expiry_hour = max(expiry_hour, ?) WHERE id = ?",
            len(inner.data),
            opened.expiry_hour,
            message,
        )
        return Outcome.STORED

    def _insert(self, opened: Opened, pool: bytes, size: int, digest: bytes) -> int:
        inner = opened.inner
        return self._database.insert(
            "INSERT INTO received (sender, message_id, pool, kind, state, size, digest, missing, reply_rendezvous,"
            " sent_minute, sequence, expiry_hour) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            opened.sender,
            inner.message_id,
            pool,
            inner.code,
            RECEIVED_PARTIAL,
            size,
            digest,
            piece_count(size),
            inner.reply_rendezvous,
            60 * opened.expiry_hour - inner.age_minutes,
            inner.sequence,
            opened.expiry_hour,
        )

    def _has_room(self, pool: bytes, *, messages: int, size: int) -> bool:
        row = self._database.row("SELECT messages, bytes FROM pool WHERE name = ?", pool)
        held_messages, held_bytes = (0, 0) if row is None else row
        if pool == _STRANGERS:
            most_messages, most_bytes = MAX_STRANGER_MESSAGES, MAX_STRANGER_BYTES
        else:
            most_messages, most_bytes = MAX_CONTACT_MESSAGES, MAX_CONTACT_BYTES
        return bool(held_messages + messages <= most_messages and held_bytes + size <= most_bytes)

    def _note_seen(self, identity: bytes, expiry_hour: int) -> None:
        self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", identity[:SEEN_ID_BYTES], expiry_hour)

    def _bound_seen(self) -> None:
        row = self._database.row("SELECT count(*) FROM seen")
        excess = (row[0] if row else 0) - MAX_SEEN
        if excess > 0:
            # Those that leave soonest by themselves.
            self._database.execute(
                "DELETE FROM seen WHERE id IN (SELECT id FROM seen ORDER BY expiry_hour LIMIT ?)", excess
            )

    def _verify_whole(self) -> None:
        """Declare messages complete whose pieces are all here and give the digest; forget the others' pieces."""
        for message, digest in self._database.rows(
            "SELECT id, digest FROM received WHERE state = ? AND missing = 0", RECEIVED_PARTIAL
        ):
            # Outside a transaction: reading gigabytes must not lock out another command.
            computed = hashlib.sha256()
            for data in self._pieces(message):
                computed.update(data)
            is_intact = computed.digest() == digest
            with self._database.transaction():
                self._database.execute(
                    "UPDATE received SET state = ?, receipt_due = ? WHERE id = ? AND state = ?",
                    RECEIVED_COMPLETE if is_intact else RECEIVED_CLOSED,
                    is_intact,
                    message,
                    RECEIVED_PARTIAL,
                )
            if not is_intact:
                self._database.sweep()

    def _pieces(self, message: int) -> Iterator[bytes]:
        first, end = piece_range(message)
        while batch := self._database.rows(
            "SELECT id, data FROM piece WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", first, end, _READ_PIECES
        ):
            for row, data in batch:
                yield data
                first = row + 1

    def _message(self, row: int, sender: bytes, message_id: bytes, code: int, size: int, sent_minute: int) -> Message:
        kind, is_to_group = split_code(code)
        group, name, head_bytes = None, "", 0
        start: tuple[Any, ...] | None = self._database.row("SELECT data FROM piece WHERE id = ?", piece_id(row, 0))
        if start is not None:  # else `content` says that it is not here
            group, name, head_bytes = split_head(start[0], kind, is_to_group=is_to_group)
        return Message(
            id=row,
            sender=sender,
            message_id=message_id,
            kind=kind,
            group=group,
            name=name,
            size=size - head_bytes,
            sent_minute=sent_minute,
            head_bytes=head_bytes,
        )


def _place(message: int, inner: Inner) -> int:
    return piece_id(message, inner.part.index if inner.part else 0)
