# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the vectors by which somebody writes a client in another language.

`python -m tests.vectors.make` writes them anew; a change of one is a change of
the protocol. Bytes are in hex. payload.json and reconcile.json have makers of
their own (tests/client/vectors.py, tests/unit/core/test_reconcile_vectors.py).
"""

import base64
import hashlib
import json
from pathlib import Path

from relay.client.card import URI_PREFIX, Card, parse_uri
from relay.core import messages as m
from relay.core import update_wire as u
from relay.core.envelope import (
    HEADER_BYTES,
    SIZES,
    EnvelopeType,
    Header,
    bucket_of_day,
    cid,
    decode_header,
    envelope_id,
    grind,
    leading_zero_bits,
    make_purge,
    make_tag,
    price_paid,
)
from relay.core.frames import LANES, MAX_MESSAGE_BYTES, FrameReader, FrameWriter
from relay.core.messages import Ack, Hello, MessageType, Offer, Refusal, Refused, Role, Subscribe, Window
from relay.core.named import Name, wrap
from relay.core.noise import XX, HandshakeState, KeyPair
from relay.core.session import PATTERN_XX, PROTOCOL_VERSION, SLOW_FRAGMENT_BYTES, SLOW_RECORD_BYTES, Session

FOLDER = Path(__file__).parent
HOUR = 490_000
DAY = HOUR // 24
#: Payloads are these bytes over and over, so that they need not be in the files.
PATTERN = bytes(range(251))


def pattern(length):
    return (PATTERN * (length // len(PATTERN) + 1))[:length]


def from_label(label, length=32):
    return hashlib.sha256(label.encode()).digest()[:length]


def make_envelope(size_class, *, tag, expiry_hour=HOUR, price=0, nonce=bytes(8)):
    header = Header(type=EnvelopeType.MESSAGE, size_class=size_class, expiry_hour=expiry_hour, tag=tag).encode()
    payload = pattern(SIZES[size_class] - HEADER_BYTES - 8)
    return grind(header + payload, price=price, random_bytes=lambda _: nonce)


# -- envelope.json, tags.json, purge.json ----------------------------------


def envelopes():
    tag = make_tag(0x17, from_label("purge key"))
    made = [make_envelope(size_class, tag=tag, price=price) for size_class in range(4) for price in (0, 6)]
    made.append(make_envelope(0, tag=bytes(16), expiry_hour=2**32 - 1))
    good = made[0]
    return {
        "about": (
            "The payload is the bytes 0 to 250 over and over. header || payload || nonce is the envelope; the nonce "
            "is the first from 0 on that pays the price. id is SHA2-256 of the whole."
        ),
        "envelopes": [describe(data) for data in made],
        "refused": [
            {"why": why, "envelope": data.hex()}
            for why, data in (
                ("version 0", b"\x00" + good[1:]),
                ("version 2", b"\x02" + good[1:]),
                ("type 2", good[:1] + b"\x02" + good[2:]),
                ("size class 4", good[:2] + b"\x04" + good[3:]),
                ("size class 1 in 256 bytes", good[:2] + b"\x01" + good[3:]),
                ("reserved byte not zero", good[:3] + b"\x01" + good[4:]),
                ("one byte short", good[:-1]),
                ("one byte long", good + b"\x00"),
                ("a header only", good[:HEADER_BYTES]),
                ("nothing", b""),
            )
        ],
    }


def describe(data):
    header, identity = decode_header(data), envelope_id(data)
    return {
        "size_class": header.size_class,
        "length": len(data),
        "expiry_hour": header.expiry_hour,
        "tag": header.tag.hex(),
        "bucket": header.bucket,
        "header": data[:HEADER_BYTES].hex(),
        "nonce": data[-8:].hex(),
        "id": identity.hex(),
        "cid": cid(identity),
        "leading_zero_bits": leading_zero_bits(identity),
        "price_paid": price_paid(identity, header.size_class),
    }


def tags():
    keys = [from_label(f"rendezvous {n}") for n in range(3)] + [bytes(32), b"\xff" * 32]
    return {
        "about": (
            'bucket: first 5 bits of SHA2-256("mesh-relay/1 bucket" || day as u32 || rendezvous key). tag: first 16 '
            'bytes of SHA2-256("mesh-relay/1 purge tag" || purge key), their first 5 bits replaced by the bucket.'
        ),
        "buckets": [
            {"rendezvous_key": key.hex(), "day": day, "bucket": bucket_of_day(key, day)}
            for key in keys
            for day in (0, 1, DAY, DAY + 1, 2**32 - 1)
        ],
        "tags": [
            {
                "purge_key": key.hex(),
                "bucket": bucket,
                "tag": make_tag(bucket, key).hex(),
            }
            for key in keys
            for bucket in (0, 0x17)
        ],
        "prefixes": [
            {"prefix_bits": bits, "prefix": prefix, "bucket": bucket, "matches": bucket >> (5 - bits) == prefix}
            for bits, prefix in ((0, 0), (1, 1), (4, 0xB), (5, 0x17), (5, 0x16))
            for bucket in (0, 0x17, 0x16, 0x1F, 0x0F)
        ],
    }


def purges():
    key = from_label("purge key")
    tag = make_tag(0x17, key)
    made = [make_purge(tag=tag, purge_key=key, expiry_hour=HOUR, price=price, random_bytes=bytes) for price in (0, 8)]
    good = made[0]
    other_bucket = make_tag(0x16, key)
    return {
        "about": "header (type 1, class 0) || purge key (32) || zeros (192) || nonce (8).",
        "purges": [{**describe(data), "purge_key": key.hex(), "envelope": data.hex()} for data in made],
        "removes": [
            {"of": of, "tag": its.hex(), "expiry_hour": hour, "type": kind, "removed": removed}
            for of, its, hour, kind, removed in (
                ("same hour", tag, HOUR, 0, True),
                ("an hour earlier", tag, HOUR - 1, 0, True),
                ("an hour later", tag, HOUR + 1, 0, False),
                ("another bucket", other_bucket, HOUR, 0, False),
                ("another purge", tag, HOUR, 1, False),
            )
        ],
        "refused": [
            {"why": why, "envelope": data.hex()}
            for why, data in (
                ("key of another tag", good[:24] + bytes(32) + good[56:]),
                ("padding not zero", good[:100] + b"\x01" + good[101:]),
                ("a purge of 1,024 bytes", good[:2] + b"\x01" + good[3:] + bytes(768)),
            )
        ],
    }


# -- frames.json -----------------------------------------------------------


def frames():
    queue = [(6, pattern(2000)), (3, b"small"), (0, b"control"), (3, b"second small")]
    writer = FrameWriter(record_bytes=SLOW_RECORD_BYTES, fragment_bytes=SLOW_FRAGMENT_BYTES)
    for lane, message in queue:
        writer.push(lane, message)
    records = []
    while (record := writer.pull_record()) is not None:
        records.append({"plaintext": record.hex(), "frames": split(record)})
    return {
        "about": (
            "A frame is u8 lane (bit 7: more of this message follows), u16 length, bytes. messages are queued in this "
            "order on a slow link (records of 976 bytes, turns of 480); how lanes take turns is the sender's business, "
            "and a receiver takes any order. The message of 2,000 bytes is 0 to 250 over and over."
        ),
        "lanes": LANES,
        "max_message_bytes": MAX_MESSAGE_BYTES,
        "messages": [{"lane": lane, "length": len(message), "sha256": sha256(message)} for lane, message in queue],
        "records": records,
        "refused": [
            {"why": why, "plaintext": data, "then_zeros": zeros}
            for why, data, zeros in (
                ("lane 9", "0900017a", 0),
                ("no bytes in the frame", "000000", 0),
                ("cut in the header", "0000", 0),
                ("shorter than its length", "0000027a", 0),
                ("a message of 16,641 bytes", "014101", 16_641),
            )
        ],
    }


def split(record):
    parts, offset = [], 0
    while offset < len(record):
        size = int.from_bytes(record[offset + 1 : offset + 3])
        parts.append({"lane": record[offset] & 0x7F, "more": bool(record[offset] & 0x80), "length": size})
        offset += 3 + size
    return parts


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# -- messages.json ---------------------------------------------------------


def messages():
    return {
        "about": (
            "One message or more of each type: type byte and body. from: who sends it to whom. puts: how many puts the "
            "receiver of ACK or REFUSE had sent. Envelopes are 256 bytes: 0 to 250 over and over."
        ),
        "messages": [
            {"type": MessageType(data[0]).name, "from": sides, "fields": fields, "message": data.hex()}
            for sides, fields, data in typical_messages()
        ],
        "refused": [
            {"why": why, "message": data, "then_zeros": sum(zeros)} for why, data, *zeros in refused_messages()
        ],
    }


BOTH = "client to relay, relay to client, relay to relay"


def typical_messages():
    ids = [from_label(f"envelope {n}") for n in range(2)]
    body = pattern(256)
    yield "client to relay", {"role": 0}, Hello(role=Role.CLIENT).encode()
    hello = Hello(
        role=Role.RELAY, durable=True, slow=True, updates=True, price=7, classes=0b0111, window=(HOUR, HOUR + 170),
        prefix_bits=5, max_puts=2048,
    )  # fmt: skip
    fields = {name: getattr(hello, name) for name in Hello.__dataclass_fields__}
    yield "relay to client, relay to relay", fields, hello.encode()
    yield BOTH, {"reason": m.Goodbye.DONE}, bytes([MessageType.GOODBYE, m.Goodbye.DONE])
    yield BOTH, {}, bytes([MessageType.PING])
    yield BOTH, {}, bytes([MessageType.PONG])
    macs = [from_label(f"mac {n}", 16) for n in range(8)]
    yield "relay to relay", {"macs": hexes(macs)}, bytes([MessageType.SAME]) + b"".join(macs)
    yield "relay to client, relay to relay", {"price": 9}, bytes([MessageType.PRICE, 9])
    news = from_label("news", 16)
    yield "relay to relay", {"value": news.hex()}, bytes([MessageType.NEWS]) + news
    yield "client to relay", {"number": 258, "envelope_length": 256}, m.encode_put(258, body)
    numbers = [0, 1, 2, 7, *range(100, 400)]
    for durable in (True, False):
        [ack] = m.encode_acks(durable=durable, numbers=numbers)
        fields = {"durable": durable, "ranges": m.to_ranges(numbers), "puts": 400}
        yield "relay to client", fields, ack
    refusals = [(3, Refusal.UNDERPAID), (4, Refusal.FULL)]
    [refuse] = m.encode_refusals(refusals, price=11)
    yield "relay to client", {"price": 11, "refusals": refusals, "puts": 400}, refuse
    for subscription in (
        Subscribe(prefix_bits=0, prefix=0),
        Subscribe(prefix_bits=4, prefix=0xB, window=Window.DAY, offers_only=True, follow=False),
    ):
        fields = {name: getattr(subscription, name) for name in Subscribe.__dataclass_fields__}
        yield "client to relay", fields, subscription.encode()
    yield "relay to client", {}, bytes([MessageType.CAUGHT_UP])
    [fetch], [missing] = (m.encode_ids(kind, ids) for kind in (MessageType.FETCH, MessageType.MISSING))
    yield "client to relay, relay to relay", {"ids": hexes(ids)}, fetch
    yield "relay to client, relay to relay", {"envelope_length": 256}, bytes([MessageType.ENVELOPE]) + body
    yield "relay to client, relay to relay", {"ids": hexes(ids)}, missing
    offers = [Offer(ids[0], 0, HOUR), Offer(ids[1], 3, HOUR + 5)]
    [offer] = m.encode_offers(offers)
    fields = {
        "offers": [{"id": o.identity.hex(), "size_class": o.size_class, "expiry_hour": o.expiry_hour} for o in offers]
    }
    yield "relay to client, relay to relay", fields, offer
    yield "relay to relay", {"body": "0102"}, bytes([MessageType.RECONCILE, 1, 2])
    yield "relay to relay", {"count": 256}, bytes([MessageType.CREDIT, 1, 0])
    identity = from_label("live", 16)
    for hops, counted in ((31, 31), (255, m.MAX_HOPS)):
        datagram = m.LiveDatagram(kind=1, identity=identity, data=pattern(20))
        fields = {"hops": counted, "kind": 1, "id": identity.hex(), "data": datagram.data.hex()}
        yield "relay to relay", fields, m.encode_live(hops, datagram.encode())
    yield from updates()


def updates():
    digest = from_label("head")
    for kind, said, fields in (
        ("OFFER", u.Offer(digest=digest, size=225_000_000, built=1_780_000_000, board="arm64", version="0.1.0"), {}),
        ("ASK", u.Ask(digest=digest, offset=65_536, length=16_384), {}),
        ("PART", u.Given(offset=65_536, data=pattern(20)), {"data": pattern(20).hex()}),
        ("NOT_HERE", u.Given(offset=65_536, data=None), {}),
        ("LEAVING", u.Leaving(identities=[from_label(f"envelope {n}") for n in range(2)]), {}),
        ("LEAVING", u.Leaving(identities=[]), {}),
        ("STAYS", u.Stays(stays=True, holds=False), {}),
        ("STAYS", u.Stays(stays=True, holds=True), {}),
    ):
        known = {name: getattr(said, name) for name in said.__dataclass_fields__} | fields
        for name, value in known.items():
            if isinstance(value, bytes):
                known[name] = value.hex()
            elif isinstance(value, list):
                known[name] = hexes(value)
        yield "relay to relay", {"kind": kind, **known}, bytes([MessageType.UPDATE]) + said.encode()


def hexes(items):
    return [item.hex() for item in items]


def refused_messages():
    yield "HELLO of role 2", "0102" + "00" * 14
    yield "HELLO cut", "0101000f"
    yield "GOODBYE without reason", "02"
    yield "PING with a body", "0300"
    yield "SAME without MACs", "05"
    yield "SAME with part of a MAC", "05", 15
    yield "SAME with 33 MACs", "05", 528
    yield "PUT without envelope", "1000000000"
    yield "ACK without ranges", "1101"
    yield "ACK neither volatile nor durable", "11020000000001"
    yield "ACK of put 400 of 400", "11010000019001"
    yield "ACK of an empty range", "11010000000000"
    yield "ACK of overlapping ranges", "110100000000020000000101"
    yield "ACK with a count not in its shortest form", "1101000000008100"
    yield "REFUSE without refusals", "1200"
    yield "REFUSE of put 400 of 400", "12000000019005"
    yield "SUBSCRIBE to 6 bits", "2006000000"
    yield "SUBSCRIBE to a prefix longer than its bits", "2001020000"
    yield "SUBSCRIBE with an unknown window", "2000000300"
    yield "SUBSCRIBE with unknown flags", "2000000004"
    yield "FETCH of nothing", "22"
    yield "FETCH of part of an id", "22", 33
    yield "FETCH of 257", "22", 8224
    yield "OFFER of size class 4", "30" + "00" * 32 + "0400000000"
    yield "OFFER cut", "30", 36
    yield "CREDIT with a body too long", "32000100"
    yield "LIVE without data", "402001" + "00" * 16
    yield "LIVE of 16,385 bytes", "40", 16_403
    yield "UPDATE without a kind", "41"
    yield "UPDATE of kind 7", "4107"
    yield "UPDATE: OFFER without a version", "4101" + "00" * 32 + "00" * 12 + "0161"
    yield "UPDATE: OFFER of a board in capitals", "4101" + "00" * 32 + "00" * 12 + "014161"
    yield "UPDATE: ASK for nothing", "4102" + "00" * 38
    yield "UPDATE: ASK for 16,385 bytes", "4102" + "00" * 36 + "4001"
    yield "UPDATE: PART without data", "410300000000"
    yield "UPDATE: PART of 16,385 bytes", "410300000000", 16_385
    yield "UPDATE: NOT_HERE with data", "41040000000001"
    yield "UPDATE: LEAVING with part of an id", "4105", 33
    yield "UPDATE: LEAVING with 501", "4105", 16_032
    yield "UPDATE: STAYS with unknown flags", "410604"


# -- session.json ----------------------------------------------------------


class Side:
    """A session whose keys are fixed and whose records are written down."""

    def __init__(self, name, *, initiator, hello, secret=None):
        keys = [from_label(f"{name} static"), from_label(f"{name} ephemeral")]
        self.name = name
        self.static, self.ephemeral = keys
        self.session = Session(
            initiator=initiator,
            hello=hello,
            static=KeyPair.from_private(keys[0]),
            random_bytes=_Once(keys[1]),
            now=0.0,
            secret=secret,
        )
        self.plaintexts = []
        self.tapped = False

    def say(self):
        """Return the bytes that go out now, and the plaintext of each record in them."""
        session = self.session
        if session.handshake_hash and not self.tapped:
            self.tapped, encrypt = True, session._encrypt.encrypt
            session._encrypt = _Tap(encrypt, self.plaintexts)
        data = session.data_to_send()
        plaintexts, self.plaintexts[:] = list(self.plaintexts), []
        return data, plaintexts


class _Once:
    def __init__(self, value):
        self.value = value

    def __call__(self, length):
        value, self.value = self.value, b""
        if len(value) != length:
            raise AssertionError(f"{length} random bytes more than the vectors say")
        return value


class _Tap:
    def __init__(self, encrypt, into):
        self._encrypt, self._into = encrypt, into

    def encrypt(self, plaintext):
        self._into.append(bytes(plaintext))
        return self._encrypt(plaintext)


RELAY_HELLO = Hello(role=Role.RELAY, durable=True, window=(HOUR, HOUR + 170), prefix_bits=0, max_puts=2048)


def session():
    return {
        "about": (
            "stream: bytes on the wire, as they come. A record is u16 length and a Noise message; the first message "
            "of a session begins with version and pattern (0: XX, 3: XXpsk3). Private keys are SHA2-256 of the "
            'labels "client static", "client ephemeral" and so on. The prologue is "mesh-relay/1 session" || version '
            "|| pattern. link_secret is the export (docs/protocol.md section 4.2) under the label "
            '"mesh-relay/1 link"; reconcile_keys are those of the first reconciliations of the session; same_mac is '
            "what this session says of another whose link_secret is 32 bytes of 0x42. client_refuses: what a "
            "relay says to the client of the first session (no puts), from its handshake message on; each MUST end the "
            "session, with that GOODBYE or without a word. client_takes: what must not end it, and what it means."
        ),
        "sessions": [transcript("XX", None), transcript("XXpsk3", from_label("mesh secret"))],
        "client_refuses": [said_to_client(why, *what) for why, *what in what_a_client_refuses()],
        "client_takes": [said_to_client(why, *what) for why, *what in what_a_client_takes()],
        "refused_first_bytes": [
            {"why": why, "stream": data}
            for why, data in (
                ("version 2", "00220200" + "07" * 32),
                ("pattern 1", "00220101" + "07" * 32),
                ("key of low order", "00220100" + "00" * 32),
                ("a payload in the first message", "00230100" + "07" * 33),
                ("longer than any handshake message", "0101"),
                ("HTTP", b"GET / HTTP/1.1\r\n".hex()),
            )
        ],
    }


def transcript(name, secret):
    client = Side("client", initiator=True, hello=Hello(role=Role.CLIENT), secret=secret)
    relay = Side("relay", initiator=False, hello=RELAY_HELLO, secret=secret)
    purge_key = from_label("purge key")
    put = [make_envelope(0, tag=make_tag(0x17, purge_key)), make_envelope(1, tag=make_tag(0x16, purge_key))]
    steps = []

    def exchange(what):
        while True:
            spoke = False
            for speaker, listener in ((client, relay), (relay, client)):
                data, plaintexts = speaker.say()
                if data:
                    spoke = True
                    steps.append(
                        {
                            "what": what,
                            "from": speaker.name,
                            "stream": data.hex(),
                            "plaintexts": hexes(plaintexts),
                            "events": [event_name(e) for e in listener.session.receive_data(data, 0.0)],
                        }
                    )
            if not spoke:
                return

    exchange("handshake and hellos")
    for data in put:
        client.session.put(data)
    exchange("put twice")
    relay.session.acknowledge([0])
    relay.session.refuse(1, Refusal.FULL, price=5)
    exchange("one acknowledged, one refused")
    client.session.subscribe(Subscribe(prefix_bits=4, prefix=0xB))
    exchange("subscribe to bucket prefix 1011")
    relay.session.send_envelopes([put[0]])
    relay.session.caught_up()
    exchange("what is there, and caught up")
    client.session.fetch([bytes(32)])
    exchange("fetch by id")
    relay.session.send_missing([bytes(32)])
    exchange("missing")
    client.session.close(m.Goodbye.DONE, None)
    exchange("goodbye")
    session = client.session
    return {
        "pattern": name,
        "secret": secret.hex() if secret else None,
        "keys": {
            side.name: {"static": side.static.hex(), "ephemeral": side.ephemeral.hex()} for side in (client, relay)
        },
        "hellos": {"client": Hello(role=Role.CLIENT).encode().hex(), "relay": RELAY_HELLO.encode().hex()},
        "envelopes": hexes(put),
        "handshake_hash": session.handshake_hash.hex(),
        "link_secret": session.link_secret.hex(),
        "reconcile_keys": [session.reconcile_key(count).hex() for count in range(3)],
        "same_mac": session.same_mac(b"\x42" * 32).hex(),
        "steps": steps,
    }


def said_to_client(why, answer, *plaintexts):
    """What a relay with fixed keys says to the client of the transcript, and what this client makes of it."""
    client = Side("client", initiator=True, hello=Hello(role=Role.CLIENT))
    relay = Side("relay", initiator=False, hello=RELAY_HELLO)
    relay.session.receive_data(client.say()[0], 0.0)
    stream = relay.session.data_to_send()
    if not plaintexts:
        stream = answer(stream)
    else:
        client.session.receive_data(stream, 0.0)
        relay.session.receive_data(client.say()[0], 0.0)
        records = [relay.session._encrypt.encrypt(plaintext) for plaintext in plaintexts]
        stream = answer(stream + b"".join(len(record).to_bytes(2) + record for record in records))
    client = Side("client", initiator=True, hello=Hello(role=Role.CLIENT))
    client.say()
    events = client.session.receive_data(stream, 0.0)
    said = [message for plaintext in client.say()[1] for message in FrameReader().read_record(plaintext)]
    goodbye = said[-1] if said else b""
    return {
        "why": why,
        "stream": stream.hex(),
        "plaintexts": hexes(plaintexts),
        "events": [event_name(event) for event in events],
        "goodbye": m.Goodbye(goodbye[1]).name if goodbye[:1] == bytes([MessageType.GOODBYE]) else None,
    }


def framed(*parts):
    """A record's plaintext of these messages, on the control lane."""
    return b"".join(b"\0" + len(part).to_bytes(2) + part for part in parts)


