# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes on their way into the store (docs/protocol.md sections 9 and 10).

What is admitted waits in a batch until the shell says that it is committed; only
then is anybody told so. A batch that fails leaves nothing behind.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final

from relay.core.batch import Batch
from relay.core.envelope import (
    HEADER_BYTES,
    EnvelopeSizeError,
    EnvelopeType,
    EnvelopeVersionError,
    Header,
    decode_envelope,
    decode_messages,
    price_paid,
)
from relay.core.errors import DecodeError
from relay.core.exchange import REJECTED
from relay.core.link import Link
from relay.core.log import EntryState
from relay.core.messages import Refusal
from relay.core.stats import Evicted, Histogram, Total, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from relay.core.admission import Admission
    from relay.core.bodies import Bodies
    from relay.core.clock import Clock
    from relay.core.loaded import AdmittedRow
    from relay.core.log import AdmittedLog
    from relay.core.retention import Retention
    from relay.core.returns import Returns
    from relay.core.stats import Stats

#: After a failed commit nothing is admitted for so long; doubles up to the maximum.
STORAGE_RETRY_S: Final = 2.0
STORAGE_RETRY_MAX_S: Final = 64.0
#: The residence clock goes with a batch that is written anyway when it was saved
#: so long ago: a relay whose plug is pulled every hour still ages what it holds.
SAVE_CLOCK_S: Final = 600.0
#: What was received and not committed, in bytes: as much as the store commits in the
#: time below, so that an acknowledgement does not wait for other people's bulk; between
#: a burst that is worth a sync and what memory allows.
LEAST_PENDING_BYTES: Final = 256 << 10
MAX_PENDING_BYTES: Final = 16 << 20
COMMIT_WAIT_S: Final = 0.25
#: Puts of what is held that are checked at a time: a statement of the store, and a
#: slice of work after which others have their turn, so that a flood of them is none of reads.
REPEATED_ROWS: Final = 64
#: ... and bytes of them, which are read and hashed: about a turn (relay.run.connections).
REPEATED_BYTES: Final = 128 << 10
#: Who waits for what is on its way already, or for a look at what is held: link, put number, bytes.
Waiter = tuple[Link, int, int]


_PENDING: Final = EntryState.PENDING
_GONE: Final = EntryState.GONE
_PURGE: Final = EnvelopeType.PURGE


@dataclass(slots=True)
class Waiting:
    """Who waits for a commit: a link, the numbers of its puts (none of what a relay brought), bytes."""

    link: Link
    numbers: list[int] = field(default_factory=list)
    size_bytes: int = 0


@dataclass(slots=True)
class PendingBatch:
    """A batch on its way to the store, and who waits for it."""

    batch: Batch = field(default_factory=Batch)
    #: In order of their inserts.
    waiters: list[Waiting] = field(default_factory=list)
    #: When the first of them came, in monotonic seconds.
    since: float = 0.0
    #: Inserts with a body.
    accepted: int = 0
    purges: dict[bytes, int] = field(default_factory=dict)
    first_seq: int = 0
    last_seq: int = 0


