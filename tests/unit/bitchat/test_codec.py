# SPDX-License-Identifier: GPL-2.0-or-later
"""Every decoder takes any bytes and raises nothing but DecodeError; what is encoded comes back; bombs cost nothing."""

import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.bitchat.announce import Announce, Identity, decode_announce, read_announce
from relay.bitchat.courier import MAX_CIPHERTEXT_BYTES, Letter, decode_letter
from relay.bitchat.fragments import (
    ANDROID_MAX_PIECES,
    MAX_SET_BYTES,
    MAX_SETS,
    MAX_SETS_OF_LINK,
    Piece,
    Reassembly,
    decode_piece,
    split,
)
from relay.bitchat.gcs import MAX_FILTER_BYTES, decode_filter, encode_filter
from relay.bitchat.packet import MAX_PAYLOAD_BYTES, PacketType, decode_packet, expanded_bytes, make_packet, pad
from relay.bitchat.private import PrivateMessage, ReplayWindow, decode_private_message
from relay.bitchat.sync import decode_request_sync, encode_request_sync
from relay.core.errors import DecodeError
from tests.unit.bitchat.vectors import PACKETS, wire

peer_ids = st.binary(min_size=8, max_size=8)
keys = st.binary(min_size=32, max_size=32)
texts = st.text("aZ0 \n\0äß\u202e\U0001f600", max_size=40)
SENDER = b"\1" * 8


@st.composite
def packets(draw):
    version = draw(st.sampled_from([1, 2]))
    return make_packet(
        draw(st.integers(0, 255)),
        draw(st.binary(max_size=600)),
        sender=draw(peer_ids),
        timestamp_ms=draw(st.integers(0, 2**64 - 1)),
        recipient=draw(st.none() | peer_ids),
        ttl=draw(st.integers(0, 255)),
        version=version,
        route=tuple(draw(st.lists(peer_ids, max_size=5))) if version == 2 else (),
        compress=draw(st.booleans()),
    )


@settings(max_examples=40)
@given(packets(), st.booleans(), st.booleans(), st.booleans())
def test_a_packet_comes_back_as_it_was(packet, signed, answers, padded):
    identity = Identity.from_seeds(bytes(32), bytes(32))
    if signed:
        packet = identity.sign(packet)
    if answers:
        packet = packet.as_answer(is_answer=True)
    again = decode_packet(packet.encode(padded=padded))
    assert again == packet
    assert (again.payload, again.sync_id, again.flood_id) == (packet.payload, packet.sync_id, packet.flood_id)
    assert again.is_signed_by(identity.signing_public) is signed


@settings(max_examples=40)
@given(packets(), st.data())
def test_a_signed_packet_that_was_altered_is_not_signed(packet, data):
    identity = Identity.from_seeds(bytes(32), bytes(32))
    encoded = bytearray(identity.sign(packet).encode(padded=False))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        again = decode_packet(bytes(encoded))
    except DecodeError:
        return
    same = (again.with_ttl(0).signed_bytes(), again.signature) == (
        packet.signed_bytes(),
        identity.sign(packet).signature,
    )
    assert again.is_signed_by(identity.signing_public) is same


DECODERS = [
    decode_packet,
    decode_announce,
    decode_letter,
    decode_piece,
    decode_private_message,
    decode_request_sync,
]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.__name__)
@settings(max_examples=40)
@given(data=st.data())
def test_a_decoder_raises_nothing_but_its_error(decoder, data):
    bases = [b"", *(wire(name) for name in PACKETS), *(bytes.fromhex(said["payload"]) for said in PACKETS.values())]
    base = bytearray(data.draw(st.sampled_from(bases)))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)):
        base[at : at + 1] = bytes([byte])
    cut = data.draw(st.integers(0, len(base)))
    for given_bytes in (bytes(base), bytes(base[:cut]), data.draw(st.binary(max_size=80))):
        try:
            decoder(given_bytes)
        except DecodeError:
            continue


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=16, max_size=16), max_size=300), st.integers(1, 12))
def test_a_filter_holds_what_was_put_in(ids, p):
    modulus, data = encode_filter(ids, p)
    if len(data) <= MAX_FILTER_BYTES:
        assert all(decode_filter(p, modulus, data).may_have(name) for name in ids)


@settings(max_examples=40)
@given(st.integers(0, 40), st.integers(0, 2**33), st.binary(max_size=1100))
def test_a_filter_of_a_stranger_is_numbers_below_its_modulus_or_an_error(p, modulus, data):
    try:
        held = decode_filter(p, modulus, data)
    except DecodeError:
        return
    assert all(0 < number < modulus for number in held.numbers)