def as_it_is(record):
    return record


def what_a_client_refuses():
    yield "message 2 cut", lambda record: b"\0\x5f" + record[2:-1]
    yield "message 2 with a payload", with_payload
    yield "message 2 with a key of low order", lambda record: record[:2] + bytes(32) + record[34:]
    yield "message 2 altered", lambda record: record[:-1] + bytes([record[-1] ^ 1])
    yield "a record longer than any handshake message", lambda _: b"\x01\x01"
    hello = RELAY_HELLO.encode()
    yield "no HELLO first", as_it_is, framed(bytes([MessageType.PING]))
    yield "GOODBYE before HELLO", as_it_is, framed(bytes([MessageType.GOODBYE, m.Goodbye.BUSY]))
    yield "HELLO of a client", as_it_is, framed(Hello(role=Role.CLIENT).encode())
    yield "HELLO of role 2", as_it_is, framed(hello[:1] + b"\2" + hello[2:])
    yield "HELLO cut", as_it_is, framed(hello[:-1])
    yield "a record altered", lambda stream: stream[:-1] + bytes([stream[-1] ^ 1]), framed(hello)
    again = framed(hello, bytes([MessageType.PING]))
    yield "a record replayed", lambda stream: stream + stream[-len(again) - 18 :], again
    yield "a second HELLO", as_it_is, framed(hello, hello)
    for what in (
        m.encode_put(0, bytes(256)),
        Subscribe(prefix_bits=0, prefix=0).encode(),
        bytes([MessageType.FETCH]) + bytes(32),
        bytes([MessageType.SAME]) + bytes(128),
        bytes([MessageType.RECONCILE, 1, 2]),
        bytes([MessageType.CREDIT, 0, 1]),
    ):
        yield f"{MessageType(what[0]).name}, which is not for clients", as_it_is, framed(hello, what)
    yield "a type that does not exist", as_it_is, framed(hello, b"\x7f")
    [ack], [refusal] = m.encode_acks(durable=True, numbers=[0]), m.encode_refusals([(0, Refusal.FULL)], price=0)
    yield "ACK of what was not put", as_it_is, framed(hello, ack)
    yield "REFUSE of what was not put", as_it_is, framed(hello, refusal)
    yield "a lane that does not exist", as_it_is, framed(hello) + b"\x09\0\x01\x04"
    yield "a frame without bytes", as_it_is, framed(hello) + bytes(3)


