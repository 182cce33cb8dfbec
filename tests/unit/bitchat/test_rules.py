# SPDX-License-Identifier: GPL-2.0-or-later
"""Our rules decide as the apps' own code did: every verdict in the vectors is one of these cases."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bitchat.memory import ANNOUNCE_LIFE_S, MESSAGE_LIFE_S
from relay.bitchat.packet import PacketType, make_packet
from relay.bitchat.rules import ANDROID, IPHONE, MARGIN_MS, Kind, Phone, Refusal, refusal, refusal_of_kind
from tests.unit.bitchat.vectors import DECISIONS, secret

NOW_MS = 1_780_000_000_000
ANA, BEN, RELAY = (secret(who, "peer_id") for who in ("ana", "ben", "relay"))
#: A phone of Ben's that took the relay's announce.
BENS = Phone(peer_id=BEN, linked_to=RELAY, time_ms=NOW_MS)


def said(kind=PacketType.MESSAGE, *, age_s=0.0, sender=ANA, ttl=5, answers=False):
    packet = make_packet(kind, b"x", sender=sender, timestamp_ms=NOW_MS - int(1000 * age_s), ttl=ttl)
    return packet.as_answer(is_answer=True) if answers else packet


def asked(seconds):
    return replace(BENS, asked_s=seconds)


LATE = said(age_s=3600, answers=True)
NOISE = PacketType.NOISE_ENCRYPTED
ANNOUNCE = PacketType.ANNOUNCE
#: Which verdict of an iPhone is which of our decisions, None where it takes the packet.
IPHONE_CASES = {
    "live message of ana over link bound to relay, age 0 s": (said(), BENS, 1, None),
    "same, age 119 s": (said(age_s=119), BENS, 1, None),
    "same, age 121 s, no RSR flag": (said(age_s=121), BENS, 1, Refusal.TIMESTAMP),
    "same, 121 s in the future": (said(age_s=-121), BENS, 1, Refusal.TIMESTAMP),
    "age 1 h, RSR flag, phone asked this relay 0 s ago": (LATE, asked(0), 1, None),
    "RSR 29 s after the request": (LATE, asked(29), 1, None),
    "age 1 h, RSR flag, phone asked nobody": (LATE, BENS, 1, Refusal.UNASKED),
    "age 1 h, RSR flag, link not yet bound to relay": (LATE, replace(asked(0), linked_to=None), 1, Refusal.UNASKED),
    "noiseEncrypted age 1 h, no RSR": (said(NOISE, age_s=3600), BENS, 1, Refusal.TIMESTAMP),
    "noiseEncrypted age 1 h, RSR flag, phone asked this relay": (
        said(NOISE, age_s=3600, answers=True),
        asked(0),
        1,
        None,
    ),
    "announce (after ingress gate) age 899 s": (said(ANNOUNCE, age_s=899, answers=True), asked(0), 1, None),
    "announce (after ingress gate) age 901 s": (
        said(ANNOUNCE, age_s=901, answers=True),
        asked(0),
        1,
        Refusal.TOO_OLD,
    ),
    "public message (after ingress gate) age 21599 s": (said(age_s=21_599, answers=True), asked(0), 1, None),
    "public message (after ingress gate) age 21601 s": (
        said(age_s=21_601, answers=True),
        asked(0),
        1,
        Refusal.TOO_OLD,
    ),
    "phone's own live message echoed ttl 5": (said(sender=BEN), BENS, 1, Refusal.OWN),
    "phone's own old message back as RSR ttl 0": (said(sender=BEN, age_s=3600, answers=True), asked(0), 1, None),
    "REQUEST_SYNC claiming ana over link bound to relay": (
        said(PacketType.REQUEST_SYNC, ttl=0),
        BENS,
        1,
        Refusal.SENDER,
    ),
    "live message in fragments": (said(), BENS, 3, None),
    "late (1 h) message in fragments, inner without RSR": (said(age_s=3600), BENS, 3, Refusal.LATE_IN_PIECES),
}
ANDROID_CASES = {
    "announce, receiver's clock 0 s after its timestamp": (said(ANNOUNCE), BENS, 1, None),
    "announce, receiver's clock 599 s after its timestamp": (said(ANNOUNCE, age_s=599), BENS, 1, None),
    "announce, receiver's clock -599 s after its timestamp": (said(ANNOUNCE, age_s=-599), BENS, 1, None),
    "fragment set of 256": (said(), BENS, 256, None),
}
#: Verdicts about what phones themselves send, or store: where the rest of our tests is that shows what we do.
ELSEWHERE = {
    "RSR flag after Android re-encodes the packet": "test_vectors.py",
    "signature of a packet with RSR flag": "test_vectors.py",
    "iOS REQUEST_SYNC with types, cursor": "test_vectors.py",
    "courier envelope (type 4) is known to Android": "test_rules.py",
    "Android answers an empty REQUEST_SYNC with (type, ttl, rsr, age)": "test_mesh.py",
    "Android store: announce of 181 s": "test_mesh.py",
    "announce of ana ttl 7 over link bound to relay": "test_rules.py: it would take the link, so we send none",
    "iOS answers an empty REQUEST_SYNC with (type, ttl, rsr)": "test_mesh.py",
    "iOS store: 2 h old message of a sender without any announce": "test_mesh.py",
    "iOS store: messages of ana while her announce is fresh": "test_mesh.py",
    "late (1 h) message in fragments, inner with RSR, phone asked the original sender": "we send no late pieces",
    "notifications: one 986-byte packet in 509-byte pieces": "the process cuts notifications",
    "writes: same packet as one long write (prepare/execute, offsets)": "the process writes",
    "relay of broadcast ttl 1, degree 1": "test_mesh.py",
    "relay of broadcast ttl 2, degree 4": "test_mesh.py",
    "relay of broadcast ttl 7, degree 1": "test_mesh.py",
    "relay of broadcast ttl 7, degree 4": "test_mesh.py",
    "relay of broadcast ttl 12, degree 1": "test_mesh.py",
    "relay of REQUEST_SYNC ttl 5": "test_mesh.py",
    "relay of unknown type 0x7e ttl 7": "test_mesh.py",
}


def test_every_verdict_of_the_apps_has_its_case():
    assert DECISIONS.keys() == IPHONE_CASES.keys() | ANDROID_CASES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize(
    ("rules", "name", "case"),
    [
        *((IPHONE, name, case) for name, case in IPHONE_CASES.items()),
        *((ANDROID, name, case) for name, case in ANDROID_CASES.items()),
    ],
)
def test_our_rules_decide_as_the_app(rules, name, case):
    packet, phone, pieces, expected = case
    verdict = str(DECISIONS[name])
    assert bool(re.match(r"accepted|taken", verdict)) is (expected is None), verdict
    assert refusal(rules, packet, phone, pieces=pieces) is expected


@pytest.mark.parametrize(
    ("rules", "packet", "phone", "pieces", "reason"),
    [
        (IPHONE, said(ANNOUNCE, ttl=7), BENS, 1, Refusal.TAKES_LINK),
        (IPHONE, LATE, asked(31), 1, Refusal.UNASKED),
        (IPHONE, LATE, asked(0), 2, Refusal.LATE_IN_PIECES),
        (ANDROID, said(ANNOUNCE, age_s=601), BENS, 1, Refusal.TOO_OLD),
        (ANDROID, said(ANNOUNCE, age_s=-601), BENS, 1, Refusal.TIMESTAMP),
        (ANDROID, said(PacketType.LEAVE, age_s=301), BENS, 1, Refusal.TIMESTAMP),
        (ANDROID, said(PacketType.VOICE_FRAME, age_s=-31), BENS, 1, Refusal.TIMESTAMP),
        (ANDROID, said(), BENS, 257, Refusal.PIECES),
        (ANDROID, said(PacketType.COURIER), BENS, 1, Refusal.TYPE),
        (ANDROID, said(age_s=86_400), BENS, 1, None),
        (ANDROID, said(PacketType.LEAVE, age_s=299), BENS, 1, None),
        (ANDROID, LATE, BENS, 1, None),
    ],
)
def test_what_the_facts_say_besides(rules, packet, phone, pieces, reason):
    assert refusal(rules, packet, phone, pieces=pieces) is reason


def test_what_a_phone_that_we_do_not_know_is_sent_both_apps_take():
    assert refusal_of_kind(Kind.UNKNOWN, said(), BENS) is None
    assert refusal_of_kind(Kind.UNKNOWN, said(PacketType.COURIER), BENS) is Refusal.TYPE
    assert refusal_of_kind(Kind.UNKNOWN, said(age_s=200), BENS) is Refusal.TIMESTAMP
    assert refusal_of_kind(Kind.ANDROID, said(age_s=200), BENS) is None
    assert refusal_of_kind(Kind.IPHONE, said(PacketType.COURIER), BENS) is None


@given(
    st.sampled_from(list(PacketType)),
    st.floats(-30_000, 30_000),
    st.booleans(),
    st.one_of(st.none(), st.floats(0, 60)),
    st.integers(1, 300),
    st.sampled_from([Kind.ANDROID, Kind.IPHONE]),
    st.integers(-MARGIN_MS // 2, MARGIN_MS // 2),
)
def test_what_we_would_send_is_taken_also_where_clock_and_way_are_some_seconds_off(
    kind, age_s, answers, asked_s, pieces, phone_kind, off_ms
):
    packet = said(kind, age_s=age_s, answers=answers)
    phone = replace(BENS, asked_s=asked_s)
    rules = {Kind.ANDROID: ANDROID, Kind.IPHONE: IPHONE}[phone_kind]
    for ours in (phone_kind, Kind.UNKNOWN):
        if refusal_of_kind(ours, packet, phone, pieces=pieces) is None:
            there = replace(phone, time_ms=phone.time_ms + off_ms, asked_s=None if asked_s is None else asked_s + 2)
            assert refusal(rules, packet, there, pieces=pieces) is None


def test_memory_lasts_as_long_as_somebody_takes_what_is_in_it():
    assert max(IPHONE.announce_age_ms, ANDROID.announce_age_ms) == ANNOUNCE_LIFE_S * 1000
    assert IPHONE.message_age_ms == MESSAGE_LIFE_S * 1000
