# SPDX-License-Identifier: GPL-2.0-or-later
"""Every decoder: what it takes it gives back, and all other bytes are a DecodeError."""

import base64
import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.envelope import cid as written_cid
from relay.core.errors import DecodeError
from relay.libp2p import bitswap_message, dht, gossipsub_message, identify, secure
from relay.libp2p.cid import (
    DAG_CBOR,
    EMPTY,
    Cid,
    decode_block_prefix,
    decode_cid,
    decode_multihash,
    parse_cid,
    raw,
)
from relay.libp2p.identity import (
    Identity,
    KeyKindError,
    base58,
    decode_key,
    encode_key,
    from_base58,
    is_signed,
    key_of,
    peer_of,
)
from relay.libp2p.mdns import decode_strings, encode_strings
from relay.libp2p.multiaddr import TcpAddress, decode_address, parse_address
from relay.libp2p.wire import Cutter, bytes_field, delimited, fields, number_field, read_varint, varint

KEYS = Identity.generate(lambda count: b"k" * count)
DIGESTS = st.binary(min_size=32, max_size=32)
CIDS = st.builds(Cid, st.just(1), st.sampled_from([0x55, DAG_CBOR]), DIGESTS, st.just(False))
ADDRESSES = st.builds(
    TcpAddress,
    st.sampled_from(["192.0.2.1", "10.0.0.1", "2001:db8::1", "fe80::1", "127.0.0.1"]),
    st.integers(1, 65535),
    st.none() | st.just(KEYS.peer),
)


@given(st.integers(0, (1 << 63) - 1))
def test_varints_come_back(value):
    assert read_varint(varint(value), 0) == (value, len(varint(value)))


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff" * 9, b"\x80" * 10 + b"\x01"])
def test_a_varint_that_is_not_the_shortest_or_too_long_is_none(data):
    with pytest.raises(DecodeError):
        read_varint(data, 0)


@given(st.lists(st.binary(max_size=200), max_size=8), st.integers(1, 50))
def test_messages_are_cut_where_they_end_however_they_come(messages, size):
    cutter, found = Cutter(200), []
    data = b"".join(map(delimited, messages))
    for at in range(0, len(data), size):
        cutter.receive(data[at : at + size])
        while (message := cutter.next()) is not None:
            found.append(message)
    assert found == messages
    assert cutter.held_bytes == 0


def test_a_message_beyond_the_bound_is_refused_before_it_is_here():
    cutter = Cutter(100)
    cutter.receive(varint(101))
    with pytest.raises(DecodeError):
        cutter.next()


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, (1 << 62)) | st.binary(max_size=50)), max_size=20))
def test_fields_come_back(found):
    message = b"".join(
        number_field(number, value) if isinstance(value, int) else bytes_field(number, value) for number, value in found
    )
    assert list(fields(message, 20)) == found
    if found:
        with pytest.raises(DecodeError):
            list(fields(message, len(found) - 1))


def test_fields_of_fixed_length_are_skipped_and_groups_refused():
    fixed = varint(1 << 3 | 1) + bytes(8) + varint(2 << 3 | 5) + bytes(4) + number_field(3, 7)
    assert list(fields(fixed, 9)) == [(3, 7)]
    for bad in (varint(1 << 3 | 3), varint(1 << 3 | 1) + bytes(7), varint(5), bytes_field(1, b"abc")[:-1]):
        with pytest.raises(DecodeError):
            list(fields(bad, 9))


DECODERS = [
    lambda data: list(fields(data, 64)),
    decode_key,
    decode_cid,
    decode_multihash,
    decode_address,
    decode_strings,
    secure.decode_payload,
    identify.decode_identify,
    bitswap_message.decode_message,
    gossipsub_message.decode_rpc,
    gossipsub_message.decode_published,
    dht.decode_message,
    lambda data: decode_block_prefix(data, b"block"),
    lambda data: parse_cid(data.decode("latin-1")),
    lambda data: parse_address(data.decode("latin-1")),
    lambda data: from_base58(data.decode("latin-1")),
]


