# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets to reconcile, and conversations between two sides, for the tests of reconciliation."""

from array import array
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

from relay.core.reconcile import AdmittedColumns, Reconciler, Scope
from relay.core.reconcile_wire import MAX_RECONCILE_MESSAGE

KEY = bytes(range(16))
HOUR = 480_000
WHOLE = Scope(first_hour=HOUR, last_hour=HOUR + 167, classes=0b1111, min_price=-128)
SCALAR, VECTOR = 1 << 30, -1
"""Values of ``scalar_entries`` under which every set, and no set, is done without numpy."""


@dataclass(frozen=True, slots=True)
class Entry:
    seq: int
    identity: bytes
    hour: int = HOUR
    size_class: int = 0
    price: int = 0


def entries(numbers, *, hours=1):
    """Entries with IDs made from numbers, in hours made from them too."""
    return [Entry(n, sha256(n.to_bytes(4, "big")).digest(), HOUR + n % hours) for n in numbers]


def columns(rows):
    return AdmittedColumns(
        ids=b"".join(row.identity for row in rows),
        expiry_hour=array("I", [row.hour for row in rows]),
        size_class=array("B", [row.size_class for row in rows]),
        price=array("b", [row.price for row in rows]),
        seq=array("Q", [row.seq for row in rows]),
    )


def initiator(rows, *, scope=WHOLE, scalar_entries=SCALAR, key=KEY):
    side = Reconciler(initiator=True, key=key, columns=columns(rows), scope=scope, scalar_entries=scalar_entries)
    side.start()
    work(side)
    return side


def responder(rows, *, scope=WHOLE, scalar_entries=SCALAR, key=KEY):
    return Reconciler(initiator=False, key=key, columns=columns(rows), scope=scope, scalar_entries=scalar_entries)


def result(slices):
    """Do all of a work that comes in slices; return what it comes to."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value


def work(side):
    """Do all pending work; return the number of slices."""
    slices = 1
    while side.step():
        slices += 1
    return slices


def tell(side, message):
    side.receive(message)
    return work(side)


@dataclass(slots=True)
class Conversation:
    """Messages as (sent by the initiator, bytes) and the number of flights."""

    messages: list[tuple[bool, bytes]] = field(default_factory=list)
    flights: int = 0

    @property
    def kinds(self):
        """Kinds in order, fragments counted once."""
        return [message[0] for _, message in self.messages if message[0] < 0x80]

    @property
    def size(self):
        return sum(len(message) for _, message in self.messages)


def converse(left, right):
    """Carry messages between a started initiator and a responder until both fall silent."""
    talk = Conversation()
    turn = True
    while messages := (left if turn else right).messages_to_send():
        talk.flights += 1
        for message in messages:
            talk.messages.append((turn, message))
            tell(right if turn else left, message)
        turn = not turn
    return talk


def offers(side):
    assert side.done
    assert len(set(side.to_offer)) == len(side.to_offer)
    return set(side.to_offer)


SCENARIOS = {
    # name: (initiator's numbers, responder's numbers, hours)
    "equal": (range(200), range(200), 4),
    "initiator empty": (range(0), range(30), 4),
    "responder empty": (range(30), range(0), 4),
    "hours of one side only": (range(0, 60, 2), range(1, 60, 2), 2),
    "list at once": (range(40), range(10, 50), 2),
    "symbols at once": (range(900), range(3, 902), 2),
    "more symbols": (range(1000), range(40, 1040), 2),
    "list asked for": (range(600), range(300, 900), 1),
    "responder lists": (range(3000), range(2900, 3010), 1),
    "long lists": (range(20_000), range(10_000, 30_000), 1),
}
"""Pairs that between them take every turn of the protocol."""


@cache
def scenario(name):
    left, right, hours = SCENARIOS[name]
    return entries(left, hours=hours), entries(right, hours=hours)


def seqs(rows):
    return {row.seq for row in rows}


def check(left, right, paths=(SCALAR, SCALAR), **kwargs):
    a = initiator(left, scalar_entries=paths[0], **kwargs)
    b = responder(right, scalar_entries=paths[1], **kwargs)
    talk = converse(a, b)
    left_ids, right_ids = ({row.identity for row in rows} for rows in (left, right))
    assert offers(a) == {row.seq for row in left if row.identity not in right_ids}
    assert offers(b) == {row.seq for row in right if row.identity not in left_ids}
    assert all(len(message) <= MAX_RECONCILE_MESSAGE for _, message in talk.messages)
    return talk


@cache
def transcript(name):
    """Messages of a scenario as (sent by the initiator, bytes)."""
    left, right = scenario(name)
    return converse(initiator(left), responder(right)).messages


def replayed(role, name, steps):
    """One side of a scenario after ``steps`` messages of its peer, and the peer's messages from there on."""
    side = (initiator if role else responder)(scenario(name)[not role])
    incoming = [message for sender, message in transcript(name) if sender is not role]
    for message in incoming[:steps]:
        tell(side, message)
    return side, incoming[steps:]
