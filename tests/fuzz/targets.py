# SPDX-License-Identifier: GPL-2.0-or-later
"""What is fuzzed: each decoder, sessions and whole relays, as functions of bytes that must return.

A target that raises has found a bug. Everything is deterministic, so that an
input tells the same each time.
"""

from array import array
from dataclasses import dataclass
from hashlib import sha256

from relay.bitchat.announce import Identity, decode_announce
from relay.bitchat.courier import decode_letter
from relay.bitchat.fragments import MAX_SET_BYTES, MAX_SETS, decode_piece
from relay.bitchat.gcs import decode_filter
from relay.bitchat.mesh import MAX_PENDING, Mesh
from relay.bitchat.outbox import MAX_WAITING_BYTES
from relay.bitchat.packet import MAX_PAYLOAD_BYTES, decode_packet, expanded_bytes
from relay.bitchat.private import decode_private_message
from relay.bitchat.sync import decode_request_sync
from relay.client.bulletin import CARD_PREFIX, POSTING_PREFIX, Bulletin, parse_bulletin_uri
from relay.client.card import parse_uri
from relay.client.errors import ClientError
from relay.client.pieces import decode_inner, split_file_head
from relay.client.post import CAPACITIES, decode_post, encrypt, open_post
from relay.client.text import safe_file_name, safe_text
from relay.core import messages as m
from relay.core.codec import Reader, Writer
from relay.core.envelope import HEADER_BYTES, SIZES, EnvelopeType, Header, decode_envelope, decode_header
from relay.core.errors import DecodeError, RelayError
from relay.core.frames import LANES, MAX_MESSAGE_BYTES, FrameReader
from relay.core.messages import Hello, LiveDatagram, Role
from relay.core.named import Name, _wrap, join, unwrap
from relay.core.noise import XX, HandshakeState, KeyPair
from relay.core.reconcile import AdmittedColumns, Reconciler, Scope
from relay.core.reconcile_wire import (
    MAX_HOURS,
    HourStatus,
    ReconcileError,
    decode_fingerprints,
    decode_hours,
    decode_marks,
    decode_number,
    decode_short_ids,
    encode_fingerprints,
    encode_hours,
    encode_number,
    encode_short_ids,
)
from relay.core.riblt import SHORT_ID_MASK, SYMBOL_BYTES, Decoder, ScalarEncoder, Symbols, mix
from relay.core.session import Closed, Session, State
from relay.core.update_wire import decode_update
from relay.libp2p import bitswap_message, dht, gossipsub_message
from relay.libp2p.berty import decode_kept, decode_seal, name_of
from relay.libp2p.channel import Channel
from relay.libp2p.cid import decode_cid
from relay.libp2p.dag_cbor import read_entry
from relay.libp2p.gossipsub import Gossipsub
from relay.libp2p.identify import decode_identify
from relay.libp2p.identity import Identity as Libp2pIdentity
from relay.libp2p.identity import decode_key
from relay.libp2p.live import KIND, decode_live, identity_of, open_live, seal_live
from relay.libp2p.mdns import decode_strings
from relay.libp2p.multiaddr import decode_address
from relay.libp2p.secure import decode_payload
from relay.libp2p.yamux import MAX_INBOUND, Data, Yamux
from relay.process.gateway_frames import ClockReading, FrameCutter, decode_frame, encode_live_frame
from relay.process.link_socket import decode_preamble
from relay.process.reports import Component, ComponentState, NewsForBle, decode_news, decode_report, encode_news
from relay.sniff.bitchat import MAX_EXPANDED_BYTES, read_frame
from tests.fuzz.plain import plain_session
from tests.fuzz.relay import run_relay


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``weight``: its part of all inputs; cheap targets get more."""

    run: object
    weight: int
    max_bytes: int


def check(holds, why):
    """As assert, which -O would leave out."""
    if not holds:
        raise AssertionError(why)


def same(encoded, data):
    check(encoded == data, "another encoding of the same value was taken")


def codec(data):
    reader = Reader(data)
    try:
        value = reader.varint()
    except DecodeError:
        return
    same(bytes(Writer().varint(value)), data[: len(data) - reader.remaining])


def envelope(data):
    # The class says how long an envelope has to be: grown to that, so that whole ones are met.
    if len(data) > 2 and data[2] < len(SIZES):
        data = data[: SIZES[data[2]]].ljust(SIZES[data[2]] - (data[-1] == 1), b"\0")
    try:
        header = decode_envelope(data)
    except DecodeError:
        return
    same(header.encode(), data[:HEADER_BYTES])
    check(len(data) == SIZES[header.size_class], "wrong length")
    check(header.type is EnvelopeType.MESSAGE or len(data) == SIZES[0], "long purge")


def header(data):
    try:
        value = decode_header(data)
    except DecodeError:
        return
    same(value.encode(), data[:HEADER_BYTES])


def frames(data):
    """Records, each after its length in two bytes, all to one reader."""
    reader, heard, offset = FrameReader(), 0, 0
    while offset + 2 <= len(data):
        size = int.from_bytes(data[offset : offset + 2], "big")
        record = data[offset + 2 : offset + 2 + size]
        offset += 2 + size
        try:
            messages = reader.read_record(record)
        except DecodeError:
            return
        check(all(0 < len(message) <= MAX_MESSAGE_BYTES for message in messages), "length of a message")
        heard += sum(map(len, messages))
    kept = sum(len(partial) for partial in reader._partial if partial)
    check(heard + kept <= len(data), "more came out than went in")
    check(kept <= LANES * MAX_MESSAGE_BYTES, "keeps too much")


def hello(data):
    try:
        value = m.decode_hello(Reader(data))
    except DecodeError:
        return
    check(m.decode_hello(Reader(value.encode()[1:])) == value, "round trip")


def subscribe(data):
    try:
        value = m.decode_subscribe(Reader(data))
    except DecodeError:
        return
    same(value.encode()[1:], data)


def ack(data):
    try:
        value = m.decode_ack(Reader(data), max_number=5000)
    except DecodeError:
        return
    numbers = list(value.numbers())
    check(numbers == sorted(set(numbers)) and max(numbers) < 5000, "numbers")


def refuse(data):
    try:
        value = m.decode_refuse(Reader(data), max_number=5000)
    except DecodeError:
        return
    [again] = m.encode_refusals(value.refusals, price=value.price)
    check(m.decode_refuse(Reader(again[1:]), max_number=5000) == value, "round trip")


def ids(data):
    try:
        value = m.decode_ids(Reader(data))
    except DecodeError:
        return
    [again] = m.encode_ids(m.MessageType.FETCH, value)
    same(again[1:], data)


def offers(data):
    try:
        value = m.decode_offers(Reader(data))
    except DecodeError:
        return
    [again] = m.encode_offers(value)
    same(again[1:], data)


def live(data):
    """A live datagram of a neighbour, and the bytes of a gateway, both of which come out as they went in."""
    try:
        hops, value = m.decode_live(b"\x40" + data)
    except DecodeError:
        pass
    else:
        check(hops <= m.MAX_HOPS, "hops without bound")
        same(m.encode_live(data[0], value.encode())[1:], data)
    cutter = FrameCutter()
    try:
        for content in cutter.receive(data):
            said = decode_frame(content)
            frame = said.encode() if isinstance(said, ClockReading) else encode_live_frame(said.encode())
            same(frame[2:], content)
    except DecodeError:
        pass
    check(cutter.held_bytes <= len(data), "more is kept than came")


def update(data):
    """What a neighbour says of newer software, and before it starts anew: out as it came in, or refused."""
    try:
        value = decode_update(b"\x41" + data)
    except DecodeError:
        return
    same(value.encode(), data)


def macs(data):
    try:
        value = m.decode_macs(Reader(data))
    except DecodeError:
        return
    same(b"".join(value), data)


def put(data):
    try:
        number, body = m.decode_put(data)
    except DecodeError:
        return
    same(m.encode_put(number, body)[1:], data[1:])


def fingerprints(data):
    try:
        count, prints = decode_fingerprints(data, 1000, 1_000_000)
    except (DecodeError, ReconcileError):
        return
    check(len(prints) <= MAX_HOURS and len(prints) <= count, "hours")
    of = {hour: (int.from_bytes(value, "big"), 0) for hour, value in prints.items()}
    if of:
        first = next(iter(of))
        of[first] = (of[first][0], count)
    again = encode_fingerprints(list(of), of, 1000)
    # Runs that touch may be written as two; one encoding is not promised here.
    check(decode_fingerprints(again, 1000, 1_000_000) == (count, prints), "round trip")


def hours(data):
    if not data:
        return
    number = data[0]
    try:
        kept, statuses = decode_hours(data[1:], number)
    except DecodeError:
        return
    check(len(statuses) == number and set(statuses) <= set(HourStatus), "statuses")
    same(encode_hours(kept, statuses), data[1:])


def number(data):
    try:
        value = decode_number(data)
    except DecodeError:
        return
    same(encode_number(value), data)


def short_ids(data):
    into, again = array("Q"), bytearray()
    try:
        for _ in decode_short_ids(data, into):
            pass
    except DecodeError:
        return
    for _ in encode_short_ids(into, again):
        pass
    same(bytes(again), data)


def marks(data):
    if not data:
        return
    listed = array("Q", range(data[0]))
    try:
        chosen = decode_marks(data[1:], listed)
    except DecodeError:
        return
    bits = sum(1 << (8 * len(data[1:]) - 1 - i) for i in chosen)
    same(bits.to_bytes(len(data[1:]), "big"), data[1:])


def symbols(data):
    """Symbols of a few short IDs, altered as the rest of the input says, are peeled in bounded time."""
    if len(data) < 2:
        return
    members = array("Q", {mix(n) & SHORT_ID_MASK for n in data[2 : 2 + data[0] % 32]})
    encoder, empty = ScalarEncoder(members), Symbols()
    rows = data[1] % 64
    for _ in encoder.extend(rows):
        pass
    noise = data[2 + data[0] % 32 :][: rows * SYMBOL_BYTES]
    whole = bytearray(encoder.symbols.encode(0, rows))
    for place, byte in enumerate(noise):
        whole[place] ^= byte
    theirs = Symbols()
    theirs.decode(whole)
    same(theirs.encode(0, rows), bytes(whole))
    empty.grow(rows)
    decoder = Decoder()
    for _ in decoder.add(theirs, empty):
        pass
    for _ in decoder.peel():
        pass
    check(decoder.estimate(len(members)) >= len(members), "estimate below what is certain")
    if decoder.complete and rows and not any(noise):
        check((decoder.theirs, decoder.ours) == (set(members), set()), "decoded what was not there")


WHOLE = Scope(first_hour=1000, last_hour=1200, classes=15, min_price=-6)
#: Entries of our own and of the partner, and how many of them both have.
SIZES_OF_SETS = [
    (0, 12, 0),
    (12, 0, 0),
    (10, 10, 10),
    (40, 60, 30),
    (300, 310, 290),
    (310, 200, 190),
    (500, 490, 480),
    (3, 900, 0),
]


def _columns(first, last):
    return AdmittedColumns(
        ids=b"".join(sha256(n.to_bytes(4, "big")).digest() for n in range(first, last)),
        expiry_hour=array("I", [1000 + n % 3 for n in range(first, last)]),
        size_class=array("B", bytes(last - first)),
        price=array("b", bytes(last - first)),
        seq=array("Q", range(first + 1, last + 1)),
    )


COLUMNS = [(_columns(0, own), _columns(own - both, own - both + partner)) for own, partner, both in SIZES_OF_SETS]


class Tamper:
    """Alters or replaces the messages of an honest partner, as the input says.

    Each message takes two bytes: 0 lets it pass; with the top bit it is altered at
    that place by the byte that follows; with the next bit it becomes as long as
    can be; else so many bytes follow in its place. At the end of the input all pass.
    """

    def __init__(self, data):
        self._data = data

    def __bool__(self):
        return bool(self._data)

    def _take(self, count):
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def __call__(self, message):
        word = int.from_bytes(self._take(2), "big")
        if not word:
            return message
        if word & 0x8000:
            place = (word & 0x7FFF) % len(message)
            change = (self._take(1) or b"\1")[0]
            return message[:place] + bytes([message[place] ^ change]) + message[place + 1 :]
        if word & 0x4000:
            return bytes([word & 0xFF]) + bytes(16_383)
        return self._take(word & 0x0FFF)


def reconcile(data):
    """A reconciliation whose partner's messages are tampered with; the first byte chooses side and sets."""
    if not data:
        return
    initiator, which, tamper = bool(data[0] & 1), data[0] >> 1 & 7, Tamper(data[1:])
    honest = not tamper
    own, partner = (
        Reconciler(initiator=side, key=bytes(16), columns=columns, scope=WHOLE)
        for side, columns in zip((initiator, not initiator), COLUMNS[which], strict=True)
    )
    (own if initiator else partner).start()
    try:
        for _ in range(60):
            if not reconcile_turn(own, partner, tamper):
                break
        else:
            check(False, "goes on for ever")
    except RelayError:
        check(not honest, "an honest partner is refused")
        return
    if own.done:
        sizes, offered = SIZES_OF_SETS[which], list(own.to_offer)
        check(set(offered) <= set(COLUMNS[which][0].seq), "offers what it never had")
        check(not honest or len(offered) == sizes[0] - sizes[2], "differs from the truth")


