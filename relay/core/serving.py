# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay sends to one peer: answers to fetches, and the peer's subscription.

Nothing is queued but identities asked for: a subscription is a position in the
log of admitted envelopes, so a slow reader costs no memory and misses nothing.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING, Final

from relay.core.envelope import ALL_CLASSES, SIZES
from relay.core.log import EntryState
from relay.core.messages import Offer, Subscribe, lane_of
from relay.core.stats import Histogram, Total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.core.bodies import Bodies
    from relay.core.log import AdmittedLog, Entry
    from relay.core.session import Session
    from relay.core.stats import Stats

#: Identities that one peer may have asked for and not got: 4 full FETCH messages
#: of an honest peer's window, 0.4 MB.
MAX_FETCHES: Final = 4096
#: Envelopes read from the store at a time, and their bytes: what lies in memory for
#: each peer that does not read, 32 MiB for 256 of them.
READ_ENVELOPES: Final = 126
READ_BYTES: Final = 128 << 10
#: Entries of the log looked at before others get their turn: under 5 ms on a small board; 32 KiB a session if all
#: of them match.
SCAN_ENTRIES: Final = 4096
#: An identity with its place in a queue; a number in an array.
_FETCH_BYTES: Final = 90
_MATCH_BYTES: Final = 8


