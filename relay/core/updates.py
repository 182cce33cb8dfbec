# SPDX-License-Identifier: GPL-2.0-or-later
"""Newer software, from a relay that runs it to those near that want it (docs/protocol.md section 6.13).

Every relay tells its neighbours what it could give, and answers who asks, a part at a time. What is wanted, and whether
it is what was signed, is not decided here: the shell asks for one piece after the other (:meth:`Updates.fetch`), each
from one neighbour, so that it is known who gave a wrong one. Over IP alone, behind all messages, and at a rate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.core.errors import RelayError
from relay.core.messages import Goodbye
from relay.core.pacing import Paced
from relay.core.rate import Bucket, Rate
from relay.core.stats import LinkKind, UpdateRefused, UpdateTotal
from relay.core.update_state import UpdateState
from relay.core.update_wire import MAX_PART_BYTES, Ask, Given, Offer

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.link import Link
    from relay.core.neighbours import Neighbours
    from relay.core.stats import Stats

#: Given by one interface, to all there together: a megabit of the twenty that a Wi-Fi mesh carries, and half an hour
#: for a slot of 215 MB. Where the operator bounds an interface it is in the quarter of live datagrams as well.
BYTES_OUT: Final = Rate(per_s=128 << 10, burst=64 << 10)
#: Where the operator bounds an interface, one part in so many of that.
BOUNDED_PART: Final = 8
#: Interfaces are numbered, and bounded (relay.core.node.MAX_INTERFACES).
#: While anything else waits for a neighbour, it gets one part in so long.
BUSY_S: Final = 4.0
#: A neighbour's offers: at once, and one more for each further ten minutes. An honest one makes one a session.
OFFERS_AT_ONCE: Final = 4
OFFER_ALLOWANCE_S: Final = 600.0
#: For one part: 64 who ask by one interface at once have theirs within 8 s, on busy links within a few more.
PART_TIMEOUT_S: Final = 60.0
#: For all parts of a fetch: on a link that is always busy a MiB takes 256 s.
FETCH_TIMEOUT_S: Final = 600.0
#: Where nobody is left to ask, those who failed are asked again.
RETRY_S: Final = 30.0
#: Kept while it is fetched, for there is one fetch at a time: a piece of an update.
MAX_FETCH_BYTES: Final = 1 << 20


class UpdateRuleError(RelayError):
    """A neighbour does what it must not; ``goodbye`` is what it is told."""

    def __init__(self, text: str, goodbye: Goodbye) -> None:
        super().__init__(text)
        self.goodbye = goodbye


@dataclass(slots=True, kw_only=True)
class _Fetch:
    """What is being fetched; ``link``: from whom, ``failed``: numbers of links that did not give it."""

    digest: bytes
    offset: int
    length: int
    link: Link | None = None
    data: bytearray = field(default_factory=bytearray)
    failed: set[int] = field(default_factory=set)
    due_s: float = 0.0
    until_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """So many bytes from ``offset`` on, of the neighbour behind ``link``."""

    digest: bytes
    offset: int
    data: bytes = field(repr=False)
    link: Link = field(repr=False)


def speaks_of_updates(link: Link) -> bool:
    """Whether such things are said on a link: over IP, to who knows them, on the session that carries offers."""
    exchange, session = link.exchange, link.session
    return (
        link.kind_stats.kind is LinkKind.TCP
        and link.ready
        and not link.closed
        and exchange is not None
        and exchange.cursor is not None
        and not session.is_slow
        and session.peer is not None
        and session.peer.updates
    )


class Updates:
    """What is offered, asked for and given. ``wake`` (set by the shell) has it look at what is here for it."""

    def __init__(
        self,
        stats: Stats,
        neighbours: Neighbours,
        random_bytes: Callable[[int], bytes],
        mark_ready: Callable[[Link], None],
    ) -> None:
        """``mark_ready`` hears of links that have something to send."""
        self._stats = stats
        self._neighbours = neighbours
        self._random_bytes = random_bytes
        self._mark_ready = mark_ready
        self.wake: Callable[[], None] = lambda: None
        self._mine: Offer | None = None
        self._to_read: deque[tuple[Link, Ask]] = deque()
        self._rates: dict[int, Bucket] = {}
        self._paced = Paced()
        self._fetch: _Fetch | None = None
        self._fetched: Fetched | None = None

    # -- giving -----------------------------------------------------------

    def offer(self, mine: Offer | None) -> None:
        """Tell neighbours of this from now on; None: of nothing, and who asks is told that it is not here."""
        self._mine = mine
        for link in self._neighbours:
            self._mark_ready(link)

    def asked(self, link: Link, ask: Ask) -> None:
        """Take what a neighbour asks for, one thing at a time; raise UpdateRuleError."""
        if link.update.asked is not None:
            raise UpdateRuleError("asks for more before it was answered", Goodbye.LIMIT)
        mine = self._mine
        if mine is None or ask.digest != mine.digest:
            link.session.send_update(Given(offset=ask.offset, data=None).encode())
        elif ask.offset + ask.length > mine.size:
            raise UpdateRuleError("asks for what was not offered", Goodbye.PROTOCOL)
        else:
            link.update.asked = ask
        self._mark_ready(link)

    def pump(self, link: Link, now: float) -> None:
        """Say on a link what is to be said now."""
        state, mine = link.update, self._mine
        if not speaks_of_updates(link):
            return
        if mine is not None and state.told != mine.digest:
            state.told = mine.digest
            link.session.send_update(mine.encode())
            self._stats.add(UpdateTotal.OFFERED)
        if state.asked is None or state.is_reading:
            return
        open_at = self.open_at(link, now)
        if link.session.queued_bytes:
            open_at = max(open_at, state.given_at + BUSY_S)
        if open_at > now:
            self._paced.add(link, open_at)
            return
        self.spend(link, state.asked.length, now)
        state.is_reading = True
        state.given_at = now
        self._to_read.append((link, state.asked))
        self.wake()

    def open_at(self, link: Link, now: float) -> float:
        """When more may be said of this on a link's interface (monotonic seconds); not later than ``now``: at once."""
        return max(pace.open_at(now) for pace in self._paces(link, now))

    def spend(self, link: Link, count: int, now: float) -> None:
        """Count so many bytes that are about to be sent."""
        for pace in self._paces(link, now):
            pace.spend(count, now)

    def _paces(self, link: Link, now: float) -> list[Bucket]:
        airtime = link.airtime
        if link.interface not in self._rates:
            per_s = BYTES_OUT.per_s
            if airtime is not None:
                per_s = min(per_s, airtime.bytes_per_s / BOUNDED_PART)
            self._rates[link.interface] = Bucket(Rate(per_s=per_s, burst=min(BYTES_OUT.burst, per_s)), now)
        rate = self._rates[link.interface]
        return [rate] if airtime is None else [rate, airtime.live_bytes]

    def take_asks(self) -> list[tuple[Link, Ask]]:
        """Return what is to be read now, for :meth:`give`."""
        asks = list(self._to_read)
        self._to_read.clear()
        return asks

    def give(self, link: Link, ask: Ask, data: bytes | None) -> None:
        """Answer what a neighbour asked for; None: it cannot be read."""
        if link.closed or link.update.asked is not ask:
            return
        link.update.asked, link.update.is_reading = None, False
        link.session.send_update(Given(offset=ask.offset, data=data).encode())
        self._stats.add(UpdateTotal.GIVEN if data is not None else UpdateRefused.UNREADABLE)
        self._mark_ready(link)

    # -- taking -----------------------------------------------------------

    def offered(self, link: Link, offer: Offer, now: float) -> None:
        """Note what a neighbour could give; raise UpdateRuleError."""
        state = link.update
        state.offers += 1
        if state.offers > OFFERS_AT_ONCE + (now - link.since) / OFFER_ALLOWANCE_S:
            raise UpdateRuleError("offers too often", Goodbye.LIMIT)
        state.offer = offer
        self._stats.add(UpdateTotal.HEARD)
        self._go_on(now)
        self.wake()

    def candidates(self) -> list[Offer]:
        """Return what neighbours offer that gave nothing wrong yet, each once."""
        offers = [link.update.offer for link in self._neighbours if self._may_ask(link)]
        return list({offer.digest: offer for offer in offers if offer is not None}.values())

    @staticmethod
    def _may_ask(link: Link) -> bool:
        return speaks_of_updates(link) and link.update.offer is not None and not link.update.banned

    def fetch(self, digest: bytes, offset: int, length: int, now: float) -> None:
        """Fetch so many bytes of what is offered with that ``digest``; what was fetched before is forgotten."""
        if not 0 < length <= MAX_FETCH_BYTES:
            raise ValueError(f"a fetch of {length} bytes")
        self.cancel()
        self._fetch = _Fetch(digest=digest, offset=offset, length=length)
        self._go_on(now)

    def cancel(self) -> None:
        """Fetch nothing."""
        self._fetch = self._fetched = None

    def take_fetched(self) -> Fetched | None:
        """Return what was fetched, once it is whole."""
        fetched, self._fetched = self._fetched, None
        return fetched

    def was_wrong(self, fetched: Fetched) -> None:
        """What a neighbour gave is not what it should be: it is asked for nothing more in its session."""
        fetched.link.update.banned = True
        self._stats.add(UpdateRefused.WRONG_PIECE)

    def given(self, link: Link, given: Given, now: float) -> None:
        """Take a part; raise UpdateRuleError for one that was not asked for."""
        state, fetch = link.update, self._fetch
        owes, state.owes = state.owes, None
        if owes is None or given.offset != owes[0] or (given.data is not None and len(given.data) != owes[1]):
            raise UpdateRuleError("gives what it was not asked for", Goodbye.PROTOCOL)
        if given.data is None:
            state.offer = None
            self._stats.add(UpdateRefused.NOT_HERE)
        if fetch is None or fetch.link is not link or owes[0] != fetch.offset + len(fetch.data):
            if given.data is not None:
                self._stats.add(UpdateRefused.LATE)
            self._go_on(now)
            return
        if given.data is None:
            self._fail(fetch, now)
            return
        self._stats.add(UpdateTotal.TAKEN)
        fetch.data += given.data
        if len(fetch.data) < fetch.length:
            self._ask(fetch, link, now)
            return
        self._fetched = Fetched(digest=fetch.digest, offset=fetch.offset, data=bytes(fetch.data), link=link)
        self._fetch = None
        self.wake()

    def _go_on(self, now: float) -> None:
        """Have somebody to fetch from, if there is something to be fetched."""
        fetch = self._fetch
        if fetch is None or fetch.link is not None:
            return
        able = [
            link
            for link in self._neighbours
            if self._may_ask(link)
            and link.update.offer is not None
            and link.update.offer.digest == fetch.digest
            and link.update.owes is None
            and link.number not in fetch.failed
        ]
        if not able:
            fetch.due_s = now + RETRY_S
            return
        # Any of those who stalled least: who is first in a list, or fastest, may be so on purpose.
        fewest = min(link.update.stalls for link in able)
        able = [link for link in able if link.update.stalls == fewest]
        fetch.link = able[self._random_bytes(1)[0] % len(able)]
        fetch.data.clear()
        fetch.until_s = now + FETCH_TIMEOUT_S
        self._ask(fetch, fetch.link, now)

    def _ask(self, fetch: _Fetch, link: Link, now: float) -> None:
        offset = fetch.offset + len(fetch.data)
        length = min(MAX_PART_BYTES, fetch.length - len(fetch.data))
        link.update.owes = (offset, length)
        link.session.send_update(Ask(digest=fetch.digest, offset=offset, length=length).encode())
        fetch.due_s = min(now + PART_TIMEOUT_S, fetch.until_s)
        self._mark_ready(link)

    def _fail(self, fetch: _Fetch, now: float) -> None:
        if fetch.link is not None:
            fetch.failed.add(fetch.link.number)
            fetch.link.update.stalls += 1
        fetch.link = None
        self._go_on(now)

    # -- time and end -----------------------------------------------------

    @property
    def next_s(self) -> float | None:
        """When :meth:`take_due` has something to do (monotonic seconds)."""
        deadlines = (self._paced.next_s, None if self._fetch is None else self._fetch.due_s)
        return min((one for one in deadlines if one is not None), default=None)

    def take_due(self, now: float) -> list[Link]:
        """Return the links that waited for their rate and may go on; ask others where one does not answer."""
        due = self._paced.take_due(now)
        fetch = self._fetch
        if fetch is not None and fetch.due_s <= now:
            if fetch.link is None:
                fetch.failed.clear()
                self._go_on(now)
            else:
                self._stats.add(UpdateRefused.TIMEOUT)
                self._fail(fetch, now)
        return due

    def forget(self, link: Link, now: float) -> None:
        """The link is gone."""
        self._paced.discard(link)
        fetch = self._fetch
        if fetch is not None and fetch.link is link:
            self._fail(fetch, now)
        link.update = UpdateState()
