# SPDX-License-Identifier: GPL-2.0-or-later
"""The test phones decide as the apps' own code did: every verdict in the vectors, by the bytes of those who speak.

What test phones of both kinds prove is worth what they are; so this is the test of the tests.
"""

import re
from dataclasses import replace

import pytest

from relay.bitchat.announce import Identity
from relay.bitchat.fragments import split
from relay.bitchat.packet import BROADCAST, PacketType, decode_packet, make_packet
from relay.bitchat.sync import decode_request_sync, encode_request_sync
from tests.unit.bitchat.phones import ONLY, Android, Iphone
from tests.unit.bitchat.vectors import DECISIONS, VECTORS, secret, wire

NOW_MS = 1_780_000_000_000
LONG = bytes(33 + number * 7 % 90 for number in range(1000))
ANA, BEN, RELAY = (
    Identity.from_seeds(secret(who, "noise_static_private"), secret(who, "ed25519_seed"))
    for who in ("ana", "ben", "relay")
)


def phone(kind, *, bound=True, asked=None, links=1):
    """Ben's, which knows ana and took the relay's announce; ``asked`` whom, and how many seconds ago."""
    made = kind("ben", NOW_MS)
    made.identity, made.id = BEN, BEN.peer_id
    made.link(ONLY, 0.0)
    for number in range(1, links):
        made.link(number, 0.0)
    made.hear_packet(ANA.announce("ana", NOW_MS).with_ttl(6).encode(), 0.0)
    if bound:
        made.hear_packet(RELAY.announce("relay", NOW_MS).encode(), 0.0)
    if asked is not None:
        who, seconds = asked
        made.asked[who.peer_id] = -float(seconds)
    return made


def said(kind=PacketType.MESSAGE, *, age_s=0, by=ANA, ttl=5, answers=False, payload=b"x", **other):
    packet = by.sign(
        make_packet(kind, payload, sender=by.peer_id, timestamp_ms=NOW_MS - int(1000 * age_s), ttl=ttl, **other)
    )
    return packet.as_answer(is_answer=True) if answers else packet


def announced(age_s, *, answers=False, ttl=6):
    packet = ANA.announce("ana", NOW_MS - int(1000 * age_s)).with_ttl(ttl)
    return packet.as_answer(is_answer=True) if answers else packet


def verdict(one, *packets):
    """Why the last of these was refused; None where all were taken."""
    held = len(one.refused)
    for packet in packets:
        one.hear_packet(packet.encode(), 0.0)
    assert len(one.refused) <= held + 1
    return one.refused[-1][0] if len(one.refused) > held else None


def pieces(packet):
    long = make_packet(packet.type, LONG, sender=packet.sender, timestamp_ms=packet.timestamp_ms, ttl=packet.ttl)
    return ANA.sign(long)


