# SPDX-License-Identifier: GPL-2.0-or-later
"""When relays reconcile, and how many at a time (docs/protocol.md section 8).

Reconciling walks over everything admitted. So few do it at once, they share one
snapshot, and a neighbour that begins too often is shown the door. Whoever waits has a
turn within seconds: who stalls meanwhile loses his, and an interface on which many
stall keeps no other one waiting.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from relay.core.clock import jittered
from relay.core.errors import RelayError
from relay.core.exchange import LEAST_BYTES_PER_S, SLOW_LEAST_BYTES_PER_S
from relay.core.messages import RECONCILE_LANE
from relay.core.reconcile import Reconciler
from relay.core.reconcile_set import Scope
from relay.core.stats import Total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.core.link import Link
    from relay.core.log import AdmittedLog
    from relay.core.reconcile_set import Admitted
    from relay.core.stats import Stats

#: Reconciliations at once that we began, and as many that neighbours began; others
#: wait. Apart, because who answers never waits for anybody's turn but the asker's, so
#: relays cannot wait for each other in a ring. Each keeps 20 bytes an entry up to
#: reconcile_set.SCALAR_ENTRIES, and beyond nothing, unless all of them go over as a list
#: (8 an entry); the snapshot that they share is a byte an entry where some were forgotten.
MAX_ACTIVE: Final = 4
#: A neighbour that says nothing for so long in the middle of one gives its place up,
#: and the session with it,
STALLED_S: Final = 120.0
#: or for so long while others wait: a board as small as a relay's needs that to compare
#: 100,000 entries beside seven others.
TURN_S: Final = 15.0
SLOW_TURN_S: Final = 40.0
#: While others wait, a turn goes on as long as so much moves on average as in an exchange, one way or the
#: other, and no longer than the longest list takes at that on a slow link.
MAX_TURN_S: Final = 300.0
#: Who never answers a root costs no place, only a session. An honest one may let 63
#: others go first, four at a time, each of which stalls.
ANSWER_S: Final = 900.0
#: Neighbours reconcile again after this time, give or take a quarter: what a full
#: store or a failing disk refused may be welcome now. Costs 100 bytes if nothing is.
INTERVAL_S: Final = 3600.0
#: Reconciliations that a neighbour may begin in a session: at once, when links come
#: and go, and for each further ten minutes.
MAX_AT_ONCE: Final = 16
ALLOWANCE_S: Final = 600.0


class TooManyError(RelayError):
    """The neighbour begins reconciliations too often, or one that is not its to begin."""


class Meeting:
    """The reconciliations of one session with a relay, one at a time."""

    __slots__ = ("answer_by", "count", "due", "heard_s", "inbox", "link", "moved_bytes", "reconciler", "turn_s")

    def __init__(self, link: Link) -> None:
        self.link = link
        #: Reconciliations so far, the present one included.
        self.count = 0
        self.reconciler: Reconciler | None = None
        #: The neighbour's first message, while it waits for a place.
        self.inbox: bytes | None = None
        #: When to begin again.
        self.due: float | None = None
        #: When a root without an answer is given up.
        self.answer_by: float | None = None
        #: Since when it has a place, when something moved last, and how much did.
        self.turn_s = 0.0
        self.heard_s = 0.0
        self.moved_bytes = 0

    def ends(self, *, others_wait: bool) -> float:
        """Return when it has to give its place up if nothing moves until then."""
        if not others_wait:
            return self.heard_s + STALLED_S
        slow = self.link.session.is_slow
        turn_s = SLOW_TURN_S if slow else TURN_S
        moving_s = self.moved_bytes / (SLOW_LEAST_BYTES_PER_S if slow else LEAST_BYTES_PER_S)
        return min(self.heard_s + turn_s, self.turn_s + min(turn_s + moving_s, MAX_TURN_S))


class Meetings:
    """All reconciliations of one relay."""

    def __init__(self, log: AdmittedLog, stats: Stats, random_bytes: Callable[[int], bytes]) -> None:
        self._log = log
        self._stats = stats
        self._random_bytes = random_bytes
        self._meetings: dict[int, Meeting] = {}
        #: Who has a place, and who waits for one in order of arrival; by whether we began.
        self._active: dict[bool, list[Meeting]] = {True: [], False: []}
        self._waiting: dict[bool, list[Meeting]] = {True: [], False: []}
        self._jobs: deque[Meeting] = deque()
        self._snapshot: tuple[int, Admitted] | None = None

    def join(self, link: Link) -> None:
        """Take in a session with a relay."""
        self._meetings[link.number] = Meeting(link)

    def begin(self, link: Link, now: float) -> None:
        """Begin a reconciliation from the side that dialled."""
        meeting = self._meetings[link.number]
        meeting.due = now + jittered(INTERVAL_S, self._random_bytes(1)[0] / 256, spread=0.25)
        if meeting.reconciler is None and meeting not in self._waiting[True]:
            self._wait(meeting, now)

    def received(self, link: Link, body: bytes, now: float) -> None:
        """Take a message of the neighbour; raise RelayError when it must not be."""
        meeting = self._meetings[link.number]
        reconciler = meeting.reconciler
        if reconciler is None:
            allowed = MAX_AT_ONCE + (now - link.since) / ALLOWANCE_S
            if link.session.initiator or meeting.inbox is not None or meeting.count >= allowed:
                raise TooManyError("reconciliation out of turn")
            meeting.inbox = body
            self._wait(meeting, now)
            return
        meeting.heard_s = now
        meeting.moved_bytes += len(body)
        reconciler.receive(body)
        if reconciler.done:
            self._finish(meeting, now)
        elif not reconciler.is_resting:
            self._add_job(meeting)
        elif reconciler.is_awake and meeting not in self._waiting[True]:
            meeting.answer_by = None
            self._wait(meeting, now)

    def _wait(self, meeting: Meeting, now: float) -> None:
        self._waiting[meeting.link.session.initiator].append(meeting)
        self._fill(now)

    def _add_job(self, meeting: Meeting) -> None:
        if meeting not in self._jobs:
            self._jobs.append(meeting)

    def _fill(self, now: float) -> None:
        for began, waiting in self._waiting.items():
            while (meeting := self._next(began)) is not None:
                waiting.remove(meeting)
                self._active[began].append(meeting)
                meeting.turn_s = meeting.heard_s = now
                meeting.moved_bytes = 0
                if meeting.reconciler is not None:
                    meeting.reconciler.resume(self._columns())
                else:
                    meeting.reconciler = self._make(meeting)
                    if began:
                        meeting.reconciler.start()
                self._add_job(meeting)

    def _next(self, began: bool) -> Meeting | None:  # noqa: FBT001 - a key of the dictionaries
        """Return who has the next place: of the interface with the fewest, who waits longest.

        The last place is kept for an interface that has none.
        """
        free = MAX_ACTIVE - len(self._active[began])
        if free <= 0:
            return None
        taken: dict[int, int] = {}
        for meeting in self._active[began]:
            taken[meeting.link.interface] = taken.get(meeting.link.interface, 0) + 1
        chosen = min(self._waiting[began], key=lambda waits: taken.get(waits.link.interface, 0), default=None)
        if chosen is not None and free == 1 and taken.get(chosen.link.interface):
            return None
        return chosen

    def _make(self, meeting: Meeting) -> Reconciler:
        session = meeting.link.session
        ours, theirs = session.hello, session.peer
        if theirs is None:  # pragma: no cover - only established links get here
            raise AssertionError("not established")
        key = session.reconcile_key(meeting.count)
        meeting.count += 1
        return Reconciler(
            initiator=session.initiator,
            key=key,
            columns=self._columns(),
            scope=Scope(
                first_hour=max(ours.window[0], theirs.window[0]),
                last_hour=min(ours.window[1], theirs.window[1]),
                classes=ours.classes & theirs.classes,
                min_price=max(ours.price, theirs.price),
            ),
        )

    def _columns(self) -> Admitted:
        if self._snapshot is None or self._snapshot[0] != self._log.version:
            self._snapshot = (self._log.version, self._log.columns())
        return self._snapshot[1]

    @property
    def has_work(self) -> bool:
        """Whether :meth:`run_slice` has something to compute."""
        return bool(self._jobs)

    def next_job(self) -> Link:
        """Return the link whose slice :meth:`run_slice` computes next; links take turns."""
        return self._jobs[0].link

    def run_slice(self, now: float) -> None:
        """Compute a bounded slice; raise RelayError when the neighbour broke the rules."""
        meeting = self._jobs.popleft()
        link, reconciler = meeting.link, meeting.reconciler
        if link.closed or reconciler is None:
            return
        meeting.heard_s = now
        if meeting.inbox is not None:
            message, meeting.inbox = meeting.inbox, None
            reconciler.receive(message)
        more = reconciler.step()
        for message in reconciler.messages_to_send():
            meeting.moved_bytes += len(message)
            link.session.reconcile(message)
        if more:
            self._jobs.append(meeting)
        elif reconciler.done:
            self._finish(meeting, now)
        elif reconciler.rest():
            # The answer may take a while, or never come: until then nobody's place is taken.
            meeting.answer_by = now + ANSWER_S
            self._give_up_place(meeting, now)

    def _finish(self, meeting: Meeting, now: float) -> None:
        reconciler, exchange = meeting.reconciler, meeting.link.exchange
        meeting.reconciler = meeting.answer_by = None
        if reconciler is not None and exchange is not None:
            self._stats.add(Total.RECONCILED)
            if reconciler.used_list:
                self._stats.add(Total.RECONCILE_FALLBACK)
            exchange.add_backlog(reconciler.to_offer or ())
        self._give_up_place(meeting, now)

    def _give_up_place(self, meeting: Meeting, now: float) -> None:
        for meetings in (*self._active.values(), *self._waiting.values(), self._jobs):
            if meeting in meetings:
                meetings.remove(meeting)
        if not any(self._active.values()):
            self._snapshot = None
        self._fill(now)

    def forget(self, link: Link, now: float) -> None:
        """The link is gone: let the next one begin."""
        meeting = self._meetings.pop(link.number, None)
        if meeting is not None:
            self._give_up_place(meeting, now)

    # -- time -------------------------------------------------------------

    def _turns(self) -> Iterator[tuple[Meeting, float]]:
        """Yield who has a place, and when he has to give it up."""
        for began, active in self._active.items():
            for meeting in active:
                yield meeting, meeting.ends(others_wait=bool(self._waiting[began]))

    def deadline(self, link: Link) -> float | None:
        """When a link begins its next reconciliation, or gives up waiting for an answer."""
        meeting = self._meetings.get(link.number)
        if meeting is None:
            return None
        deadlines = (deadline for deadline in (meeting.due, meeting.answer_by) if deadline is not None)
        return min(deadlines, default=None)

    def next_turn(self) -> float | None:
        """When :meth:`take_stalled` is due."""
        return min((ends for _, ends in self._turns()), default=None)

    def take_stalled(self, now: float) -> list[Link]:
        """Return links that have to give their places up, and their sessions."""
        for meeting, ends in self._turns():
            if ends > now:
                continue
            if meeting in self._jobs:
                # Nobody answers what we have not computed yet,
                meeting.turn_s = meeting.heard_s = now
            elif not meeting.link.session.is_lane_idle(RECONCILE_LANE):
                # or what is still on its way, but that has to move.
                meeting.heard_s = now
        return [meeting.link for meeting, ends in self._turns() if ends <= now]

    def is_due(self, link: Link, now: float) -> bool:
        """Tell whether it is time to begin again."""
        meeting = self._meetings.get(link.number)
        if meeting is None or meeting.due is None or meeting.due > now:
            return False
        meeting.due = None
        return True

    def is_unanswered(self, link: Link, now: float) -> bool:
        """Tell whether the neighbour has not answered for too long."""
        meeting = self._meetings.get(link.number)
        return meeting is not None and meeting.answer_by is not None and meeting.answer_by <= now
