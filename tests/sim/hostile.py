# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays that look like ours and are not.

They speak real sessions, so that what they do wrong reaches as deep as it can:
they offer and withhold, acknowledge and throw away, offer what does not exist,
flood with free envelopes and purges, and send garbage at every layer.
"""

from __future__ import annotations

import enum
import hashlib
import random
from typing import TYPE_CHECKING

from relay.core import session as s
from relay.core.envelope import BUCKET_BITS
from relay.core.messages import MAX_OFFERS, OFFER_WINDOW, Hello, MessageType, Offer, Role
from relay.core.session import State
from tests.sim.people import write_letter, write_with_purge

if TYPE_CHECKING:
    from tests.sim.radio import End
    from tests.sim.scheduler import Scheduler


class Kind(enum.Enum):
    """What it does to its neighbours."""

    WITHHOLD = "offers what others offered to it, answers no request"
    MISSING = "the same, and says that it does not have them after all"
    INVENT = "offers what does not exist"
    FLOOD = "gives envelopes and purges that cost nothing, as client and as relay"
    GARBAGE = "sends bytes that mean nothing, below and above the encryption"


class Hostile:
    """A hostile relay; attached like :class:`tests.sim.relays.Relay`."""

    hostile = True
    up = True

    def __init__(
        self, scheduler: Scheduler, *, name: int, seed: str, kind: Kind, expiry_hour: int, flood: int = 0
    ) -> None:
        """``flood``: envelopes that it makes, each given to every neighbour."""
        self.name = name
        self.kind = kind
        self.rng = random.Random(f"{seed}/hostile {name}")
        self.taken = 0
        self._scheduler = scheduler
        self._expiry_hour = expiry_hour
        self._flood: list[bytes] = []
        while len(self._flood) < flood:
            letter = write_letter(
                self.rng,
                bucket=self.rng.randrange(1 << BUCKET_BITS),
                size_class=self.rng.choice((0, 0, 1)),
                expiry_hour=expiry_hour,
                price=0,
                created_s=0.0,
            )
            self._flood += (letter.envelope, *write_with_purge(self.rng, expiry_hour=expiry_hour))
        self._heard: dict[bytes, Offer] = {}
        self._visits: list[_Visit] = []

    def attach(self, end: End, *, initiator: bool, **_) -> None:
        """Open a session; flooders come as clients when they come first."""
        as_client = initiator and self.kind is Kind.FLOOD and self.rng.random() < 0.5
        self._visits = [visit for visit in self._visits if not visit.over]
        self._visits.append(_Visit(self, end, initiator=initiator, as_client=as_client))

    def hear(self, offers: list[Offer]) -> None:
        """Tell everybody at once about what one neighbour offered."""
        if len(self._heard) < 8 * OFFER_WINDOW:
            self._heard.update((offer.identity, offer) for offer in offers)
        for visit in self._visits:
            visit.attack()

    def retire(self) -> None:
        """Nothing ever leaves."""

    @property
    def heard(self) -> dict[bytes, Offer]:
        """What was offered to it."""
        return self._heard

    @property
    def flood(self) -> list[bytes]:
        """What it floods with."""
        return self._flood

    @property
    def now(self) -> float:
        """Virtual time."""
        return self._scheduler.now

    @property
    def expiry_hour(self) -> int:
        """Hour under which it invents offers."""
        return self._expiry_hour


class _Visit:
    """One session of a hostile relay."""

    def __init__(self, owner: Hostile, end: End, *, initiator: bool, as_client: bool) -> None:
        self._owner = owner
        self._end = end
        self._offered: set[bytes] = set()
        self._room = OFFER_WINDOW
        self._session = s.Session(
            initiator=initiator,
            hello=Hello(role=Role.CLIENT) if as_client else Hello(role=Role.RELAY, durable=True),
            random_bytes=owner.rng.randbytes,
            now=owner.now,
        )
        end.on_bytes = self._on_bytes
        end.on_room = self._flush
        end.on_lost = self._session.connection_lost
        if owner.kind is Kind.GARBAGE and owner.rng.random() < 0.5:
            end.write(owner.rng.randbytes(owner.rng.randrange(1, 3000)))
            end.close()
        else:
            self._flush()

    def _on_bytes(self, data: bytes) -> None:
        for event in self._session.receive_data(data, self._owner.now):
            self._on_event(event)
        self._flush()
        if self._session.state is State.CLOSED:
            self._end.close()

    def _on_event(self, event: s.Event) -> None:
        owner, session = self._owner, self._session
        match event:
            case s.Established(hello):
                if hello.role is Role.RELAY and session.hello.role is Role.RELAY:
                    session.send_same([])
                    self._attack()
                elif session.hello.role is Role.CLIENT:
                    for envelope in owner.flood:
                        session.put(envelope)
            case s.Offers(items):
                session.credit(len(items))
                owner.hear(items)
            case s.Reconcile(body) if body and body[0] == 1:
                session.reconcile(bytes([2]))  # "we have the same"
            case s.Fetch(identities):
                self._withhold(identities)
            case s.Credit(count):
                self._room += count
                self._attack()
            case s.Puts(items):
                owner.taken += len(items)
                for number, _ in items:
                    session.acknowledge([number])
            case _:
                pass

    def _withhold(self, identities: list[bytes]) -> None:
        owner, session = self._owner, self._session
        if owner.kind is Kind.FLOOD:
            asked = set(identities)
            for envelope in owner.flood:
                if hashlib.sha256(envelope).digest() in asked:
                    session.send_envelopes([envelope])
        elif owner.kind is Kind.MISSING:
            session.send_missing(identities)
        elif owner.kind is Kind.GARBAGE:
            for identity in identities[:4]:
                session.send_envelopes([identity * 8])

    @property
    def over(self) -> bool:
        """Whether this session has ended."""
        return self._session.state is State.CLOSED

    def attack(self) -> None:
        """Do it now, without waiting for the other side to say something."""
        self._attack()
        self._flush()

    def _attack(self) -> None:
        owner, session = self._owner, self._session
        if session.state is not State.OPEN:
            return
        match owner.kind:
            case Kind.GARBAGE:
                kind = owner.rng.choice([*MessageType, 0x7F])
                session._push(owner.rng.randrange(8), bytes([kind]) + owner.rng.randbytes(owner.rng.randrange(80)))
            case Kind.INVENT:
                self._offer([Offer(owner.rng.randbytes(32), 0, owner.expiry_hour) for _ in range(200)])
            case Kind.FLOOD:
                headers = ((hashlib.sha256(e).digest(), (256, 1024).index(len(e))) for e in owner.flood)
                self._offer([Offer(identity, size, owner.expiry_hour) for identity, size in headers])
            case _:
                self._offer(list(owner.heard.values()))

    def _offer(self, offers: list[Offer]) -> None:
        fresh = [offer for offer in offers if offer.identity not in self._offered][: min(self._room, MAX_OFFERS)]
        self._offered.update(offer.identity for offer in fresh)
        self._room -= len(fresh)
        if fresh:
            self._session.offer(fresh)

    def _flush(self) -> None:
        while self._end.room_bytes:
            data = self._session.data_to_send(self._end.room_bytes)
            if not data:
                return
            self._end.write(data)
