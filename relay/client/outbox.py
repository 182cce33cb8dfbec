# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on its way out: kept and offered again until the recipient's receipt or the expiry.

Envelopes are sealed before they are stored, so that whoever takes the database and the identity can still
not read what was sent. Nothing here keeps the text or the file name.
"""

import enum
import secrets
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from relay.client.body import Body
from relay.client.card import Card
from relay.client.database import (
    KEEP_AFTER_EXPIRY_HOURS,
    SENT_CLOSED,
    SENT_EXPIRED,
    SENT_NEVER,
    SENT_PREPARING,
    SENT_PURGED,
    SENT_QUEUED,
    SENT_RECEIVED,
    Database,
    message_of,
    piece_id,
    piece_range,
)
from relay.client.errors import SendError
from relay.client.files import locked, locked_if_free
from relay.client.identity import Identity
from relay.client.pieces import MAX_SEQUENCE, MESSAGE_ID_BYTES, Inner, Kind, Part, piece_count
from relay.client.seal import LIFETIMES_DAYS, PRICE_LADDER, Sealed, expiry_hour, seal
from relay.core.envelope import NONCE_BYTES, grind, make_purge

BATCH_PIECES: Final = 64
"""Envelopes sealed for one commit, and read at once: a megabyte in memory."""
RECEIPT_LIFETIME_DAYS: Final = LIFETIMES_DAYS[-1]
"""A receipt has to reach a sender who may be away; it is small."""
MIN_PURGE_DELAY_S: Final = 600
"""A purge that comes at once, in the session of its envelope, tells that both are of one hand."""
PURGE_SPREAD_S: Final = 3000
"""Each purge waits a time of its own in this range more, so that those of one file do not come as a burst."""

MAX_NEVER_SENT: Final = 256
"""Messages that expired unsent and are still told of, the latest; without contents."""

PURGE: Final = len(Kind)
"""Kind of a purge in the log; there is no plaintext of that kind."""
_LOCK_NAME: Final = ".preparing.lock"


class Acknowledged(enum.IntEnum):
    """What a relay has said of an envelope at best."""

    NO = 0
    VOLATILE = 1
    DURABLE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An envelope to offer; `id` names it to `mark_acknowledged` and `raise_price`."""

    id: int
    envelope: bytes = field(repr=False)
    acknowledged: Acknowledged
    is_to_oneself: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a message is: `pieces` in all, of which relays hold some; `is_received` by its receipt.

    `is_never_sent`: it expired, and relays had never taken all of it.
    """

    pieces: int
    volatile: int
    durable: int
    is_received: bool
    is_expired: bool
    is_never_sent: bool
    is_purged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message in the log: to whom, what `kind` (one of Kind, or PURGE) and when, never what it said."""

    message_id: bytes
    recipient: bytes
    kind: int
    size: int
    sent_hour: int
    expiry_hour: int