def reconcile_turn(own, partner, tamper):
    """Let each say and hear once; tell whether there was anything."""
    while own.step():
        pass
    for message in own.messages_to_send():
        try:
            partner.receive(message)
            while partner.step():
                pass
        except RelayError:
            pass  # led astray by what was done to its messages; it is ours that must hold
    while partner.step():
        pass
    said = partner.messages_to_send() or ([b"?"] if tamper else [])
    for message in said:
        own.receive(tamper(message))
        while own.step():
            pass
    return bool(said)


FIXED = KeyPair.from_private(bytes(range(32)))


def handshake(data):
    """Bytes of a stranger to a fresh session; the first byte says which one."""
    if not data:
        return
    session = Session(
        initiator=bool(data[0] & 1),
        hello=Hello(role=Role.RELAY),
        random_bytes=lambda length: bytes(range(1, length + 1)),
        now=0.0,
        static=FIXED,
        secret=bytes(32) if data[0] & 2 else None,
    )
    step = 1 + (data[0] >> 2)
    events = []
    for start in range(1, len(data), step):
        events += session.receive_data(data[start : start + step], 0.0)
        session.data_to_send()
    check(len(events) <= 1, "events before a session")
    check((session.state is State.CLOSED) == bool(events), "closed without a word")
    check(len(session._inbound) <= 258 + step, "keeps more than a handshake")
    events += session.connection_lost()
    check(isinstance(events[-1], Closed), "does not end")


