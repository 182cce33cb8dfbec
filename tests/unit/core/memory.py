# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays, peers and stores in memory, and the bytes between them, for the tests of the core.

Everything is the real code; only the store is a dictionary that keeps what was
committed and can fail, and the streams are byte strings handed over at once.
"""

import asyncio
import gc
import itertools
import random
import types

from relay.core.admission import Policy
from relay.core.clock import Clock
from relay.core.envelope import SIZES, EnvelopeType, Header, decode_envelope, grind, make_purge, make_tag
from relay.core.messages import Hello, Refused, Role
from relay.core.node import Node, NodeConfig
from relay.core.session import Closed, Established, Session
from relay.core.stats import FAMILIES, LinkKind, SessionError, Stats
from tests.heard import Heard

BUILD_HOUR = 490_000
HOUR = BUILD_HOUR + 100
"""Expiry hour of envelopes unless a test says otherwise."""


def envelope(rng, *, size_class=0, expiry_hour=HOUR, price=0, tag=None):
    """A message with a random payload that pays exactly or more than ``price``."""
    tag = tag or rng.randbytes(16)
    header = Header(type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=expiry_hour, tag=tag).encode()
    return grind(header + rng.randbytes(SIZES[size_class] - 32), price=price, random_bytes=rng.randbytes)


def purge(rng, key, *, bucket=7, expiry_hour=HOUR, price=0):
    """The purge envelope of ``key``, and the tag that it removes."""
    tag = make_tag(bucket, key)
    return make_purge(tag=tag, purge_key=key, expiry_hour=expiry_hour, price=price, random_bytes=rng.randbytes), tag


class MemoryStore:
    """What is left when the power fails: committed batches."""

    def __init__(self):
        self.rows = {}
        self.bodies = {}
        self.displaced = set()
        self.state = {}
        self.interfaces = {0: "other"}

    def apply(self, batch):
        for seq, identity, header, interface, arrived_s, body in batch.inserts:
            assert seq not in self.rows, "a sequence number was used twice"
            self.rows[seq] = (identity, header, interface, arrived_s)
            if body is not None:
                self.bodies[seq] = body
        self.displaced.update(batch.displace)
        for seq in (*batch.drop_bodies, *batch.displace):
            self.bodies.pop(seq, None)
        for seq in batch.forget:
            self.rows.pop(seq, None)
            self.bodies.pop(seq, None)
        self.state |= batch.state
        self.interfaces |= batch.interfaces

    def load(self):
        return [(seq, *row, seq in self.bodies, seq in self.displaced) for seq, row in sorted(self.rows.items())]

    def read(self, seqs):
        return [self.bodies.get(seq) for seq in seqs]


class Relay:
    """A node and its store."""

    def __init__(self, seed=0, *, store=None, policy=None, config=None, trusted_hour=None, now=0.0):
        self.rng = random.Random(seed)
        self.store = store or MemoryStore()
        self.stats = Stats()
        clock = Clock(
            now=now,
            build_hour=BUILD_HOUR,
            residence_s=float(self.store.state.get("residence_s", 0)),
        )
        if trusted_hour is not None:
            clock.observe(now=now, wall_s=trusted_hour * 3600.0, trusted=True)
        self.node = Node(
            config=config or NodeConfig(durable=True),
            policy=policy or Policy(max_bytes=1 << 24, max_envelopes=10_000),
            clock=clock,
            stats=self.stats,
            random_bytes=self.rng.randbytes,
            read_bodies=self.store.read,
            interfaces=self.store.interfaces,
        )
        self.node.log.load(self.store.load())

    def commit(self, now=0.0):
        """Commit all that waits; tell whether anything did."""
        busy = False
        while (pending := self.node.take_batch()) is not None:
            self.store.apply(pending.batch)
            self.node.committed(pending, now)
            busy = True
        return busy

    def work(self, now=0.0):
        busy = self.commit(now) or self.node.has_work
        while self.node.has_work:
            self.node.run_slice(now)
        return busy

    def held(self):
        return {body for seq, body in self.store.bodies.items() if self.node.log.is_held(seq)}

    def count(self, reason):
        """How often a reason was counted, on whatever link."""
        if isinstance(reason, SessionError):
            return sum(link.errors[reason] for link in self.stats.links())
        return self.stats.get(reason)

    def counted(self):
        """Every reason counted so far, with its number."""
        reasons = [member for family in FAMILIES for member in family] + list(SessionError)
        return {reason: number for reason in reasons if (number := self.count(reason))}


class Peer(Heard):
    """A session driven by a test: an honest client, or one that says whatever the test wants."""

    def __init__(self, seed=1, *, role=Role.CLIENT, initiator=True, now=0.0, hello=None, **session):
        self.rng = random.Random(seed)
        self.session = Session(
            initiator=initiator,
            hello=hello or Hello(role=role),
            random_bytes=self.rng.randbytes,
            now=now,
            **session,
        )
        self.events = []

    def say(self, *messages, lane=0):
        """Queue raw messages, however wrong."""
        for message in messages:
            self.session._writer.push(lane, message)

    def record(self, plaintext):
        """Return the bytes of one record with any plaintext."""
        data = self.session._encrypt.encrypt(plaintext)
        return len(data).to_bytes(2, "big") + data

    @property
    def refused(self):
        return dict(itertools.chain.from_iterable(event.refusals for event in self.of(Refused)))

    @property
    def goodbye(self):
        """What the other side said when it ended the session."""
        return next((event.goodbye for event in self.of(Closed)), None)

    @property
    def is_established(self):
        return bool(self.of(Established))


def reachable(*things):
    """All byte strings and texts (as UTF-8) that whoever takes the memory finds by going on from some things."""
    found, seen, waiting = set(), set(), list(things)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | asyncio.AbstractEventLoop):
            continue
        seen.add(id(thing))
        if isinstance(thing, bytes | bytearray | str):
            found.add(thing.encode() if isinstance(thing, str) else bytes(thing))
        elif isinstance(thing, types.FunctionType):
            waiting += [cell.cell_contents for cell in thing.__closure__ or ()]
        else:
            waiting += gc.get_referents(thing)
    return found


class Wire:
    """A stream between a relay and another relay or a peer; both ends in one process."""

    def __init__(self, relay, other, *, interface="eth0", now=0.0, slow=False, pinned=None, named=False):
        self.relay = relay
        self.other = other
        if isinstance(other, Relay):
            self.link = relay.node.connect(
                kind=LinkKind.TCP, interface=interface, initiator=True, now=now, slow=slow, pinned=pinned
            )
            self.far = other.node.connect(kind=LinkKind.TCP, interface=interface, initiator=False, now=now, slow=slow)
        else:
            initiator = not other.session.initiator
            self.link = relay.node.connect(
                kind=LinkKind.TCP,
                interface=interface,
                initiator=initiator,
                now=now,
                slow=slow,
                pinned=pinned,
                named=named,
            )
            self.far = None
        self.bytes_there = self.bytes_back = 0
        self.cut = False

    def turn(self, now):
        """Move what each side has to say once; tell whether there was anything."""
        if self.cut:
            return False
        there = self.relay.node.data_to_send(self.link, now)
        if self.far is None:
            back = self.other.session.data_to_send()
            if there:
                self.other.events += self.other.session.receive_data(there, now)
        else:
            back = self.other.node.data_to_send(self.far, now)
            if there:
                self.other.node.receive(self.far, there, now)
        if back:
            self.relay.node.receive(self.link, back, now)
        self.bytes_there += len(there)
        self.bytes_back += len(back)
        looks_on = self.relay.node.has_output(self.link) or (self.far and self.other.node.has_output(self.far))
        return bool(there or back or looks_on)

    def lose(self, now=0.0):
        """The stream breaks for both sides."""
        self.cut = True
        self.relay.node.lost(self.link, now)
        if self.far is None:
            self.other.events += self.other.session.connection_lost()
        else:
            self.other.node.lost(self.far, now)


def settle(*wires, now=0.0, commit=True, turns=10_000):
    """Let everybody talk until nobody has anything to say."""
    relays = {id(r): r for w in wires for r in (w.relay, w.other) if isinstance(r, Relay)}.values()
    for _ in range(turns):
        busy = [wire.turn(now) for wire in wires]
        busy += [relay.work(now) for relay in relays if commit]
        if not any(busy):
            return
    raise AssertionError("it does not come to rest")


def client(relay, seed=1, *, interface="eth1", now=0.0, named=False, **peer):
    """A client with an established session, and its wire."""
    other = Peer(seed, now=now, **peer)
    wire = Wire(relay, other, interface=interface, now=now, named=named)
    settle(wire, now=now)
    return other, wire


def neighbour(relay, seed=2, *, interface="eth1", now=0.0, **peer):
    """A session that says it is a relay, and its wire: honest until the test makes it lie."""
    other, wire = client(relay, seed, interface=interface, now=now, role=Role.RELAY, **peer)
    other.session.send_same([])
    settle(wire, now=now)
    return other, wire


def put_all(relay, envelopes, *, interface="eth1", seed=3, now=0.0):
    """Put envelopes through a client of their own; return it."""
    other, wire = client(relay, seed, interface=interface, now=now)
    for one in envelopes:
        decode_envelope(one)
        other.session.put(one)
    settle(wire, now=now)
    return other