@pytest.mark.parametrize("decode", DECODERS)
def test_any_bytes_are_a_value_or_a_decode_error(decode):
    @given(st.binary(max_size=300))
    def try_it(data):
        with suppress(DecodeError):
            decode(data)

    try_it()


@given(DIGESTS)
def test_the_cid_of_an_envelope_is_that_of_its_raw_block(digest):
    assert str(raw(digest)) == written_cid(digest)
    assert parse_cid(written_cid(digest)) == raw(digest)


@given(CIDS)
def test_cids_come_back_in_each_base(cid):
    data = cid.encode()
    assert decode_cid(data) == cid
    number = int.from_bytes(data)
    base36 = ""
    while number:
        number, digit = divmod(number, 36)
        base36 = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + base36
    for text in (str(cid), str(cid).upper(), "z" + base58(data), "f" + data.hex(), "k" + base36):
        assert parse_cid(text) == cid


@given(DIGESTS)
def test_version_0_comes_back(digest):
    cid = Cid(0, 0x70, digest)
    assert decode_cid(cid.encode()) == cid
    assert str(cid).startswith("Qm")
    assert parse_cid(str(cid)) == cid


def test_the_empty_block_is_in_its_cid():
    cid = parse_cid(EMPTY)
    assert (cid.inline, cid.digest, cid.holds(b"")) == (True, b"", True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bafkqaa",  # cut
        "bafkqaab",  # bits to spare
        "BAFKQAAa",
        "x1234",
        "b" + "a" * 2000,
        "Qm" + "1" * 44,
        "zQmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",  # version 0 has no base
        "bafybgqb" + "a" * 100,  # another hash function
    ],
)
def test_what_is_no_cid_is_refused(text):
    with pytest.raises(DecodeError):
        parse_cid(text)


@given(CIDS, st.binary(max_size=100))
def test_a_block_is_what_its_cid_says(cid, block):
    found = decode_block_prefix(cid.block_prefix(), block)
    assert found == Cid(1, cid.codec, hashlib.sha256(block).digest())
    assert found.holds(block)
    assert not found.holds(block + b"x")


@given(ADDRESSES)
def test_addresses_come_back(address):
    assert decode_address(address.encode()) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/udp/1/quic-v1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/224.0.0.251/tcp/1",
        "/ip4/192.0.2.1/tcp/0",
        "/ip4/192.0.2.1/tcp/65536",
        "/ip4/192.0.2.1/tcp/+1",
        "/ip4/::1/tcp/1",
        "/dns4/example.org/tcp/1",
        "/ip4/192.0.2.1/tcp/1/ws",
        "/ip4/192.0.2.1/tcp/1/p2p/",
        "/ip6zone/eth0",
        "ip4/192.0.2.1/tcp/1",
    ],
)
def test_what_cannot_be_dialled_here_is_refused(text):
    with pytest.raises(DecodeError):
        parse_address(text)


@given(st.lists(ADDRESSES, max_size=8))
def test_strings_of_multicast_dns_come_back(addresses):
    assert decode_strings(encode_strings(addresses)) == [each for each in addresses if each.peer is not None]


@given(st.binary(min_size=1, max_size=60))
def test_base58_comes_back(data):
    assert from_base58(base58(data)) == data


def test_keys_and_signatures():
    assert decode_key(encode_key(KEYS.public)) == KEYS.public
    assert key_of(peer_of(KEYS.public)) == KEYS.public
    assert key_of(b"\x12\x20" + bytes(32)) is None
    signature = KEYS.sign(b"text")
    assert is_signed(KEYS.public, b"text", signature)
    for public, text, signed in (
        (KEYS.public, b"texT", signature),
        (KEYS.public, b"text", signature[:-1]),
        (bytes(32), b"text", signature),
        (KEYS.public, b"text", bytes(64)),
    ):
        assert not is_signed(public, text, signed)
    with pytest.raises(KeyKindError):
        decode_key(number_field(1, 0) + bytes_field(2, bytes(32)))