def meeting(data):
    """A handshake and hellos with a partner who has keys, but whose bytes are tampered with."""
    if not data:
        return
    initiator, secrets, tamper = bool(data[0] & 1), data[0] >> 1 & 3, Tamper(data[1:])
    honest = not tamper and secrets in {0, 3}
    own, partner = (
        Session(
            initiator=side,
            hello=Hello(role=Role.RELAY, slow=bool(data[0] & 8)),
            random_bytes=lambda length, start=start: bytes(range(start, start + length)),
            now=0.0,
            static=FIXED,
            secret=bytes(32) if shared else None,
        )
        for side, start, shared in ((initiator, 1, secrets & 1), (not initiator, 9, secrets & 2))
    )
    events = []
    for _ in range(10):
        partner.receive_data(own.data_to_send(), 0.0)
        said = partner.data_to_send() or (b"?" if tamper else b"")
        if said:
            events += own.receive_data(tamper(said), 0.0)
    check((own.state is State.CLOSED) == any(isinstance(event, Closed) for event in events), "closed without a word")
    check(not honest or own.state is State.OPEN, "an honest partner is refused")
    check(len(events) <= 2, "events out of nothing")


def noise(data):
    """A Noise message of a stranger, first or second."""
    state = HandshakeState(
        XX,
        initiator=bool(data[:1] == b"\1"),
        prologue=b"",
        static=FIXED,
        random_bytes=lambda length: bytes(range(2, length + 2)),
    )
    if data[:1] == b"\1":
        state.write_message()
    try:
        state.read_message(data[1:])
    except RelayError:
        return
    check(len(data) >= 33, "a message without a key")


