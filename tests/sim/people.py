# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients: they hand envelopes to relays, and take those of their bucket."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.core import session as s
from relay.core.envelope import BUCKET_BITS, SIZES, EnvelopeType, Header, grind, make_purge, make_tag
from relay.core.messages import Ack, Hello, Refused, Role, Subscribe

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.sim.radio import End
    from tests.sim.scheduler import Scheduler


@dataclass(slots=True, kw_only=True)
class Letter:
    """An envelope and what became of it."""

    identity: bytes
    envelope: bytes
    bucket: int
    created_s: float
    acknowledged_by: list[int] = field(default_factory=list)
    arrived_s: float | None = None


def write_letter(
    rng: random.Random, *, bucket: int, size_class: int, expiry_hour: int, price: int, created_s: float
) -> Letter:
    """Seal a letter for a bucket; its payload is random, as ciphertext is."""
    tag = make_tag(bucket, rng.randbytes(32))
    header = Header(type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=expiry_hour, tag=tag)
    payload = rng.randbytes(SIZES[size_class] - 32)
    envelope = grind(header.encode() + payload, price=price, random_bytes=rng.randbytes)
    identity = hashlib.sha256(envelope).digest()
    return Letter(identity=identity, envelope=envelope, bucket=bucket, created_s=created_s)


def write_with_purge(rng: random.Random, *, expiry_hour: int, bucket: int = 7) -> tuple[bytes, bytes]:
    """Return a message of 256 bytes and the purge that removes it."""
    key = rng.randbytes(32)
    tag = make_tag(bucket, key)
    header = Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=expiry_hour, tag=tag)
    message = grind(header.encode() + rng.randbytes(SIZES[0] - 32), price=0, random_bytes=rng.randbytes)
    purge = make_purge(tag=tag, purge_key=key, expiry_hour=expiry_hour, price=0, random_bytes=rng.randbytes)
    return message, purge


class Person:
    """A client that talks to one relay at a time.

    ``on_ack(relay name, letter)`` is called the moment an acknowledgement is
    read, so that a world can look into that relay's store.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        rng: random.Random,
        *,
        bucket: int,
        on_ack: Callable[[int, Letter], None] = lambda *_: None,
        copies: int = 2,
    ) -> None:
        """``copies``: relays that a letter is handed to, since any one of them may lie."""
        self.bucket = bucket
        self.outbox: list[Letter] = []
        self.received: dict[bytes, float] = {}
        self.again = 0
        self.refused: Counter[str] = Counter()
        self.relay: int | None = None
        self.caught_up = False
        self._scheduler = scheduler
        self._rng = rng
        self._copies = copies
        self._on_ack = on_ack
        self._session: s.Session | None = None
        self._end: End | None = None
        self._puts: dict[int, Letter] = {}
        self._opened = False

    @property
    def connected(self) -> bool:
        """Whether there is a session, open or about to be."""
        return self._session is not None

    def visit(self, relay: int, end: End) -> None:
        """Start a session with a relay over an end of a contact."""
        self._session = s.Session(
            initiator=True,
            hello=Hello(role=Role.CLIENT),
            random_bytes=self._rng.randbytes,
            now=self._scheduler.now,
        )
        self._end, self.relay, self._opened, self.caught_up = end, relay, False, False
        self._puts = {}
        end.on_bytes = self._on_bytes
        end.on_room = self._flush
        end.on_lost = self.forget_visit
        self._flush()

    def forget_visit(self) -> None:
        """The connection is gone."""
        self._session = self._end = self.relay = None

    def leave(self) -> None:
        """End the visit."""
        if self._end is not None:
            self._end.on_lost = lambda: None
            self._end.on_bytes = lambda _: None
            self._end.close()
        self.forget_visit()

    def post(self, letter: Letter) -> None:
        """Hand a letter to this relay, and to others later."""
        self.outbox.append(letter)
        if self._opened:
            self._put_all()
            self._flush()

    def _put_all(self) -> None:
        waiting = {letter.identity for letter in self._puts.values()}
        for letter in self.outbox:
            if self._session and self.relay not in letter.acknowledged_by and letter.identity not in waiting:
                self._puts[self._session.put(letter.envelope)] = letter

    def _on_bytes(self, data: bytes) -> None:
        if self._session is None:
            return
        for event in self._session.receive_data(data, self._scheduler.now):
            match event:
                case s.Established():
                    self._opened = True
                    self._session.subscribe(Subscribe(prefix_bits=BUCKET_BITS, prefix=self.bucket))
                    self._put_all()
                case Ack():
                    for number in event.numbers():
                        self._acknowledged(self._puts.pop(number))
                case Refused():
                    for number, reason in event.refusals:
                        self._puts.pop(number, None)
                        self.refused[reason.name] += 1
                case s.Envelopes(items):
                    self._take(items)
                case s.CaughtUp():
                    self.caught_up = True
                case s.Closed():
                    end = self._end
                    self._flush()
                    self.forget_visit()
                    if end is not None:
                        end.close()
                    return
                case _:
                    pass
        self._flush()

    def _acknowledged(self, letter: Letter) -> None:
        relay = self.relay
        assert relay is not None
        letter.acknowledged_by.append(relay)
        if len(letter.acknowledged_by) >= self._copies:
            self.outbox.remove(letter)
        self._on_ack(relay, letter)

    def _take(self, items: list[bytes]) -> None:
        for envelope in items:
            identity = hashlib.sha256(envelope).digest()
            if identity in self.received:
                self.again += 1
            else:
                self.received[identity] = self._scheduler.now

    def _flush(self) -> None:
        while self._session is not None and self._end is not None and self._end.room_bytes:
            data = self._session.data_to_send(self._end.room_bytes)
            if not data:
                return
            self._end.write(data)
