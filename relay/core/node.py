# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay, free of I/O: sessions, admission, commits, offers and time.

The shell around it (relay.run.engine, or a simulation) moves bytes, commits
batches and calls back. What the core hands out to be stored is acknowledged only
when :meth:`Node.committed` says that it is.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.core import session as s
from relay.core.admission import Admission, Policy
from relay.core.airtime import Airtime
from relay.core.bodies import Bodies
from relay.core.clock import jittered
from relay.core.envelope import (
    SIZES,
)
from relay.core.errors import RelayError
from relay.core.exchange import REJECTED, Exchange, Requests
from relay.core.intake import MAX_PENDING_BYTES, Intake, PendingBatch
from relay.core.leaving import Departure
from relay.core.link import Link
from relay.core.live import Live
from relay.core.log import AdmittedLog
from relay.core.meetings import Meetings, TooManyError
from relay.core.messages import (
    MAX_OFFERS,
    OFFER_LANE,
    OFFER_WINDOW,
    WINDOW_S,
    Ack,
    Goodbye,
    Hello,
    Refusal,
    Refused,
    Role,
    Subscribe,
    prefix_bits_of,
)
from relay.core.neighbours import Neighbours
from relay.core.news import NewsValue
from relay.core.places import Places
from relay.core.retention import Retention
from relay.core.returns import MAX_ASKED, Returns
from relay.core.serving import Serving
from relay.core.session import Session, State
from relay.core.sight import Sight
from relay.core.stats import (
    HandshakeFailure,
    LinkKind,
    Reason,
    SessionError,
    Stats,
)
from relay.core.update_wire import Ask, Given, Leaving, Stays
from relay.core.update_wire import Offer as UpdateOffer
from relay.core.updates import UpdateRuleError, Updates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from relay.core.bodies import ReadBodies
    from relay.core.clock import Clock
    from relay.core.loaded import AdmittedRow
    from relay.core.noise import KeyPair

