# SPDX-License-Identifier: GPL-2.0-or-later
"""Handshakes and transport against the published vectors, and against whoever tampers with them.

tests/vectors/noise-published.json holds the vectors of the cacophony and snow libraries for the three
protocols used here; its "source" says where they were published.
"""

import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt, crypto_scalarmult

from relay.core.errors import RelayError
from relay.core.noise import (
    KEY_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_NONCE,
    MAX_PLAINTEXT_BYTES,
    TAG_BYTES,
    XX,
    XXPSK3,
    CipherState,
    DecryptError,
    HandshakeError,
    HandshakeReason,
    HandshakeState,
    KeyPair,
    NonceExhaustedError,
    Pattern,
    X,
)

PATTERNS = {"XX": XX, "XXpsk3": XXPSK3, "X": X}
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "noise-published.json").read_text())["vectors"]
SEED = 25519

# Every u-coordinate of small order below 2^255, canonical or not (the list of cr.yp.to/ecdh.html, which
# libsodium's documentation points to).
LOW_ORDER_POINTS = [
    (0).to_bytes(32, "little"),
    (1).to_bytes(32, "little"),
    (325606250916557431795983626356110631294008115727848805560023387167927233504).to_bytes(32, "little"),
    (39382357235489614581723060781553021112529911719440698176882885853963445705823).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


def unused(_size: int) -> bytes:
    raise AssertionError("this side must not draw random bytes")


def pair(
    pattern: Pattern,
    *,
    seed: int = SEED,
    prologue: bytes = b"relay",
    psk: bytes = b"p" * 32,
    responders_psk: bytes = b"",
) -> tuple[HandshakeState, HandshakeState]:
    """Both sides of one handshake, everything drawn from the seed."""
    random_bytes = Random(seed).randbytes
    initiators, responders = KeyPair.generate(random_bytes), KeyPair.generate(random_bytes)
    return (
        HandshakeState(
            pattern,
            initiator=True,
            prologue=prologue,
            static=initiators,
            random_bytes=random_bytes,
            remote_static=responders.public if pattern is X else None,
            psk=psk if pattern.uses_psk else None,
        ),
        HandshakeState(
            pattern,
            initiator=False,
            prologue=prologue,
            static=responders,
            random_bytes=random_bytes,
            psk=(responders_psk or psk) if pattern.uses_psk else None,
        ),
    )


def run(one: HandshakeState, other: HandshakeState, *, messages: int | None = None) -> None:
    """Carry the next `messages` messages (all that are left, unless told) between the two sides."""
    while not one.finished and messages != 0:
        writer, reader = (one, other) if one.is_my_turn else (other, one)
        reader.read_message(writer.write_message(b"payload"))
        messages = None if messages is None else messages - 1


def vector_pair(vector: dict) -> tuple[HandshakeState, HandshakeState]:
    pattern = PATTERNS[vector["protocol_name"].split("_")[1]]

    def side(name: str, *, initiator: bool) -> HandshakeState:
        ephemeral = vector.get(f"{name}_ephemeral")
        draw: Callable[[int], bytes] = unused if ephemeral is None else lambda _size: bytes.fromhex(ephemeral)
        psks = vector.get(f"{name}_psks")
        remote_static = vector.get(f"{name}_remote_static")
        return HandshakeState(
            pattern,
            initiator=initiator,
            prologue=bytes.fromhex(vector[f"{name}_prologue"]),
            static=KeyPair.from_private(bytes.fromhex(vector[f"{name}_static"])),
            random_bytes=draw,
            remote_static=None if remote_static is None else bytes.fromhex(remote_static),
            psk=bytes.fromhex(psks[0]) if psks else None,
        )

    return side("init", initiator=True), side("resp", initiator=False)


def refused(action: Callable[[], object]) -> HandshakeReason:
    with pytest.raises(HandshakeError) as caught:
        action()
    return caught.value.reason


each_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)


def test_the_vectors_cover_every_pattern_with_transport_and_hash():
    complete = {v["protocol_name"] for v in VECTORS if "handshake_hash" in v and len(v["messages"]) > 3}
    assert complete == {f"Noise_{name}_25519_ChaChaPoly_SHA256" for name in PATTERNS}
    assert complete == {pattern.protocol_name.decode() for pattern in PATTERNS.values()}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['source']}-{v['protocol_name']}")
