# SPDX-License-Identifier: GPL-2.0-or-later
"""A world of relays, contacts and people, and what must hold in it at any time.

Everything random comes from one seed; nothing reads a clock.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.core.admission import Policy
from relay.core.envelope import decode_header
from relay.core.exchange import MAX_PEER_HAS, MAX_REFUSED
from relay.core.intake import MAX_PENDING_BYTES
from relay.core.log import EntryState
from relay.core.messages import OFFER_WINDOW
from relay.core.node import MAX_PENDING_BYTES_PER_LINK, MAX_RELAY_SESSIONS
from relay.core.retention import FORGET_RESIDENCES
from relay.core.returns import MAX_ASKED
from relay.core.serving import MAX_FETCHES
from relay.core.session import MAX_PUTS
from relay.core.stats import Dropped, Evicted
from tests.sim.hostile import Hostile, Kind
from tests.sim.people import Person
from tests.sim.radio import Air, Contact, Radio
from tests.sim.relays import Relay
from tests.sim.scheduler import Scheduler
from tests.sim.talk import Talk

if TYPE_CHECKING:
    from relay.core.link import Link
    from relay.core.log import Entry
    from relay.core.node import Node
    from tests.sim.people import Letter
    from tests.sim.radio import Tamper

#: 2026-01-01 in hours; any hour would do.
START_HOUR = 490_896
START_WALL_S = START_HOUR * 3600.0
#: Timers that an open link may have: one that counts; others have no effect and go by within 100 s.
TIMERS_PER_LINK = 24
#: What is read before may_receive() says stop arrives at once: one turn of a stream.
SLACK_BYTES = 2 << 20
ROOMY = Policy(max_bytes=64 << 20, max_envelopes=50_000)


@dataclass(slots=True)
class Ledger:
    """What relays acknowledged: (relay, letter, when)."""

    acknowledged: list[tuple[Relay, Letter, float]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class World:
    """Relays by number, the contacts between them, and the rules."""

    def __init__(self, seed: str | int) -> None:
        self.seed = str(seed)
        self.rng = random.Random(f"world {seed}")
        self.scheduler = Scheduler()
        self.air = Air()
        self.relays: dict[int, Relay | Hostile] = {}
        self.people: list[Person] = []
        self.ledger = Ledger()
        self.talk = Talk(self)
        self.contacts: dict[tuple[int, int], Contact] = {}

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self.scheduler.now

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.scheduler.run_until(self.now + seconds)

    # -- who is there -----------------------------------------------------

    def add_relay(self, *, policy: Policy = ROOMY, clock: bool = True, **options) -> Relay:
        """Put up an honest relay."""
        relay = Relay(
            self.scheduler,
            name=len(self.relays),
            seed=self.seed,
            policy=policy,
            wall_s=START_WALL_S if clock else None,
            build_hour=START_HOUR,
            **options,
        )
        relay.on_live = self.talk.heard
        self.relays[relay.name] = relay
        return relay

    def add_hostile(self, kind: Kind, *, flood: int = 0) -> Hostile:
        """Put up a hostile one."""
        relay = Hostile(
            self.scheduler,
            name=len(self.relays),
            seed=self.seed,
            kind=kind,
            expiry_hour=START_HOUR + 24,
            flood=flood,
        )
        self.relays[relay.name] = relay
        return relay

    def add_person(self, *, bucket: int, copies: int = 2) -> Person:
        """Let somebody come."""
        person = Person(
            self.scheduler,
            random.Random(f"{self.seed}/person {len(self.people)}"),
            bucket=bucket,
            on_ack=self._acknowledged,
            copies=copies,
        )
        self.people.append(person)
        return person

    def honest(self) -> list[Relay]:
        """Our relays, those that are switched off included."""
        return [relay for relay in self.relays.values() if isinstance(relay, Relay)]

    # -- contacts ---------------------------------------------------------

    def contact(self, radio: Radio) -> Contact:
        """Make a contact that nobody uses yet."""
        return Contact(self.scheduler, self.rng, radio, self.air)

    def join(self, a: int, b: int, radio: Radio | None = None, *, tamper: Tamper | None = None, **options) -> Contact:
        """Let two relays meet; the first dials."""
        contact = self.contact(radio or Radio())
        contact.tamper = tamper
        # The listener first: it must be there when the first bytes come.
        self.relays[b].attach(contact.ends[1], initiator=False, **options)
        self.relays[a].attach(contact.ends[0], initiator=True, **options)
        return contact

    def visit(self, person: Person, relay: int, radio: Radio | None = None, *, slow: bool = False) -> Contact:
        """Let a person walk up to a relay."""
        contact = self.contact(radio or Radio())
        self.relays[relay].attach(contact.ends[1], initiator=False, interface="people", slow=slow)
        person.visit(relay, contact.ends[0])
        return contact

    # -- rules ------------------------------------------------------------

    def _acknowledged(self, relay: int, letter: Letter) -> None:
        owner = self.relays[relay]
        if isinstance(owner, Relay):
            self.ledger.acknowledged.append((owner, letter, self.now))
            if letter.identity not in owner.store.by_identity:
                self.ledger.broken.append(f"relay {relay} acknowledged what its store did not have")

    def broken_rules(self) -> list[str]:
        """Return what does not hold and must at any time."""
        broken = list(self.ledger.broken)
        for relay in self.honest():
            broken += broken_rules_of(relay)
        forgotten = Counter(
            relay.name
            for relay, letter, at_s in self.ledger.acknowledged
            if relay.up and letter.identity not in relay.node.log and not self._may_forget(relay, letter, at_s)
        )
        broken += [
            f"relay {name} forgot {count} that it acknowledged, uncounted"
            for name, count in forgotten.items()
            if count > self.relays[name].counted(Dropped.ADMITTED_FULL)
        ]
        return broken

    def _may_forget(self, relay: Relay, letter: Letter, at_s: float) -> bool:
        expired = relay.node.clock.expired_by_wall(expiry_hour=decode_header(letter.envelope).expiry_hour, now=self.now)
        return expired or self.now - at_s >= FORGET_RESIDENCES * relay.policy.residence_s

    def unsettled_rules(self) -> list[str]:
        """Return what does not hold and must once nothing is under way any more."""
        broken = self.broken_rules()
        for relay in self.honest():
            if relay.up and relay.node.intake.pending_bytes:
                broken.append(f"relay {relay.name}: {relay.node.intake.pending_bytes} bytes are pending for ever")
            broken += [
                f"relay {relay.name}: bytes of a link are pending for ever"
                for link, _ in relay.ends.values()
                if link.pending_bytes
            ]
        return broken

    def lacking(self) -> int:
        """Count envelopes that a relay holds and a connected honest one neither took nor refused.

        Zero once a world has come to rest.
        """
        lacking = 0
        for relay, link, peer in self._honest_links():
            exchange = link.exchange
            if exchange is None or exchange.cursor is None:
                continue
            lacking += sum(
                1
                for entry in relay.node.log.entries(EntryState.HELD)
                if entry.identity not in peer[0].node.log and not _refused(peer[0], peer[1], entry)
            )
        return lacking

    def _honest_links(self) -> list[tuple[Relay, Link, tuple[Relay, Link]]]:
        by_hash: dict[bytes, list[tuple[Relay, Link]]] = {}
        for relay in self.honest():
            if relay.up:
                for link in relay.relay_links():
                    by_hash.setdefault(link.session.handshake_hash, []).append((relay, link))
        pairs = [pair for pair in by_hash.values() if len(pair) == 2]
        return [(relay, link, b if relay is a[0] else a) for a, b in pairs for relay, link in (a, b)]


def _refused(relay: Relay, link: Link, entry: Entry) -> bool:
    exchange, peer = link.exchange, link.session.peer
    if exchange is None or peer is None or entry.identity in exchange.refused:
        return True
    if entry.price < max(peer.price, link.session.hello.price):
        # Out of the scope of their reconciliation (docs/protocol.md, "Scope").
        return True
    if relay.counted(Evicted.PRICE):
        # It asked more when this was to be offered; the next reconciliation, within the hour, finds it.
        return True
    return (
        relay.node.admission.refuses_offer(
            identity=entry.identity,
            size_class=entry.header.size_class,
            expiry_hour=entry.header.expiry_hour,
            interface=link.interface,
            now=relay._scheduler.now,
        )
        is not None
    )


def broken_rules_of(relay: Relay) -> list[str]:
    """Check one relay: the log against the store, the counters, and every bound."""
    if not relay.up:
        return []
    node, store, broken = relay.node, relay.store, []

    def rule(text: str, *, holds: bool) -> None:
        if not holds:
            broken.append(f"relay {relay.name}: {text}")

    held = relay.held()
    stored = {row.identity for row in store.rows.values() if row.body is not None}
    batch = node.intake.pending.batch
    leaving = {store.rows[seq].identity for seq in (*batch.drop_bodies, *batch.displace) if seq in store.rows}
    if not relay._committing:
        rule("the log holds what the store does not", holds=held <= stored)
        rule("the store holds what the log does not", holds=stored - leaving <= held)
        rule("bodies left uncounted", holds=store.dropped + len(leaving) <= relay.departures())
    rule("more is held than the limit", holds=node.log.held_bytes <= relay.policy.max_bytes)
    links = [link for link, _ in relay.ends.values()]
    exchanges = [link.exchange for link in links if link.exchange is not None]
    rule("too many links with relays", holds=len(exchanges) <= MAX_RELAY_SESSIONS)
    rule("wants more than was offered", holds=node.wanted() <= (OFFER_WINDOW + MAX_ASKED) * len(exchanges))
    timers = Counter(number for _, number in node._timers if number in node.links)
    rule("too many timers", holds=max(timers.values(), default=0) <= TIMERS_PER_LINK)
    rule("too much pending", holds=node.intake.pending_bytes <= MAX_PENDING_BYTES + SLACK_BYTES)
    for link in links:
        rule("too much pending of a link", holds=link.pending_bytes <= MAX_PENDING_BYTES_PER_LINK + SLACK_BYTES)
        rule("too many fetches", holds=link.serving._fetch_count <= MAX_FETCHES)
    for exchange in exchanges:
        rule("too many peer_has", holds=len(exchange._peer_has) <= MAX_PEER_HAS)
        rule("too many refusals", holds=len(exchange.refused) <= MAX_REFUSED)
        rule("too many wants", holds=max(map(len, exchange._wants)) <= 4 * OFFER_WINDOW)
        rule("too many unsettled", holds=exchange.window_used <= OFFER_WINDOW)
    rule("too many duplicates wait", holds=_waiting_twice(node) <= MAX_PUTS * (len(links) + 1))
    return broken


def _waiting_twice(node: Node) -> int:
    return sum(map(len, node.intake.duplicates.values()))