ROLES = [(Role.CLIENT, Role.RELAY), (Role.RELAY, Role.CLIENT), (Role.RELAY, Role.RELAY)]


def session(data):
    """What a peer with keys says: plaintexts of records, each after its length in two bytes."""
    if not data:
        return
    peer, own = ROLES[data[0] % 3]
    receiver = plain_session(own)
    if data[0] & 4:
        receiver._puts_sent = 100
    hello = Hello(role=peer, slow=bool(data[0] & 8)).encode()
    events = [] if data[0] & 16 else receiver.receive_data(plain_record(b"\0\0\x10" + hello), 0.0)
    offset = 1
    while offset + 2 <= len(data):
        size = int.from_bytes(data[offset : offset + 2], "big")
        events += receiver.receive_data(plain_record(data[offset + 2 : offset + 2 + size]), 0.0)
        offset += 2 + size
        receiver.data_to_send()
    closed = [event for event in events if isinstance(event, Closed)]
    check(len(closed) <= 1 and events[-1:] == (closed or events[-1:]), "something after the end")
    check((receiver.state is State.CLOSED) == bool(closed), "closed without a word")
    check(receiver.queued_bytes < 1000, "answers pile up")


def plain_record(plaintext):
    plaintext = plaintext[:65_000]
    return len(plaintext).to_bytes(2, "big") + plaintext