NOISE = PacketType.NOISE_ENCRYPTED
ASKED = (RELAY, 0)
#: By verdict: the phone, what it hears, and the reason by our name where the app refuses.
INGRESS = {
    "live message of ana over link bound to relay, age 0 s": (Iphone, {}, said()),
    "same, age 119 s": (Iphone, {}, said(age_s=119)),
    "same, age 121 s, no RSR flag": (Iphone, {}, said(age_s=121)),
    "same, 121 s in the future": (Iphone, {}, said(age_s=-121)),
    "age 1 h, RSR flag, phone asked this relay 0 s ago": (Iphone, {"asked": ASKED}, said(age_s=3600, answers=True)),
    "RSR 29 s after the request": (Iphone, {"asked": (RELAY, 29)}, said(age_s=3600, answers=True)),
    "age 1 h, RSR flag, phone asked nobody": (Iphone, {}, said(age_s=3600, answers=True)),
    "age 1 h, RSR flag, link not yet bound to relay": (
        Iphone,
        {"bound": False, "asked": ASKED},
        said(age_s=3600, answers=True),
    ),
    "noiseEncrypted age 1 h, no RSR": (Iphone, {}, said(NOISE, age_s=3600)),
    "noiseEncrypted age 1 h, RSR flag, phone asked this relay": (
        Iphone,
        {"asked": ASKED},
        said(NOISE, age_s=3600, answers=True),
    ),
    "announce (after ingress gate) age 899 s": (Iphone, {"asked": ASKED}, announced(899, answers=True)),
    "announce (after ingress gate) age 901 s": (Iphone, {"asked": ASKED}, announced(901, answers=True)),
    "public message (after ingress gate) age 21599 s": (Iphone, {"asked": ASKED}, said(age_s=21_599, answers=True)),
    "public message (after ingress gate) age 21601 s": (Iphone, {"asked": ASKED}, said(age_s=21_601, answers=True)),
    "phone's own live message echoed ttl 5": (Iphone, {}, said(by=BEN)),
    "phone's own old message back as RSR ttl 0": (Iphone, {"asked": ASKED}, said(by=BEN, age_s=3600, answers=True)),
    "REQUEST_SYNC claiming ana over link bound to relay": (
        Iphone,
        {},
        said(PacketType.REQUEST_SYNC, ttl=0, payload=encode_request_sync(7, 1, b"")),
    ),
    "announce of ana ttl 7 over link bound to relay": (Iphone, {}, announced(1, ttl=7)),
    "announce, receiver's clock 0 s after its timestamp": (Android, {}, announced(0)),
    "announce, receiver's clock 599 s after its timestamp": (Android, {}, announced(599)),
    "announce, receiver's clock -599 s after its timestamp": (Android, {}, announced(-599)),
    "signature of a packet with RSR flag": (Android, {}, said(age_s=3600, answers=True)),
}
TTL = re.compile(r"relay of (broadcast|REQUEST_SYNC|unknown type 0x7e) ttl (\d+)(?:, degree (\d))?")
#: Where the rest is tested.
HERE = {
    "live message in fragments",
    "late (1 h) message in fragments, inner without RSR",
    "late (1 h) message in fragments, inner with RSR, phone asked the original sender",
    "fragment set of 256",
    "notifications: one 986-byte packet in 509-byte pieces",
    "iOS answers an empty REQUEST_SYNC with (type, ttl, rsr)",
    "Android answers an empty REQUEST_SYNC with (type, ttl, rsr, age)",
    "iOS store: messages of ana while her announce is fresh",
    "Android store: announce of 181 s",
    "iOS REQUEST_SYNC with types, cursor",
    "courier envelope (type 4) is known to Android",
}
ELSEWHERE = {
    "RSR flag after Android re-encodes the packet": "test_vectors.py",
    "writes: same packet as one long write (prepare/execute, offsets)": "a test phone that is dialled gets one a write",
    "iOS store: 2 h old message of a sender without any announce": "without an announce our phones know no key",
}


def test_every_verdict_of_the_apps_is_one_of_a_test_phone():
    relayed = {name for name in DECISIONS if TTL.match(name)}
    assert DECISIONS.keys() == INGRESS.keys() | relayed | HERE | ELSEWHERE.keys()


@pytest.mark.parametrize("name", INGRESS)
def test_a_phone_takes_and_refuses_as_its_app(name):
    kind, state, packet = INGRESS[name]
    said_by_app = str(DECISIONS[name])
    one = phone(kind, **state)
    reason = verdict(one, packet)
    assert (reason is None) is bool(re.match(r"accepted|taken|valid", said_by_app)), (reason, said_by_app)
    if said_by_app.startswith("rejected: "):
        assert reason == said_by_app.removeprefix("rejected: ")
    # Whose announce takes a link: of that the app says nothing, and it is harm.
    assert bool(one.misled) is (said_by_app == "accepted; attributed to sender")


@pytest.mark.parametrize("name", [name for name in DECISIONS if TTL.match(name)])
def test_an_iphone_passes_on_as_the_app(name):
    what, ttl, degree = TTL.match(name).groups()
    kind = {"broadcast": PacketType.MESSAGE, "REQUEST_SYNC": PacketType.REQUEST_SYNC}.get(what, 0x7E)
    one = phone(Iphone, links=int(degree or 1))
    leaves = one.relayed_ttl(said(kind, ttl=int(ttl)))
    expected = re.match(r"relays(?: with ttl (\d))?", DECISIONS[name])
    assert (leaves is not None) is (expected is not None)
    if expected and expected[1]:
        assert leaves == int(expected[1])


