# SPDX-License-Identifier: GPL-2.0-or-later
"""Our bytes are the apps' bytes: packets, signatures, IDs, tags, filters, Noise messages, letters, fragments."""

import pytest

from relay.bitchat import packet as packets
from relay.bitchat.announce import Announce, Identity, decode_announce, peer_id, read_announce
from relay.bitchat.courier import Letter, candidate_tags, decode_letter, recipient_tag
from relay.bitchat.fragments import (
    ANDROID_MAX_PIECES,
    IPHONE_MAX_PIECES,
    LIFETIME_S,
    MAX_PIECE_BYTES,
    Reassembly,
    decode_piece,
)
from relay.bitchat.gcs import P, decode_filter, encode_filter, most_ids
from relay.bitchat.packet import PacketType, decode_packet, make_packet
from relay.bitchat.private import NoiseSession, decode_private_message
from relay.bitchat.rules import ANDROID, IPHONE
from relay.bitchat.sync import TYPE_BITS, decode_request_sync, encode_request_sync
from relay.core.noise import DecryptError
from tests.unit.bitchat.vectors import DECISIONS, FRAGMENTS, IDENTITIES, PACKETS, VECTORS, secret, wire

each_packet = pytest.mark.parametrize("name", PACKETS)
signing_keys = {bytes.fromhex(of["peer_id"]): bytes.fromhex(of["ed25519_public"]) for of in IDENTITIES.values()}


@each_packet
def test_a_packet_decodes_to_what_the_apps_say(name):
    said, packet = PACKETS[name], decode_packet(wire(name))
    assert (packet.version, packet.type, packet.ttl) == (said["version"], said["type"], said["ttl"])
    assert packet.timestamp_ms == said["timestamp_ms"]
    assert packet.sender.hex() == said["sender"]
    assert (packet.recipient or b"").hex() == said.get("recipient", "")
    assert [hop.hex() for hop in packet.route] == said.get("route", [])
    assert packet.payload.hex() == said["payload"]
    assert (packet.signature or b"").hex() == said.get("signature", "")
    assert packet.is_answer is said.get("is_rsr", False)
    assert packet.sync_id.hex() == said["sync_packet_id"]


@each_packet
def test_a_packet_is_encoded_as_the_apps_do_padded_and_not(name):
    said, packet = PACKETS[name], decode_packet(wire(name))
    assert packet.encode(padded=False).hex() == said["wire_unpadded"]
    assert packet.encode(padded=True).hex() == said["wire_padded"]
    assert decode_packet(bytes.fromhex(said["wire_padded"])) == packet
    on_air = said.get("android_pads_on_ble", said.get("ios_pads_on_ble"))
    assert (packet.encode() == packet.encode(padded=True)) or not on_air
    assert (packet.encode() == packet.encode(padded=False)) or on_air


@each_packet
def test_signatures_cover_what_the_apps_say_and_hold(name):
    said, packet = PACKETS[name], decode_packet(wire(name))
    if "signing_preimage" in said:
        assert packet.signed_bytes().hex() == said["signing_preimage"]
    if packet.signature is None:
        assert not packet.is_signed_by(signing_keys[packet.sender])
        return
    assert packet.is_signed_by(signing_keys[packet.sender])
    assert packet.with_ttl(1).is_signed_by(signing_keys[packet.sender])
    assert packet.as_answer(is_answer=True).is_signed_by(signing_keys[packet.sender])
    others = [key for sender, key in signing_keys.items() if sender != packet.sender]
    assert not any(packet.is_signed_by(key) for key in others)
    [who] = [who for who, of in IDENTITIES.items() if bytes.fromhex(of["peer_id"]) == packet.sender]
    identity = Identity.from_seeds(secret(who, "noise_static_private"), secret(who, "ed25519_seed"))
    assert identity.sign(packet) == packet


@pytest.mark.parametrize("who", IDENTITIES)
def test_identities_follow_from_their_seeds(who):
    identity = Identity.from_seeds(secret(who, "noise_static_private"), secret(who, "ed25519_seed"))
    assert identity.noise.public == secret(who, "noise_static_public")
    assert identity.signing_public == secret(who, "ed25519_public")
    assert identity.peer_id == peer_id(identity.noise.public) == secret(who, "peer_id")


def test_announces_say_what_the_apps_put_in():
    ana = read_announce(decode_packet(wire("announce_ana")))
    assert (ana.nickname, ana.capabilities, ana.neighbours) == ("ana", b"\0\1", ())
    assert ana.noise_key == secret("ana", "noise_static_public")
    ben = read_announce(decode_packet(wire("ios_announce_ben")))
    assert ben == Announce(
        nickname="ben",
        noise_key=secret("ben", "noise_static_public"),
        signing_key=secret("ben", "ed25519_public"),
        neighbours=(secret("ana", "peer_id"), secret("relay", "peer_id")),
        capabilities=b"\x29\x03",
    )