def test_both_sides_speak_the_published_vectors_to_the_byte(vector):
    initiator, responder = vector_pair(vector)
    writers = cycle([(initiator, responder), (responder, initiator)])
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    handshake_messages = 0
    while not initiator.finished:
        writer, reader = next(writers)
        payload, ciphertext = messages[handshake_messages]
        assert writer.is_my_turn
        assert not reader.is_my_turn
        assert writer.write_message(payload) == ciphertext
        assert reader.read_message(ciphertext) == payload
        handshake_messages += 1
    assert responder.finished
    assert initiator.handshake_hash == responder.handshake_hash
    if "handshake_hash" in vector:
        assert initiator.handshake_hash.hex() == vector["handshake_hash"]

    one_way = handshake_messages == 1
    (i_send, i_receive), (r_send, r_receive) = initiator.split(), responder.split()
    toward_responder, toward_initiator = (i_send, r_receive), (r_send, i_receive)
    # The turns go on from the handshake's; a one-way initiator keeps the word.
    turns = cycle([toward_responder] if one_way else [toward_initiator, toward_responder])
    for (payload, ciphertext), (send, receive) in zip(messages[handshake_messages:], turns, strict=False):
        assert send.encrypt(payload) == ciphertext
        assert receive.decrypt(ciphertext) == payload


@each_pattern
def test_each_side_learns_who_the_other_is(pattern):
    initiator, responder = pair(pattern)
    random_bytes = Random(SEED).randbytes
    initiators, responders = KeyPair.generate(random_bytes), KeyPair.generate(random_bytes)
    run(initiator, responder)
    assert initiator.remote_static == responders.public
    assert responder.remote_static == initiators.public


@each_pattern
def test_every_changed_byte_of_every_handshake_message_is_refused(pattern):
    """At the message itself, or (where it travels in clear and unkeyed) at the next, never not at all."""
    for index in range(len(pattern.messages)):
        initiator, responder = pair(pattern)
        run(initiator, responder, messages=index)
        message = (initiator if index % 2 == 0 else responder).write_message(b"payload")
        for position in range(len(message)):
            initiator, responder = pair(pattern)
            run(initiator, responder, messages=index)
            writer, reader = (initiator, responder) if index % 2 == 0 else (responder, initiator)
            altered = bytearray(writer.write_message(b"payload"))
            altered[position] ^= 1 << (position % 8)

            def rest(reader=reader, altered=altered, initiator=initiator, responder=responder):
                reader.read_message(altered)
                run(initiator, responder)

            # The top bit of a public key means nothing to X25519 (RFC 7748, section 5) but stays in the hash.
            assert refused(rest) in {HandshakeReason.DECRYPT, HandshakeReason.LOW_ORDER_KEY}, (index, position)
            assert not (initiator.finished and responder.finished)


@each_pattern
def test_every_shortened_handshake_message_is_refused(pattern):
    for index, tokens in enumerate(pattern.messages):
        initiator, responder = pair(pattern)
        run(initiator, responder, messages=index)
        writer, _ = (initiator, responder) if index % 2 == 0 else (responder, initiator)
        message = writer.write_message()
        for size in range(len(message)):
            initiator, responder = pair(pattern)
            run(initiator, responder, messages=index)
            reader = responder if index % 2 == 0 else initiator
            reason = refused(lambda reader=reader, cut=message[:size]: reader.read_message(cut))
            assert reason in {HandshakeReason.TRUNCATED, HandshakeReason.DECRYPT}, (tokens, size)
            if size < KEY_BYTES:
                assert reason is HandshakeReason.TRUNCATED


@each_pattern
@given(data=st.binary(max_size=400), index=st.integers(0, 2), seed=st.integers(0, 3))
def test_any_bytes_at_any_point_give_a_payload_or_a_handshake_error(pattern, data, index, seed):
    initiator, responder = pair(pattern, seed=seed)
    index %= len(pattern.messages)
    run(initiator, responder, messages=index)
    reader = responder if index % 2 == 0 else initiator
    try:
        payload = reader.read_message(data)
    except HandshakeError:
        assert not reader.is_my_turn
        assert reader.remote_static is None
        assert refused(lambda: reader.read_message(data)) is HandshakeReason.OUT_OF_ORDER
        assert refused(reader.write_message) is HandshakeReason.OUT_OF_ORDER
        assert refused(reader.split) is HandshakeReason.OUT_OF_ORDER
    else:
        # Only XX's first message is without a key, and so takes whatever has the length.
        assert (pattern, index) == (XX, 0)
        assert payload == data[KEY_BYTES:]