class Outbox:
    """Messages out. Times are Unix seconds (UTC)."""

    def __init__(
        self,
        database: Database,
        identity: Identity,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Send as `identity`; `random_bytes(n)` must give n unpredictable bytes."""
        self._database = database
        self._identity = identity
        self._random_bytes = random_bytes
        self._lock = database.folder / _LOCK_NAME

    def queue_message(
        self,
        recipients: Sequence[Card],
        body: Body,
        *,
        lifetime_days: int,
        price: int,
        now_s: float,
        on_piece: Callable[[int, int], None] | None = None,
    ) -> list[bytes]:
        """Seal `body` for each recipient and return the message IDs, in their order.

        All of them are queued, on disk, when this returns; none when it raises: SendError when the file
        changes meanwhile, DatabaseError. `price` is a step of PRICE_LADDER. `on_piece(done, all)` is called
        as envelopes get ready. Peak memory does not depend on the size of the body.
        """
        if price not in PRICE_LADDER:
            raise ValueError(f"price {price} is not one of {PRICE_LADDER}")
        now_hour = int(now_s // 3600)
        expiry = expiry_hour(now_hour, lifetime_days)
        pieces = piece_count(body.size)
        message_ids = [self._random_bytes(MESSAGE_ID_BYTES) for _ in recipients]
        with self._preparing() as rows:
            for done, (recipient, message_id) in enumerate(zip(recipients, message_ids, strict=True)):
                log = Sent(
                    message_id=message_id,
                    recipient=recipient.static,
                    kind=body.kind,
                    size=body.size,
                    sent_hour=now_hour,
                    expiry_hour=expiry,
                )
                rows.append(self._insert_sent(log, pieces))
                sent_minute = int(now_s // 60)
                sequence = self._number(rows[-1], recipient, sent_minute)
                inners = self._inners(body, log, sent_minute, sequence)
                sealing = ((self._seal(inner, recipient, log, price), 0) for inner in inners)
                for ready in self._insert_all(rows[-1], sealing):
                    if on_piece is not None:
                        on_piece(done * pieces + ready, len(recipients) * pieces)
            with self._database.transaction():
                for row, recipient in zip(rows, recipients, strict=True):
                    self._set_state(row, SENT_QUEUED)
                    # Only the last one is needed, and it tells the minute.
                    self._database.execute(
                        "UPDATE sent SET sequence = 0 WHERE recipient = ? AND id < ? AND state != ?",
                        recipient.static,
                        row,
                        SENT_PREPARING,
                    )
        return message_ids

    def queue_due_receipts(self, *, price: int, now_s: float) -> int:
        """Queue a receipt for each message that has arrived whole since, each exactly once; return how many."""
        now_hour = int(now_s // 3600)
        expiry = expiry_hour(now_hour, RECEIPT_LIFETIME_DAYS)
        due = self._database.rows(
            "SELECT id, sender, reply_rendezvous, message_id FROM received"
            " WHERE receipt_due AND expiry_hour > ? ORDER BY id",
            now_hour - KEEP_AFTER_EXPIRY_HOURS,
        )
        for received, sender, reply_rendezvous, message_id in due:
            inner = Inner(
                kind=Kind.RECEIPT,
                message_id=message_id,
                reply_rendezvous=self._identity.rendezvous,
                age_minutes=60 * (expiry - now_hour),
                sequence=0,
                data=b"",
            )
            log = Sent(
                message_id=message_id,
                recipient=sender,
                kind=Kind.RECEIPT,
                size=0,
                sent_hour=now_hour,
                expiry_hour=expiry,
            )
            recipient = Card(static=sender, rendezvous=reply_rendezvous)
            sealed = self._seal(inner, recipient, log, price)
            with self._database.transaction():
                # Another command may have been here since the query.
                if self._database.execute("UPDATE received SET receipt_due = 0 WHERE id = ? AND receipt_due", received):
                    row = self._insert_sent(log, 1)
                    self._insert_envelope(piece_id(row, 0), sealed, 0)
                    self._set_state(row, SENT_QUEUED)
        return len(due)

    def pending(self, now_s: float, *, at_most: Acknowledged = Acknowledged.DURABLE) -> Iterator[Pending]:
        """Yield the envelopes to offer now, in the order of `pending_ids`, one batch in memory at a time.

        `at_most` leaves out those that a relay has acknowledged better than that.
        """
        ids = self.pending_ids(now_s, at_most=at_most)
        for start in range(0, len(ids), BATCH_PIECES):
            yield from self.load(ids[start : start + BATCH_PIECES])

    def pending_ids(
        self,
        now_s: float,
        *,
        at_least: Acknowledged = Acknowledged.NO,
        at_most: Acknowledged = Acknowledged.DURABLE,
        purges: bool | None = None,
    ) -> "array[int]":
        """Return the IDs of the envelopes to offer now.

        First what no relay has acknowledged, lest a visit that breaks off be spent on what was said before;
        of that the messages with few pieces first. `at_least` and `at_most` leave out what was acknowledged
        worse or better than that; `purges` leaves out all others, or just them.
        """
        messages = self._database.rows(
            "SELECT id FROM sent WHERE state = ? AND expiry_hour > ? AND (? IS NULL OR (kind = ?) = ?)"
            " ORDER BY pieces, id",
            SENT_QUEUED,
            int(now_s // 3600),
            purges,
            PURGE,
            purges,
        )
        found = {one: array("q") for one in Acknowledged}
        for (message,) in messages:
            rows = self._database.rows(
                "SELECT id, acknowledged FROM envelope WHERE id >= ? AND id < ? AND acknowledged BETWEEN ? AND ?"
                " AND not_before_s <= ? ORDER BY id",
                *piece_range(message),
                at_least,
                at_most,
                int(now_s),
            )
            for row, acknowledged in rows:
                found[acknowledged].append(row)
        return sum(found.values(), array("q"))

    def load(self, ids: Iterable[int]) -> list[Pending]:
        """Return those of these envelopes that are still to be offered, in their order."""
        found = []
        for row in ids:
            values = self._database.row(
                "SELECT acknowledged, data, recipient FROM envelope JOIN body USING (id) JOIN sent ON sent.id = ?"
                " WHERE envelope.id = ? AND state = ?",
                message_of(row),
                row,
                SENT_QUEUED,
            )
            if values is not None:
                acknowledged, envelope, recipient = values
                found.append(
                    Pending(
                        id=row,
                        envelope=envelope,
                        acknowledged=Acknowledged(acknowledged),
                        is_to_oneself=recipient == self._identity.static.public,
                    )
                )
        return found

    def mark_acknowledged(self, ids: Iterable[int], *, durable: bool) -> None:
        """Keep that a relay has committed these envelopes; a durable acknowledgement is not taken back."""
        best = Acknowledged.DURABLE if durable else Acknowledged.VOLATILE
        with self._database.transaction():
            for row in ids:
                self._database.execute(
                    "UPDATE envelope SET acknowledged = ? WHERE id = ? AND acknowledged < ?", best, row, best
                )

    def raise_price(self, envelope: int, price: int) -> None:
        """Work an envelope anew for a relay that asks more; it keeps its tag and gets another identity."""
        if price not in PRICE_LADDER:
            raise ValueError(f"price {price} is not one of {PRICE_LADDER}")
        row = self._database.row("SELECT data FROM body WHERE id = ?", envelope)
        if row is not None:
            worked = grind(row[0][:-NONCE_BYTES], price=price, random_bytes=self._random_bytes)
            self._database.execute("UPDATE body SET data = ? WHERE id = ?", worked, envelope)

    def progress(self, message_id: bytes) -> Progress | None:
        """Return how far a message is, or None when the log does not know it (any more)."""
        row = self._database.row(
            "SELECT id, pieces, state FROM sent WHERE message_id = ? AND kind < ?", message_id, Kind.RECEIPT
        )
        if row is None:
            return None
        message, pieces, state = row
        counts = dict(
            self._database.rows(
                "SELECT acknowledged, count(*) FROM envelope WHERE id >= ? AND id < ? GROUP BY acknowledged",
                *piece_range(message),
            )
        )
        return Progress(
            pieces=pieces,
            volatile=counts.get(Acknowledged.VOLATILE, 0),
            durable=counts.get(Acknowledged.DURABLE, 0),
            is_received=state == SENT_RECEIVED,
            is_expired=state in {SENT_EXPIRED, SENT_NEVER},
            is_never_sent=state == SENT_NEVER,
            is_purged=state == SENT_PURGED,
        )

    def log(self) -> list[Sent]:
        """Return the messages that have not expired, or were never sent, the oldest first."""
        rows = self._database.rows(
            "SELECT message_id, recipient, kind, size, sent_hour, expiry_hour FROM sent"
            " WHERE kind < ? AND state != ? ORDER BY id",
            Kind.RECEIPT,
            SENT_PREPARING,
        )
        return [
            Sent(
                message_id=message_id,
                recipient=recipient,
                kind=kind,
                size=size,
                sent_hour=sent_hour,
                expiry_hour=expiry,
            )
            for message_id, recipient, kind, size, sent_hour, expiry in rows
        ]

    def purge(self, message_id: bytes, *, price: int, now_s: float) -> int:
        """Stop offering a message and queue the purges that remove it from relays; return how many.

        They become pending ten minutes to an hour later, each at a time of its own, and are to go out in
        another session than the message. What was never sent is forgotten at once. SendError when the log does not
        know the message.
        """
        now_hour = int(now_s // 3600)
        found = self._database.row(
            "SELECT id, recipient, pieces, expiry_hour, state FROM sent"
            " WHERE message_id = ? AND kind < ? AND state != ?",
            message_id,
            Kind.RECEIPT,
            SENT_PREPARING,
        )
        if found is None:
            raise SendError("no message of that ID was sent from here within its lifetime")
        message, recipient, pieces, expiry, state = found
        if state == SENT_NEVER:
            self._forget(message)
            return 0
        log = Sent(
            message_id=message_id,
            recipient=recipient,
            kind=PURGE,
            size=0,
            sent_hour=now_hour,
            expiry_hour=expiry,
        )
        with self._preparing() as rows:
            rows.append(self._insert_sent(log, pieces))
            for _ in self._insert_all(rows[0], self._purges(message, expiry, price, int(now_s))):
                pass
            with self._database.transaction():
                is_first = self._database.execute(
                    "UPDATE sent SET state = ? WHERE id = ? AND state != ?", SENT_PURGED, message, SENT_PURGED
                )
                if is_first:
                    self._set_state(rows[0], SENT_QUEUED)
            if not is_first:
                self._discard(rows)
                return 0
        self._database.sweep()
        return int(pieces)

    def prune(self, now_s: float) -> None:
        """Forget what has expired, and what a command left half-prepared when it was killed."""
        now_hour = int(now_s // 3600)
        expired = self._database.rows(
            "SELECT id, kind FROM sent WHERE state = ? AND expiry_hour <= ?", SENT_QUEUED, now_hour
        )
        for row, kind in expired:
            state = SENT_NEVER if kind < Kind.RECEIPT and not self._is_held(row) else SENT_EXPIRED
            self._database.execute("UPDATE sent SET state = ? WHERE id = ? AND state = ?", state, row, SENT_QUEUED)
        with locked_if_free(self._lock) as nobody_prepares:
            if nobody_prepares:
                rows = self._database.rows("SELECT id FROM sent WHERE state = ?", SENT_PREPARING)
                self._discard([row for (row,) in rows])
        self._database.sweep()
        old = self._database.rows(
            "SELECT id FROM sent WHERE state BETWEEN ? AND ? AND expiry_hour <= ? AND NOT has_bodies"
            " UNION ALL SELECT * FROM (SELECT id FROM sent WHERE state = ? ORDER BY id DESC LIMIT -1 OFFSET ?)",
            SENT_CLOSED,
            SENT_NEVER - 1,
            now_hour - KEEP_AFTER_EXPIRY_HOURS,
            SENT_NEVER,
            MAX_NEVER_SENT,
        )
        for (message,) in old:
            self._forget(message)

    @contextmanager
    def _preparing(self) -> Iterator[list[int]]:
        """Yield a list for the rows under preparation, which are discarded when the block raises.

        The lock is held meanwhile, so that no other command takes them for those of a dead one.
        """
        rows: list[int] = []
        with locked(self._lock, shared=True):
            try:
                yield rows
            except BaseException:
                self._discard(rows)
                raise

    def _number(self, message: int, recipient: Card, sent_minute: int) -> int:
        """Give a message a number above all before it to this recipient, in whichever command, and return it.

        It is the minute of sending as long as there is one message a minute and the clock goes forward, so that it
        goes on from there when this database is lost.
        """
        with self._database.transaction():
            row = self._database.row("SELECT max(sequence) FROM sent WHERE recipient = ?", recipient.static)
            last = row[0] if row else 0
            sequence = min(max(last + 1, sent_minute), MAX_SEQUENCE)
            self._database.execute("UPDATE sent SET sequence = ? WHERE id = ?", sequence, message)
        return sequence

    def _inners(self, body: Body, log: Sent, sent_minute: int, sequence: int) -> Iterator[Inner]:
        is_whole = piece_count(body.size) == 1
        for index, data in enumerate(body.slices()):
            yield Inner(
                kind=body.kind,
                message_id=log.message_id,
                reply_rendezvous=self._identity.rendezvous,
                age_minutes=60 * log.expiry_hour - sent_minute,
                sequence=sequence,
                is_to_group=body.is_to_group,
                part=None if is_whole else Part(index=index, size=body.size, digest=body.digest),
                data=data,
            )

    def _seal(self, inner: Inner, recipient: Card, log: Sent, price: int) -> Sealed:
        return seal(
            inner.encode(),
            sender=self._identity.static,
            recipient=recipient,
            now_hour=log.sent_hour,
            expiry_hour=log.expiry_hour,
            price=price,
            random_bytes=self._random_bytes,
        )

    def _purges(self, message: int, expiry: int, price: int, now_s: int) -> Iterator[tuple[Sealed, int]]:
        first, end = piece_range(message)
        while keys := self._database.rows(
            "SELECT id, tag, purge_key FROM envelope WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            first,
            end,
            BATCH_PIECES,
        ):
            first = keys[-1][0] + 1
            for _, tag, purge_key in keys:
                envelope = make_purge(
                    tag=tag, purge_key=purge_key, expiry_hour=expiry, price=price, random_bytes=self._random_bytes
                )
                spread_s = int.from_bytes(self._random_bytes(4), "big") % PURGE_SPREAD_S
                yield (
                    Sealed(envelope=envelope, purge_key=purge_key, tag=tag),
                    now_s + MIN_PURGE_DELAY_S + spread_s,
                )

    def _insert_sent(self, log: Sent, pieces: int) -> int:
        return self._database.insert(
            "INSERT INTO sent (message_id, kind, recipient, state, size, pieces, sequence, sent_hour, expiry_hour)"
            " VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
            log.message_id,
            int(log.kind),
            log.recipient,
            SENT_PREPARING,
            log.size,
            pieces,
            log.sent_hour,
            log.expiry_hour,
        )

    def _insert_all(self, message: int, envelopes: Iterator[tuple[Sealed, int]]) -> Iterator[int]:
        """Insert a batch at a time and yield how many there are by then."""
        done = 0
        while batch := list(islice(envelopes, BATCH_PIECES)):
            with self._database.transaction():
                for index, (sealed, not_before_s) in enumerate(batch, done):
                    self._insert_envelope(piece_id(message, index), sealed, not_before_s)
            done += len(batch)
            yield done

    def _insert_envelope(self, row: int, sealed: Sealed, not_before_s: int) -> None:
        self._database.execute(
            "INSERT INTO envelope (id, not_before_s, tag, purge_key) VALUES (?, ?, ?, ?)",
            row,
            not_before_s,
            sealed.tag,
            sealed.purge_key,
        )
        self._database.execute("INSERT INTO body (id, data) VALUES (?, ?)", row, sealed.envelope)

    def _is_held(self, message: int) -> bool:
        """Whether relays have acknowledged all of a message at some time."""
        row = self._database.row(
            "SELECT 1 FROM envelope WHERE id >= ? AND id < ? AND NOT acknowledged LIMIT 1", *piece_range(message)
        )
        return row is None

    def _set_state(self, message: int, state: int) -> None:
        self._database.execute("UPDATE sent SET state = ? WHERE id = ?", state, message)

    def _discard(self, rows: list[int]) -> None:
        """Undo preparations that did not come to their end."""
        for row in rows:
            self._set_state(row, SENT_EXPIRED)
        self._database.sweep()
        for row in rows:
            self._forget(row)

    def _forget(self, message: int) -> None:
        with self._database.transaction():
            self._database.execute("DELETE FROM envelope WHERE id >= ? AND id < ?", *piece_range(message))
            self._database.execute("DELETE FROM sent WHERE id = ?", message)


def note_receipt(database: Database, sender: bytes, message_id: bytes) -> bool:
    """Stop offering a message whose receipt has come from its recipient; False for any other receipt.

    For the inbox, which commits it together with having seen the receipt, and sweeps then.
    """
    return bool(
        database.execute(
            "UPDATE sent SET state = ? WHERE message_id = ? AND recipient = ? AND kind < ? AND state IN (?, ?)",
            SENT_RECEIVED,
            message_id,
            sender,
            Kind.RECEIPT,
            SENT_QUEUED,
            # A relay may have taken it and its acknowledgement got lost.
            SENT_NEVER,
        )
    )