def test_live_pieces_are_taken_late_ones_only_with_the_mark_of_whom_it_asked():
    long = pieces(said())
    for packet, state, expected in (
        (long, {}, DECISIONS["live message in fragments"]),
        (pieces(said(age_s=3600)), {}, DECISIONS["late (1 h) message in fragments, inner without RSR"]),
        (
            pieces(said(age_s=3600)).as_answer(is_answer=True),
            {"asked": (ANA, 0)},
            DECISIONS["late (1 h) message in fragments, inner with RSR, phone asked the original sender"],
        ),
    ):
        one = phone(Iphone, **state)
        # As an app would send it: the pieces themselves are of now.
        inner = packet.encode(padded=False)
        for index in range(0, len(inner), 469):
            payload = bytes(8) + (index // 469).to_bytes(2, "big") + (-(-len(inner) // 469)).to_bytes(2, "big")
            one.hear_packet(
                make_packet(
                    PacketType.FRAGMENT,
                    payload + bytes([packet.type]) + inner[index : index + 469],
                    sender=ANA.peer_id,
                    timestamp_ms=NOW_MS,
                    ttl=6,
                ).encode(),
                0.0,
            )
        assert bool(one.shown) is (expected == "accepted"), expected
        assert bool(one.refused) is (expected != "accepted"), expected


def test_an_android_takes_256_pieces_and_no_more():
    for count, reasons in ((256, set()), (257, {"too many pieces"})):
        one = phone(Android)
        for index in range(count):
            head = bytes(8) + index.to_bytes(2, "big") + count.to_bytes(2, "big") + b"\2"
            one.hear_packet(
                make_packet(PacketType.FRAGMENT, head + b"x", sender=ANA.peer_id, timestamp_ms=NOW_MS, ttl=6).encode(),
                0.0,
            )
            if count == 256 and index == 0:
                assert one.pieces
        assert {reason for reason, _ in one.refused if not reason.startswith("no packet")} == reasons


def test_several_notifications_are_one_packet_for_iphones_and_a_pause_ends_it():
    long = ANA.sign(said(payload=LONG))
    data = long.encode()
    assert len(data) > 512
    one, other, android = phone(Iphone), phone(Iphone), phone(Android)
    for at in range(0, len(data), 509):
        one.hear(data[at : at + 509], 0.01 * at / 509)
    assert [packet.payload for packet in one.accepted[-1:]] == [long.payload]
    other.hear(data[:509], 0.0)
    other.hear(data[509:1018], 0.26)
    assert other.shown == []
    assert [reason for reason, _ in other.refused] == ["509 bytes and then a pause"]
    android.hear(data[:509], 0.0)
    assert android.refused[0][0].startswith("no packet")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Iphone, "iOS answers an empty REQUEST_SYNC with (type, ttl, rsr)"),
        (Android, "Android answers an empty REQUEST_SYNC with (type, ttl, rsr, age)"),
    ],
)
def test_a_phone_answers_a_request_as_its_app(kind, name):
    one = phone(kind)
    one.announces.clear()
    one.hear_packet(announced(1).encode(), 0.0)
    one.hear_packet(said().encode(), 0.0)
    request = RELAY.sign(
        make_packet(
            PacketType.REQUEST_SYNC, encode_request_sync(7, 1, b""), sender=RELAY.peer_id, timestamp_ms=NOW_MS, ttl=0
        )
    )
    one.hear_packet(request.encode(), 0.0)
    answers = [decode_packet(frame) for _, frame in one.due(0.0)]
    told = [f"{packet.type},{packet.ttl},{str(packet.is_answer).lower()}" for packet in answers]
    by_app = [",".join(line.replace("rsr=", "").split(",")[:3]) for line in DECISIONS[name]]
    assert told == by_app[:2]
    # Whoever says what he has gets nothing of it.
    assert decode_request_sync(decode_packet(one.sync(0.0)).payload).filter.modulus == 1