class Intake:
    """The way from a session to the store."""

    def __init__(
        self,
        *,
        log: AdmittedLog,
        bodies: Bodies,
        admission: Admission,
        clock: Clock,
        stats: Stats,
        retention: Retention,
        returns: Returns,
    ) -> None:
        self._log = log
        self._bodies = bodies
        self._admission = admission
        self._clock = clock
        self._stats = stats
        self._retention = retention
        self._returns = returns
        #: What the next commit takes.
        self.pending = PendingBatch()
        #: Who put again what is on its way, by identity.
        self.duplicates: dict[bytes, list[Waiter]] = {}
        #: Who put again what is held, by link, in turn; with the bytes, should those that are held be damaged.
        self._repeated: dict[int, deque[tuple[Waiter, bytes, bytes]]] = {}
        self.pending_bytes = 0
        #: How many there may be before nothing more is read.
        self.most_pending_bytes = LEAST_PENDING_BYTES
        self._peak_bytes = 0
        self._adapted_at = 0.0
        self.storage_failed = False
        self._unsaved_interfaces: dict[int, str] = {}
        self._in_flight = 0
        #: The log knows of envelopes that were never stored.
        self._stale = False
        self._storage_retry_s = STORAGE_RETRY_S
        self._storage_retry_at = 0.0
        self._save_due = 0.0

    def name_interface(self, number: int, name: str) -> None:
        """Store the name of a new interface."""
        self.pending.batch.interfaces[number] = name

    def take_puts(self, link: Link, puts: Sequence[tuple[int, bytes]], now: float) -> list[tuple[int, Refusal]]:
        """Admit puts of a client into the pending batch; return the numbers of those that are not, and why."""
        identities = [sha256(envelope).digest() for _, envelope in puts]
        if len(puts) > 1 and self._take_together(link, puts, identities, now):
            return []
        refused = []
        for (number, envelope), identity in zip(puts, identities, strict=True):
            refusal = self.take(link, number, envelope, identity, now)
            if refusal is not None:
                refused.append((number, refusal))
        return refused

    def _take_together(
        self, link: Link, puts: Sequence[tuple[int, bytes]], identities: Sequence[bytes], now: float
    ) -> bool:
        """Do what :meth:`take` does, in a third of the time, if all of them are new messages that are welcome.

        False, and nothing is done, if there is anything to be decided over one of them.
        """
        numbers, envelopes = zip(*puts, strict=True)
        messages = decode_messages(envelopes)
        if messages is None or self._stale or self.storage_failed:
            return False
        prices = [*map(price_paid, identities, messages.size_classes)]
        if not self._admission.welcomes_all(
            messages.expiry_hours, messages.size_classes, min(prices), link.interface, now
        ):
            return False
        if len(set(identities)) < len(identities) or self._log.knows_any(identities):
            return False
        arrived_s = self._clock.residence_s(now)
        first_seq = self._log.append_messages(identities, messages, prices, link.interface, arrived_s)
        pending = self.pending
        pending.last_seq = first_seq + len(envelopes) - 1
        headers = [envelope[:HEADER_BYTES] for envelope in envelopes]
        seqs = range(first_seq, pending.last_seq + 1)
        same = repeat(link.interface), repeat(int(arrived_s))
        pending.batch.inserts.extend(zip(seqs, identities, headers, *same, envelopes, strict=False))
        self._wait(link, numbers, sum(map(len, envelopes)), first_seq, now)
        pending.accepted += len(envelopes)
        return True

    def take(self, link: Link, number: int | None, envelope: bytes, identity: bytes, now: float) -> Refusal | None:
        """Admit an envelope into the pending batch, or say why not."""
        try:
            header = decode_envelope(envelope)
        except EnvelopeSizeError:
            return Refusal.WRONG_SIZE
        except EnvelopeVersionError:
            return Refusal.VERSION
        except DecodeError:
            return Refusal.MALFORMED
        before = self._log.find(identity)
        if before is not None and not self._returns.may_return(before, now):
            return self._duplicate(link, number, envelope, identity, header, now)
        if self._stale or (self.storage_failed and now < self._storage_retry_at):
            return Refusal.STORAGE
        price = price_paid(identity, header.size_class)
        decision = self._admission.decide(header, price, link.interface, now)
        purged = decision.refusal is not None
        # Between relays an identity that was purged counts as admitted, or it would be
        # offered at every meeting; a client just hears of it.
        if purged and not (decision.refusal is Refusal.PURGED and number is None and before is None):
            return decision.refusal
        first_arrived_s = None
        if before is not None:
            if decision.victims and number is None:
                return Refusal.FULL  # what returns between relays displaces nobody
            first_arrived_s = self._log.first_arrived_s(before.seq)
            self._log.forget(before.seq)
            self.pending.batch.forget.append(before.seq)
            self._stats.add(Total.RETURNED)
        pending = self.pending
        arrived_s = self._clock.residence_s(now)
        seq = self._log.append(
            identity, header, price, link.interface, arrived_s, _GONE if purged else _PENDING, first_arrived_s
        )
        pending.last_seq = seq
        since_s = int(arrived_s if first_arrived_s is None else first_arrived_s)
        pending.batch.inserts.append(
            (seq, identity, envelope[:HEADER_BYTES], link.interface, since_s, None if purged else envelope)
        )
        self._wait(link, () if number is None else (number,), len(envelope), seq, now)
        if purged:
            return Refusal.PURGED
        if decision.victims:
            for victim in decision.victims:
                self._note_residence(victim, arrived_s)
                self._log.displace(victim)
            pending.batch.displace.extend(decision.victims)
            self._stats.add(Evicted.PRICE, len(decision.victims))
        pending.accepted += 1
        if header.type is _PURGE:
            pending.purges[header.tag] = max(header.expiry_hour, pending.purges.get(header.tag, 0))
        return None

    def _note_residence(self, seq: int, residence_s: float) -> None:
        """Say of what leaves before its time how long it was here."""
        self._stats.observe(Histogram.RESIDENCE_S, residence_s - self._log.arrived_s(seq))

    def _wait(self, link: Link, numbers: Sequence[int], size_bytes: int, first_seq: int, now: float) -> None:
        """Let a link wait for the commit of what was just taken."""
        pending = self.pending
        waiters = pending.waiters
        if not waiters or waiters[-1].link is not link:
            if not waiters:
                pending.first_seq, pending.since = first_seq, now
            waiters.append(Waiting(link))
        mine = waiters[-1]
        mine.numbers.extend(numbers)
        mine.size_bytes += size_bytes
        link.pending_bytes += size_bytes
        self.pending_bytes += size_bytes
        if now >= self._save_due:
            self._save_clock(now)

    def _waiter(self, link: Link, number: int, size: int) -> Waiter:
        link.pending_bytes += size
        self.pending_bytes += size
        return link, number, size

    def _duplicate(
        self, link: Link, number: int | None, envelope: bytes, identity: bytes, header: Header, now: float
    ) -> Refusal | None:
        """Answer a put of what was admitted before: it is committed, on its way, or gone."""
        self._stats.add(Total.DUPLICATE)
        entry = self._log.find(identity)
        if number is None or entry is None:
            return None
        if entry.state is EntryState.HELD:
            waiter = self._waiter(link, number, len(envelope))
            self._repeated.setdefault(link.number, deque()).append((waiter, envelope, identity))
        elif entry.state is EntryState.PENDING:
            if self._stale:
                return Refusal.STORAGE
            waiter = self._waiter(link, number, entry.size_bytes)
            self.duplicates.setdefault(identity, []).append(waiter)
        elif self._clock.expired_by_wall(expiry_hour=header.expiry_hour, now=now):
            return Refusal.EXPIRED
        else:
            return Refusal.PURGED if self._log.purged(header) else Refusal.GONE
        return None

    # -- what is held already ---------------------------------------------

    @property
    def has_repeated(self) -> bool:
        """Whether :meth:`check_repeated` has something to do."""
        return bool(self._repeated)

    def check_repeated(self, now: float) -> list[tuple[Link, int, Refusal | None]]:
        """Look whether what was put again is here as it was; return whom to tell: None for yes.

        Some puts of one link at a time. What is damaged is taken anew, and acknowledged with its commit.
        """
        self._note_peak()
        number, queue = next(iter(self._repeated.items()))
        some: list[tuple[Waiter, bytes, bytes]] = []
        room = REPEATED_BYTES
        while queue and len(some) < REPEATED_ROWS and room > 0:
            some.append(queue.popleft())
            room -= len(some[-1][1])
        del self._repeated[number]
        if queue:
            self._repeated[number] = queue
        held = [self._log.held_seq(identity) for _, _, identity in some]
        seqs = sorted({seq for seq in held if seq is not None})
        sound = {seq for seq, body in zip(seqs, self._bodies.read(seqs, again=True), strict=True) if body is not None}
        self.drop_damaged()
        answers: list[tuple[Link, int, Refusal | None]] = []
        for ((link, put, size), envelope, identity), seq in zip(some, held, strict=True):
            link.pending_bytes -= size
            self.pending_bytes -= size
            if link.closed:
                continue
            if seq in sound:
                answers.append((link, put, None))
            elif seq is not None and self._log.is_held(seq):
                # It could not be read this time: nobody knows.
                answers.append((link, put, Refusal.STORAGE))
            elif (refusal := self.take(link, put, envelope, identity, now)) is not None:
                answers.append((link, put, refusal))
        return answers

    def drop_damaged(self) -> None:
        """Hold no more what was read and is damaged, and forget it, so that it is taken from whoever has it."""
        self._stats.add(Trouble.READ_FAILED, self._bodies.failed_reads)
        self._bodies.failed_reads = 0
        damaged, self._bodies.damaged = self._bodies.damaged, []
        for seq in damaged:
            if self._log.is_held(seq):
                self._log.forget(seq)
                self.pending.batch.forget.append(seq)
                self._stats.add(Evicted.DAMAGED)

    def _apply_purges(self, pending: PendingBatch, residence_s: float) -> None:
        if pending.purges:
            removed = self._log.purged_by(pending.purges)
            for seq in removed:
                self._note_residence(seq, residence_s)
                self._log.drop_body(seq)
            self._stats.add(Total.PURGED, len(removed))
            pending.batch.drop_bodies.extend(removed)
        pending.batch.forget.extend(self._retention.trim())

    def take_batch(self) -> PendingBatch | None:
        """Return what is to be committed now; hand it to :meth:`committed` or :meth:`commit_failed`."""
        if not self.pending.batch:
            return None
        pending, self.pending = self.pending, PendingBatch()
        self._apply_purges(pending, self._clock.residence_s(pending.since))
        pending.batch.interfaces |= self._unsaved_interfaces
        self._unsaved_interfaces = {}
        self._in_flight += 1
        return pending

    def committed(self, pending: PendingBatch, now: float) -> list[tuple[Link, list[int]]]:
        """The batch is safe; return whom to tell: open links and numbers of puts (none of what relays brought)."""
        self._in_flight -= 1
        self._note_peak()
        if pending.waiters:
            self._adapt(pending.since, now)
        if not self._in_flight and not self._stale:
            self.storage_failed = False
            self._storage_retry_s = STORAGE_RETRY_S
        if pending.first_seq:
            self._log.commit(pending.first_seq, pending.last_seq)
            self._stats.add(Total.ACCEPTED, pending.accepted)
        return self._settle(pending)

    def _note_peak(self) -> None:
        """Remember how much was pending, before any of it is not any more."""
        self._peak_bytes = max(self._peak_bytes, self.pending_bytes)

    def _adapt(self, since: float, now: float) -> None:
        """Let less wait for a store that is slow, and more for one that was kept busy and is fast."""
        if since < self._adapted_at:
            return  # it waited behind what the bound before had let in
        wait_s = now - since
        most = self.most_pending_bytes
        if wait_s > COMMIT_WAIT_S:
            self.most_pending_bytes = max(int(most * COMMIT_WAIT_S / wait_s), LEAST_PENDING_BYTES)
        elif wait_s < COMMIT_WAIT_S / 2 and self._peak_bytes >= most // 2:
            self.most_pending_bytes = min(2 * most, MAX_PENDING_BYTES)
        else:
            return
        self._adapted_at = now
        self._peak_bytes = self.pending_bytes

    def commit_failed(self, pending: PendingBatch, now: float) -> list[tuple[Link, list[int]]]:
        """Nothing of the batch is stored; return whom to tell. Admits nothing until :meth:`reload`, and a while."""
        self._in_flight -= 1
        self._note_peak()
        self.storage_failed = self._stale = True
        self._storage_retry_at = now + self._storage_retry_s
        self._storage_retry_s = min(2 * self._storage_retry_s, STORAGE_RETRY_MAX_S)
        self._unsaved_interfaces |= pending.batch.interfaces
        late = sum([len(self.duplicates.get(identity, ())) for _, identity, *_ in pending.batch.inserts])
        self._stats.add(REJECTED[Refusal.STORAGE], len(pending.batch.inserts) + late)
        return self._settle(pending)

    def may_try(self, now: float) -> bool:
        """Whether to see if the store takes something again: after a failed commit, some time later."""
        return self.storage_failed and not self._stale and not self._in_flight and now >= self._storage_retry_at

    @property
    def needs_reload(self) -> bool:
        """Whether memory must be read from the store again after a failed commit."""
        return self._stale and not self._in_flight and not self.pending.batch.inserts

    def reload(self, rows: Iterable[AdmittedRow]) -> None:
        """Forget what was never stored: read everything from the store again."""
        self._log.reload(rows)
        # Found in the log as it was; what is due will be found again.
        self.pending.batch.drop_bodies, self.pending.batch.displace, self.pending.batch.forget = [], [], []
        self._stale = False

    def _settle(self, pending: PendingBatch) -> list[tuple[Link, list[int]]]:
        """Return all who waited for a batch, whatever came of it."""
        waiters = pending.waiters
        if self.duplicates:
            late = (self.duplicates.pop(identity, []) for _, identity, *_ in pending.batch.inserts)
            waiters = waiters + [Waiting(link, [number], size) for link, number, size in chain.from_iterable(late)]
        for waiter in waiters:
            waiter.link.pending_bytes -= waiter.size_bytes
            self.pending_bytes -= waiter.size_bytes
        return [(waiter.link, waiter.numbers) for waiter in waiters if not waiter.link.closed]

    @property
    def has_due(self) -> bool:
        """Whether :meth:`retire` left some for another slice."""
        return self._retention.has_more

    def retire(self, now: float, *, save_clock: bool) -> None:
        """Let some envelopes leave whose time has come; ``save_clock`` writes the residence clock too."""
        batch = self.pending.batch
        dropped, forgotten = self._retention.retire(now)
        excess = self._admission.excess()
        for seq in excess:
            self._note_residence(seq, self._clock.residence_s(now))
            self._log.displace(seq)
        self._stats.add(Evicted.LIMIT, len(excess))
        batch.drop_bodies.extend(dropped)
        batch.displace.extend(excess)
        batch.forget.extend(forgotten)
        if save_clock or dropped or excess or forgotten:
            self._save_clock(now)

    def _save_clock(self, now: float) -> None:
        """Write the clock with the batch that is being made."""
        self._save_due = now + SAVE_CLOCK_S
        self.pending.batch.state["residence_s"] = int(self._clock.residence_s(now))
