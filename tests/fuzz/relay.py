# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole relay whose peers, store and clock do what the fuzzer's bytes say.

Each step is a byte (which link, which deed) and what the deed needs. At the end
the relay must hold no more than its limits, must have acknowledged nothing that
was not committed, and must still serve somebody honest.
"""

import random

from relay.core import messages as m
from relay.core.admission import Policy
from relay.core.clock import Clock
from relay.core.codec import Reader
from relay.core.envelope import EnvelopeType, Header, decode_envelope, envelope_id, make_purge, make_tag
from relay.core.errors import DecodeError
from relay.core.frames import FrameReader
from relay.core.log import EntryState
from relay.core.messages import Hello, MessageType, Offer, Role, Subscribe
from relay.core.node import Node, NodeConfig
from relay.core.stats import LinkKind, Stats
from tests.fuzz.plain import KEYS, open_up

HOUR = 500_000
MAX_BYTES, MAX_ENVELOPES = 40_000, 24
LINKS = 4


def _known():
    """Envelopes that a step can name by a number."""
    rng = random.Random(1)
    key = bytes(range(32))
    tag = make_tag(7, key)
    made = []
    for number, size_class in enumerate((0, 0, 0, 1, 1, 2, 3)):
        its = tag if number in (1, 3) else rng.randbytes(16)
        header = Header(type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=HOUR + number, tag=its).encode()
        made.append(header + rng.randbytes(256 * 4**size_class - len(header)))
    made.append(make_purge(tag=tag, purge_key=key, expiry_hour=HOUR + 2, price=0, random_bytes=rng.randbytes))
    return made


KNOWN = _known()
OFFERS = [
    Offer(envelope_id(body), (len(body).bit_length() - 9) // 2, int.from_bytes(body[4:8], "big")) for body in KNOWN
]


def check(holds, why):
    if not holds:
        raise AssertionError(why)


class World:
    """The relay, its store, and the far ends of its links."""

    def __init__(self, flags):
        self.now = 0.0
        self.clock = Clock(now=0.0, build_hour=HOUR - 100)
        if flags & 1:
            self.clock.observe(now=0.0, wall_s=3600.0 * (HOUR - 50), trusted=True)
        self.node = Node(
            config=NodeConfig(durable=True, static=KEYS),
            policy=Policy(max_bytes=MAX_BYTES, max_envelopes=MAX_ENVELOPES, residence_s=5000.0),
            clock=self.clock,
            stats=Stats(),
            random_bytes=bytes,
            read_bodies=lambda seqs: [self.bodies.get(seq) for seq in seqs],
        )
        self.rows = {}
        self.bodies = {}
        self.committed = set()
        self.flight = []
        self.fresh = 0
        self.links = [None] * LINKS
        for number in range(LINKS):
            self.connect(number)

    def connect(self, number):
        """Links 0 and 1 are clients, 2 and 3 relays; the odd ones were dialled by us."""
        self.fresh += 1
        link = self.node.connect(
            kind=LinkKind.TCP, interface=f"eth{number % 2}", initiator=False, now=self.now, slow=number == 1
        )
        link.session.initiator = number == 3
        open_up(link.session, handshake_hash=self.fresh.to_bytes(32, "big"))
        self.links[number] = Far(link)
        self.hear(number, Hello(role=Role.CLIENT if number < 2 else Role.RELAY).encode())
        if number >= 2:
            self.hear(number, bytes([MessageType.SAME]) + bytes(16))

    def hear(self, number, message, lane=0):
        message = message[:16_000]
        self.record(number, bytes([lane]) + len(message).to_bytes(2, "big") + message)

    def record(self, number, plaintext):
        far = self.links[number]
        if far.link.closed:
            return
        self.node.receive(far.link, len(plaintext).to_bytes(2, "big") + plaintext, self.now)

    def pull(self, number):
        far = self.links[number]
        data = self.node.data_to_send(far.link, self.now)
        for kind, body in far.read(data):
            if kind == MessageType.ACK:
                check(all(far.puts[n] & self.committed for n in acknowledged(body)), "acknowledged and not committed")
        check(far.link.session.queued_bytes < 4 << 20, "output piles up")

    def take(self):
        if (pending := self.node.take_batch()) is not None:
            self.flight.append(pending)

    def finish(self, *, fails):
        if not self.flight:
            return
        pending = self.flight.pop(0)
        if fails:
            self.node.commit_failed(pending, self.now)
        else:
            for seq, identity, header, interface, arrived_s, body in pending.batch.inserts:
                self.rows[seq] = (identity, header, interface, arrived_s)
                if body is not None:
                    self.bodies[seq] = body
                    self.committed.add(body)
            for seq in (*pending.batch.drop_bodies, *pending.batch.displace):
                self.bodies.pop(seq, None)
            for seq in pending.batch.forget:
                self.rows.pop(seq, None)
                self.bodies.pop(seq, None)
            self.node.committed(pending, self.now)
        if self.node.needs_reload:
            self.node.reload([(seq, *row, seq in self.bodies, False) for seq, row in sorted(self.rows.items())])

    def put(self, number, put_number, body):
        far = self.links[number]
        far.puts.setdefault(put_number, set()).add(body)
        self.hear(number, m.encode_put(put_number, body), 3)

    def settle(self):
        for _ in range(50):
            while self.node.has_work:
                self.node.run_slice(self.now)
            self.take()
            while self.flight:
                self.finish(fails=False)
            for number in range(LINKS):
                self.pull(number)
            if not self.node.has_work and not self.node.intake.pending.batch:
                return

    def verify(self):
        log = self.node.log
        check(log.held_count <= MAX_ENVELOPES and log.held_bytes <= MAX_BYTES, "over the limits")
        self.now += 1000.0
        self.node.handle_timer(self.now)
        self.settle()
        check(set(self.bodies) == {e.seq for e in log.entries(EntryState.HELD)}, "memory and store differ")
        check(self.node.intake.pending_bytes == 0, "bytes pending for ever")
        check(all(link.pending_bytes == 0 for link in self.node.links.values()), "bytes of a link pending for ever")
        self.node.lost(self.links[0].link, self.now)
        self.connect(0)
        body = KNOWN[0]
        self.hear(0, Subscribe(prefix_bits=0, prefix=0).encode())
        self.put(0, 0, body)
        self.settle()
        check(0 in self.links[0].answered, "an honest client got no answer")
        for number in range(LINKS):
            self.node.lost(self.links[number].link, self.now)
        check(not self.node.links and not self.node.wanted(), "something is left of peers that went")


class Far:
    """The far end of a link: reads what the relay says."""

    def __init__(self, link):
        self.link = link
        self.puts = {}
        self.answered = set()
        self._reader = FrameReader()
        self._data = b""

    def read(self, data):
        self._data += data
        while len(self._data) >= 2 and len(self._data) >= 2 + int.from_bytes(self._data[:2], "big"):
            size = int.from_bytes(self._data[:2], "big")
            for message in self._reader.read_record(self._data[2 : 2 + size]):
                if message[0] == MessageType.ACK:
                    self.answered |= acknowledged(message[1:])
                elif message[0] == MessageType.REFUSE:
                    refused = m.decode_refuse(Reader(message[1:]), max_number=1 << 32)
                    self.answered |= {number for number, _ in refused.refusals}
                elif message[0] == MessageType.ENVELOPE:
                    decode_envelope(message[1:])
                yield message[0], message[1:]
            self._data = self._data[2 + size :]


def acknowledged(body):
    """Put numbers of an ACK; a peer that uses one twice gets one that decode_ack would refuse."""
    reader, numbers = Reader(body), set()
    reader.u8()
    while reader.remaining:
        first, count = reader.u32(), reader.varint()
        check(0 < count <= 1 << 16, "acknowledges without end")
        numbers |= set(range(first, first + count))
    return numbers


def run_relay(data):
    """Run the steps that ``data`` says, then see whether the relay is whole."""
    world = World(data[0] if data else 0)
    at = 1

    def take(count):
        nonlocal at
        at += count
        return data[at - count : at].ljust(count, b"\0")

    while at < len(data):
        step = data[at]
        at += 1
        number, deed = step & 3, step >> 2
        match deed:
            case 0 | 1:
                lane, size = take(2)
                message = take(size)
                note_put(world.links[number], message)
                world.hear(number, message, lane & 7)
            case 2:
                [size] = take(1)
                world.record(number, take(size))
            case 3 | 4:
                put_number, which = take(2)
                world.put(number, put_number, KNOWN[which % len(KNOWN)])
            case 5:
                [mask] = take(1)
                for offers in m.encode_offers([offer for n, offer in enumerate(OFFERS) if mask >> n & 1]):
                    world.hear(number, offers, 1)
            case 6:
                [which] = take(1)
                world.hear(number, b"\x23" + KNOWN[which % len(KNOWN)], 4)
            case 7:
                [mask] = take(1)
                for ids in m.encode_ids(MessageType.FETCH, [o.identity for n, o in enumerate(OFFERS) if mask >> n & 1]):
                    world.hear(number, ids)
            case 8:
                world.take()
            case 9:
                world.finish(fails=number == 3)
            case 10:
                world.pull(number)
            case 11:
                [seconds] = take(1)
                world.now += seconds * seconds / 16
                world.node.handle_timer(world.now)
            case 12:
                if world.node.has_work:
                    world.node.run_slice(world.now)
            case 13:
                world.node.lost(world.links[number].link, world.now)
                world.connect(number)
            case 14:
                world.node.retire(world.now, save_clock=number == 1)
            case 15:
                days = int.from_bytes(take(2), "big", signed=True)
                world.clock.observe(
                    now=world.now, wall_s=3600.0 * HOUR + world.now + 86400.0 * days, trusted=number != 0
                )
            case 16:
                subscription = Subscribe(prefix_bits=0, prefix=0, follow=number != 1, offers_only=at % 2 == 0)
                world.hear(number, subscription.encode())
            case 17:
                world.settle()
            case _:
                world.pull(number)
    world.verify()


def note_put(far, message):
    """Remember what a raw message puts, to know what its acknowledgement would say."""
    if message[:1] == b"\x10":
        try:
            put_number, body = m.decode_put(message)
        except DecodeError:
            return
        far.puts.setdefault(put_number, set()).add(body)
