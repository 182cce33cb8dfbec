# SPDX-License-Identifier: GPL-2.0-or-later
"""When relays reconcile, and how many at a time (docs/protocol.md section 8).

Reconciling walks over everything admitted. So few do it at once, they share one
snapshot, and a neighbour that begins too often is shown the door.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from relay.core.clock import jittered
from relay.core.errors import RelayError
from relay.core.reconcile import Reconciler
from relay.core.reconcile_set import Scope
from relay.core.stats import Total

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.link import Link
    from relay.core.log import AdmittedLog
    from relay.core.reconcile_set import AdmittedColumns
    from relay.core.stats import Stats

#: Reconciliations at once that we began, and as many that neighbours began; others
#: wait. Apart, because who answers never waits for anybody's turn but the asker's, so
#: relays cannot wait for each other in a ring. Each keeps up to 76 bytes an entry
#: beside the snapshot they share (46): 65 MB for 100,000 entries if all eight are at
#: their worst, and nothing once they are done.
MAX_ACTIVE: Final = 4
#: A neighbour that says nothing for so long in the middle of one gives its place up,
#: and the session with it.
STALLED_S: Final = 120.0
#: Neighbours reconcile again after this time, give or take a quarter: what a full
#: store or a failing disk refused may be welcome now. Costs 100 bytes if nothing is.
INTERVAL_S: Final = 3600.0
#: Reconciliations that a neighbour may begin in a session: at once, when links come
#: and go, and for each further ten minutes.
MAX_AT_ONCE: Final = 16
ALLOWANCE_S: Final = 600.0


class TooManyError(RelayError):
    """The neighbour begins reconciliations too often, or one that is not its to begin."""


class Meetings:
    """All reconciliations of one relay."""

    def __init__(self, log: AdmittedLog, stats: Stats, random_bytes: Callable[[int], bytes]) -> None:
        self._log = log
        self._stats = stats
        self._random_bytes = random_bytes
        #: Numbers of links, by whether we began.
        self._active: dict[bool, set[int]] = {True: set(), False: set()}
        self._jobs: deque[Link] = deque()
        #: Links whose turn has not come, with the peer's first message if it began.
        self._waiting: dict[bool, deque[tuple[Link, bytes | None]]] = {True: deque(), False: deque()}
        self._snapshot: tuple[int, AdmittedColumns] | None = None

    def begin(self, link: Link, now: float) -> None:
        """Begin a reconciliation from the side that dialled."""
        link.reconcile_due = now + jittered(INTERVAL_S, self._random_bytes(1)[0] / 256, spread=0.25)
        if link.number not in self._active[True] and not self._waits(link):
            self._waiting[True].append((link, None))
            self._fill(now)

    def _waits(self, link: Link) -> bool:
        return any(waiting is link for waiting, _ in self._waiting[link.session.initiator])

    def received(self, link: Link, body: bytes, now: float) -> None:
        """Take a message of the neighbour; raise RelayError when it must not be."""
        if link.reconciler is None:
            allowed = MAX_AT_ONCE + (now - link.since) / ALLOWANCE_S
            if link.session.initiator or self._waits(link) or link.reconciliations >= allowed:
                raise TooManyError("reconciliation out of turn")
            self._waiting[False].append((link, body))
            self._fill(now)
            return
        link.reconcile_by = now + STALLED_S
        link.reconciler.receive(body)
        if link not in self._jobs:
            self._jobs.append(link)

    def _fill(self, now: float) -> None:
        for began, waiting in self._waiting.items():
            while waiting and len(self._active[began]) < MAX_ACTIVE:
                link, body = waiting.popleft()
                if link.closed:
                    continue
                self._active[began].add(link.number)
                link.reconciler = self._make(link)
                link.reconcile_by = now + STALLED_S
                if body is None:
                    link.reconciler.start()
                else:
                    link.first_reconcile_message = body
                self._jobs.append(link)

    def _make(self, link: Link) -> Reconciler:
        ours, theirs = link.session.hello, link.session.peer
        if theirs is None:  # pragma: no cover - only established links get here
            raise AssertionError("not established")
        key = link.session.reconcile_key(link.reconciliations)
        link.reconciliations += 1
        return Reconciler(
            initiator=link.session.initiator,
            key=key,
            columns=self._columns(),
            scope=Scope(
                first_hour=max(ours.window[0], theirs.window[0]),
                last_hour=min(ours.window[1], theirs.window[1]),
                classes=ours.classes & theirs.classes,
                min_price=max(ours.price, theirs.price),
            ),
        )

    def _columns(self) -> AdmittedColumns:
        if self._snapshot is None or self._snapshot[0] != self._log.version:
            self._snapshot = (self._log.version, self._log.columns())
        return self._snapshot[1]

    @property
    def has_work(self) -> bool:
        """Whether :meth:`run_slice` has something to compute."""
        return bool(self._jobs)

    def next_job(self) -> Link:
        """Return the link whose slice :meth:`run_slice` computes next; links take turns."""
        return self._jobs.popleft()

    def run_slice(self, link: Link, now: float) -> None:
        """Compute a bounded slice; raise RelayError when the neighbour broke the rules."""
        reconciler, exchange = link.reconciler, link.exchange
        if link.closed or reconciler is None or exchange is None:
            return
        if link.first_reconcile_message is not None:
            message, link.first_reconcile_message = link.first_reconcile_message, None
            reconciler.receive(message)
        more = reconciler.step()
        for message in reconciler.messages_to_send():
            link.session.reconcile(message)
        if more:
            self._jobs.append(link)
        elif reconciler.done:
            self._stats.add(Total.RECONCILED)
            if reconciler.used_list:
                self._stats.add(Total.RECONCILE_FALLBACK)
            exchange.add_backlog(self._log, reconciler.to_offer or ())
            self.forget(link, now)

    def forget(self, link: Link, now: float) -> None:
        """The link is done, or gone: let the next one begin."""
        link.reconciler = None
        link.reconcile_by = None
        self._active[link.session.initiator].discard(link.number)
        if not any(self._active.values()):
            self._snapshot = None
        self._fill(now)