def with_payload(record):
    """Message 2 of the same relay, but with one byte of payload."""
    relay = HandshakeState(
        XX,
        initiator=False,
        prologue=b"mesh-relay/1 session" + bytes([PROTOCOL_VERSION, PATTERN_XX]),
        static=KeyPair.from_private(from_label("relay static")),
        random_bytes=_Once(from_label("relay ephemeral")),
    )
    relay.read_message(KeyPair.from_private(from_label("client ephemeral")).public)
    message = relay.write_message(b"\0")
    if message[:32] != record[2:34]:
        raise AssertionError("another relay")
    return len(message).to_bytes(2) + message


def what_a_client_takes():
    hello = RELAY_HELLO.encode()
    yield "HELLO and a field of a later version", as_it_is, framed(hello + b"later")
    yield (
        "HELLO with unknown flags and classes",
        as_it_is,
        framed(hello[:2] + b"\xfd" + hello[3:4] + b"\xff" + hello[5:]),
    )
    empty = Hello(role=Role.RELAY, window=(HOUR, HOUR - 1)).encode()
    yield "HELLO of a relay that accepts no hour: the first is after the last", as_it_is, framed(empty)
    yield "HELLO in two records, and one without frames between", as_it_is, *split_hello(hello)
    yield "PONG that nobody asked for", as_it_is, framed(hello, bytes([MessageType.PONG]))
    yield "GOODBYE of an unknown reason, and more bytes", as_it_is, framed(hello, bytes([MessageType.GOODBYE, 99, 1]))
    yield "an envelope that nobody asked for", as_it_is, framed(hello, bytes([MessageType.ENVELOPE]) + bytes(256))
    yield "an envelope that is none", as_it_is, framed(hello, bytes([MessageType.ENVELOPE]) + b"?")
    yield "any lane", as_it_is, framed(hello) + b"\x07\0\x02\x06\x09"