def test_what_the_silent_said_is_not_in_a_filter_any_more():
    """After 60 s ("messages of ana while her announce is fresh"), by Androids after 180 s ("announce of 181 s")."""
    windows = VECTORS["constants"]["windows"]
    for kind, seconds in (
        (Iphone, windows["ios_gossip_stale_peer_s"]),
        (Android, windows["android_stale_peer_ms"] / 1000),
    ):
        one = phone(kind)
        one.acts = True
        one.hear_packet(said().encode(), 0.0)
        one.due(seconds - 1)
        assert len(one.messages) == 1
        one.due(seconds + 1)
        assert (len(one.messages), one.shown) == (0, ["x"])
        # And if it comes again, the screen knows it.
        one.take(said(), 400.0)
        assert one.shown == ["x"]


def test_the_windows_are_the_constants():
    windows, limits = VECTORS["constants"]["windows"], VECTORS["constants"]["fragment_limits"]
    assert (Iphone.forgets_s, Android.forgets_s * 1000) == (
        windows["ios_gossip_stale_peer_s"],
        windows["android_stale_peer_ms"],
    )
    assert Android.most_pieces == limits["android_max_total"]
    assert Iphone.most_pieces == limits["ios_max_total"]
    assert (Iphone.most_sets, Android.most_sets) == (limits["ios_max_assemblies"], limits["android_max_sets"])
    for kind, age_s, reason in (
        (said(PacketType.LEAVE, age_s=299), 0, None),
        (said(PacketType.LEAVE, age_s=301), 0, "leave too far off"),
        (said(PacketType.VOICE_FRAME, age_s=31), 0, "voice too far off"),
        (said(PacketType.COURIER), 0, "unknown type"),
    ):
        assert verdict(phone(Android), kind) == reason, age_s
    assert DECISIONS["courier envelope (type 4) is known to Android"] == "false"
    assert windows["android_leave_skew_ms"] == 300_000
    assert windows["android_voice_skew_ms"] == 30_000
    assert windows["android_duplicate_memory_ms"] == 300_000


def test_what_nobody_signed_or_somebody_else_did_is_refused_and_of_a_stranger_kept_apart():
    for kind in (Iphone, Android):
        unsigned = make_packet(PacketType.MESSAGE, b"x", sender=ANA.peer_id, timestamp_ms=NOW_MS, ttl=6)
        assert verdict(phone(kind), unsigned) == "forged"
        assert verdict(phone(kind), BEN.sign(unsigned)) == "forged"
        one = phone(kind)
        assert verdict(one, said(by=Identity.from_seeds(b"s" * 32, b"s" * 32))) is None
        assert (len(one.strangers), one.shown) == (1, [])
        false = Identity.from_seeds(secret("ana", "noise_static_private"), b"e" * 32)
        assert verdict(phone(kind), false.announce("ana", NOW_MS + 1).with_ttl(6)) == "another signing key"


def test_an_iphone_s_screen_loses_what_comes_faster_than_five_and_then_one_a_second():
    one = phone(Iphone)
    for number in range(8):
        one.take(said(payload=b"%d" % number), 0.0)
    one.take(said(payload=b"later"), 1.0)
    assert one.shown == ["0", "1", "2", "3", "4", "later"]
    assert len(one.lost) == 3
    assert said(recipient=BROADCAST).is_broadcast


def test_what_ios_adds_to_a_request_an_android_reads_past():
    request = decode_packet(wire("ios_request_sync_to_relay"))
    android, one = phone(Android), decode_request_sync(request.payload)
    assert (one.types is not None, one.since_ms is not None) == (True, True)
    assert verdict(android, replace(request, sender=ANA.peer_id)) is None
    assert DECISIONS["iOS REQUEST_SYNC with types, cursor"].startswith("decoded")


def test_long_packets_are_split_as_both_apps_do():
    one = phone(Android)
    whole = ANA.sign(said(payload=LONG, ttl=6))
    for piece in split(whole, 512):
        one.hear(piece.encode(), 0.0)
    assert [packet.payload for packet in one.accepted[-1:]] == [whole.payload]