@each_pattern
def test_a_message_longer_than_noise_allows_is_neither_written_nor_read(pattern):
    initiator, responder = pair(pattern)
    assert refused(lambda: responder.read_message(bytes(MAX_MESSAGE_BYTES + 1))) is HandshakeReason.TOO_LONG
    assert refused(lambda: initiator.write_message(bytes(MAX_MESSAGE_BYTES))) is HandshakeReason.TOO_LONG


@each_pattern
def test_the_longest_message_arrives(pattern):
    initiator, _ = pair(pattern)
    overhead = len(initiator.write_message())
    initiator, responder = pair(pattern)
    payload = Random(SEED).randbytes(MAX_MESSAGE_BYTES - overhead)
    message = initiator.write_message(payload)
    assert len(message) == MAX_MESSAGE_BYTES
    assert responder.read_message(memoryview(message)) == payload


@pytest.mark.parametrize("top_bit", [0, 0x80])
@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda p: p.hex()[:8])
def test_keys_of_low_order_are_refused(point, top_bit):
    """Such a key makes the shared secret zero, so that anyone could compute the session's keys."""
    point = point[:-1] + bytes([point[-1] | top_bit])

    initiator, responder = pair(XX)
    responder.read_message(point)
    assert refused(responder.write_message) is HandshakeReason.LOW_ORDER_KEY

    initiator, _ = pair(XX)
    initiator.write_message()
    assert refused(lambda: initiator.read_message(point + bytes(64))) is HandshakeReason.LOW_ORDER_KEY

    _, recipient = pair(X)
    assert refused(lambda: recipient.read_message(point + bytes(64))) is HandshakeReason.LOW_ORDER_KEY

    sender = HandshakeState(
        X,
        initiator=True,
        prologue=b"",
        static=KeyPair.from_private(b"s" * 32),
        random_bytes=Random(SEED).randbytes,
        remote_static=point,
    )
    assert refused(sender.write_message) is HandshakeReason.LOW_ORDER_KEY
    assert not sender.is_my_turn
    assert refused(sender.write_message) is HandshakeReason.OUT_OF_ORDER


def test_a_peer_whose_message_fails_after_its_name_stays_unnamed():
    initiator, responder = pair(XX)
    responder.read_message(initiator.write_message())
    altered = bytearray(responder.write_message())
    altered[-1] ^= 1
    assert refused(lambda: initiator.read_message(altered)) is HandshakeReason.DECRYPT
    assert initiator.remote_static is None


def test_another_shared_secret_keeps_a_stranger_out_of_a_closed_mesh():
    initiator, responder = pair(XXPSK3, responders_psk=b"q" * 32)
    run(initiator, responder, messages=2)
    third = initiator.write_message()
    assert refused(lambda: responder.read_message(third)) is HandshakeReason.DECRYPT
    assert not responder.finished


def test_open_and_closed_mesh_do_not_understand_each_other():
    opened, closed = pair(XX), pair(XXPSK3)
    assert refused(lambda: closed[1].read_message(opened[0].write_message())) is HandshakeReason.TRUNCATED
    opened[1].read_message(closed[0].write_message())
    second = opened[1].write_message()
    assert refused(lambda: closed[0].read_message(second)) is HandshakeReason.DECRYPT


@each_pattern
def test_another_prologue_is_refused(pattern):
    initiator, _ = pair(pattern, prologue=b"version 1")
    _, responder = pair(pattern, prologue=b"version 2")
    assert refused(lambda: run(initiator, responder)) is HandshakeReason.DECRYPT


def test_a_message_for_someone_else_cannot_be_opened():
    sender, _ = pair(X, seed=1)
    _, someone_else = pair(X, seed=2)
    message = sender.write_message(b"secret")
    assert refused(lambda: someone_else.read_message(message)) is HandshakeReason.DECRYPT


def test_a_handshake_replayed_to_another_session_is_refused():
    initiator, responder = pair(XX)
    first = initiator.write_message()
    initiator.read_message(responder.write_message(responder.read_message(first)))
    third = initiator.write_message()
    _, later = pair(XX, seed=SEED + 1)
    later.read_message(first)
    later.write_message()
    assert refused(lambda: later.read_message(third)) is HandshakeReason.DECRYPT


def test_reading_and_writing_out_of_turn_is_refused_and_changes_nothing():
    initiator, responder = pair(XX)
    assert refused(lambda: initiator.read_message(bytes(32))) is HandshakeReason.OUT_OF_ORDER
    assert refused(responder.write_message) is HandshakeReason.OUT_OF_ORDER
    for early in (initiator.split, lambda: initiator.handshake_hash, lambda: initiator.export(b"label")):
        assert refused(early) is HandshakeReason.OUT_OF_ORDER
    run(initiator, responder)
    assert refused(initiator.write_message) is HandshakeReason.OUT_OF_ORDER
    assert refused(lambda: responder.read_message(bytes(64))) is HandshakeReason.OUT_OF_ORDER
    assert not initiator.is_my_turn
    assert not responder.is_my_turn
    assert initiator.handshake_hash == responder.handshake_hash