def split_hello(hello):
    """The frames of a message cut in two, with an empty record in between."""
    return b"\x80\0\x05" + hello[:5], b"", b"\0" + (len(hello) - 5).to_bytes(2) + hello[5:]


def event_name(event):
    """The name, and the numbers that matter."""
    match event:
        case Ack(durable=durable):
            return f"Ack {'durable' if durable else 'volatile'} {list(event.numbers())}"
        case Refused(price=price, refusals=refusals):
            return f"Refused price {price} {[(number, reason.name) for number, reason in refusals]}"
        case _:
            return type(event).__name__


# -- card.json --------------------------------------------------------------


def cards():
    card = Card(static=KeyPair.from_private(from_label("card static")).public, rendezvous=from_label("card", 16))
    uri, encoded = card.to_uri(), card.encode()
    return {
        "about": (
            "Contact cards as URIs (docs/protocol.md section 12.1). takes: what a client takes, and which name is then "
            "suggested ('' for none). refuses: what it does not."
        ),
        "static": card.static.hex(),
        "rendezvous": card.rendezvous.hex(),
        "takes": [
            {"why": why, "uri": text, "name": parse_uri(text)[1]}
            for why, text in (
                ("without a name", uri),
                ("a name of unreserved characters alone", card.to_uri("Zoe-1._~")),
                ("everything else is percent-encoded", card.to_uri("Zoë & Ben + 1 = 3 #?/%")),
                ("hexadecimal digits in either case", uri + "?name=Zo%c3%AB"),
                ("a plus is a plus", uri + "?name=a+b"),
                ("bytes that are no UTF-8 become U+FFFD", uri + "?name=a%FFb"),
                ("a percent sign without two digits stays", uri + "?name=100%"),
                ("scheme and word in any case", uri.replace("mesh-relay:contact", "MESH-RELAY:Contact")),
                ("unknown parameters, before and after", uri + "?v=2&name=Ben&x&=y"),
                ("of two names the first", uri + "?name=Ben&name=Zoe"),
                ("an empty query", uri + "?"),
            )
        ],
        "refuses": [
            {"why": why, "uri": text}
            for why, text in (
                ("another scheme", uri.replace("mesh-relay:", "mesh:")),
                ("another word", uri.replace("contact", "group")),
                ("cut", uri[:-1]),
                ("a character more", uri + "A"),
                ("padding", uri + "="),
                ("the other alphabet of base64", URI_PREFIX + "+" + uri[len(URI_PREFIX) + 1 :]),
                ("last bits not zero", uri[:-1] + chr(ord(uri[-1]) + 1)),
                ("checksum", to_uri(encoded[:-1] + bytes([encoded[-1] ^ 1]))),
                ("version 2", to_uri(with_checksum(b"\2" + encoded[1:49]))),
                ("a byte more", to_uri(with_checksum(encoded[:49] + b"\0"))),
                ("key 0, of low order", Card(static=bytes(32), rendezvous=bytes(16)).to_uri()),
                ("key 1, of low order", Card(static=b"\1" + bytes(31), rendezvous=bytes(16)).to_uri()),
            )
        ],
    }