class Serving:
    """The sending side of one session."""

    def __init__(self, log: AdmittedLog, bodies: Bodies, stats: Stats) -> None:
        self._log = log
        self._bodies = bodies
        self._stats = stats
        #: Identities asked for, by size class, so that a small one passes the large.
        self._fetches: list[deque[bytes]] = [deque() for _ in SIZES]
        self._fetch_count = 0
        self._subscription: Subscribe | None = None
        #: What was there at the subscription: the classes still to be sent, and of the first of them what lies
        #: between these two was not looked at yet.
        self._classes: list[int] = []
        self._first_seq = self._end_seq = 0
        self._subscribed_at = 0
        #: What came since: looked at up to here.
        self._seen_seq = 0
        self._is_catching_up = False
        #: Sequence numbers found and not sent, in order of arrival: the backlog's go from the end, new ones first.
        self._backlog = array("Q")
        self._backlog_bytes = SIZES[0]
        self._arrived = array("Q")
        self._departures = 0
        #: What comes after this one came while the peer was there: the rest was kept for it, and not forwarded.
        self._there_from_seq: int | None = None

    def is_there_from(self, seq: int) -> None:
        """Note that the peer is there, and hears of all that comes after a sequence number at once."""
        self._there_from_seq = seq

    def fetch(self, identities: Sequence[bytes]) -> bool:
        """Queue identities that the peer wants; False when it asks for more than the bound."""
        self._fetch_count += len(identities)
        if self._fetch_count > MAX_FETCHES:
            return False
        for identity in identities:
            self._fetches[self._log.size_class(identity)].append(identity)
        return True

    def subscribe(self, subscription: Subscribe, *, arrived_after_s: float) -> None:
        """Start or replace the peer's subscription."""
        self._subscription = subscription
        self._first_seq = self._log.seq_arrived_since(arrived_after_s)
        self._subscribed_at = self._seen_seq = self._there_from_seq = self._log.committed_seq
        self._classes = list(range(len(SIZES)))
        self._end_seq = self._subscribed_at + 1
        self._is_catching_up = True
        self._backlog = array("Q")
        self._arrived = array("Q")

    @property
    def held_bytes(self) -> int:
        """What the peer's requests take in memory, about."""
        return _FETCH_BYTES * self._fetch_count + _MATCH_BYTES * (len(self._backlog) + len(self._arrived))

    @property
    def follows(self) -> bool:
        """Whether newly admitted envelopes concern this peer."""
        return self._subscription is not None

    def has_work(self) -> bool:
        """Whether :meth:`pump` would find something to do now."""
        if self._fetch_count or self._is_catching_up or self._arrived:
            return True
        return self._subscription is not None and self._seen_seq < self._log.committed_seq

    def pump(self, session: Session, *, target_bytes: int, after_hour: int, residence_s: float) -> None:
        """Queue messages until about ``target_bytes`` wait in the session."""
        while True:
            has_room = session.queued_bytes < target_bytes
            if (fetches := self._next_fetches(session, has_room=has_room)) is not None:
                self._answer_fetches(session, fetches, after_hour, residence_s)
            elif not has_room or not self._pump_subscription(session, after_hour, residence_s):
                return

    def _next_fetches(self, session: Session, *, has_room: bool) -> deque[bytes] | None:
        """Return the fetches to answer next: on a slow link a lane that is idle need not wait for the others."""
        for size_class, fetches in enumerate(self._fetches) if self._fetch_count else ():
            if fetches and (has_room or (session.is_slow and session.is_lane_idle(lane_of(SIZES[size_class])))):
                return fetches
        return None

    def _answer_fetches(self, session: Session, fetches: deque[bytes], after_hour: int, residence_s: float) -> None:
        missing: list[bytes] = []
        wanted: list[Entry] = []
        # What a slow link takes in is gone from reach: nothing can pass it any more.
        limit = 1 if session.is_slow else READ_ENVELOPES
        room = READ_BYTES
        while fetches and len(wanted) < limit and room > 0:
            identity = fetches.popleft()
            self._fetch_count -= 1
            entry = self._log.find(identity)
            if entry is None or entry.state is not EntryState.HELD or entry.header.expiry_hour <= after_hour:
                missing.append(identity)
            else:
                wanted.append(entry)
                room -= entry.size_bytes
        bodies = self._bodies.read([entry.seq for entry in wanted])
        missing += [entry.identity for entry, body in zip(wanted, bodies, strict=True) if body is None]
        self._send(session, [entry.seq for entry in wanted], bodies, residence_s)
        if missing:
            session.send_missing(missing)

    def _pump_subscription(self, session: Session, after_hour: int, residence_s: float) -> bool:
        """Go on with the subscription; False when nothing is left or others should have a turn."""
        subscription = self._subscription
        if subscription is None:
            return False
        may_go_on = self._look(subscription, after_hour)
        if self._departures != self._log.departures:
            # What left since may be forgotten here and still lie in the store.
            self._backlog = array("Q", filter(self._log.is_held, self._backlog))
            self._arrived = array("Q", filter(self._log.is_held, self._arrived))
            self._departures = self._log.departures
        # What is new does not wait for what was there. The order of the backlog is the same for all who ask, so
        # that nothing tells what a peer had before, and a visit that is cut short has the newest texts.
        is_new = bool(self._arrived)
        found = self._arrived if is_new else self._backlog
        if not found:
            return may_go_on and (self._has_to_look(subscription) or self._finish_catching_up(session, subscription))
        some = slice(READ_ENVELOPES) if is_new else slice(-READ_ENVELOPES, None)
        largest_bytes = self._log.largest_bytes(found[some][0], found[some][-1]) if is_new else self._backlog_bytes
        # What a slow link takes in is gone from reach: one at a time.
        room = 0 if session.is_slow else READ_BYTES
        count = min(READ_ENVELOPES, max(1, room // largest_bytes))
        some = slice(count) if is_new else slice(-count, None)
        seqs = list(found[some])
        del found[some]
        if subscription.offers_only:
            entries = [entry for entry in map(self._log.entry, seqs) if entry]
            offers = [Offer(e.identity, e.header.size_class, e.header.expiry_hour) for e in entries]
            session.offer(offers if is_new else offers[::-1])
        else:
            self._send(session, seqs, self._bodies.read(seqs), residence_s, is_latest_first=not is_new)
        return may_go_on

    def _has_to_look(self, subscription: Subscribe) -> bool:
        return bool(self._classes) or (subscription.follow and self._seen_seq < self._log.committed_seq)

    def _look(self, subscription: Subscribe, after_hour: int) -> bool:
        """Look at a part of the log for what is next; False when that took as long as one turn may."""
        log = self._log
        if subscription.follow and not self._arrived and self._seen_seq < log.committed_seq:
            first_seq = self._seen_seq + 1
            self._seen_seq = min(log.seq_off(first_seq, SCAN_ENTRIES) - 1, log.committed_seq)
            self._arrived = self._held(subscription, first_seq, self._seen_seq, ALL_CLASSES, after_hour)
            return self._seen_seq == log.committed_seq
        if self._classes and not self._backlog:
            size_class = self._classes[0]
            first_seq = max(self._first_seq, log.seq_off(self._end_seq, -SCAN_ENTRIES))
            self._backlog = self._held(subscription, first_seq, self._end_seq - 1, 1 << size_class, after_hour)
            self._backlog_bytes = SIZES[size_class]
            self._end_seq = first_seq
            if first_seq == self._first_seq:
                del self._classes[0]
                self._end_seq = self._subscribed_at + 1
                return True
            return False
        return True

    def _held(
        self, subscription: Subscribe, first_seq: int, last_seq: int, classes: int, after_hour: int
    ) -> array[int]:
        return self._log.held_in_prefix(
            first_seq=first_seq,
            last_seq=last_seq,
            prefix_bits=subscription.prefix_bits,
            prefix=subscription.prefix,
            after_hour=after_hour,
            classes=classes,
        )

    def _finish_catching_up(self, session: Session, subscription: Subscribe) -> bool:
        """Say so once everything matched is on its way, not only queued behind smaller messages.

        Only what was there when the subscription came counts, or a busy relay would never say it.
        """
        if not self._is_catching_up or self._classes or session.queued_bytes:
            return False
        self._is_catching_up = False
        session.caught_up()
        if not subscription.follow:
            self._subscription = None
        return True

    def _send(
        self,
        session: Session,
        seqs: Sequence[int],
        bodies: Sequence[bytes | None],
        residence_s: float,
        *,
        is_latest_first: bool = False,
    ) -> None:
        # Turned round for the peer alone: the log finds what follows each other in a step.
        present = [body for body in bodies if body is not None]
        session.send_envelopes(present[::-1] if is_latest_first else present)
        self._stats.add(Total.FORWARDED, len(present))
        if len(present) < len(seqs):
            seqs = [seq for seq, body in zip(seqs, bodies, strict=True) if body is not None]
        if not seqs:
            return
        self._log.note_taken(seqs)
        there_from = self._there_from_seq
        if there_from is not None and max(seqs) > there_from:
            for seq in seqs:
                if seq > there_from:
                    self._stats.observe(Histogram.FORWARD_LATENCY_S, residence_s - self._log.arrived_s(seq))