@settings(max_examples=40)
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.none() | st.integers(1, 2**64 - 1))
def test_a_request_comes_back_as_it_was(data, since_ms, types):
    again = decode_request_sync(encode_request_sync(7, 3072, data, types=types, since_ms=since_ms))
    assert (again.filter, again.types, again.since_ms) == (decode_filter(7, 3072, data), types, since_ms)


@settings(max_examples=40)
@given(texts, keys, keys, st.lists(peer_ids, max_size=10), st.none() | st.binary(max_size=8), st.booleans())
def test_an_announce_comes_back_as_it_was(nickname, noise_key, signing_key, near, capabilities, is_relay):
    announce = Announce(
        nickname=nickname,
        noise_key=noise_key,
        signing_key=signing_key,
        neighbours=tuple(near),
        capabilities=capabilities,
        is_relay=is_relay,
    )
    assert decode_announce(announce.encode()) == announce
    assert decode_announce(announce.encode() + b"\x77\3new") == announce
    assert decode_announce(announce.encode() + b"\1") == announce


@settings(max_examples=40)
@given(
    st.binary(min_size=1, max_size=300),
    st.integers(0, 2**64 - 1),
    st.integers(1, 8),
    st.none() | st.integers(0, 2**32 - 1),
)
def test_a_letter_comes_back_as_it_was(ciphertext, expiry_ms, copies, prekey):
    letter = Letter(
        tag=bytes(16),
        expiry_ms=expiry_ms,
        ciphertext=ciphertext,
        copies=copies,
        prekey=prekey,
        unknown=((9, b"new"),),
    )
    assert decode_letter(letter.encode()) == letter


@settings(max_examples=40)
@given(texts, texts)
def test_a_private_message_comes_back_as_it_was(name, content):
    message = PrivateMessage(message_id=name, content=content)
    assert decode_private_message(message.encode()) == message


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5000), max_size=200))
def test_a_number_is_taken_once_and_only_within_the_window(numbers):
    window, taken = ReplayWindow(), []
    for number in numbers:
        if window.is_new(number):
            assert number not in taken
            assert number > max(taken, default=-1) - 1024
            window.note(number)
            taken.append(number)
        else:
            assert number in taken or number <= max(taken) - 1024


@settings(max_examples=20)
@given(st.binary(min_size=600, max_size=4000), st.integers(120, 517), st.randoms(use_true_random=False))
def test_pieces_fit_their_frames_and_make_the_packet_in_any_order(payload, frame_bytes, shuffle):
    packet = make_packet(PacketType.MESSAGE, payload, sender=SENDER, timestamp_ms=5, recipient=b"\xff" * 8)
    pieces = list(split(packet, frame_bytes))
    assert all(len(piece.encode()) <= frame_bytes for piece in pieces)
    assert len(pieces) <= ANDROID_MAX_PIECES
    assert pieces == list(split(packet.with_ttl(7), frame_bytes))
    shuffle.shuffle(pieces)
    waiting = Reassembly()
    made = [waiting.take("phone", piece, now=0.0) for piece in pieces]
    assert made[:-1] == [None] * (len(pieces) - 1)
    assert made[-1] == packet.with_ttl(0)


def test_a_packet_that_androids_would_not_take_in_pieces_is_not_split():
    packet = make_packet(PacketType.FILE_TRANSFER, bytes(200_000), sender=SENDER, timestamp_ms=5, version=2)
    with pytest.raises(ValueError, match="frames of 512"):
        split(packet, 512)


def deflated(size):
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return deflate.compress(bytes(size)) + deflate.flush()


def compressed(data, says):
    body = says.to_bytes(4, "big") + data
    encoded = bytearray(
        make_packet(PacketType.MESSAGE, body, sender=SENDER, timestamp_ms=5, version=2).encode(padded=False)
    )
    encoded[11] |= 4
    return bytes(encoded)


def test_what_is_compressed_takes_no_more_memory_than_it_says_and_never_more_than_a_payload():
    small, bomb = deflated(2000), deflated(20 << 20)
    assert decode_packet(compressed(small, 2000)).payload == bytes(2000)
    lies = (
        (bomb, 1000),
        (bomb, MAX_PAYLOAD_BYTES),
        (bomb, 0xFFFF_FFFF),
        (small, 2001),
        (small, 1999),
        (b"no", 9),
        (b"\3\0", 0),
    )
    for data, says in lies:
        lie = compressed(data, says)
        tracemalloc.start()
        with pytest.raises(DecodeError):
            decode_packet(lie)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 6 * len(lie) + 3 * min(says, MAX_PAYLOAD_BYTES) + (1 << 16)


