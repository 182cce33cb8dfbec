# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on its way out: kept and offered again until the recipient's receipt or the expiry.

Envelopes are sealed before they are stored, so that whoever takes the database and the identity can still
not read what was sent. Nothing here keeps the text or the file name.
"""

import enum
import random
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
    RECEIPT_DUE,
    SENT_CLOSED,
    SENT_EXPIRED,
    SENT_NEVER,
    SENT_PREPARING,
    SENT_PURGED,
    SENT_QUEUED,
    SENT_RECEIVED,
    SENT_REPLACED,
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
MIN_DELAY_S: Final = 600
"""A purge that comes at once tells that it and the message are of one hand, a receipt whom the message was for."""
DELAY_SPREAD_S: Final = 3000
"""Each waits a time of its own in this range more, so that those of one file or visit do not come as a burst."""

AGAIN_MIN_S: Final = 2 * 3600
"""The same bytes put twice tell a relay, or several, that both visits were one person's ..."""
AGAIN_SPREAD_S: Final = 10 * 3600
"""... so between them lie random hours, whatever was acknowledged; within twelve the half of it is done."""
MAX_AGAIN: Final = 4
"""Messages put again at a time, of those that are due: sessions in a row are of one hand, and by radio take seconds."""
MAX_WAIT_S: Final = AGAIN_MIN_S + AGAIN_SPREAD_S
"""Whatever waits for longer was noted by a clock that has been set back since."""
MAX_PIECES_AGAIN: Final = 4
"""Of a file that a relay has on disk, over a radio of some kB/s: 64 KiB. The putting again of 20 MiB takes minutes."""

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

    `is_never_sent`: it expired, and relays had never taken all of it. `purges_left`: purges of a message that is to be
    purged which no relay has taken yet. `is_replaced`: a post in whose slot there is another one now.
    """

    pieces: int
    volatile: int
    durable: int
    is_received: bool
    is_expired: bool
    is_never_sent: bool
    is_purged: bool
    purges_left: int
    is_replaced: bool


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
                    size=body.size - len(body.head),
                    sent_hour=now_hour,
                    expiry_hour=expiry,
                )
                sent_minute = int(now_s // 60)
                with self._database.transaction():
                    rows.append(self._insert_sent(log, pieces))
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

    def queue_due_receipts(self, *, price: int, now_s: float, at_once: bool = False) -> int:
        """Queue the receipts that are due, one for each message that arrived whole; return how many.

        They become due ten minutes to an hour after this was called first, each at a time of its own: at once
        they would tell the relay that whoever has just fetched is whom the message was for. `at_once` does not wait,
        but those that have a time by then keep it: they were to show nothing.
        """
        now_hour = int(now_s // 3600)
        expiry = expiry_hour(now_hour, RECEIPT_LIFETIME_DAYS)
        if not at_once:
            for (received,) in self._database.rows("SELECT id FROM received WHERE receipt_due = ?", RECEIPT_DUE):
                self._database.execute(
                    "UPDATE received SET receipt_due = ? WHERE id = ? AND receipt_due = ?",
                    int(now_s) + self._delay_s(MIN_DELAY_S, DELAY_SPREAD_S),
                    received,
                    RECEIPT_DUE,
                )
        due = self._database.rows(
            "SELECT id, sender, reply_rendezvous, message_id FROM received"
            " WHERE receipt_due AND receipt_due NOT BETWEEN ? AND ? AND expiry_hour > ? ORDER BY id",
            int(now_s) + 1,
            int(now_s) + MAX_WAIT_S,
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
                    self.queue_sealed(log, sealed)
        return len(due)

    def queue_sealed(self, log: Sent, sealed: Sealed, *, replaces: bytes | None = None) -> None:
        """Queue one envelope that is sealed already, within a transaction of the caller's.

        Of what it `replaces` (a message ID, to the same recipient) nothing more is sent.
        """
        row = self._insert_sent(log, 1)
        self._insert_envelope(piece_id(row, 0), sealed, 0)
        self._set_state(row, SENT_QUEUED)
        self._database.execute(
            "UPDATE sent SET state = ? WHERE message_id = ? AND recipient = ? AND state = ?",
            SENT_REPLACED,
            replaces,
            log.recipient,
            SENT_QUEUED,
        )

    def pending(self, now_s: float) -> Iterator[Pending]:
        """Yield the envelopes to offer now, in the order of `errands`, one batch in memory at a time."""
        for ids in self.errands(now_s):
            for start in range(0, len(ids), BATCH_PIECES):
                yield from self.load(ids[start : start + BATCH_PIECES])

    def errands(self, now_s: float, *, again: bool = True, large_again: bool = True) -> list[Sequence[int]]:
        """Return the IDs of the envelopes to offer now; those of each list may go in one session.

        First what no relay has acknowledged yet: messages, those with few pieces first; receipts; purges. Then,
        if `again`, some of what relays have had for hours, each message for itself, in random order; without
        `large_again` not the files that are on a relay's disk.
        """
        messages = self._database.rows(
            "SELECT id, kind, pieces FROM sent WHERE state = ? AND expiry_hour > ? ORDER BY pieces, id",
            SENT_QUEUED,
            int(now_s // 3600),
        )
        new = {kind: array("q") for kind in (Kind.TEXT, Kind.RECEIPT, PURGE)}
        old: list[Sequence[int]] = []
        for message, kind, pieces in messages:
            is_small = large_again or pieces <= MAX_PIECES_AGAIN
            most = (Acknowledged.DURABLE if is_small else Acknowledged.VOLATILE) if again else Acknowledged.NO
            rows = self._database.rows(
                "SELECT id, acknowledged FROM envelope WHERE id >= ? AND id < ? AND acknowledged <= ?"
                " AND not_before_s NOT BETWEEN ? AND ? ORDER BY acknowledged, id",
                *piece_range(message),
                most,
                int(now_s) + 1,
                int(now_s) + MAX_WAIT_S,
            )
            its_kind = kind if kind >= Kind.RECEIPT else Kind.TEXT
            new[its_kind].extend(row for row, acknowledged in rows if not acknowledged)
            old.append(array("q", (row for row, acknowledged in rows if acknowledged)))
        random.SystemRandom().shuffle(old)
        return [ids for ids in new.values() if ids] + [ids for ids in old if ids][:MAX_AGAIN]

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

    def mark_acknowledged(self, ids: Iterable[int], *, durable: bool, now_s: float) -> None:
        """Keep that a relay has committed these envelopes, which are offered again only hours from `now_s`.

        A durable acknowledgement is not taken back.
        """
        best = Acknowledged.DURABLE if durable else Acknowledged.VOLATILE
        with self._database.transaction():
            for row in ids:
                self._database.execute(
                    "UPDATE envelope SET acknowledged = max(acknowledged, ?), not_before_s = ? WHERE id = ?",
                    best,
                    self._again_s(row, int(now_s)),
                    row,
                )

    def _again_s(self, envelope: int, now_s: int) -> int:
        """Return when to offer an envelope again: with the other pieces of its message, but each purge for itself."""
        message = message_of(envelope)
        drawn = self._database.row(
            "SELECT not_before_s FROM envelope WHERE id >= ? AND id < ? AND not_before_s BETWEEN ? AND ?"
            " AND (SELECT kind != ? FROM sent WHERE sent.id = ?) LIMIT 1",
            *piece_range(message),
            now_s + 1,
            now_s + MAX_WAIT_S,
            PURGE,
            message,
        )
        return int(drawn[0]) if drawn else now_s + self._delay_s(AGAIN_MIN_S, AGAIN_SPREAD_S)

    def _delay_s(self, least_s: int, spread_s: int) -> int:
        return least_s + int.from_bytes(self._random_bytes(4), "big") % spread_s

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
            purges_left=self._purges_left(message_id) if state == SENT_PURGED else 0,
            is_replaced=state == SENT_REPLACED,
        )

    def _purges_left(self, message_id: bytes) -> int:
        row = self._database.row(
            "SELECT id FROM sent WHERE message_id = ? AND kind = ? AND state = ?", message_id, PURGE, SENT_QUEUED
        )
        if row is None:
            return 0
        (left,) = self._database.rows(
            "SELECT count(*) FROM envelope WHERE id >= ? AND id < ? AND NOT acknowledged", *piece_range(row[0])
        )
        return int(left[0])

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
            "SELECT id FROM sent WHERE state >= ? AND state != ? AND expiry_hour <= ? AND NOT has_bodies"
            " UNION ALL SELECT * FROM (SELECT id FROM sent WHERE state = ? ORDER BY id DESC LIMIT -1 OFFSET ?)",
            SENT_CLOSED,
            SENT_NEVER,
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
                yield (
                    Sealed(envelope=envelope, purge_key=purge_key, tag=tag),
                    now_s + self._delay_s(MIN_DELAY_S, DELAY_SPREAD_S),
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
