# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes of the outbox on their way to one relay: put, acknowledged, paid more for, put again."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from relay.client.inbox import Inbox
from relay.client.outbox import BATCH_PIECES, Outbox, Pending
from relay.client.seal import PRICE_LADDER
from relay.client.worker import Worker
from relay.core.envelope import CLASS_OF_SIZE, decode_envelope, envelope_id, price_paid
from relay.core.messages import Ack, Refusal, Refused
from relay.links.client_session import Connection, Incoming

PAYABLE: Final = frozenset({Refusal.UNDERPAID, Refusal.FULL})
"""Refusals that more work can turn."""
PASSING: Final = frozenset({Refusal.STORAGE})
"""Refusals that time can turn, of a relay that has taken something: one that takes nothing says so at once."""
MAX_PAUSES: Final = 4
FIRST_PAUSE_S: Final = 2.0
"""2, 4, 8 and 16 s: a relay that cannot write by then needs its operator."""


@dataclass(slots=True)
class Delivered:
    """What became of the envelopes offered to one relay."""

    envelopes: int = 0
    """Offered, or to be."""
    durable: int = 0
    volatile: int = 0
    acknowledged_bytes: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)

    @property
    def acknowledged(self) -> int:
        """Envelopes that the relay has, on disk or in memory."""
        return self.durable + self.volatile


class Delivery:
    """Offers a list of envelopes to one relay, over as many sessions as it takes.

    What is acknowledged is marked so in the outbox, on disk, before it counts.
    """

    def __init__(
        self,
        ids: Iterable[int],
        outbox: Outbox,
        inbox: Inbox,
        worker: Worker,
        *,
        result: Delivered,
        clock: Callable[[], float],
        patience_s: float,
        on_progress: Callable[[], None],
    ) -> None:
        """Offer the envelopes of these `ids`, which may go in one session, and count in `result`.

        `patience_s`: how long a relay may leave puts unanswered.
        """
        self._waiting: deque[int] = deque(ids)
        self._loaded: deque[Pending] = deque()
        self._in_flight: dict[int, Pending] = {}
        self._later: list[int] = []
        self._pauses = 0
        self._outbox = outbox
        self._inbox = inbox
        self._worker = worker
        self._clock = clock
        self._patience_s = patience_s
        self._on_progress = on_progress
        self.result = result
        result.envelopes += len(self._waiting)

    @property
    def is_done(self) -> bool:
        """Whether every envelope was acknowledged or refused for good."""
        return not (self._waiting or self._loaded or self._in_flight or self._later)

    async def run(self, connection: Connection) -> None:
        """Offer what is left over an open session until nothing is; RelayConnectionError when it breaks."""
        loop = asyncio.get_running_loop()
        try:
            while not self.is_done:
                await self._fill(connection)
                if self._in_flight:
                    deadline = loop.time() + self._patience_s
                    # Events other than answers give no more time.
                    while not await self._settle(await connection.events(max(0.0, deadline - loop.time()))):
                        pass
                elif self._later:
                    await self._pause()
        finally:
            # Whether these arrived nobody knows; the relay tells a duplicate.
            self._waiting.extendleft(pending.id for pending in reversed([*self._in_flight.values(), *self._loaded]))
            self._in_flight.clear()
            self._loaded.clear()

    async def _fill(self, connection: Connection) -> None:
        while connection.can_put:
            if not self._loaded:
                batch = [self._waiting.popleft() for _ in range(min(BATCH_PIECES, len(self._waiting)))]
                if not batch:
                    return
                loaded = await self._worker.run(self._outbox.load, batch)
                # What was received, purged or has expired meanwhile is no longer offered.
                self.result.envelopes -= len(batch) - len(loaded)
                if connection.address.is_bluetooth:
                    await self._worker.run(self._note_own, loaded)
                self._loaded.extend(loaded)
                continue
            pending = self._loaded.popleft()
            if _price(pending) < connection.hello.price:
                await self._pay(pending, connection.hello.price, Refusal.UNDERPAID)
            else:
                self._in_flight[connection.put(pending.envelope)] = pending

    async def _settle(self, events: Iterable[Incoming]) -> bool:
        """Act on answers; False when there was none."""
        durable: list[Pending] = []
        volatile: list[Pending] = []
        refused: list[tuple[Pending, Refusal, int]] = []
        for event in events:
            match event:
                case Ack():
                    # A number that is answered twice, or was never ours, has nothing in flight.
                    found = (self._in_flight.pop(number, None) for number in event.numbers())
                    (durable if event.durable else volatile).extend(pending for pending in found if pending)
                case Refused():
                    for number, reason in event.refusals:
                        if (pending := self._in_flight.pop(number, None)) is not None:
                            refused.append((pending, reason, event.price))
        for pendings, is_durable in ((durable, True), (volatile, False)):
            if pendings:
                await self._worker.run(self._mark, pendings, durable=is_durable)
        for pending, reason, price in refused:
            if reason in PAYABLE:
                await self._pay(pending, price, reason)
            elif reason in PASSING and self._pauses < MAX_PAUSES and self.result.acknowledged:
                self._later.append(pending.id)
            else:
                self.result.refused[reason] += 1
        if durable or volatile:
            self._pauses = 0
            self._on_progress()
        return bool(durable or volatile or refused)

    def _note_own(self, pendings: list[Pending]) -> None:
        """See to it that these are not fetched, as what may be for us is: over a radio of some kB/s not our own photo.

        A relay can tell by it who sent that. One that sees both visits can mostly tell anyway.
        """
        others = [pending.envelope for pending in pendings if not pending.is_to_oneself]
        self._inbox.note_seen((envelope_id(one), decode_envelope(one).expiry_hour) for one in others)

    def _mark(self, pendings: list[Pending], *, durable: bool) -> None:
        self._outbox.mark_acknowledged((pending.id for pending in pendings), durable=durable, now_s=self._clock())
        self.result.acknowledged_bytes += sum(len(pending.envelope) for pending in pendings)
        if durable:
            self.result.durable += len(pendings)
        else:
            self.result.volatile += len(pendings)

    async def _pay(self, pending: Pending, price: int, reason: Refusal) -> None:
        """Work an envelope anew for at least `price`, to be offered again, or give it up for this relay."""
        paid = _price(pending)
        step = next((step for step in PRICE_LADDER if step > paid and step >= price), None)
        # The price announced may be met already: a relay full of dearer envelopes says how full it is
        # only by refusing. One step more each time ends at the last.
        if step is None or (price <= paid and reason is not Refusal.FULL):
            self.result.refused[reason] += 1
            return
        await self._worker.run(self._outbox.raise_price, pending.id, step)
        self._waiting.append(pending.id)

    async def _pause(self) -> None:
        await asyncio.sleep(FIRST_PAUSE_S * 2**self._pauses)
        self._pauses += 1
        self._waiting.extend(self._later)
        self._later.clear()


def _price(pending: Pending) -> int:
    return price_paid(envelope_id(pending.envelope), CLASS_OF_SIZE[len(pending.envelope)])