def test_a_peer_id_is_written_as_others_write_it():
    # Of the specification's example of an Ed25519 key (peer-ids.md, test vectors).
    message = bytes.fromhex("080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
    assert base58(peer_of(decode_key(message))).startswith("12D3KooW")
    assert encode_key(decode_key(message)) == message


ENTRIES = st.builds(
    bitswap_message.Entry,
    cid=CIDS,
    priority=st.integers(0, (1 << 31) - 1),
    cancel=st.booleans(),
    want=st.sampled_from(bitswap_message.Want),
    wants_no=st.booleans(),
)


@given(
    st.lists(ENTRIES, max_size=5),
    st.booleans(),
    st.lists(st.binary(max_size=50), max_size=3),
    st.lists(st.tuples(CIDS, st.booleans()), max_size=5),
)
def test_messages_of_bitswap_come_back(entries, full, blocks, haves):
    named = [(raw(hashlib.sha256(block).digest()), block) for block in blocks]
    message = bitswap_message.Message(entries=entries, full=full, blocks=named, haves=haves)
    assert bitswap_message.decode_message(message.encode()) == message


PUBLISHED = st.builds(
    lambda seqno, topic, data: gossipsub_message.sign(KEYS, seqno=seqno, topic=topic, data=data),
    st.integers(0, (1 << 64) - 1),
    st.text("abc/", min_size=1, max_size=20),
    st.binary(max_size=50),
)
TOPICS = st.text("abc/_", min_size=1, max_size=20)
IDENTITIES = st.binary(min_size=1, max_size=50)


@given(
    st.lists(st.tuples(TOPICS, st.booleans()), max_size=3),
    st.lists(PUBLISHED, max_size=2),
    st.lists(st.tuples(TOPICS, st.lists(IDENTITIES, max_size=3)), max_size=3),
    st.lists(IDENTITIES, max_size=3),
    st.lists(TOPICS, max_size=3),
    st.lists(st.tuples(TOPICS, st.integers(0, 1000)), max_size=3),
)
def test_messages_of_gossipsub_come_back(subscriptions, published, have, want, graft, prune):
    rpc = gossipsub_message.Rpc(
        subscriptions=subscriptions, published=published, have=have, want=want, graft=graft, prune=prune
    )
    assert gossipsub_message.decode_rpc(rpc.encode()) == rpc


@given(PUBLISHED, st.binary(min_size=1, max_size=10))
def test_what_is_published_is_its_sender_s_and_nobody_else_s(message, other):
    assert message.is_true()
    forged = gossipsub_message.Published(
        sender=message.sender,
        seqno=message.seqno,
        topic=message.topic,
        data=message.data + other,
        signature=message.signature,
    )
    assert not forged.is_true()
    another = Identity.generate(lambda count: b"o" * count)
    forged = gossipsub_message.Published(
        sender=message.sender,
        seqno=message.seqno,
        topic=message.topic,
        data=message.data,
        signature=message.signature,
        key_message=another.key_message,
    )
    assert not forged.is_true()


@given(st.sampled_from(dht.Kind), st.binary(max_size=64), st.lists(ADDRESSES, max_size=4))
def test_messages_of_the_dht_come_back(kind, key, addresses):
    node = dht.Node(KEYS.peer, tuple(addresses))
    message = dht.Message(kind=kind, key=key, closer=[node], providers=[node])
    assert dht.decode_message(message.encode()) == message


@given(st.lists(ADDRESSES, max_size=4), st.sets(st.text("abc/", min_size=1, max_size=20), max_size=5))
def test_what_a_peer_says_of_itself_comes_back(addresses, protocols):
    message = identify.encode_identify(
        key_message=KEYS.key_message, addresses=addresses, protocols=sorted(protocols), observed=None
    )
    said = identify.decode_identify(message)
    assert said.addresses == tuple(addresses)
    assert said.protocols == (frozenset(protocols) or None)


def test_base32_is_that_of_the_library():
    text = base64.b32encode(raw(bytes(32)).encode()).decode().rstrip("=").lower()
    assert str(raw(bytes(32))) == f"b{text}"