def test_a_session_is_split_once_because_a_second_time_would_repeat_nonces():
    initiator, responder = pair(XX)
    run(initiator, responder)
    initiator.split()
    assert refused(initiator.split) is HandshakeReason.OUT_OF_ORDER


def test_after_a_one_way_handshake_the_recipient_cannot_answer():
    sender, recipient = pair(X)
    run(sender, recipient)
    (send, unusable_receive), (unusable_send, receive) = sender.split(), recipient.split()
    assert receive.decrypt(send.encrypt(b"more")) == b"more"
    with pytest.raises(NonceExhaustedError):
        unusable_send.encrypt(b"")
    with pytest.raises(NonceExhaustedError):
        unusable_receive.decrypt(bytes(TAG_BYTES))


@each_pattern
def test_both_sides_export_the_same_secrets(pattern):
    initiator, responder = pair(pattern)
    run(initiator, responder)
    secret = initiator.export(b"link")
    assert len(secret) == KEY_BYTES
    assert responder.export(b"link") == secret
    assert responder.export(b"link", 16) == secret[:16]
    assert initiator.export(b"salt") != secret
    initiator.split()
    assert initiator.export(b"link") == secret

    others = pair(pattern, seed=SEED + 1)
    run(*others)
    assert others[0].export(b"link") != secret


def test_an_export_is_bound_to_the_payload_as_well():
    """In X the chaining key alone would not be: it knows the two keys and the ephemeral one only."""
    exports = set()
    for payload in (b"one", b"two"):
        sender, _ = pair(X)
        sender.write_message(payload)
        exports.add(sender.export(b"purge"))
    assert len(exports) == 2


@pytest.mark.parametrize("length", [-1, 0, KEY_BYTES + 1])
def test_an_export_of_another_length_is_refused(length):
    initiator, responder = pair(XX)
    run(initiator, responder)
    with pytest.raises(ValueError, match="1 to 32 bytes"):
        initiator.export(b"link", length)


def test_the_export_is_the_derivation_that_the_documentation_gives():
    """An X handshake computed here by hand, from the framework's text and nothing of the implementation."""

    def mac(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, sha256).digest()

    vector = next(v for v in VECTORS if v["protocol_name"].startswith("Noise_X_") and "handshake_hash" in v)
    _, recipient = vector_pair(vector)
    message = bytes.fromhex(vector["messages"][0]["ciphertext"])
    recipient.read_message(message)

    ck = vector["protocol_name"].encode().ljust(32, b"\0")
    private = bytes.fromhex(vector["resp_static"])
    for public in (message[:32], KeyPair.from_private(bytes.fromhex(vector["init_static"])).public):
        ck = mac(mac(ck, crypto_scalarmult(private, public)), b"\x01")
    prk = mac(ck, b"relay-noise-export-v1" + bytes.fromhex(vector["handshake_hash"]))
    assert recipient.export(b"purge", 32) == mac(prk, b"purge\x01")


def test_a_private_key_is_never_shown():
    key_pair = KeyPair.generate(Random(SEED).randbytes)
    initiator, _ = pair(XX)
    cipher = CipherState(key_pair.private)
    for shown in (key_pair, initiator, cipher):
        for text in (repr(shown), str(shown)):
            assert str(key_pair.private)[2:12] not in text
            assert key_pair.private.hex() not in text
    assert str(key_pair.public) in repr(key_pair)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_length_are_refused_before_libsodium_sees_them(size):
    good = KeyPair.from_private(b"s" * 32)
    for make in (
        lambda: KeyPair.from_private(bytes(size)),
        lambda: KeyPair(private=bytes(size), public=good.public),
        lambda: KeyPair(private=good.private, public=bytes(size)),
        lambda: CipherState(bytes(size)),
        lambda: HandshakeState(
            X, initiator=True, prologue=b"", static=good, random_bytes=unused, remote_static=bytes(size)
        ),
        lambda: HandshakeState(XXPSK3, initiator=True, prologue=b"", static=good, random_bytes=unused, psk=bytes(size)),
    ):
        with pytest.raises(ValueError, match=f"{size} bytes, not 32"):
            make()


