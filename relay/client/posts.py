# SPDX-License-Identifier: GPL-2.0-or-later
"""What hangs on the notice boards that the user reads: in each slot the newest state (docs/protocol.md section 12.8).

Nothing is kept that is not signed by who may post, so whoever else has the card can fill nothing here.
"""

import base64
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from relay.client.bulletin import Bulletin
from relay.client.bulletin_book import BulletinBook
from relay.client.contacts import require_name
from relay.client.database import KEEP_AFTER_EXPIRY_HOURS, Database
from relay.client.errors import BulletinError, ContactError
from relay.client.inbox import Outcome
from relay.client.outbox import Outbox, Sent
from relay.client.pieces import Kind, file_head, split_file_head
from relay.client.post import (
    MAX_COUNTER,
    MAX_SLOT_AND_BODY_BYTES,
    MAX_SLOT_BYTES,
    POST_ID_BYTES,
    OpenedPost,
    PostBody,
    PostKind,
    open_post,
    seal_post,
)
from relay.client.seal import LIFETIMES_DAYS, buckets_to_read, expiry_hour
from relay.core.envelope import MAX_LIFETIME_HOURS, decode_envelope
from relay.core.errors import DecodeError
from relay.process.printable import printable

MAX_SLOTS: Final = 256
"""Of one bulletin, the newest; 4 MiB. More do not fit on a screen, and the oldest are the first that nobody reads."""
_DRAWN_SLOT_BYTES: Final = 5
"""Eight letters and digits, for who does not say where: two of 256 are the same once in 30 million bulletins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What holds in a slot; `name` is '' for a text, a safe file name otherwise. `bulletin` is a public key (32 bytes).

    `content` is the text in UTF-8 or the file, below 16 KiB. `posted_minute` is what the poster's clock showed (Unix
    minutes, UTC).
    """

    id: int
    bulletin: bytes
    slot: str
    kind: PostKind
    name: str
    content: bytes = field(repr=False)
    posted_minute: int
    expiry_hour: int

    @property
    def text(self) -> str:
        """The text as it was posted: show it by `relay.client.text.rows` only."""
        return self.content.decode(errors="replace")

    @property
    def shown_slot(self) -> str:
        """The name of the slot for a terminal, in one row, and as `PostStore.withdraw` takes it."""
        return printable(self.slot)