@given(packets(), st.binary(max_size=60))
def test_how_long_a_payload_will_be_is_known_before_it_is_decompressed(packet, junk):
    assert expanded_bytes(packet.encode()) == (len(packet.payload) if packet.compressed else 0)
    assert expanded_bytes(packet.encode()[: len(junk)]) >= 0
    assert expanded_bytes(junk) >= 0


@pytest.mark.parametrize("length", [0, 1, 240, 241, 495, 496, 497, 1008, 1009, 2032, 2033, 5000])
def test_padding_is_short_enough_for_its_own_byte(length):
    padded = pad(bytes(length))
    added = len(padded) - length
    assert padded == bytes(length) + bytes([added % 256]) * added
    assert added <= 255
    assert len(padded) in {256, 512, 1024, 2048, length}


def test_what_follows_a_packet_is_dropped():
    assert decode_packet(wire("announce_ana") + b"anything").encode() == wire("announce_ana")


def test_flags_that_nobody_knows_and_a_route_in_version_1_are_dropped():
    data = bytearray(wire("announce_ana"))
    data[11] |= 0xE8
    assert decode_packet(bytes(data)).encode() == wire("announce_ana")


def test_an_announce_in_another_s_name_or_signed_by_another_is_none():
    ana, eve = Identity.from_seeds(b"a" * 32, b"a" * 32), Identity.from_seeds(b"e" * 32, b"e" * 32)
    genuine = ana.announce("ana", 1)
    assert read_announce(genuine).signing_key == ana.signing_public
    copied = Announce(nickname="ana", noise_key=ana.noise.public, signing_key=ana.signing_public).encode()
    for forged in (
        eve.sign(genuine),
        eve.sign(make_packet(PacketType.ANNOUNCE, copied, sender=eve.peer_id, timestamp_ms=1)),
        make_packet(PacketType.ANNOUNCE, copied, sender=ana.peer_id, timestamp_ms=1),
    ):
        with pytest.raises(DecodeError):
            read_announce(forged)


def piece_of(set_id, index=0, count=2, data=b"x"):
    payload = Piece(set_id=set_id, index=index, count=count, whole_type=2, data=data).encode()
    return make_packet(PacketType.FRAGMENT, payload, sender=SENDER, timestamp_ms=5)


def test_sets_that_are_never_whole_are_bounded_for_a_link_and_for_all_and_in_time():
    waiting = Reassembly()
    for number in range(1000):
        waiting.take("eve", piece_of(number.to_bytes(8, "big")), now=0.0)
    assert len(waiting) == MAX_SETS_OF_LINK
    honest = piece_of(b"honestly")
    waiting.take("ana", honest, now=1.0)
    for link in range(100):
        for number in range(3):
            waiting.take(link, piece_of(bytes([link, number, *bytes(6)])), now=2.0)
    assert len(waiting) == MAX_SETS
    assert waiting.held_bytes == MAX_SETS
    waiting.expire(40.0)
    assert len(waiting) == 0


def test_one_who_floods_with_sets_costs_another_none_of_his():
    waiting = Reassembly()
    first, second = split(make_packet(2, bytes(700), sender=SENDER, timestamp_ms=5), 512)
    waiting.take("ana", first, now=0.0)
    for number in range(1000):
        waiting.take("eve", piece_of(number.to_bytes(8, "big")), now=0.0)
    assert waiting.take("ana", second, now=1.0) is not None


def test_a_set_that_is_too_large_or_does_not_agree_is_over():
    waiting = Reassembly()
    with pytest.raises(DecodeError, match="at most 64"):
        waiting.take("eve", piece_of(b"a" * 8, count=65), now=0.0)
    waiting.take("eve", piece_of(b"a" * 8, index=0, count=2), now=0.0)
    with pytest.raises(DecodeError):
        waiting.take("eve", piece_of(b"a" * 8, index=1, count=3), now=0.0)
    most = MAX_SET_BYTES // 1000
    for index in range(most):
        waiting.take("eve", piece_of(b"b" * 8, index=index, count=64, data=bytes(1000)), now=0.0)
    with pytest.raises(DecodeError):
        waiting.take("eve", piece_of(b"b" * 8, index=most, count=64, data=bytes(1000)), now=0.0)
    assert len(waiting) == 0
    assert MAX_SET_BYTES > MAX_CIPHERTEXT_BYTES
