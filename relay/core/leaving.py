# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether this relay may start anew, and lose what it has in memory only (docs/protocol.md section 6.13).

It may when one neighbour, which does not start anew itself for a while, says that it holds all that is held here. It
is asked for all of it, by identity: that two have reconciled says only that both have admitted the same, and a
neighbour may have refused what it was offered, or let go of it since. Then nothing more is taken in, and it is asked
once more for what came meanwhile. A neighbour can lie, and people are told so: what is here alone may be lost then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.core.stats import UpdateTotal
from relay.core.update_wire import MAX_ASKED, Leaving, Stays
from relay.core.updates import speaks_of_updates

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.link import Link
    from relay.core.log import AdmittedLog
    from relay.core.neighbours import Neighbours
    from relay.core.stats import Stats
    from relay.core.updates import Updates

#: Who says that it stays does not start anew for so long: three tries of newer software that fails, ten minutes each,
#: and the way back.
PROMISE_S: Final = 2400.0
#: Whoever wants to start anew itself promises that anew for PROMISE_S after the first time, and then nothing more until
#: it had its turn, or let that pass for so long: so nobody is kept from newer software by who asks without end, and
#: where all want to, some can.
TURN_S: Final = 900.0
#: For an answer, and for all of it: 100,000 envelopes are 200 questions.
ANSWER_S: Final = 60.0
GIVE_UP_S: Final = 900.0
#: How often it is looked whether all that was received is stored.
_STORE_S: Final = 1.0
#: Entries of the log that are looked at for one question.
_LOOK: Final = 4 * MAX_ASKED


class Departure:
    """One at a time. ``may_go`` is what came of it: None while it is not known."""

    def __init__(
        self,
        log: AdmittedLog,
        stats: Stats,
        neighbours: Neighbours,
        updates: Updates,
        mark_ready: Callable[[Link], None],
        is_storing: Callable[[], bool],
    ) -> None:
        """``updates``: whose rate this keeps to; ``is_storing``: whether something received is not committed yet."""
        self._log = log
        self._stats = stats
        self._neighbours = neighbours
        self._updates = updates
        self._mark_ready = mark_ready
        self._is_storing = is_storing
        self.may_go: bool | None = False
        #: Nothing more is taken in from people.
        self.is_closing = False
        self._is_all = False
        self._link: Link | None = None
        self._tried: set[int] = set()
        #: Numbers of links that owe an answer.
        self._owed: set[int] = set()
        self._next_seq = self._asked_to = 0
        self._due_s = self._until_s = 0.0
        #: Nobody owes an answer: it goes on by itself when that is due.
        self._is_waiting = False
        self._wants = False
        self._promised_first: float | None = None
        self._promised_until = float("-inf")

    # -- ours -------------------------------------------------------------

    def begin(self, now: float, *, everything: bool) -> None:
        """Ask neighbours; ``everything``: whether one has to hold all that is here, and not only to stay."""
        self._wants = True
        if now < self._promised_until:
            self.may_go = False
            return
        self._promised_first = None
        self.may_go, self._is_all = None, everything and self._log.held_count > 0
        self._tried = set()
        self._until_s = now + GIVE_UP_S
        self._next_neighbour(now)

    def call_off(self) -> None:
        """Stay after all, and take in again."""
        self._finish(may_go=False)

    def _next_neighbour(self, now: float) -> None:
        able = [
            link for link in self._neighbours if speaks_of_updates(link) and link.number not in self._tried | self._owed
        ]
        if not able and (self._is_all or self._tried):
            self._finish(may_go=False)
            return
        self._next_seq = self._log.seq_off(0, 0) if self._is_all else self._log.committed_seq + 1
        self.is_closing = False
        if not able:
            # Nobody is near, and nothing is lost.
            self._finish(may_go=True)
            return
        self._link = able[0]
        self._tried.add(self._link.number)
        self._ask(self._link, now)

    def _ask(self, link: Link, now: float) -> None:
        log, seq, looked = self._log, self._next_seq, 0
        identities: list[bytes] = []
        while seq <= log.committed_seq and len(identities) < MAX_ASKED and looked < _LOOK:
            identity = log.held_identity(seq)
            if identity is not None:
                identities.append(identity)
            looked += 1
            seq = log.seq_off(seq, 1)
        self._asked_to = seq
        self._is_waiting = False
        self._due_s = now + ANSWER_S
        self._owed.add(link.number)
        message = Leaving(identities=identities).encode()
        self._updates.spend(link, len(message), now)
        link.session.send_update(message)
        self._mark_ready(link)

    def answered(self, link: Link, stays: Stays, now: float) -> bool:
        """Take an answer; False if nobody asked for it."""
        if link.number not in self._owed:
            return False
        self._owed.discard(link.number)
        if link is not self._link:
            # Others were asked meanwhile.
            return True
        if not stays.stays or not stays.holds:
            self._link = None
            self._next_neighbour(now)
            return True
        self._next_seq = self._asked_to
        self._go_on(link, now)
        return True

    def _go_on(self, link: Link, now: float) -> None:
        open_at = self._updates.open_at(link, now)
        if open_at > now:
            self._wait(open_at)
        elif self._next_seq <= self._log.committed_seq:
            self._ask(link, now)
        elif not self.is_closing:
            # From here on little can come; whatever does is asked for, too.
            self.is_closing = True
            self._ask(link, now)
        elif self._is_storing():
            self._wait(now + _STORE_S)
        else:
            self._finish(may_go=True)

    def _wait(self, until_s: float) -> None:
        self._due_s, self._is_waiting = until_s, True

    def _finish(self, *, may_go: bool) -> None:
        self.may_go = may_go
        self.is_closing = may_go
        self._link = None

    # -- a neighbour's ----------------------------------------------------

    def asked(self, link: Link, identities: list[bytes], now: float) -> None:
        """Answer a neighbour that would start anew, and keep to that."""
        stays = self.may_go is False and not self._is_its_turn(now)
        holds = stays and all(self._log.held_seq(identity) is not None for identity in identities)
        if holds:
            self._promised_until = now + PROMISE_S
            self._promised_first = now if self._promised_first is None else self._promised_first
        link.session.send_update(Stays(stays=stays, holds=holds).encode())
        self._stats.add(UpdateTotal.STAYED if holds else UpdateTotal.DID_NOT_STAY)
        self._mark_ready(link)

    def _is_its_turn(self, now: float) -> bool:
        """Whether it promises nothing, so as to start anew itself."""
        if self._promised_first is not None and now > self._promised_until + TURN_S:
            self._promised_first = None
        return self._wants and self._promised_first is not None and now > self._promised_first + PROMISE_S

    # -- time and end -----------------------------------------------------

    @property
    def next_s(self) -> float | None:
        """When :meth:`take_due` has something to do (monotonic seconds)."""
        return min(self._due_s, self._until_s) if self._link is not None else None

    def take_due(self, now: float) -> None:
        """Ask the next one where a neighbour does not answer, and give up where it takes too long."""
        link = self._link
        if link is None or now < min(self._due_s, self._until_s):
            return
        if now >= self._until_s:
            self._finish(may_go=False)
        elif self._is_waiting:
            self._go_on(link, now)
        else:
            self._link = None
            self._next_neighbour(now)

    def forget(self, link: Link, now: float) -> None:
        """The link is gone."""
        self._owed.discard(link.number)
        if link is self._link:
            self._link = None
            self._next_neighbour(now)