def inner(data):
    """The plaintext of a sealed envelope: from a contact, who need not be honest."""
    try:
        value = decode_inner(data)
    except DecodeError:
        return
    same(value.encode(), data)


def names(data):
    """File names and texts of strangers."""
    text = data.decode(errors="replace")
    name = safe_file_name(text)
    check(name not in {"", ".", ".."} and "/" not in name and "\0" not in name, "a name that is a path")
    safe_text(text)
    try:
        split_file_head(data)
    except DecodeError:
        return


def contact(data):
    """A contact URI, typed or scanned; the prefix is given, for a fuzzer does not guess checksums."""
    for text in (data.decode(errors="replace"), PREFIX + data.decode("latin-1")):
        try:
            parse_uri(text)
        except ClientError:
            continue


PREFIX = "mesh-relay:contact/"


def bulletin(data):
    """The URI of a notice board, and of its posting key; prefixes are given, as for contacts."""
    for text in (data.decode(errors="replace"), *(prefix + data.decode("latin-1") for prefix in PREFIXES)):
        try:
            found, _ = parse_bulletin_uri(text)
        except ClientError:
            continue
        check(parse_bulletin_uri(found.to_uri()) == (found, ""), "round trip")


PREFIXES = (CARD_PREFIX, POSTING_PREFIX)


def post(data):
    """What is signed of a post: from who may post, who need not be honest. And what whoever has the card seals."""
    header_bytes = Header(type=EnvelopeType.MESSAGE, size_class=0, expiry_hour=1, tag=bytes(16)).encode()
    payload = encrypt(data[: CAPACITIES[0]].ljust(CAPACITIES[0], b"\0"), header_bytes, CAMP, random_bytes=bytes)
    check(open_post(header_bytes + payload + bytes(8), CAMP) is None, "a post that nobody signed")
    try:
        value = decode_post(data)
    except DecodeError:
        return
    same(value.encode(), data)


CAMP = Bulletin.of_seed(bytes(32), bytes(16))


def preamble(data):
    """First line of a foreign stream."""
    try:
        decode_preamble(data)
    except DecodeError:
        return