def test_an_announce_of_ours_is_the_apps_byte_for_byte():
    ana = Identity.from_seeds(secret("ana", "noise_static_private"), secret("ana", "ed25519_seed"))
    said = decode_announce(decode_packet(wire("announce_ana")).payload)
    ours = ana.sign(make_packet(PacketType.ANNOUNCE, said.encode(), sender=ana.peer_id, timestamp_ms=1_780_000_000_000))
    assert ours.encode() == wire("announce_ana")
    assert ours.encode(padded=False) == wire("announce_ana")


@pytest.mark.parametrize("name", ["public_message_compressed", "long_message"])
def test_what_we_compress_the_apps_have_compressed_alike(name):
    theirs = decode_packet(wire(name))
    ours = make_packet(
        theirs.type,
        theirs.payload,
        sender=theirs.sender,
        recipient=theirs.recipient,
        timestamp_ms=theirs.timestamp_ms,
        compress=True,
    )
    assert ours.signed(b"\1" * 64).body == theirs.body
    assert ours.signed_bytes().hex() == PACKETS[name]["signing_preimage"]


def test_constants_are_those_of_the_apps():
    said = VECTORS["constants"]
    assert said["ttl_origin"] == packets.ORIGIN_TTL
    assert packets.BROADCAST.hex() == said["broadcast_recipient"]
    named = {name.removesuffix("_ios").removesuffix("_reserved"): number for name, number in said["types"].items()}
    named["courier"] = named.pop("courier_envelope")
    assert named == {kind.name.lower(): kind.value for kind in PacketType}
    assert {kind.name.lower(): bit for kind, bit in TYPE_BITS.items()} == said["sync_type_bits"]
    windows, limits = said["windows"], said["fragment_limits"]
    assert windows["ios_ingress_skew_ms"] == IPHONE.live_skew_ms
    assert windows["ios_rsr_window_s"] == IPHONE.answer_window_s
    assert windows["ios_announce_max_age_s"] * 1000 == IPHONE.announce_age_ms
    assert windows["ios_public_message_max_age_s"] * 1000 == IPHONE.message_age_ms
    assert windows["android_announce_skew_ms"] == ANDROID.announce_age_ms == ANDROID.announce_ahead_ms
    assert windows["android_leave_skew_ms"] == ANDROID.leave_skew_ms
    assert windows["android_voice_skew_ms"] == ANDROID.voice_skew_ms
    assert limits["chunk_max"] == MAX_PIECE_BYTES
    assert limits["android_max_total"] == ANDROID_MAX_PIECES == ANDROID.max_pieces
    assert limits["ios_max_total"] == IPHONE_MAX_PIECES == IPHONE.max_pieces
    assert limits["ios_lifetime_s"] == limits["android_lifetime_s"] == LIFETIME_S
    assert limits["ios_max_bytes"] == limits["android_max_bytes"] == packets.MAX_PAYLOAD_BYTES


def test_noise_messages_are_the_apps():
    said = VECTORS["android"]["noise_xx"]
    sides = [
        NoiseSession(
            initiator=role == "initiator",
            static=Identity.from_seeds(secret(said[role], "noise_static_private"), bytes(32)).noise,
            random_bytes=lambda _, role=role: bytes.fromhex(said[f"{role}_ephemeral_private"]),
        )
        for role in ("initiator", "responder")
    ]
    ana, ben = sides
    first = ana.start()
    second = ben.receive_handshake(first)
    third = ana.receive_handshake(second)
    assert ben.receive_handshake(third) is None
    assert [first.hex(), second.hex(), third.hex()] == [said[f"message{n}"] for n in (1, 2, 3)]
    assert ana.handshake_hash.hex() == ben.handshake_hash.hex() == said["handshake_hash"]
    assert ana.remote_static == secret("ben", "noise_static_public")
    assert ben.remote_static == secret("ana", "noise_static_public")
    plaintext = bytes.fromhex(said["plaintext_first"])
    payload = ana.encrypt(plaintext)
    assert payload.hex() == said["transport_payload_first"] == PACKETS["noise_encrypted_first"]["payload"]
    assert ben.decrypt(payload) == plaintext
    message = decode_private_message(plaintext)
    assert (message.message_id, message.content) == ("11111111-2222-3333-4444-555555555555", "psst")
    assert message.encode() == plaintext


def test_a_session_takes_and_refuses_what_the_app_s_does():
    """The behaviour that the vectors list, in their order: late ones in, replays and too old ones out."""
    said = VECTORS["android"]["noise_xx"]["android_session_behaviour"]
    ana, ben = sessions()
    sent = [ana.encrypt(b"m%d" % n) for n in range(1100)]

    def taken(number):
        try:
            return ben.decrypt(sent[number]).decode()
        except DecryptError:
            return "rejected"

    steps = [(1, "deliver_nonce_1"), (0, "then_late_nonce_0"), (0, "replay_nonce_0"), (1099, "jump_to_nonce_1099")]
    steps += [(80, "then_nonce_80_inside_window_1024"), (75, "then_nonce_75_outside_window")]
    assert {name: taken(number) for number, name in steps} == said