@pytest.mark.parametrize(
    ("pattern", "initiator", "remote_static", "psk"),
    [
        (X, True, None, None),
        (X, False, b"k" * 32, None),
        (XX, True, b"k" * 32, None),
        (XX, True, None, b"p" * 32),
        (XXPSK3, False, None, None),
    ],
)
def test_a_key_that_is_missing_or_would_be_ignored_is_refused(pattern, initiator, remote_static, psk):
    with pytest.raises(ValueError, match="needs it"):
        HandshakeState(
            pattern,
            initiator=initiator,
            prologue=b"",
            static=KeyPair.from_private(b"s" * 32),
            random_bytes=unused,
            remote_static=remote_static,
            psk=psk,
        )


def transport() -> tuple[CipherState, CipherState]:
    return CipherState(b"k" * 32), CipherState(b"k" * 32)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 1024, MAX_PLAINTEXT_BYTES])
def test_records_of_every_size_arrive_from_every_kind_of_buffer(size, kind):
    send, receive = transport()
    plaintext = Random(SEED).randbytes(size)
    record = send.encrypt(kind(plaintext), b"ad")
    assert len(record) == size + TAG_BYTES
    received = receive.decrypt(kind(record), b"ad")
    assert received == plaintext
    assert type(received) is type(record) is bytes


def test_a_slice_of_a_receive_buffer_is_decrypted_and_the_buffer_stays_free():
    send, receive = transport()
    buffer = bytearray(b"\0\0" + send.encrypt(b"first") + b"rest")
    with memoryview(buffer) as view:
        assert receive.decrypt(view[2:-4]) == b"first"
    with pytest.raises(DecryptError):
        receive.decrypt(buffer)
    try:
        receive.decrypt(buffer)
    except DecryptError:
        buffer.clear()
    assert not buffer


@given(data=st.binary(max_size=100))
def test_any_bytes_for_a_record_give_a_decrypt_error(data):
    _, receive = transport()
    with pytest.raises(DecryptError):
        receive.decrypt(data)


def test_a_record_altered_cut_replayed_reordered_or_with_other_data_is_refused_and_not_counted():
    send, receive = transport()
    first, second = send.encrypt(b"first", b"ad"), send.encrypt(b"second", b"ad")
    altered = [bytes(b ^ (i == at) for i, b in enumerate(first)) for at in range(len(first))]
    for bad in (*altered, first[:-1], first[:TAG_BYTES], first[: TAG_BYTES - 1], b"", first + b"\0", second):
        with pytest.raises(DecryptError):
            receive.decrypt(bad, b"ad")
    with pytest.raises(DecryptError):
        receive.decrypt(first, b"other")
    assert receive.decrypt(first, b"ad") == b"first"
    with pytest.raises(DecryptError):
        receive.decrypt(first, b"ad")
    assert receive.decrypt(second, b"ad") == b"second"


def test_a_record_too_long_is_refused_on_both_sides():
    send, receive = transport()
    with pytest.raises(ValueError, match="65520 bytes"):
        send.encrypt(bytes(MAX_PLAINTEXT_BYTES + 1))
    too_long = crypto_aead_chacha20poly1305_ietf_encrypt(bytes(MAX_PLAINTEXT_BYTES + 1), b"", bytes(12), b"k" * 32)
    with pytest.raises(DecryptError):
        receive.decrypt(too_long)


@pytest.mark.parametrize("counter", [0, 1, 2**32 - 1, 2**32, MAX_NONCE - 1])
def test_the_nonce_is_the_64_bit_counter_of_the_framework(counter):
    nonce = bytes(4) + counter.to_bytes(8, "little")
    record = crypto_aead_chacha20poly1305_ietf_encrypt(b"text", b"ad", nonce, b"k" * 32)
    assert CipherState(b"k" * 32, counter).encrypt(b"text", b"ad") == record


def test_a_key_is_never_used_beyond_its_last_nonce():
    send, receive = CipherState(b"k" * 32, MAX_NONCE - 1), CipherState(b"k" * 32, MAX_NONCE - 1)
    assert receive.decrypt(send.encrypt(b"last")) == b"last"
    for _ in range(2):
        with pytest.raises(NonceExhaustedError):
            send.encrypt(b"one more")
        with pytest.raises(NonceExhaustedError):
            receive.decrypt(bytes(TAG_BYTES))


def test_every_failure_can_be_caught_by_the_root_error():
    assert all(issubclass(error, RelayError) for error in (HandshakeError, DecryptError, NonceExhaustedError))
    assert str(HandshakeError(HandshakeReason.LOW_ORDER_KEY)) == "handshake failed: low_order_key"