def report(data):
    """A line of another process of the relay; the first byte says which."""
    component = list(Component)[data[0] % 3] if data else Component.BLE
    state = ComponentState(component)
    try:
        state.reported(decode_report(component, data[1:]))
        state.reported(decode_report(component, data[1:]))
    except DecodeError:
        return
    check(min([*state.counters.values(), *state.gauges.values()], default=0) >= 0, "counts back")


def news(data):
    """A line of `relay run`, and the values of neighbours in one."""
    values = [data[at : at + 16].ljust(16, b"\0") for at in range(0, len(data), 16)] or [bytes(16)]
    said = NewsForBle(news=values[0], known=tuple(values[1:]))
    check(decode_news(encode_news(said)[:-1]) == said, "round trip")
    try:
        decode_news(data)
    except DecodeError:
        return


def bitchat_packet(data):
    """A packet of a phone: padded or not, compressed or not, what is carried further is the same one."""
    expands = expanded_bytes(data)
    words, shown = read_frame(data)
    check(words.isprintable() and len(words) < 1_000, "words of a stranger that are none")
    try:
        value = decode_packet(data)
    except DecodeError:
        return
    check(len(value.payload) <= MAX_PAYLOAD_BYTES, "a payload without bound")
    check(expands == (len(value.payload) if value.compressed else 0), "another length than it said")
    check(shown == value or expands > MAX_EXPANDED_BYTES, "a listener sees another packet")
    for padded in (False, True):
        check(decode_packet(value.encode(padded=padded)) == value, "round trip")
    value.is_signed_by(bytes(32))


def bitchat_payload(data):
    """What is in a packet; the first byte says which decoder. Those that have one encoding give it back."""
    if not data:
        return
    decoder = BITCHAT_DECODERS[data[0] % len(BITCHAT_DECODERS)]
    try:
        value = decoder(data[1:])
    except DecodeError:
        return
    if hasattr(value, "encode"):
        check(decoder(value.encode()) == value, "round trip")


LIBP2P_DECODERS = (
    decode_key,
    decode_cid,
    decode_address,
    decode_strings,
    decode_payload,
    decode_identify,
    bitswap_message.decode_message,
    gossipsub_message.decode_rpc,
    dht.decode_message,
)


def libp2p_payload(data):
    """What a libp2p peer says; the first byte says which decoder."""
    if not data:
        return
    decoder = LIBP2P_DECODERS[data[0] % len(LIBP2P_DECODERS)]
    try:
        value = decoder(data[1:])
    except DecodeError:
        return
    if hasattr(value, "encode"):
        check(decoder(value.encode()) == value, "round trip")


def _live(data):
    datagram = LiveDatagram(kind=KIND, identity=identity_of(data), data=data or b"\0")
    name = name_of("/orbitdb/topic")
    open_live(decode_live(datagram), name)
    # What somebody says who knows the name.
    said = seal_live(data, name)
    if said is not None:
        check(open_live(decode_live(said), name) == data, "round trip")
    decode_kept(data)


def berty(data):
    """A block, a seal, what is kept of either, or what another relay says; the first byte says which."""
    decoder = (read_entry, decode_seal, decode_kept, _live)[data[0] % 4] if data else read_entry
    try:
        value = decoder(data[1:])
    except DecodeError:
        return
    if decoder is decode_kept:
        check(value.encode() == data[1:], "round trip")


def libp2p_channel(data):
    """The first bytes of a connection, of a peer that dials or is dialled."""
    keys = Libp2pIdentity.generate(lambda count: bytes(range(count)))
    initiator = data[:1] >= b"\x80"
    channel = Channel(keys, initiator=initiator, expected=None, random_bytes=lambda count: bytes(range(count)))
    try:
        for at in range(1, len(data), 100):
            channel.receive(data[at : at + 100])
            channel.data_to_send(1 << 16, [])
    except DecodeError:
        return
    check(not channel.is_open, "a channel with somebody who proved nothing")


