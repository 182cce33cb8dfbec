# SPDX-License-Identifier: GPL-2.0-or-later
"""Offers between relays, and the requests for what was offered (docs/protocol.md section 7).

An envelope moves only when its receiver asked for it, and from one neighbour at a
time. The offering side walks the log of admitted envelopes; the receiving side
keeps at most OFFER_WINDOW unsettled offers a neighbour.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from relay.core.clock import HOUR_S, LAST_HOUR
from relay.core.envelope import SIZES
from relay.core.messages import MAX_OFFERS, OFFER_WINDOW, Hello, Offer, Refusal
from relay.core.once import Once
from relay.core.reconcile_set import SCALAR_ENTRIES
from relay.core.returns import FIRST_ASKED, MAX_ASKED
from relay.core.stats import Dropped, Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relay.core.admission import Admission
    from relay.core.log import AdmittedLog
    from relay.core.returns import Returns
    from relay.core.session import Session
    from relay.core.stats import Stats

#: Identities that a neighbour is known to have, so as not to offer them back: four
#: windows, 0.6 MB. Forgetting one costs an offer of 37 bytes.
MAX_PEER_HAS: Final = 4 * OFFER_WINDOW
#: Offers remembered until a moment when all are settled, to be made again if the
#: session is lost and another leads to the neighbour: twice this at most, 64 KiB.
MAX_OFFERED: Final = 4 * OFFER_WINDOW
#: Refusals remembered for the session, so that a neighbour's repeated offer costs nothing.
MAX_REFUSED: Final = 4 * OFFER_WINDOW
#: Bytes of bodies asked for and not yet arrived, of each size class: none waits for
#: another's to arrive, and the lanes then share the link between them.
FAST_FETCH_BYTES: Final = 1 << 20
#: On a slow link the last asked for is there after so many bytes times the classes under
#: way: two of the largest, and of the small ones 8 KiB, with 20 kB/s 1.6 s at the most.
SLOW_FETCH_BYTES: Final = (8 << 10, 8 << 10, 16 << 10, 24 << 10)
#: A request without any arrival from that neighbour for so long goes to the next offerer.
REQUEST_TIMEOUT_S: Final = 5.0
SLOW_REQUEST_TIMEOUT_S: Final = 20.0
#: What others offered as well is asked of them at last when less than this comes on average, whatever comes.
LEAST_BYTES_PER_S: Final = 4000.0
SLOW_LEAST_BYTES_PER_S: Final = 500.0
#: The session with a neighbour that let requests time out so often in a row ends.
MAX_STALLS: Final = 3
#: Queued requests of one neighbour and class; beyond it those go that are repeated, or wanted no more (0.4 MB).
MAX_WANTS: Final = 2 * OFFER_WINDOW
#: What a neighbour was asked for and has not answered, though it may be wanted no more: its late answers are no fault.
MAX_OWED: Final = 4 * OFFER_WINDOW
#: An identity in an ordered dictionary; a request with its places in queues and tables.
_KNOWN_BYTES: Final = 150
_WANTED_BYTES: Final = 340
_QUEUED_BYTES: Final = 200
#: Entries looked at for one batch of offers: bounds the time of a turn, 8 ms.
SCAN_OFFERS: Final = 2048
#: A neighbour that says nothing so long after offers may be gone: it is probed, lest
#: they wait in a dead stream while another one leads to it.
DOUBT_AFTER_S: Final = 4.0
#: Each answer doubles the time to the next probe, up to this, until there is something new to offer.
MAX_DOUBT_AFTER_S: Final = 64.0
#: What reconciliation found is offered on a slow link while fewer are unsettled: enough
#: to keep 100 kB/s busy, and so few that what is asked for next is always of the newest.
SLOW_BACKLOG_OFFERS: Final = 64
#: Credit is given back in steps of this, or when nothing is under way.
CREDIT_STEP: Final = OFFER_WINDOW // 4
SLOW_CREDIT_STEP: Final = SLOW_BACKLOG_OFFERS // 4


#: Refusals that an hour later may be none: the next reconciliation offers again.
PASSING: Final = frozenset({Refusal.FULL, Refusal.HOURS, Refusal.STORAGE})
#: Counter of each reason that the wire knows.
REJECTED: Final[dict[Refusal, Rejected]] = {refusal: Rejected[refusal.name] for refusal in Refusal}


class Request:
    """One wanted envelope: who offered it, and who is asked now.

    Everybody who offers it is remembered until it has arrived: eight who have not got
    it would otherwise keep away the ninth, who has. Each of them has an unsettled offer
    for it, so OFFER_WINDOW bounds the memory.

    They have turns, by rounds: nobody is asked again before all have been asked who were
    there when the round began. So neither a neighbour that looks better, nor ever new
    ones, keep it from being asked of one who looks worse.
    """

    __slots__ = ("_untried", "asked", "due_s", "failed_interface", "identity", "offerers", "size_bytes", "size_class")

    def __init__(self, identity: bytes, size_class: int) -> None:
        self.identity = identity
        self.size_class = size_class
        self.size_bytes = SIZES[size_class]
        self.offerers: list[Exchange] = []
        #: How many of them, the first, have yet to be asked in this round.
        self._untried = 0
        self.asked: Exchange | None = None
        #: When it is asked of the next, though others arrive: from who is asked, or about to be.
        self.due_s = 0.0
        #: Where it was asked for last in vain.
        self.failed_interface: int | None = None

    def add(self, offerer: Exchange) -> None:
        """Remember one more who offers it; once it has failed somewhere, for the next round."""
        self.offerers.append(offerer)
        self._untried += self.failed_interface is None

    def remove(self, offerer: Exchange) -> None:
        """Forget one who offered it."""
        place = self.offerers.index(offerer)
        del self.offerers[place]
        self._untried -= place < self._untried
        self._begin_round()

    def failed(self, offerer: Exchange) -> None:
        """Note that it was asked of one in vain, who comes last now."""
        self.failed_interface = offerer.interface
        self.remove(offerer)
        self.offerers.append(offerer)
        self._begin_round()

    def _begin_round(self) -> None:
        self._untried = self._untried or len(self.offerers)

    def next_offerer(self) -> Exchange:
        """Return whom to ask next in this round: who stalled least, elsewhere than where it failed, and was first."""
        untried = self.offerers[: self._untried]
        return min(untried, key=lambda offerer: (offerer.stalls, offerer.interface == self.failed_interface))


class _Backlog:
    """What reconciliation found, each once: small ones first, of one size the newest first.

    It is sorted a part at a time, and nothing is taken from it before that is done: a neighbour that
    lacks all there is would else stop the relay for a while, each time.
    """

    def __init__(self) -> None:
        self._found: array[int] = array("Q")
        self._sorted: tuple[array[int], ...] = tuple(array("Q") for _ in SIZES)
        self._places = [0] * len(SIZES)

    def __len__(self) -> int:
        return len(self._found) + sum(map(len, self._sorted)) - sum(self._places)

    def __iter__(self) -> Iterator[int]:
        yield from self._found
        for place, seqs in zip(self._places, self._sorted, strict=True):
            yield from seqs[place:]

    def add(self, seqs: Iterable[int]) -> None:
        """Add sequence numbers; all that are here are sorted anew."""
        found = array("Q", self)
        found.extend(seqs)
        self._found = _each_once(found)
        for size_class, sorted_seqs in enumerate(self._sorted):
            del sorted_seqs[:]
            self._places[size_class] = 0

    def sort(self, log: AdmittedLog, count: int) -> list[bytes | None]:
        """Sort at most so many; return their identities, None of what has left."""
        # The newest are at the end.
        some = self._found[-count:][::-1] if count else array("Q")
        del self._found[len(self._found) - len(some) :]
        identities = [log.held_identity(seq) for seq in some]
        for seq, identity in zip(some, identities, strict=True):
            if identity is not None:
                self._sorted[log.terms(seq)[0]].append(seq)
        return identities

    def pop(self) -> int | None:
        """Return the next; None when there is none, or not all are sorted."""
        if self._found:
            return None
        for size_class, seqs in enumerate(self._sorted):
            if (place := self._places[size_class]) < len(seqs):
                self._places[size_class] += 1
                return seqs[place]
            del seqs[:]
            self._places[size_class] = 0
        return None


def _each_once(seqs: array[int]) -> array[int]:
    """Sort, and leave out what is there twice."""
    if len(seqs) <= SCALAR_ENTRIES:
        return array("Q", sorted(set(seqs)))
    # Whoever joins a full relay lacks a million: a set of them is 64 MiB, and half a second on the loop.
    import numpy as np  # noqa: PLC0415 - small relays do without

    ascending = np.sort(np.frombuffer(seqs, np.uint64))
    is_first = np.append(True, ascending[1:] != ascending[:-1])
    return array("Q", ascending[is_first].tobytes())


class Exchange:
    """Both directions of the offers of one session between relays."""

    def __init__(self, *, session: Session, interface: int, peer: Hello, now: float) -> None:
        self.session = session
        self.interface = interface
        self.peer_price = peer.price
        self._peer = peer
        self._since = now
        self.slow = session.is_slow
        # Offering.
        self.cursor: int | None = None
        self._backlog = _Backlog()
        self._unsettled = 0
        #: Sequence numbers offered since nothing was unsettled: credit does not say for which it is.
        self._offered: array[int] = array("Q")
        self.doubt_at: float | None = None
        self._doubt_s = DOUBT_AFTER_S
        self._peer_has: OrderedDict[bytes, None] = OrderedDict()
        # Wanting.
        self.refused: OrderedDict[bytes, None] = OrderedDict()
        #: Wanted envelopes that it offered: its unsettled offers.
        self.offered_in: dict[bytes, Request] = {}
        self._wants: list[list[tuple[int, int, bytes]]] = [[] for _ in SIZES]
        self._want_count = 0
        self._message_count = 0
        # Asking for what this relay had to let go of, when it is worth asking: after a reconciliation, and
        # while it gives: from below which sequence number, what was asked for, and how much of that came.
        self.may_ask_back = False
        self.ask_back_below: int | None = None
        self.ask_back_count = FIRST_ASKED
        self.asked_back: set[bytes] = set()
        self._came_back = 0
        self.outstanding: dict[bytes, Request] = {}
        #: What others have failed to give and waits for a place among these.
        self.passed_on: dict[bytes, Request] = {}
        #: How often each was asked for and is to be answered yet.
        self._owed: OrderedDict[bytes, int] = OrderedDict()
        self._outstanding_bytes = [0] * len(SIZES)
        self.deadline: float | None = None
        #: No request of those outstanding or passed on is due before.
        self._first_due_s = math.inf
        self.stalls = 0
        self._credit = 0

    @property
    def held_bytes(self) -> int:
        """What is remembered for this neighbour, about."""
        held = _KNOWN_BYTES * (len(self._peer_has) + len(self.refused) + len(self._owed))
        held += _WANTED_BYTES * len(self.offered_in) + _QUEUED_BYTES * sum(map(len, self._wants))
        return held + 8 * len(self._backlog)

    # -- offering ---------------------------------------------------------

    def note_peer_has(self, identity: bytes) -> None:
        """Remember that this neighbour has an envelope."""
        self._peer_has[identity] = None
        if len(self._peer_has) > MAX_PEER_HAS:
            self._peer_has.popitem(last=False)

    def add_backlog(self, seqs: Iterable[int]) -> None:
        """Offer these too, small ones first, of one size the newest first.

        The neighbour lacks them, whatever it offered before: it may have found them damaged since.
        """
        self._backlog.add(seqs)
        if not self.asked_back:
            self.may_ask_back = True
            self.ask_back_count = FIRST_ASKED

    def credited(self, count: int) -> bool:
        """Take credit for settled offers; False when it is more than was owed."""
        self._unsettled -= count
        if not self._unsettled:
            self._offered = array("Q")
        return self._unsettled >= 0

    def take_over(self, other: Exchange) -> None:
        """Offer what a lost session with the same neighbour had yet to offer, or offered in vain."""
        if self.cursor is not None and other.cursor is not None:
            self.cursor = min(self.cursor, other.cursor)
        self.add_backlog((*other._offered, *other._backlog))

    def has_offers(self, log: AdmittedLog) -> bool:
        """Whether there is something to offer and the neighbour's window is open."""
        if self._unsettled >= OFFER_WINDOW:
            return False
        waiting = self._backlog and self._unsettled < self._backlog_window
        return bool(waiting) or (self.cursor is not None and self.cursor <= log.committed_seq)

    @property
    def _backlog_window(self) -> int:
        return SLOW_BACKLOG_OFFERS if self.slow else OFFER_WINDOW

    def offers(self, log: AdmittedLog, after_hour: int, now: float) -> list[Offer]:
        """Return the next offers, fewer than MAX_OFFERS when others are to have a turn.

        What is new goes before what reconciliation found.
        """
        room = min(OFFER_WINDOW - self._unsettled, MAX_OFFERS)
        offers: list[Offer] = []
        first, last = self._peer.window
        # A peer with a clock said its window when the session began; it moved on since.
        window = (max(first, after_hour + 1), min(last + int((now - self._since) // HOUR_S), LAST_HOUR))
        looked = 0
        while self.cursor is not None and self.cursor <= log.committed_seq and len(offers) < room:
            if looked == SCAN_OFFERS:
                break
            looked += 1
            self._add(offers, log, self.cursor, window)
            self.cursor += 1
        for identity in self._backlog.sort(log, SCAN_OFFERS - looked):
            looked += 1
            if identity is not None:
                self._peer_has.pop(identity, None)
        room = min(room, self._backlog_window - self._unsettled)
        while looked < SCAN_OFFERS and len(offers) < room and (seq := self._backlog.pop()) is not None:
            self._add(offers, log, seq, window)
            looked += 1
        self._unsettled += len(offers)
        return offers

    def expect_answer(self, now: float) -> None:
        """Note that something was offered, so that this neighbour has reason to speak."""
        if self.doubt_at is None or self._doubt_s > DOUBT_AFTER_S:
            self._doubt_s = DOUBT_AFTER_S
            self.doubt_at = now + self._doubt_s

    def is_doubtful(self, now: float) -> bool:
        """Tell at ``doubt_at`` whether a neighbour is silent that has offers to settle: probe it then."""
        if self.doubt_at is None or now < self.doubt_at:
            return False
        if not self._unsettled:
            self.doubt_at = None
            return False
        was_silent = self.session.was_silent_since(self.doubt_at - self._doubt_s)
        if was_silent:
            self._doubt_s = min(2 * self._doubt_s, MAX_DOUBT_AFTER_S)
        self.doubt_at = now + self._doubt_s
        return was_silent

    def _add(self, offers: list[Offer], log: AdmittedLog, seq: int, window: tuple[int, int]) -> None:
        identity = log.held_identity(seq)
        if identity is None or identity in self._peer_has:
            return
        size_class, expiry_hour, price = log.terms(seq)
        if window[0] <= expiry_hour <= window[1] and self._peer.classes >> size_class & 1 and price >= self.peer_price:
            offers.append(Offer(identity, size_class, expiry_hour))
            self._offered.append(seq)
            if len(self._offered) > 2 * MAX_OFFERED:
                del self._offered[:MAX_OFFERED]

    # -- wanting ----------------------------------------------------------

    def refuse(self, identity: bytes, refusal: Refusal) -> None:
        """Take this identity no more in this session, unless what kept it out may pass."""
        if refusal in PASSING:
            return
        self.refused[identity] = None
        if len(self.refused) > MAX_REFUSED:
            self.refused.popitem(last=False)

    def note_message(self) -> None:
        """Begin a message of offers: what it offers goes before what older ones did, in its own order."""
        self._message_count += 1

    def want(self, request: Request) -> None:
        """Queue a request: within a size what the latest message offered first, in the order that it did."""
        self._want_count += 1
        wants = self._wants[request.size_class]
        if len(wants) >= MAX_WANTS:
            # Requests withdrawn and queued again pile up, and those that others answered: keep what is wanted, once,
            # where it comes first.
            wants.sort(reverse=True)
            kept = {want[2]: want for want in wants if want[2] in self.offered_in or want[2] in self.asked_back}
            wants = self._wants[request.size_class] = list(kept.values())
            heapq.heapify(wants)
        heapq.heappush(wants, (-self._message_count, self._want_count, request.identity))

    def next_want(self) -> bytes | None:
        """Return the identity to ask for next, small ones first, while its size's window of bytes is open."""
        for size_class, wants in enumerate(self._wants):
            limit = SLOW_FETCH_BYTES[size_class] if self.slow else FAST_FETCH_BYTES
            if wants and self._outstanding_bytes[size_class] < limit:
                return heapq.heappop(wants)[2]
        return None

    @property
    def timeout_s(self) -> float:
        """How long to wait for any arrival; longer after each stall."""
        return self._patience_s * (1 << self.stalls)

    @property
    def _patience_s(self) -> float:
        return SLOW_REQUEST_TIMEOUT_S if self.slow else REQUEST_TIMEOUT_S

    def ask(self, request: Request, now: float) -> None:
        """Note that this neighbour is asked."""
        request.asked = self
        self.outstanding[request.identity] = request
        self.passed_on.pop(request.identity, None)
        self._owed[request.identity] = self._owed.pop(request.identity, 0) + 1
        if len(self._owed) > MAX_OWED:
            self._owed.popitem(last=False)
        self._outstanding_bytes[request.size_class] += request.size_bytes
        least_bytes_per_s = SLOW_LEAST_BYTES_PER_S if self.slow else LEAST_BYTES_PER_S
        request.due_s = now + self._patience_s + sum(self._outstanding_bytes) / least_bytes_per_s
        self._first_due_s = min(self._first_due_s, request.due_s)
        if self.deadline is None:
            self.deadline = now + self.timeout_s

    def wait_for(self, request: Request, now: float) -> None:
        """Queue a request that others failed to answer, and wait no longer for its turn than for an answer."""
        self.want(request)
        self.passed_on[request.identity] = request
        request.due_s = now + self._patience_s
        self._first_due_s = min(self._first_due_s, request.due_s)

    def take_owed(self, identity: bytes) -> bool:
        """Note that this neighbour says what it has to say of an envelope; False when it was not asked to."""
        count = self._owed.pop(identity, 0)
        if count > 1:
            self._owed[identity] = count - 1
        return count > 0

    def answered(self, request: Request, now: float) -> None:
        """Note an answer, whatever it was."""
        self.ask_no_more(request)
        if self.outstanding:
            self.deadline = now + self.timeout_s

    def ask_no_more(self, request: Request) -> None:
        """Wait for this one no more."""
        if self.outstanding.pop(request.identity, None) is not None:
            self._outstanding_bytes[request.size_class] -= request.size_bytes
        if not self.outstanding:
            self.deadline = None

    def overdue(self, now: float) -> list[Request]:
        """Return what others offered as well and this neighbour withholds, though it goes on to give.

        Who gives something now and then would else keep the rest from everybody for as long as he likes:
        what he was asked for, and what waits for its turn behind that.
        """
        if now < self._first_due_s:
            return []
        for identity in [identity for identity, request in self.passed_on.items() if request.asked is not None]:
            del self.passed_on[identity]
        overdue = []
        self._first_due_s = math.inf
        for request in (*self.outstanding.values(), *self.passed_on.values()):
            if now >= request.due_s:
                if len(request.offerers) > 1:
                    overdue.append(request)
                    continue
                request.due_s = now + self._patience_s
            self._first_due_s = min(self._first_due_s, request.due_s)
        return overdue

    def forget_outstanding(self) -> None:
        """Wait for nothing that was asked for any more."""
        self.outstanding.clear()
        self._outstanding_bytes = [0] * len(SIZES)
        self.deadline = None

    def settle(self, identity: bytes) -> None:
        """Count this neighbour's offer of an envelope, if it made one, as settled."""
        self.passed_on.pop(identity, None)
        if self.offered_in.pop(identity, None) is not None:
            self._credit += 1

    def back(self, identity: bytes, *, came: bool) -> None:
        """Note an answer about something that was asked for unoffered, if it was: ask for more if it is worth it."""
        if identity not in self.asked_back:
            return
        self.asked_back.remove(identity)
        self._came_back += came
        if not self.asked_back:
            self.may_ask_back = 2 * self._came_back >= self.ask_back_count
            self.ask_back_count = min(2 * self.ask_back_count, MAX_ASKED)
            self._came_back = 0

    def settle_at_once(self) -> None:
        """Count an offer of this neighbour that leads to nothing as settled."""
        self._credit += 1

    @property
    def window_used(self) -> int:
        """Offers that this neighbour cannot know to be settled: it was not told yet."""
        return len(self.offered_in) + self._credit

    def pull_credit(self) -> int:
        """Return the credit to give now, in steps that are worth a message."""
        if self._credit < (SLOW_CREDIT_STEP if self.slow else CREDIT_STEP) and self.offered_in:
            return 0
        credit, self._credit = self._credit, 0
        return credit


class Requests:
    """All envelopes this relay wants, from whomever."""

    def __init__(self, log: AdmittedLog, admission: Admission, stats: Stats, returns: Returns) -> None:
        self._log = log
        self._admission = admission
        self._returns = returns
        self._stats = stats
        self._by_id: dict[bytes, Request] = {}
        self._refused_once = Once()

    def __len__(self) -> int:
        return len(self._by_id)

    def offered(self, exchange: Exchange, offers: list[Offer], now: float) -> bool:
        """Take offers of a neighbour; False when it exceeds its window."""
        exchange.note_message()
        if exchange.window_used + len(offers) > OFFER_WINDOW:
            return False
        for offer in offers:
            exchange.note_peer_has(offer.identity)
            if not self._consider(exchange, offer, now):
                exchange.settle_at_once()
        return True

    def _consider(self, exchange: Exchange, offer: Offer, now: float) -> bool:
        """Tell whether the offer stays unsettled because its envelope is wanted."""
        identity = offer.identity
        if identity in exchange.refused or identity in exchange.offered_in:
            return False
        if identity in self._log and not self._returns.is_wanted(identity, now):
            return False
        request = self._by_id.get(identity)
        if request is None:
            refusal = self._admission.refuses_offer(
                identity=identity,
                size_class=offer.size_class,
                expiry_hour=offer.expiry_hour,
                interface=exchange.interface,
                now=now,
            )
            if refusal is not None:
                # Every neighbour offers it, and again in each session: no more is refused by that.
                if self._refused_once.is_new(identity):
                    self._stats.add(REJECTED[refusal])
                exchange.refuse(identity, refusal)
                return False
            request = Request(identity, offer.size_class)
            self._by_id[identity] = request
        exchange.offered_in[identity] = request
        if exchange not in request.offerers:  # it may have been asked for unoffered
            request.add(exchange)
        if request.asked is None:
            exchange.want(request)
        return True

    def ask_back(self, exchange: Exchange, now: float) -> None:
        """Want from a neighbour, unoffered, what had to leave here and has room again."""
        exchange.may_ask_back = False
        below_seq = self._log.next_seq if exchange.ask_back_below is None else exchange.ask_back_below
        wanted, below_seq = self._returns.next_wanted(below_seq, exchange.ask_back_count, now)
        # Once all were asked for it begins anew: what was displaced since counts as well.
        exchange.ask_back_below = below_seq or None
        for identity, size_class in wanted:
            if identity not in self._by_id:
                request = self._by_id[identity] = Request(identity, size_class)
                request.add(exchange)
                exchange.asked_back.add(identity)
                exchange.want(request)

    def next_fetches(self, exchange: Exchange, now: float) -> list[bytes]:
        """Return the identities to ask ``exchange`` for now."""
        identities = []
        while (identity := exchange.next_want()) is not None:
            request = self._by_id.get(identity)
            if request is not None and request.asked is None and exchange in request.offerers:
                exchange.ask(request, now)
                identities.append(identity)
        return identities

    def arrived(self, exchange: Exchange, identity: bytes, now: float) -> bool:
        """Note that a body arrived, late perhaps; False when it was not wanted from ``exchange``."""
        request = self._by_id.get(identity)
        if request is None or exchange not in request.offerers:
            return False
        exchange.stalls = 0
        if request.asked is exchange:
            exchange.answered(request, now)
        elif request.asked is not None:
            # What another one brings is no answer of who was asked.
            request.asked.ask_no_more(request)
        del self._by_id[identity]
        for offerer in request.offerers:
            offerer.settle(identity)
            offerer.back(identity, came=True)
        return True

    def missing(self, exchange: Exchange, identity: bytes, now: float) -> None:
        """The neighbour cannot give it any more: ask the next one."""
        exchange.take_owed(identity)
        request = exchange.outstanding.get(identity)
        if request is not None:
            exchange.answered(request, now)
            self._withdraw(exchange, request, now)

    def timed_out(self, exchange: Exchange, now: float) -> bool:
        """Nothing came for too long: ask others, then this one again; True when it has stalled too often."""
        exchange.stalls += 1
        waiting = list(exchange.outstanding.values())
        exchange.forget_outstanding()
        self._stats.add(Dropped.REQUEST_TIMEOUT, len(waiting))
        # What was about to be asked there has waited long enough as well.
        waiting += [
            request for request in exchange.offered_in.values() if request.asked is None and len(request.offerers) > 1
        ]
        for request in waiting:
            self._pass_on(exchange, request, now)
        return exchange.stalls >= MAX_STALLS

    def take_overdue(self, exchange: Exchange, now: float) -> bool:
        """Ask others for what this neighbour withholds while it gives something else; tell whether there was any."""
        overdue = exchange.overdue(now)
        for request in overdue:
            exchange.ask_no_more(request)
            self._pass_on(exchange, request, now)
        self._stats.add(Dropped.REQUEST_TIMEOUT, len(overdue))
        return bool(overdue)

    def _pass_on(self, exchange: Exchange, request: Request, now: float) -> None:
        """Ask the next who offered it, and this neighbour last."""
        request.asked = None
        exchange.passed_on.pop(request.identity, None)
        request.failed(exchange)
        request.next_offerer().wait_for(request, now)

    def gone(self, exchange: Exchange, now: float) -> None:
        """The neighbour left: ask others for what it offered."""
        asked_back = [self._by_id[identity] for identity in exchange.asked_back]
        for request in [*exchange.offered_in.values(), *asked_back]:
            self._withdraw(exchange, request, now)
        exchange.forget_outstanding()

    def _withdraw(self, exchange: Exchange, request: Request, now: float) -> None:
        if exchange in request.offerers:
            request.remove(exchange)
            exchange.settle(request.identity)
            exchange.back(request.identity, came=False)
        if request.asked is exchange:
            request.asked = None
            request.failed_interface = exchange.interface
        if not request.offerers:
            self._by_id.pop(request.identity, None)
        elif request.asked is None:
            request.next_offerer().wait_for(request, now)