def named():
    """Envelopes that are found by a name."""
    tag, letter = pattern(16), b"sealed letter"
    cases = [
        ("short", b"bitchat courier", tag, letter, 8),
        ("two envelopes", b"bitchat courier", tag, pattern(16_315), 4),
        ("another use", b"topic", tag, letter, 8),
    ]
    return {
        "about": "pattern_bytes: the content is the bytes 0 to 250 over and over, so many of them.",
        "envelopes": [named_case(*case) for case in cases],
    }


def named_case(title, use, value, content, price):
    name = Name.of(use, value)
    made = wrap(content, name, expiry_hour=494_430, price=price)
    return {
        "name": title,
        "use": use.hex(),
        "value": value.hex(),
        **({"content": content.hex()} if len(content) < 100 else {"pattern_bytes": len(content)}),
        "expiry_hour": 494_430,
        "price": price,
        "secret": name.secret.hex(),
        "bucket": name.bucket,
        "identities": [envelope_id(envelope).hex() for envelope in made],
        "last_envelope": made[-1].hex(),
    }


def with_checksum(body):
    return body + hashlib.sha256(b"mesh-relay/1 card" + body).digest()[:4]


def to_uri(data):
    return URI_PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


MAKERS = {
    "envelope.json": envelopes,
    "tags.json": tags,
    "purge.json": purges,
    "frames.json": frames,
    "messages.json": messages,
    "session.json": session,
    "card.json": cards,
    "named.json": named,
}


def text(name):
    """The content of one file."""
    return json.dumps(MAKERS[name](), indent=1) + "\n"


def main():
    for name in MAKERS:
        (FOLDER / name).write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