def libp2p_yamux(data):
    """Frames of a peer, with streams of ours beside its own."""
    mux = Yamux(initiator=data[:1] >= b"\x80")
    number = mux.open()
    mux.write(number, bytes(1000))
    try:
        for at in range(1, len(data), 60):
            for event in mux.receive(data[at : at + 60]):
                if isinstance(event, Data):
                    mux.taken(event.stream, len(event.data))
            mux.data_to_send(1 << 16, [])
    except DecodeError:
        return
    check(mux.streams <= MAX_INBOUND + 1, "streams without bound")


def libp2p_gossipsub(data):
    """Messages of two peers, each after a byte that says whose and one for its length."""
    router = Gossipsub(
        Libp2pIdentity.generate(lambda count: bytes(range(count))),
        draw=lambda: 0.5,
        count=lambda *_: None,
        seqno=1,
    )
    router.subscribe("a")
    for peer in (b"1", b"2"):
        router.opened(peer, 0.0)
    now, offset = 0.0, 0
    while offset + 2 <= len(data):
        who, size = data[offset], data[offset + 1]
        said = data[offset + 2 : offset + 2 + size]
        offset += 2 + size
        now += (who >> 1) / 100
        try:
            rpc = gossipsub_message.decode_rpc(said)
        except DecodeError:
            continue
        router.receive(b"12"[who & 1 : (who & 1) + 1], rpc, now)
        router.heartbeat(now)
        for peer in router.has_messages():
            router.messages_to_send(peer)
    for peer in (b"1", b"2"):
        router.closed(peer)
    check(router.topic_count == 1, "topics of nobody")


BITCHAT_DECODERS = (decode_announce, decode_letter, decode_piece, decode_private_message, decode_request_sync)


def bitchat_filter(data):
    """A filter of a phone: its parameters, then its bits."""
    if len(data) < 5:
        return
    modulus = int.from_bytes(data[1:5], "big")
    try:
        held = decode_filter(data[0], modulus, data[5:])
    except DecodeError:
        return
    check(all(0 < number < modulus for number in held.numbers), "numbers out of range")
    held.may_have(bytes(16))


def bitchat_mesh(data):
    """Frames of two phones and live packets, each after a byte that says whose and two for its length."""
    mesh = Mesh(
        # That of the relay in the vectors, to which some of the corpus is addressed.
        Identity.from_seeds(bytes(range(0x21, 0x41)), bytes(range(0x61, 0x81))),
        now=0.0,
        earliest_ms=1_700_000_000_000,
        draw=lambda: 0.5,
        random_bytes=lambda count: bytes(range(1, count + 1)),
    )
    if data[:1] >= b"\x80":
        mesh.clock.trust(1_780_000_000_000, 0.0)
    mesh.open_link(1, 0.0, frame_bytes=512)
    mesh.open_link(2, 0.0, frame_bytes=20_000, can_stream=True)
    now, offset = 0.0, 1
    while offset + 3 <= len(data):
        who, size = data[offset], int.from_bytes(data[offset + 1 : offset + 3], "big")
        frame = data[offset + 3 : offset + 3 + size]
        offset += 3 + size
        if who % 3:
            mesh.receive(who % 3, frame, now)
        else:
            mesh.receive_live(frame, now)
        now += (who >> 4) / 10
        mesh.take_due(now)
        for number, most in ((1, 512), (2, 1 << 21)):
            for sent in mesh.frames_to_send(number, now):
                check(len(sent) <= most, "a frame that does not fit")
                decode_packet(sent)
        for event in mesh.events():
            if hasattr(event, "data"):
                check(decode_packet(event.data).ttl <= 6, "a TTL that would take a link")
        check(mesh.next_s(now) > now - 1, "never due")
    check(len(mesh._pending) <= MAX_PENDING, "pending without bound")
    check(mesh._reassembly.held_bytes <= MAX_SETS * MAX_SET_BYTES, "pieces without bound")
    check(all(link.outbox.held_bytes <= MAX_WAITING_BYTES for link in mesh._links.values()), "waits without bound")