class PostStore:
    """The posts of all bulletins of a book. Times are Unix seconds (UTC)."""

    def __init__(
        self,
        database: Database,
        book: BulletinBook,
        outbox: Outbox,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`random_bytes(n)` must give n unpredictable bytes."""
        self.book = book
        self._database = database
        self._outbox = outbox
        self._random_bytes = random_bytes

    # -- in ---------------------------------------------------------------

    def reader(self, now_hour: int) -> Callable[[bytes], OpenedPost | None]:
        """Return what opens an envelope if it is a post on one of the bulletins. Touches no disk."""
        readers = [
            (frozenset(buckets_to_read(known.bulletin.rendezvous, now_hour)), known.bulletin) for known in self.book
        ]

        def open_if_ours(envelope: bytes) -> OpenedPost | None:
            try:
                bucket = decode_envelope(envelope).bucket
            except DecodeError:
                return None
            opened = (open_post(envelope, bulletin) for buckets, bulletin in readers if bucket in buckets)
            return next((one for one in opened if one is not None), None)

        return open_if_ours

    def accept(self, opened: Iterable[OpenedPost], now_s: float) -> list[Outcome]:
        """Keep what holds in its slot, on disk when this returns, all in one commit; a list of equal length."""
        with self._database.transaction():
            return [self._accept(one, int(now_s // 3600), is_new=True) for one in opened]

    def posts(self, bulletin: Bulletin, now_s: float) -> list[Post]:
        """Return what hangs there, the oldest first."""
        return self._posts("bulletin = ? AND kind != ?", now_s, bulletin.public, PostKind.WITHDRAWN)

    def unshown(self, now_s: float) -> list[Post]:
        """Return what came and was not marked as shown, also that something was withdrawn, the oldest first."""
        return self._posts("is_new", now_s)

    def mark_shown(self, post: Post, *, is_shown: bool = True) -> bool:
        """Note that the user sees a post, or could not; False when another command was first, or it was replaced."""
        return bool(
            self._database.execute(
                "UPDATE post SET is_new = ? WHERE id = ? AND is_new = ?", not is_shown, post.id, is_shown
            )
        )

    def prune(self, now_s: float) -> None:
        """Forget what has expired, and later that it was there; and what was on bulletins that the user has left."""
        now_hour = int(now_s // 3600)
        with self._database.transaction():
            # Within it: what another command has posted by now is on a bulletin that is in the file by now.
            self.book.refresh()
            known = {one.bulletin.public for one in self.book}
            self._database.execute("UPDATE post SET body = x'' WHERE expiry_hour <= ? AND body != x''", now_hour)
            self._database.execute(
                # From then on all that was older has expired, too, also for relays with slow clocks.
                "DELETE FROM post WHERE posted_minute / 60 <= ?",
                now_hour - MAX_LIFETIME_HOURS - KEEP_AFTER_EXPIRY_HOURS,
            )
            for (public,) in self._database.rows("SELECT DISTINCT bulletin FROM post"):
                if public not in known:
                    self._database.execute("DELETE FROM post WHERE bulletin = ?", public)

    def forget_seen(self) -> None:
        """Have every envelope looked at again: a bulletin that is read from now on was there before."""
        self._database.execute("DELETE FROM seen")

    def _posts(self, which: str, now_s: float, *values: object) -> list[Post]:
        rows = self._database.rows(
            "SELECT id, bulletin, slot, kind, body, posted_minute, expiry_hour FROM post"  # noqa: S608 - two literals
            # What was forgotten by a clock that was ahead is not there, though it has not expired.
            f" WHERE {which} AND expiry_hour > ? AND (kind = ? OR body != x'') ORDER BY counter, rank",
            *values,
            int(now_s // 3600),
            PostKind.WITHDRAWN,
        )
        return [self._post(*row) for row in rows]

    @staticmethod
    def _post(row: int, bulletin: bytes, slot: str, kind: int, body: bytes, minute: int, expiry: int) -> Post:
        name, head_bytes = split_file_head(body) if kind == PostKind.FILE else ("", 0)
        return Post(
            id=row,
            bulletin=bulletin,
            slot=slot,
            kind=PostKind(kind),
            name=name,
            content=body[head_bytes:],
            posted_minute=minute,
            expiry_hour=expiry,
        )

    def _accept(self, opened: OpenedPost, now_hour: int, *, is_new: bool) -> Outcome:
        post = opened.post
        if opened.expiry_hour <= now_hour:
            return Outcome.EXPIRED
        if opened.expiry_hour > now_hour + MAX_LIFETIME_HOURS + KEEP_AFTER_EXPIRY_HOURS:
            return Outcome.FAR_FUTURE
        there = self._in_slot(opened.bulletin, post.slot)
        if there is not None:
            row, counter, rank, kind, expiry, _ = there
            if (post.counter, opened.rank) <= (counter, rank):
                if (post.counter, opened.rank) == (counter, rank):
                    # The same, of which the body was forgotten by a clock that was ahead.
                    self._database.execute("UPDATE post SET body = ? WHERE id = ? AND body = x''", post.body, row)
                return Outcome.DUPLICATE
            if post.kind is PostKind.WITHDRAWN:
                is_new = is_new and kind != PostKind.WITHDRAWN and expiry > now_hour
            self._database.execute("DELETE FROM post WHERE id = ?", row)
        elif post.kind is PostKind.WITHDRAWN:
            is_new = False
        row = self._database.insert(
            "INSERT INTO post (bulletin, slot, counter, rank, post_id, kind, posted_minute, expiry_hour, is_new, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            opened.bulletin,
            post.slot,
            post.counter,
            opened.rank,
            post.post_id,
            int(post.kind),
            60 * opened.expiry_hour - post.age_minutes,
            opened.expiry_hour,
            is_new,
            post.body,
        )
        # By what all readers see alike, so that it does not matter what came first.
        self._database.execute(
            "DELETE FROM post WHERE bulletin = ? AND id NOT IN"
            " (SELECT id FROM post WHERE bulletin = ? ORDER BY counter DESC, rank DESC LIMIT ?)",
            opened.bulletin,
            opened.bulletin,
            MAX_SLOTS,
        )
        is_kept = self._database.row("SELECT 1 FROM post WHERE id = ?", row) is not None
        return Outcome.STORED if is_kept else Outcome.DUPLICATE

    def _in_slot(self, bulletin: bytes, slot: str) -> tuple[int, int, bytes, int, int, bytes] | None:
        """Return row, counter, rank, kind, expiry hour and post ID of what holds in a slot."""
        row = self._database.row(
            "SELECT id, counter, rank, kind, expiry_hour, post_id FROM post WHERE bulletin = ? AND slot = ?",
            bulletin,
            slot,
        )
        return None if row is None else (row[0], row[1], row[2], row[3], row[4], row[5])

    # -- out --------------------------------------------------------------

    def post_text(
        self, bulletin: Bulletin, text: str, slot: str, *, lifetime_days: int, price: int, now_s: float
    ) -> tuple[str, bytes]:
        """Sign, seal and queue a text; return its slot (drawn if '') and ID. On disk when this returns.

        It replaces what is in the slot, and does not end before that would have. BulletinError.
        """
        if not (body := text.encode(errors="replace")):
            raise BulletinError(
                "there is nothing to post; to take something down: relay bulletin withdraw NAME --slot SLOT"
            )
        return self._queue(bulletin, PostKind.TEXT, slot or self._draw_slot(), body, lifetime_days, price, now_s)

    def post_file(
        self, bulletin: Bulletin, content: bytes, name: str, slot: str, *, lifetime_days: int, price: int, now_s: float
    ) -> tuple[str, bytes]:
        """Sign, seal and queue a file under a name, as `post_text` does."""
        body = file_head(name) + content
        return self._queue(bulletin, PostKind.FILE, slot or self._draw_slot(), body, lifetime_days, price, now_s)

    def withdraw(self, bulletin: Bulletin, slot: str, *, price: int, now_s: float) -> tuple[str, bytes]:
        """Queue that there is nothing in a slot any more, as `post_text` does. BulletinError when there is nothing.

        `slot` may be as it is shown, of several that look alike the newest: another who posts may have given it a name
        that nobody can type.
        """
        there = [post.slot for post in self.posts(bulletin, now_s) if slot in {post.slot, post.shown_slot}]
        if not there:
            raise BulletinError(f"there is nothing in the slot {slot!r}; see: relay bulletin show NAME")
        slot = slot if slot in there else there[-1]
        return self._queue(bulletin, PostKind.WITHDRAWN, slot, b"", LIFETIMES_DAYS[0], price, now_s)

    def _draw_slot(self) -> str:
        return base64.b32encode(self._random_bytes(_DRAWN_SLOT_BYTES)).decode().lower()

    def _queue(
        self, bulletin: Bulletin, kind: PostKind, slot: str, body: bytes, lifetime_days: int, price: int, now_s: float
    ) -> tuple[str, bytes]:
        if bulletin.seed is None:
            raise BulletinError("you can read this bulletin, and not post: that takes its posting key")
        try:
            # What is taken down is there, whatever it is called.
            slot_bytes = len((slot if kind is PostKind.WITHDRAWN else require_name(slot)).encode())
        except ContactError as error:
            raise BulletinError(f"the slot: {error}") from None
        if slot_bytes > MAX_SLOT_BYTES:
            raise BulletinError(f"the name of a slot has at most {MAX_SLOT_BYTES} bytes, this one {slot_bytes}")
        if slot_bytes + len(body) > MAX_SLOT_AND_BODY_BYTES:
            raise BulletinError(
                f"a post has at most {MAX_SLOT_AND_BODY_BYTES} bytes with the names of slot and file, and this one has "
                "more: make it smaller, or post in several slots"
            )
        now_hour, minute = int(now_s // 3600), int(now_s // 60)
        with self._database.transaction():
            # Within it, so that of two commands at once one comes after the other.
            (last,) = self._database.row("SELECT max(counter) FROM post WHERE bulletin = ?", bulletin.public) or (None,)
            there = self._in_slot(bulletin.public, slot)
            expiries = [expiry_hour(now_hour, days) for days in LIFETIMES_DAYS if days >= lifetime_days]
            held_until = there[4] if there is not None else 0
            expiry = next((hour for hour in expiries if hour >= held_until), expiries[-1])
            post = PostBody(
                kind=kind,
                post_id=self._random_bytes(POST_ID_BYTES),
                age_minutes=60 * expiry - minute,
                counter=min(max((last or 0) + 1, minute), MAX_COUNTER),
                slot=slot,
                body=body,
            )
            sealed, opened = seal_post(
                post,
                bulletin,
                now_hour=now_hour,
                expiry_hour=expiry,
                price=price,
                random_bytes=self._random_bytes,
            )
            log = Sent(
                message_id=post.post_id,
                recipient=bulletin.public,
                kind=Kind.FILE if kind is PostKind.FILE else Kind.TEXT,
                size=len(body) - (split_file_head(body)[1] if kind is PostKind.FILE else 0),
                sent_hour=now_hour,
                expiry_hour=expiry,
            )
            self._outbox.queue_sealed(log, sealed, replaces=there[5] if there is not None else None)
            if self._accept(opened, now_hour, is_new=False) is not Outcome.STORED:
                # Not queued either: no reader would show it, and relays would no longer get what it replaces.
                raise BulletinError(
                    "somebody who may post has used up the counter of this bulletin, so that nothing newer holds there "
                    "until his posts expire; make another one with: relay bulletin create"
                )
        return slot, post.post_id