def sessions():
    ana, ben = (
        NoiseSession(
            initiator=who == "ana",
            static=Identity.from_seeds(secret(who, "noise_static_private"), bytes(32)).noise,
            random_bytes=lambda count, who=who: who.encode()[:1] * count,
        )
        for who in ("ana", "ben")
    )
    ben.receive_handshake(ana.receive_handshake(ben.receive_handshake(ana.start())))
    return ana, ben


def test_fragments_are_read_and_put_together():
    waiting, whole = Reassembly(), None
    for number, said in enumerate(FRAGMENTS["fragments"]):
        packet = decode_packet(wire(f"fragment_{number}"))
        piece = decode_piece(packet.payload)
        assert (piece.index, piece.count, piece.whole_type) == (number, 3, PacketType.MESSAGE)
        assert len(piece.data) == int(FRAGMENTS["chunk_sizes"].split(",")[number])
        assert piece.encode().hex() == said["payload"]
        assert whole is None
        whole = waiting.take("phone", packet, now=0.0)
    original = decode_packet(wire("long_message"))
    assert whole == original.with_ttl(FRAGMENTS["reassembled_ttl"])
    assert whole.is_signed_by(secret("ana", "ed25519_public"))
    assert len(waiting) == 0


def test_filters_are_the_apps():
    said = VECTORS["android"]["request_sync_android"]
    modulus, data = encode_filter(map(bytes.fromhex, said["ids_newest_first"]))
    assert (P, modulus, data.hex()) == (said["p"], said["m"], said["data"])
    held = decode_filter(said["p"], said["m"], data)
    assert sorted(held.numbers) == said["decoded_values"]
    assert all(held.may_have(bytes.fromhex(name)) for name in said["ids_newest_first"])
    assert most_ids(said["max_bytes"]) == said["max_elements"]
    assert most_ids(400) == VECTORS["ios"]["ios_gcs_same_ids"]["max_elements_400"]
    assert encode_request_sync(P, modulus, data).hex() == said["payload"]
    assert VECTORS["ios"]["ios_gcs_same_ids"]["data"] == said["data"]


def test_requests_of_both_apps_are_read():
    android = decode_request_sync(decode_packet(wire("request_sync_android")).payload)
    iphone = decode_request_sync(decode_packet(wire("ios_request_sync_to_relay")).payload)
    assert android.filter == iphone.filter
    assert (android.types, android.since_ms, android.is_of_iphone) == (None, None, False)
    assert (iphone.since_ms, iphone.is_of_iphone) == (1_779_999_995_000, True)
    asked = {kind for kind in PacketType if iphone.asks_for(kind)}
    assert asked == {PacketType.ANNOUNCE, PacketType.MESSAGE, PacketType.GROUP_MESSAGE}
    assert {kind for kind in PacketType if android.asks_for(kind)} == {PacketType.ANNOUNCE, PacketType.MESSAGE}
    said = PACKETS["ios_request_sync_to_relay"]["payload"]
    data = bytes.fromhex(VECTORS["ios"]["ios_gcs_same_ids"]["data"])
    assert encode_request_sync(7, 3072, data, types=iphone.types, since_ms=iphone.since_ms).hex() == said


def test_letters_and_tags_are_the_apps():
    said = VECTORS["ios"]["courier"]
    letter = decode_letter(bytes.fromhex(said["payload"]))
    assert letter == Letter(
        tag=bytes.fromhex(said["recipient_tag"]),
        expiry_ms=said["expiry_ms"],
        ciphertext=bytes(range(0x60)),
        copies=said["copies"],
    )
    assert letter.encode().hex() == said["payload"] == PACKETS["ios_courier_envelope_to_relay"]["payload"]
    key = secret(said["recipient"], "noise_static_public")
    assert recipient_tag(key, said["epoch_day"]).hex() == said["recipient_tag"]
    assert [tag.hex() for tag in candidate_tags(key, 1_780_000_000_000)] == said["candidate_tags"]


def test_the_apps_agree_with_each_other_wherever_both_were_asked():
    """Else these vectors would not be one protocol, and ours could not be both."""
    for checks in VECTORS["ios"]["ios_cross_check_of_android_packets"].values():
        assert all(checks.values())
    assert all(VECTORS["ios"]["ios_noise_xx_equal_to_android"].values())
    assert DECISIONS["signature of a packet with RSR flag"] == "valid (flag ignored)"
    assert DECISIONS["RSR flag after Android re-encodes the packet"] == "false"