def named(data):
    """An envelope under a name that whoever made it knows: its plaintext is the input."""
    envelope = _wrap(data or b"\0", NAMED, expiry_hour=5, price=-6) if len(data) < 16_000 else data
    piece = unwrap(envelope, NAMED)
    check(unwrap(data, NAMED) is None, "an envelope out of nothing")
    if piece is not None:
        check(piece.index < piece.count, "a piece of no content")
        join([piece])


NAMED = Name.of(b"fuzz", b"name")


def planted(data):
    """A decoder with a bug of the kind that is looked for; only to prove that it would be found."""
    try:
        value = m.decode_hello(Reader(data))
    except DecodeError:
        return
    if value.role is Role.RELAY and value.price == 0x5A and value.window[0] > value.window[1] and value.slow:
        raise IndexError("planted")


TARGETS = {
    "codec": Target(run=codec, weight=8, max_bytes=16),
    "header": Target(run=header, weight=12, max_bytes=32),
    "envelope": Target(run=envelope, weight=8, max_bytes=300),
    "frames": Target(run=frames, weight=10, max_bytes=20_000),
    "hello": Target(run=hello, weight=6, max_bytes=64),
    "subscribe": Target(run=subscribe, weight=6, max_bytes=16),
    "ack": Target(run=ack, weight=6, max_bytes=6_000),
    "refuse": Target(run=refuse, weight=6, max_bytes=6_000),
    "ids": Target(run=ids, weight=3, max_bytes=9_000),
    "offers": Target(run=offers, weight=8, max_bytes=16_000),
    "macs": Target(run=macs, weight=6, max_bytes=600),
    "live": Target(run=live, weight=4, max_bytes=300),
    "update": Target(run=update, weight=4, max_bytes=300),
    "put": Target(run=put, weight=8, max_bytes=300),
    "fingerprints": Target(run=fingerprints, weight=3, max_bytes=2_000),
    "hours": Target(run=hours, weight=5, max_bytes=100),
    "number": Target(run=number, weight=3, max_bytes=16),
    "short_ids": Target(run=short_ids, weight=8, max_bytes=13_000),
    "marks": Target(run=marks, weight=6, max_bytes=64),
    "symbols": Target(run=symbols, weight=2, max_bytes=1_000),
    "reconcile": Target(run=reconcile, weight=1, max_bytes=2_000),
    "noise": Target(run=noise, weight=1, max_bytes=200),
    "handshake": Target(run=handshake, weight=1, max_bytes=600),
    "meeting": Target(run=meeting, weight=1, max_bytes=600),
    "session": Target(run=session, weight=3, max_bytes=4_000),
    "relay": Target(run=run_relay, weight=1, max_bytes=4_000),
    "inner": Target(run=inner, weight=4, max_bytes=400),
    "names": Target(run=names, weight=3, max_bytes=400),
    "contact": Target(run=contact, weight=3, max_bytes=1_200),
    "bulletin": Target(run=bulletin, weight=3, max_bytes=1_200),
    "post": Target(run=post, weight=3, max_bytes=400),
    "preamble": Target(run=preamble, weight=6, max_bytes=600),
    "report": Target(run=report, weight=4, max_bytes=600),
    "news": Target(run=news, weight=2, max_bytes=600),
    "bitchat_packet": Target(run=bitchat_packet, weight=6, max_bytes=1_400),
    "bitchat_payload": Target(run=bitchat_payload, weight=6, max_bytes=600),
    "bitchat_filter": Target(run=bitchat_filter, weight=3, max_bytes=300),
    "bitchat_mesh": Target(run=bitchat_mesh, weight=2, max_bytes=6_000),
    "named": Target(run=named, weight=2, max_bytes=400),
    "libp2p_payload": Target(run=libp2p_payload, weight=6, max_bytes=600),
    "berty": Target(run=berty, weight=3, max_bytes=400),
    "libp2p_channel": Target(run=libp2p_channel, weight=2, max_bytes=1_000),
    "libp2p_yamux": Target(run=libp2p_yamux, weight=4, max_bytes=1_000),
    "libp2p_gossipsub": Target(run=libp2p_gossipsub, weight=3, max_bytes=1_000),
}
"""By name; the planted one is not among them."""