#: What waits in a session before more is produced: two records of a fast link, so
#: that the loop never starves; two small ones of a slow link, so that what is
#: urgent never waits behind what is not.
FAST_TARGET_BYTES: Final = 128 << 10
SLOW_TARGET_BYTES: Final = 2 << 10
#: Bytes received and not committed of one link; of all see relay.core.intake. Beyond it
#: the relay stops reading, so a card slower than its peers costs no memory.
MAX_PENDING_BYTES_PER_LINK: Final = 4 << 20
#: Answers that a client may leave unread before it is no longer read from: all that an
#: honest one can have to expect, each a refusal.
MAX_UNANSWERED_BYTES: Final = 128 << 10
#: Anything else that a peer made us say and does not read (missing identities, the
#: reconciliation's answers), before it is no longer read from.
MAX_UNREAD_BYTES: Final = 2 << 20
#: Sessions with relays that dialled us, and with those that we found and dialled, each shared
#: between interfaces; more are told that we are busy. Those that the operator named are not
#: counted: he bounds them.
MAX_ACCEPTED_RELAYS: Final = 48
MAX_FOUND_RELAYS: Final = 16
MAX_RELAY_SESSIONS: Final = MAX_ACCEPTED_RELAYS + MAX_FOUND_RELAYS
#: Envelopes that a neighbour may send unasked before the session ends,
#: at once, and one more for each further ten seconds.
MAX_UNWANTED: Final = 256
UNWANTED_ALLOWANCE_S: Final = 10.0
#: Whoever dialled a relay ends the session after this time, give or take a quarter,
#: and dials again: fresh keys, and fresh hellos, whose windows and prices bound what
#: is reconciled.
MAX_SESSION_S: Final = 86_400.0
#: A change of the price is told to neighbours at most this often.
PRICE_INTERVAL_S: Final = 10.0
#: Identities remembered for each envelope that the store may hold.
ADMITTED_PER_ENVELOPE: Final = 2
#: Interface number of links beyond the bound on interfaces.
OTHER_INTERFACE: Final = 0
MAX_INTERFACES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What the operator decides about the protocol.

    ``secret`` (32 bytes) closes the mesh between relays; ``open_to_clients``
    lets clients in without it. ``static`` is the key shown to whoever connects,
    if others pin it; one that dials shows a fresh one to whom it may find there.
    ``bytes_per_s``: what is sent and received at most on an interface, by its name.
    ``shares``: what an interface is guaranteed of places and memory, as of the store.
    """

    durable: bool
    secret: bytes | None = None
    open_to_clients: bool = True
    static: KeyPair | None = None
    handshake_timeout_s: float = s.HANDSHAKE_TIMEOUT_S
    bytes_per_s: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)


#: What a relay hears from another only after that one's SAME: without it nobody knows
#: whether there is another session with the same neighbour (docs/protocol.md section 6.9).
_OF_UPDATES: Final = (UpdateOffer, Ask, Given, Leaving, Stays)
_AFTER_SAME: Final = (s.Offers, s.Credit, s.Fetch, s.Envelopes, s.Missing, s.Reconcile, s.Live, *_OF_UPDATES)
#: What a peer says that makes it pointless to come back soon.
_HOPELESS: Final[dict[Goodbye, Reason]] = {
    Goodbye.SELF: HandshakeFailure.SELF,
    Goodbye.SECRET_REQUIRED: HandshakeFailure.SECRET_REQUIRED,
}


class Node:
    """A relay."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        policy: Policy,
        clock: Clock,
        stats: Stats,
        random_bytes: Callable[[int], bytes],
        read_bodies: ReadBodies,
        interfaces: dict[int, str] | None = None,
    ) -> None:
        """``interfaces``: the numbers that the store knows names for."""
        self.config = config
        self.clock = clock
        self.stats = stats
        self.log = AdmittedLog()
        self.admission = Admission(policy, self.log, clock)
        self.links: dict[int, Link] = {}
        self._bodies = Bodies(self.log, read_bodies)
        returns = Returns(self.log, self.admission, clock)
        self.intake = Intake(
            log=self.log,
            bodies=self._bodies,
            admission=self.admission,
            clock=clock,
            stats=stats,
            returns=returns,
            retention=Retention(
                self.log,
                clock,
                stats,
                residence_s=policy.residence_s,
                max_admitted=ADMITTED_PER_ENVELOPE * policy.max_envelopes,
            ),
        )
        self._requests = Requests(self.log, self.admission, stats, returns)
        self._neighbours = Neighbours()
        self.sight = Sight(self.log, clock, self.links, self._neighbours)
        #: Of relays, by whether we dialled them.
        self._places = {
            False: Places(MAX_ACCEPTED_RELAYS, config.shares),
            True: Places(MAX_FOUND_RELAYS, config.shares),
        }
        self._meetings = Meetings(self.log, stats, random_bytes)
        self.live = Live(stats, self._neighbours, random_bytes, self.mark_ready)
        self.updates = Updates(stats, self._neighbours, random_bytes, self.mark_ready)
        self.departure = Departure(
            self.log, stats, self._neighbours, self.updates, self.mark_ready, lambda: self.intake.pending_bytes > 0
        )
        self._random_bytes = random_bytes
        self._interfaces = {OTHER_INTERFACE: "other"} | (interfaces or {})
        self._next_link = 1
        self._ready: dict[int, Link] = {}
        self._timers: list[tuple[float, int]] = []
        self._price_told_at = 0.0
        self._news = NewsValue(random_bytes)
        self._airtimes = {name: Airtime(rate) for name, rate in config.bytes_per_s.items()}

    # -- links ------------------------------------------------------------

    def interface_number(self, name: str) -> int:
        """Return the number of an interface, drawn when it is new."""
        for number, known in self._interfaces.items():
            if known == name:
                return number
        if len(self._interfaces) >= MAX_INTERFACES:
            return OTHER_INTERFACE
        number = max(self._interfaces) + 1
        self._interfaces[number] = name
        self.intake.name_interface(number, name)
        return number

    def interface_name(self, number: int) -> str:
        """Return the name of an interface number."""
        return self._interfaces[number]

    def connect(
        self,
        *,
        kind: LinkKind,
        interface: str,
        initiator: bool,
        now: float,
        slow: bool = False,
        pinned: bytes | None = None,
        named: bool = False,
    ) -> Link:
        """Start a session over a new stream.

        ``pinned``: the static key (32 bytes) that the peer has to show.
        ``named``: the operator told us to dial it.
        """
        number = self.interface_number(interface)
        price = self.admission.price(number)
        hello = Hello(
            role=Role.RELAY,
            durable=self.config.durable,
            slow=slow,
            # Of all relays alike, whatever their operators say of updates: else it would tell one from another.
            updates=True,
            price=price,
            classes=self.admission.policy.classes,
            window=self.clock.window(now),
            prefix_bits=prefix_bits_of(self.log.held_count),
            max_puts=s.MAX_PUTS,
        )
        session = Session(
            initiator=initiator,
            hello=hello,
            random_bytes=self._random_bytes,
            now=now,
            secret=self.config.secret,
            static=None if initiator else self.config.static,
            secret_required=not self.config.open_to_clients,
            handshake_timeout_s=self.config.handshake_timeout_s,
        )
        link = Link(
            number=self._next_link,
            session=session,
            interface=number,
            stats=self.stats.link(kind, interface),
            serving=Serving(self.log, self._bodies, self.stats),
            pinned=pinned,
            named=named,
            now=now,
        )
        link.price_told = price
        link.airtime = self._airtimes.get(interface)
        if link.airtime is not None:
            link.kind_stats.airtime_s = link.kind_stats.airtime_s or 0.0
        self._next_link += 1
        self.links[link.number] = link
        self._schedule(link)
        self._ready[link.number] = link
        return link

    def receive(self, link: Link, data: bytes, now: float) -> None:
        """Take bytes from a link's stream and do all that they ask for; whoever has many links lets them take turns."""
        self.feed(link, data, now)
        while link.session.has_input:
            self.take_turn(link, now)
        self._ready[link.number] = link

    def feed(self, link: Link, data: bytes | memoryview, now: float) -> None:
        """Take bytes from a link's stream, for :meth:`take_turn`."""
        link.kind_stats.bytes_in += len(data)
        link.session.feed(data, now)
        if link.airtime is not None:
            link.kind_stats.use_airtime(link.airtime.spent(link.number, len(data), now))
            # Whoever is not read from has to stop sending.
            link.paused = not link.airtime.admits_more(link.number, now)

    def take_turn(self, link: Link, now: float) -> None:
        """Do a bounded part of what a link's bytes ask for."""
        session = link.session
        before = session.frames_in
        events = session.take_turn()
        link.kind_stats.frames_in += session.frames_in - before
        self._handle(link, events, now)

    def lost(self, link: Link, now: float) -> None:
        """The link's stream ended."""
        self._handle(link, link.session.connection_lost(), now)

    def close(self, link: Link, goodbye: Goodbye, reason: SessionError | HandshakeFailure, now: float) -> None:
        """End a session from this side."""
        self._handle(link, link.session.close(goodbye, reason), now)
        self._ready[link.number] = link

    def shutdown(self, now: float) -> None:
        """Say goodbye to everybody."""
        for link in list(self.links.values()):
            self.close(link, Goodbye.SHUTTING_DOWN, SessionError.GOODBYE, now)

    def may_receive(self, link: Link) -> bool:
        """Whether to read on; False while there is something to do, the store or the peer lags, or the air is used up.

        One who has nothing waiting is read from whatever the others do: a read of his at most comes in.
        """
        intake = self.intake
        has_room = link.pending_bytes < MAX_PENDING_BYTES_PER_LINK and intake.pending_bytes < intake.most_pending_bytes
        return (
            not link.paused
            and not link.session.has_input
            # Of people nothing is taken in before it starts anew; neighbours have what they give.
            and not (self.departure.is_closing and link.exchange is None)
            and (has_room or not link.pending_bytes)
            and link.session.unanswered_bytes < MAX_UNANSWERED_BYTES
            and link.session.queued_bytes < MAX_UNREAD_BYTES
        )

    def data_to_send(self, link: Link, now: float, max_bytes: int = 1 << 16) -> bytes:
        """Return bytes for a link's stream, producing more as there is room."""
        session = link.session
        if session.state is State.OPEN:
            self._pump(link, now)
        before = session.frames_out
        airtime = link.airtime
        link.held = airtime is not None and not airtime.admits(link.number, now)
        link.paused = link.paused and link.held
        data = session.data_to_send(max_bytes, urgent_only=link.held)
        if airtime is not None:
            link.kind_stats.use_airtime(airtime.spent(link.number, len(data), now))
        link.kind_stats.frames_out += session.frames_out - before
        link.kind_stats.bytes_out += len(data)
        return data

    def take_ready(self) -> Iterable[Link]:
        """Return links that may have something to send, each once."""
        ready, self._ready = self._ready, {}
        return ready.values()

    def mark_ready(self, link: Link) -> None:
        """Let :meth:`take_ready` return this link again."""
        self._ready[link.number] = link

    def _pump(self, link: Link, now: float) -> None:
        session = link.session
        slow = session.is_slow
        target = SLOW_TARGET_BYTES if slow else FAST_TARGET_BYTES
        after_hour = self.clock.hour(now) or 0
        exchange = link.exchange
        if exchange is not None:
            if exchange.may_ask_back and exchange.cursor is not None:
                self._requests.ask_back(exchange, now)
            if self._may_fetch(link, exchange):
                wanted = self._requests.next_fetches(exchange, now)
                if wanted:
                    session.fetch(wanted)
                    self._schedule(link)
            credit = exchange.pull_credit()
            if credit:
                session.credit(credit)
            while exchange.has_offers(self.log) and (
                session.queued_bytes < target or (slow and session.is_lane_idle(OFFER_LANE))
            ):
                offers = exchange.offers(self.log, after_hour, now)
                if offers:
                    session.offer(offers)
                    exchange.expect_answer(now)
                    self._schedule(link)
                if len(offers) < MAX_OFFERS:
                    # All there is, or it looked through a part of the log, in vain: others have a turn.
                    break
        if (slow or session.queued_bytes < target) and link.serving.has_work():
            link.serving.pump(
                session, target_bytes=target, after_hour=after_hour, residence_s=self.clock.residence_s(now)
            )
            self.intake.drop_damaged()
        if link.exchange is not None and link.news_told != self._news.value:
            link.news_told = self._news.value
            link.session.tell_news(link.news_told)
            self._news.told(now)
        if link.live:
            self.live.pump(link, now)
        self.updates.pump(link, now)

    def _may_fetch(self, link: Link, exchange: Exchange) -> bool:
        """Whether to ask a neighbour for more: while the store keeps up, or nothing of this one waits.

        Whoever floods the store on one interface would else keep mail from coming in by all others.
        """
        intake = self.intake
        return intake.pending_bytes < intake.most_pending_bytes // 2 or not (link.pending_bytes or exchange.outstanding)

    def has_output(self, link: Link) -> bool:
        """Whether a further :meth:`data_to_send` may return more."""
        if link.held:
            return link.session.has_urgent
        if link.session.queued_bytes:
            return True
        if link.session.state is not State.OPEN:
            return False
        if link.session.unanswered_bytes:
            return True
        offers = link.exchange is not None and link.exchange.has_offers(self.log)
        return offers or link.serving.has_work() or self.live.has_output(link)

    # -- events -----------------------------------------------------------

    def _handle(self, link: Link, events: list[s.Event], now: float) -> None:
        for event in events:
            if link.closed:
                # What came in the same bytes as the reason to close has no claim to be heard.
                return
            if link.exchange is not None and not link.ready and isinstance(event, _AFTER_SAME):
                self._violation(link, SessionError.PROTOCOL, Goodbye.PROTOCOL, now)
                return
            match event:
                case s.Puts(items):
                    self._puts(link, items, now)
                case s.Envelopes(items):
                    self._envelopes(link, items, now)
                case s.Established(hello, secret):
                    self._established(link, hello, secret=secret, now=now)
                case s.Closed(reason, goodbye):
                    link.close_reason = _HOPELESS.get(goodbye, reason) if goodbye else reason
                    self._closed(link, reason, now)
                case Subscribe():
                    self._subscribe(link, event, now)
                case s.Fetch(identities):
                    if not link.serving.fetch(identities):
                        self._violation(link, SessionError.LIMIT_EXCEEDED, Goodbye.LIMIT, now)
                case Ack() | Refused() | s.CaughtUp():  # only clients get these
                    self._violation(link, SessionError.PROTOCOL, Goodbye.PROTOCOL, now)
                case _:
                    self._relay_event(link, event, now)

    def _relay_event(self, link: Link, event: s.Event, now: float) -> None:
        exchange = link.exchange
        if exchange is None:
            self._violation(link, SessionError.PROTOCOL, Goodbye.PROTOCOL, now)
            return
        match event:
            case s.Same(macs):
                self._same(link, macs, now)
            case s.Offers(items):
                if not self._requests.offered(exchange, items, now):
                    self._violation(link, SessionError.LIMIT_EXCEEDED, Goodbye.LIMIT, now)
            case s.Credit(count):
                if not exchange.credited(count):
                    self._violation(link, SessionError.PROTOCOL, Goodbye.PROTOCOL, now)
            case s.Missing(identities):
                for identity in identities:
                    self._requests.missing(exchange, identity, now)
                self._requests.take_overdue(exchange, now)
                self._wake_relays()
            case s.PriceChanged(price):
                exchange.peer_price = price
            case s.News(value):
                link.news = (*link.news[-1:], value)
            case s.Live(hops, datagram):
                self.live.received(link, hops, datagram, now)
            case UpdateOffer() | Ask() | Given() | Leaving() | Stays():
                self._update(link, event, now)
            case s.Reconcile(body):
                try:
                    self._meetings.received(link, body, now)
                except TooManyError:
                    self._violation(link, SessionError.LIMIT_EXCEEDED, Goodbye.LIMIT, now)
                except RelayError:
                    self._violation(link, SessionError.DECODE, Goodbye.DECODE, now)

    def _update(self, link: Link, event: UpdateOffer | Ask | Given | Leaving | Stays, now: float) -> None:
        try:
            match event:
                case UpdateOffer():
                    self.updates.offered(link, event, now)
                case Ask():
                    self.updates.asked(link, event)
                case Given():
                    self.updates.given(link, event, now)
                case Leaving(identities=identities):
                    self.departure.asked(link, identities, now)
                case Stays():
                    if not self.departure.answered(link, event, now):
                        self._violation(link, SessionError.PROTOCOL, Goodbye.PROTOCOL, now)
        except UpdateRuleError as error:
            is_limit = error.goodbye is Goodbye.LIMIT
            self._violation(
                link, SessionError.LIMIT_EXCEEDED if is_limit else SessionError.PROTOCOL, error.goodbye, now
            )

    def _violation(self, link: Link, reason: SessionError, goodbye: Goodbye, now: float) -> None:
        self._handle(link, link.session.close(goodbye, reason), now)

    def _established(self, link: Link, hello: Hello, *, secret: bool, now: float) -> None:
        relay = hello.role is Role.RELAY
        if self.config.secret is not None and not secret and (relay or not self.config.open_to_clients):
            self.close(link, Goodbye.SECRET_REQUIRED, HandshakeFailure.SECRET_REQUIRED, now)
            return
        if link.pinned is not None and link.session.peer_static != link.pinned:
            self.close(link, Goodbye.PROTOCOL, HandshakeFailure.WRONG_KEY, now)
            return
        self._schedule(link)
        if not relay:
            return
        if self._neighbours.is_self(link):
            for own in self._neighbours.with_hash(link.session.handshake_hash):
                self.close(own, Goodbye.SELF, HandshakeFailure.SELF, now)
            self.close(link, Goodbye.SELF, HandshakeFailure.SELF, now)
            return
        if not link.named and not self._take_place(link, now):
            self.close(link, Goodbye.BUSY, HandshakeFailure.TOO_MANY, now)
            return
        if link.session.initiator:
            link.until = now + jittered(MAX_SESSION_S, self._random_bytes(1)[0] / 256, spread=0.25)
        link.exchange = Exchange(session=link.session, interface=link.interface, peer=hello, now=now)
        self._meetings.join(link)
        link.session.send_same(self._neighbours.link_secrets())
        self._neighbours.add(link)

    def _take_place(self, link: Link, now: float) -> bool:
        """Find a place for a neighbour, if need be that of another one; False when there is none."""
        places = self._places[link.session.initiator]
        interface = self.interface_name(link.interface)
        if places.is_full:
            loser = places.loser(interface)
            if loser is None:
                return False
            self.close(self.links[loser], Goodbye.BUSY, HandshakeFailure.TOO_MANY, now)
        places.take(link.number, interface)
        return True

    def _same(self, link: Link, macs: list[bytes], now: float) -> None:
        if link.ready:
            self._violation(link, SessionError.PROTOCOL, Goodbye.PROTOCOL, now)
            return
        link.ready = True
        link.serving.is_there_from(self.log.committed_seq)
        for sibling in self._neighbours.recognise(link, macs):
            # A neighbour that moved to another address left a dead session behind.
            sibling.session.probe(now)
            self._schedule(sibling)
            self._ready[sibling.number] = sibling
        self._promote(link, now)

    def _promote(self, link: Link, now: float) -> None:
        """Let the best of the links to one neighbour carry offers, and only that one."""
        primary = self._neighbours.primary(link)
        for sibling in self._neighbours.siblings(link):
            if sibling is not primary and sibling.exchange is not None:
                sibling.exchange.cursor = None
        if primary is None or primary.exchange is None or primary.exchange.cursor is not None:
            return
        primary.exchange.cursor = self.log.committed_seq + 1
        if primary.session.initiator:
            self._meetings.begin(primary, now)
            self._schedule(primary)
        self._ready[primary.number] = primary

    @property
    def has_work(self) -> bool:
        """Whether :meth:`run_slice` has something to compute."""
        return self._meetings.has_work or self.intake.has_repeated or self.intake.has_due

    def run_slice(self, now: float) -> None:
        """Compute a bounded slice of one reconciliation, and look after some that leave, or are put again.

        Slices of several links take turns.
        """
        if self.intake.has_repeated:
            self._repeated(now)
        if self.intake.has_due:
            self.intake.retire(now, save_clock=False)
        if not self._meetings.has_work:
            return
        link = self._meetings.next_job()
        try:
            self._meetings.run_slice(now)
        except RelayError:
            self._violation(link, SessionError.DECODE, Goodbye.DECODE, now)
        if not link.closed:
            self._schedule(link)
        self._ready[link.number] = link

    def _subscribe(self, link: Link, subscription: Subscribe, now: float) -> None:
        arrived_after_s = self.clock.residence_s(now) - WINDOW_S[subscription.window]
        link.serving.subscribe(subscription, arrived_after_s=arrived_after_s)

    def _closed(self, link: Link, reason: Reason, now: float) -> None:
        link.closed = True
        self.links.pop(link.number, None)
        if link.airtime is not None:
            link.airtime.forget(link.number)
            link.airtime = None
        if isinstance(reason, HandshakeFailure):
            self.stats.add(reason)
        elif isinstance(reason, SessionError):
            link.kind_stats.error(reason)
        self.live.forget(link)
        self.updates.forget(link, now)
        self.departure.forget(link, now)
        exchange = link.exchange
        if exchange is not None:
            self._requests.gone(exchange, now)
            others = self._neighbours.remove(link)
            self._places[link.session.initiator].leave(link.number)
            link.exchange = None
            self._meetings.forget(link, now)
            for sibling in others[:1]:
                self._promote(sibling, now)
                primary = self._neighbours.primary(sibling)
                if primary is not None and primary.exchange is not None:
                    primary.exchange.take_over(exchange)
            self._wake_relays()
        self._ready[link.number] = link

    # -- envelopes in -----------------------------------------------------

    def _puts(self, link: Link, items: list[tuple[int, bytes]], now: float) -> None:
        for number, refusal in self.intake.take_puts(link, items, now):
            self.stats.add(REJECTED[refusal])
            link.session.refuse(number, refusal, price=self.admission.price(link.interface))

    def _repeated(self, now: float) -> None:
        for link, number, refusal in self.intake.check_repeated(now):
            if refusal is None:
                link.session.acknowledge([number])
            else:
                self.stats.add(REJECTED[refusal])
                link.session.refuse(number, refusal, price=self.admission.price(link.interface))
            self._ready[link.number] = link

    def _envelopes(self, link: Link, items: list[bytes], now: float) -> None:
        exchange = link.exchange
        if exchange is None:
            self._violation(link, SessionError.PROTOCOL, Goodbye.PROTOCOL, now)
            return
        for envelope in items:
            identity = hashlib.sha256(envelope).digest()
            was_asked = exchange.take_owed(identity)
            if not self._requests.arrived(exchange, identity, now):
                # What it was asked for and another one brought meanwhile is no fault of its own.
                link.unwanted += not was_asked
                link.kind_stats.error(SessionError.UNWANTED_ENVELOPE)
                continue
            refusal = self.intake.take(link, None, envelope, identity, now)
            if refusal is not None:
                self.stats.add(REJECTED[refusal])
                exchange.refuse(identity, refusal)
        if self._requests.take_overdue(exchange, now):
            self._wake_relays()
        if link.unwanted > MAX_UNWANTED + (now - link.since) / UNWANTED_ALLOWANCE_S:
            self._violation(link, SessionError.LIMIT_EXCEEDED, Goodbye.LIMIT, now)

    # -- commits ----------------------------------------------------------

    def take_batch(self) -> PendingBatch | None:
        """Return what is to be committed now; hand it to :meth:`committed` or :meth:`commit_failed`."""
        return self.intake.take_batch()

    def committed(self, pending: PendingBatch, now: float) -> None:
        """The batch is safe: acknowledge it and offer it on."""
        for link, numbers in self.intake.committed(pending, now):
            link.session.acknowledge(numbers)
            self._ready[link.number] = link
        for link in self.links.values():
            if link.serving.follows or link.exchange is not None:
                self._ready[link.number] = link
        if pending.accepted:
            self._news.admitted(now)
            self._renew_news(now)
        self._tell_price(now)

    def commit_failed(self, pending: PendingBatch, now: float) -> None:
        """Nothing of the batch is stored: refuse it, and stop admitting for a while.

        The shell calls :meth:`reload` once :attr:`needs_reload` says so, which may
        be after a later batch; until then nothing is admitted.
        """
        for link, numbers in self.intake.commit_failed(pending, now):
            for number in numbers:
                link.session.refuse(number, Refusal.STORAGE, price=self.admission.price(link.interface))
            self._ready[link.number] = link

    @property
    def storage_failed(self) -> bool:
        """Whether the last commit failed, so that nothing is admitted for a while."""
        return self.intake.storage_failed

    def may_try_storage(self, now: float) -> bool:
        """Whether it is time to see if the store takes something again, after a commit that failed."""
        return self.intake.may_try(now)

    @property
    def needs_reload(self) -> bool:
        """Whether memory must be read from the store again after a failed commit."""
        return self.intake.needs_reload

    def reload(self, rows: Iterable[AdmittedRow]) -> None:
        """Forget what was never stored: read everything from the store again."""
        self.intake.reload(rows)

    def retire(self, now: float, *, save_clock: bool) -> None:
        """Let envelopes leave whose time has come; ``save_clock`` writes the residence clock too."""
        self._bodies.begin_period()
        self.intake.retire(now, save_clock=save_clock)
        # A full store commits little: without this the price before the last burst would stand.
        self._tell_price(now)

    def _tell_price(self, now: float) -> None:
        if now < self._price_told_at + PRICE_INTERVAL_S:
            return
        self._price_told_at = now
        for link in self.links.values():
            if link.session.state is not State.OPEN:
                continue
            price = self.admission.price(link.interface)
            if price != link.price_told:
                link.price_told = price
                link.session.announce_price(price)
                self._ready[link.number] = link

    def _renew_news(self, now: float) -> None:
        if self._news.renew(now):
            self._ready |= self.links

    # -- time -------------------------------------------------------------

    def observe_clock(self, *, now: float, wall_s: float, trusted: bool) -> None:
        """Take a reading of the wall clock; see relay.core.clock."""
        self.clock.observe(now=now, wall_s=wall_s, trusted=trusted)

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timer` is due, in monotonic seconds."""
        deadlines = [airtime.next_s for airtime in self._airtimes.values()]
        deadlines += [self._news.due, self._meetings.next_turn(), self.live.next_s]
        deadlines += [self.updates.next_s, self.departure.next_s]
        deadlines.append(self._timers[0][0] if self._timers else None)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _link_deadline(self, link: Link) -> float | None:
        deadlines = [
            link.session.next_deadline(),
            link.exchange.deadline if link.exchange else None,
            link.exchange.doubt_at if link.exchange else None,
            self._meetings.deadline(link),
            link.until,
        ]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _schedule(self, link: Link) -> None:
        deadline = self._link_deadline(link)
        if deadline is not None and (link.timer_at is None or deadline < link.timer_at):
            link.timer_at = deadline
            heapq.heappush(self._timers, (deadline, link.number))

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._renew_news(now)
        for airtime in self._airtimes.values():
            for its_turn in map(self.links.__getitem__, airtime.take_due(now)):
                # Read on even if nothing can be written: two that wait for each other would wait for ever.
                its_turn.paused = False
                self._ready[its_turn.number] = its_turn
        for paced in self.live.take_due(now):
            self._ready[paced.number] = paced
        for paced in self.updates.take_due(now):
            self._ready[paced.number] = paced
        self.departure.take_due(now)
        for stalled in self._meetings.take_stalled(now):
            self.close(stalled, Goodbye.TIMEOUT, SessionError.STALLED, now)
        due: list[Link] = []
        while self._timers and self._timers[0][0] <= now:
            deadline, number = heapq.heappop(self._timers)
            link = self.links.get(number)
            if link is not None and link.timer_at == deadline:
                link.timer_at = None
                due.append(link)
        for link in due:
            self._handle(link, link.session.handle_timer(now), now)
            exchange = link.exchange
            if exchange is not None and exchange.deadline is not None and exchange.deadline <= now:
                if self._requests.timed_out(exchange, now):
                    # It may be an enemy, or a link that was cut for a while: a new session will tell.
                    self.close(link, Goodbye.TIMEOUT, SessionError.STALLED, now)
                else:
                    # A link that was cut ends sooner than an enemy, who answers.
                    self._probe(link, now)
                self._wake_relays()
            if exchange is not None and exchange.is_doubtful(now):
                self._probe(link, now)
            if self._meetings.is_due(link, now) and exchange is not None and exchange.cursor is not None:
                self._meetings.begin(link, now)
            if self._meetings.is_unanswered(link, now):
                self.close(link, Goodbye.TIMEOUT, SessionError.STALLED, now)
            if link.until is not None and link.until <= now:
                self.close(link, Goodbye.DONE, SessionError.GOODBYE, now)
            if not link.closed:
                self._schedule(link)
                self._ready[link.number] = link

    def _probe(self, link: Link, now: float) -> None:
        """Find out which of the links to a neighbour are dead: all at once, since the next best may be, too."""
        for sibling in self._neighbours.siblings(link):
            sibling.session.probe(now)
            self._schedule(sibling)
            self._ready[sibling.number] = sibling

    def _wake_relays(self) -> None:
        for link in self._neighbours:
            self._ready[link.number] = link

    @property
    def news(self) -> bytes:
        """By what whoever was told it recognises our advertisement."""
        return self._news.value

    def known_news(self) -> list[bytes]:
        """Return the last two values of each neighbour: by these an advertisement of it is recognised."""
        return [value for link in self._neighbours for value in link.news]

    # -- what people see --------------------------------------------------

    @property
    def max_pending_rows(self) -> int:
        """Most envelopes that can wait for the store."""
        return MAX_PENDING_BYTES // SIZES[0]

    @property
    def max_wanted(self) -> int:
        """Most envelopes that can be wanted."""
        return MAX_RELAY_SESSIONS * (OFFER_WINDOW + MAX_ASKED)

    def wanted(self) -> int:
        """Envelopes asked for or about to be."""
        return len(self._requests)
