# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/vectors/*.json are what the code does, and what they say of themselves is true.

The checks here read bytes by hand where they can, as another implementation
would, so that a mistake shared by encoder and decoder shows.
"""

import base64
import hashlib
import hmac
import json
import struct

import pytest

from relay.core import messages as m
from relay.core.codec import Reader
from relay.core.envelope import decode_envelope, envelope_id
from relay.core.errors import DecodeError
from relay.core.frames import FrameReader
from relay.core.messages import Goodbye, Hello, MessageType, Role, Subscribe
from relay.core.noise import KeyPair
from relay.core.session import Closed, Session
from relay.core.stats import HandshakeFailure, SessionError
from tests.unit.core.memory import Relay, put_all
from tests.unit.core.test_session import pair
from tests.vectors.make import FOLDER, MAKERS, event_name, from_label, pattern, text

VECTORS = {name: json.loads((FOLDER / name).read_text(encoding="utf-8")) for name in MAKERS}


@pytest.mark.parametrize("name", MAKERS)
def test_the_committed_files_are_what_the_maker_makes(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == text(name), "run python -m tests.vectors.make"


def the_bytes(vector):
    payload = {256: 224, 1024: 992, 4096: 4064, 16384: 16352}[vector["length"]]
    return bytes.fromhex(vector["header"]) + pattern(payload) + bytes.fromhex(vector["nonce"])


@pytest.mark.parametrize("vector", VECTORS["envelope.json"]["envelopes"])
def test_envelopes_are_what_the_vector_says(vector):
    data = the_bytes(vector)
    assert struct.unpack(">BBBBI16s", data[:24]) == (
        1,
        0,
        vector["size_class"],
        0,
        vector["expiry_hour"],
        bytes.fromhex(vector["tag"]),
    )
    digest = hashlib.sha256(data).digest()
    assert digest.hex() == vector["id"]
    assert base64.b32decode(vector["cid"][1:].upper() + "=" * 6) == b"\x01\x55\x12\x20" + digest
    bits = f"{int.from_bytes(digest):0256b}".index("1")
    assert (bits, bits - 2 * vector["size_class"]) == (vector["leading_zero_bits"], vector["price_paid"])
    assert decode_envelope(data).bucket == vector["bucket"] == int(vector["tag"][:2], 16) >> 3


@pytest.mark.parametrize("file", ["envelope.json", "purge.json"])
def test_what_is_no_envelope_is_refused(file):
    for vector in VECTORS[file]["refused"]:
        with pytest.raises(DecodeError):
            decode_envelope(bytes.fromhex(vector["envelope"]))


def test_buckets_and_tags_are_truncated_hashes():
    for vector in VECTORS["tags.json"]["buckets"]:
        data = b"mesh-relay/1 bucket" + struct.pack(">I", vector["day"]) + bytes.fromhex(vector["rendezvous_key"])
        assert hashlib.sha256(data).digest()[0] >> 3 == vector["bucket"]
    for vector in VECTORS["tags.json"]["tags"]:
        digest = hashlib.sha256(b"mesh-relay/1 purge tag" + bytes.fromhex(vector["purge_key"])).digest()
        bits = f"{vector['bucket']:05b}" + f"{int.from_bytes(digest):0256b}"[5:128]
        assert vector["tag"] == f"{int(bits, 2):032x}"
    for vector in VECTORS["tags.json"]["prefixes"]:
        bits = f"{vector['bucket']:05b}"
        expected = bits.startswith(f"{vector['prefix']:0{vector['prefix_bits']}b}") if vector["prefix_bits"] else True
        assert vector["matches"] == expected


def test_purges_are_built_as_told_and_remove_what_the_vector_says():
    for vector in VECTORS["purge.json"]["purges"]:
        data = bytes.fromhex(vector["envelope"])
        assert data == bytes.fromhex(vector["header"] + vector["purge_key"]) + bytes(192) + data[-8:]
        assert envelope_id(data).hex() == vector["id"]
        decode_envelope(data)
    killer = bytes.fromhex(VECTORS["purge.json"]["purges"][0]["envelope"])
    for vector in VECTORS["purge.json"]["removes"]:
        if vector["type"]:
            other = bytes.fromhex(VECTORS["purge.json"]["purges"][1]["envelope"])
        else:
            other = struct.pack(">BBBBI16s", 1, 0, 0, 0, vector["expiry_hour"], bytes.fromhex(vector["tag"])) + bytes(
                232
            )
        relay = Relay()
        put_all(relay, [other, killer])
        assert (other not in relay.held()) is vector["removed"], vector["of"]


def test_frames_carry_the_messages_and_broken_ones_are_refused():
    vectors = VECTORS["frames.json"]
    reader, received = FrameReader(), []
    for record in vectors["records"]:
        plaintext, offset = bytes.fromhex(record["plaintext"]), 0
        for frame in record["frames"]:
            lane, size = struct.unpack_from(">BH", plaintext, offset)
            assert (lane & 127, bool(lane & 128), size) == (frame["lane"], frame["more"], frame["length"])
            offset += 3 + size
        assert offset == len(plaintext) <= 976
        received += reader.read_record(plaintext)
    expected = {(x["length"], x["sha256"]) for x in vectors["messages"]}
    assert {(len(data), hashlib.sha256(data).hexdigest()) for data in received} == expected
    assert len(vectors["records"]) > 1
    for vector in vectors["refused"]:
        with pytest.raises(DecodeError):
            FrameReader().read_record(bytes.fromhex(vector["plaintext"]) + bytes(vector["then_zeros"]))


SIDES = {"client to relay": (Role.CLIENT, Role.RELAY), "relay to client": (Role.RELAY, Role.CLIENT)}
SIDES["relay to relay"] = (Role.RELAY, Role.RELAY)


def opened(sender, receiver, puts):
    """Two sessions in state OPEN, of which the receiver has put so often."""
    a, b = pair(sender, receiver)
    if puts:
        for _ in range(puts):
            b.session.put(bytes(256))
        while data := b.session.data_to_send():
            a.receive(data)
    a.events.clear()
    b.events.clear()
    return a, b


@pytest.mark.parametrize("vector", VECTORS["messages.json"]["messages"], ids=lambda v: v["type"])
def test_every_message_is_heard_by_those_it_is_for_and_by_nobody_else(vector):
    data, fields = bytes.fromhex(vector["message"]), vector["fields"]
    assert data[0] == MessageType[vector["type"]]
    for name, (sender, receiver) in SIDES.items():
        a, b = opened(sender, receiver, fields.get("puts", 0) if receiver is Role.CLIENT else 0)
        a.say(data)
        b.receive(a.session.data_to_send())
        heard = b.closed is None or b.closed.reason is SessionError.GOODBYE
        assert heard == (name in vector["from"] and vector["type"] != "HELLO"), name
        if heard and b.events:
            check(vector["type"], fields, b.events[0])


def check(kind, fields, event):
    match kind:
        case "GOODBYE":
            assert event.goodbye is Goodbye(fields["reason"])
        case "SAME":
            assert [mac.hex() for mac in event.macs] == fields["macs"]
        case "PRICE":
            assert event.price == fields["price"]
        case "NEWS":
            assert event.value.hex() == fields["value"]
        case "PUT":
            assert event.items == [(fields["number"], pattern(fields["envelope_length"]))]
        case "ACK":
            assert event == m.Ack(durable=fields["durable"], ranges=[tuple(pair) for pair in fields["ranges"]])
        case "REFUSE":
            assert (event.price, [list(pair) for pair in event.refusals]) == (fields["price"], fields["refusals"])
        case "SUBSCRIBE":
            assert event == Subscribe(**fields)
        case "FETCH" | "MISSING":
            assert [identity.hex() for identity in event.identities] == fields["ids"]
        case "ENVELOPE":
            assert event.items == [pattern(fields["envelope_length"])]
        case "OFFER":
            got = [
                {"id": o.identity.hex(), "size_class": o.size_class, "expiry_hour": o.expiry_hour} for o in event.items
            ]
            assert got == fields["offers"]
        case "RECONCILE":
            assert event.body.hex() == fields["body"]
        case "CREDIT":
            assert event.count == fields["count"]
        case "LIVE":
            datagram = event.datagram
            got = {
                "hops": event.hops,
                "kind": datagram.kind,
                "id": datagram.identity.hex(),
                "data": datagram.data.hex(),
            }
            assert got == fields
        case "UPDATE":
            name = {"PART": "Given", "NOT_HERE": "Given"}.get(fields["kind"], fields["kind"].title())
            assert type(event).__name__ == name
            got = {name: getattr(event, name) for name in event.__dataclass_fields__}
            got = {name: value.hex() if isinstance(value, bytes) else value for name, value in got.items()}
            if "identities" in got:
                got["identities"] = [identity.hex() for identity in event.identities]
            assert {"kind": fields["kind"], **got} == fields


def test_hellos_have_the_fields_of_the_vector():
    for vector in VECTORS["messages.json"]["messages"]:
        if vector["type"] == "HELLO":
            data = bytes.fromhex(vector["message"])
            hello = m.decode_hello(Reader(data[1:]))
            _, role, flags, price, classes, first, last, prefix_bits, puts = struct.unpack(">BBBBBIIBH", data)
            assert hello == Hello(
                role=Role(role),
                durable=bool(flags & 1),
                slow=bool(flags & 2),
                updates=bool(flags & 4),
                price=price,
                classes=classes,
                window=(first, last),
                prefix_bits=prefix_bits,
                max_puts=puts,
            )
            for name, value in vector["fields"].items():
                assert getattr(hello, name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("vector", VECTORS["messages.json"]["refused"], ids=lambda v: v["why"])
def test_malformed_messages_end_the_session(vector):
    data = bytes.fromhex(vector["message"]) + bytes(vector["then_zeros"])
    if data[0] == MessageType.HELLO:
        with pytest.raises(DecodeError):
            m.decode_hello(Reader(data[1:]))
        return
    heard = 0
    for sender, receiver in SIDES.values():
        a, b = opened(sender, receiver, 400 if receiver is Role.CLIENT else 0)
        a.say(data)
        b.receive(a.session.data_to_send())
        assert b.closed.reason in (SessionError.DECODE, SessionError.PROTOCOL)
        heard += b.closed.reason is SessionError.DECODE
    assert heard, "nobody would have taken it anyway"


@pytest.mark.parametrize("vector", VECTORS["session.json"]["sessions"], ids=lambda v: v["pattern"])
@pytest.mark.parametrize("name", ["client", "relay"])
def test_a_session_with_these_keys_understands_the_transcript(vector, name):
    secret = bytes.fromhex(vector["secret"]) if vector["secret"] else None
    keys = {kind: bytes.fromhex(key) for kind, key in vector["keys"][name].items()}
    assert keys == {kind: from_label(f"{name} {kind}") for kind in keys}
    hello = m.decode_hello(Reader(bytes.fromhex(vector["hellos"][name])[1:]))
    session = Session(
        initiator=name == "client",
        hello=hello,
        static=KeyPair.from_private(keys["static"]),
        random_bytes=lambda length: keys["ephemeral"][:length],
        now=0.0,
        secret=secret,
    )
    for body in vector["envelopes"] if name == "client" else ():
        session._puts_sent += bool(body)
    sent = b""
    for step in vector["steps"]:
        data = bytes.fromhex(step["stream"])
        if step["from"] == name:
            if step["what"].startswith("handshake"):
                sent += session.data_to_send()
                assert sent.startswith(data)
                sent = sent[len(data) :]
            continue
        assert [event_name(event) for event in session.receive_data(data, 0.0)] == step["events"]
    assert session.handshake_hash.hex() == vector["handshake_hash"]
    assert session.link_secret.hex() == vector["link_secret"]
    assert [session.reconcile_key(count).hex() for count in range(3)] == vector["reconcile_keys"]
    mac = hmac.digest(b"\x42" * 32, session.handshake_hash, "sha256")[:16]
    assert mac.hex() == vector["same_mac"] == session.same_mac(b"\x42" * 32).hex()


@pytest.mark.parametrize("vector", VECTORS["session.json"]["sessions"], ids=lambda v: v["pattern"])
def test_the_stream_of_a_transcript_is_records_of_the_plaintexts_it_names(vector):
    names = set()
    for step in vector["steps"]:
        data, lengths = bytes.fromhex(step["stream"]), []
        while data:
            size = int.from_bytes(data[:2])
            lengths.append(size)
            data = data[2 + size :]
        transport = lengths[-len(step["plaintexts"]) :] if step["plaintexts"] else []
        assert transport == [len(bytes.fromhex(plaintext)) + 16 for plaintext in step["plaintexts"]]
        reader = FrameReader()
        for plaintext in step["plaintexts"]:
            names |= {MessageType(message[0]).name for message in reader.read_record(bytes.fromhex(plaintext))}
    assert names == {
        "HELLO", "PUT", "ACK", "REFUSE", "SUBSCRIBE", "ENVELOPE", "CAUGHT_UP", "FETCH", "MISSING", "GOODBYE",
    }  # fmt: skip


@pytest.mark.parametrize("vector", VECTORS["session.json"]["refused_first_bytes"], ids=lambda v: v["why"])
def test_streams_that_are_no_session_end_at_once(vector):
    session = Session(
        initiator=False, hello=Hello(role=Role.RELAY), random_bytes=lambda length: bytes([7]) * length, now=0.0
    )
    [event] = session.receive_data(bytes.fromhex(vector["stream"]), 0.0)
    assert isinstance(event, Closed)
    assert isinstance(event.reason, HandshakeFailure)


def client_of_the_transcript():
    """A client that said its first message, and what it says from then on."""
    session = Session(
        initiator=True,
        hello=Hello(role=Role.CLIENT),
        static=KeyPair.from_private(from_label("client static")),
        random_bytes=lambda length: from_label("client ephemeral")[:length],
        now=0.0,
    )
    session.data_to_send()
    return session


@pytest.mark.parametrize("vector", VECTORS["session.json"]["client_refuses"], ids=lambda v: v["why"])
@pytest.mark.parametrize("step", [1, 1 << 16])
def test_a_client_ends_a_session_in_which_a_relay_breaks_the_rules(vector, step):
    session, stream = client_of_the_transcript(), bytes.fromhex(vector["stream"])
    events = [
        event
        for start in range(0, len(stream), step)
        for event in session.receive_data(stream[start : start + step], 0.0)
    ]
    assert [event_name(event) for event in events] == vector["events"]
    assert [type(event) for event in events][-1] is Closed
    assert events[-1].goodbye is None, "the relay said goodbye by itself"
    # The handshake fails without a word; later a goodbye says why.
    assert (vector["goodbye"] is None) == (not session.handshake_hash)


@pytest.mark.parametrize("vector", VECTORS["session.json"]["client_takes"], ids=lambda v: v["why"])
def test_a_client_lives_with_what_later_versions_and_odd_relays_may_say(vector):
    events = client_of_the_transcript().receive_data(bytes.fromhex(vector["stream"]), 0.0)
    assert [event_name(event) for event in events] == vector["events"]
    assert vector["goodbye"] is None
    closed = [event for event in events if isinstance(event, Closed)]
    assert [event.goodbye for event in closed] == [Goodbye.PROTOCOL] * len(closed)
