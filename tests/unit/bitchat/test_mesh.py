# SPDX-License-Identifier: GPL-2.0-or-later
"""Relays among phones of both apps, in time that passes as the test says: what is passed on, answered and refused."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from relay.bitchat.announce import Announce, Identity
from relay.bitchat.fragments import split
from relay.bitchat.live import to_datagram
from relay.bitchat.mesh import FRESH_MS, MAX_PENDING, OWN_OFF_MS, Mesh, ToRelays
from relay.bitchat.outbox import MAX_WAITING_BYTES
from relay.bitchat.packet import PacketType, decode_packet, make_packet
from relay.bitchat.rules import Kind
from tests.unit.bitchat.phones import Android, Iphone, Town, handshake

WALL_MS = 1_780_000_000_000


def mesh(number=0, *, clock=True, **other):
    random = Random(number)
    made = Mesh(
        Identity.generate(random.randbytes),
        now=0.0,
        earliest_ms=WALL_MS - 10**9,
        draw=random.random,
        random_bytes=random.randbytes,
        **other,
    )
    if clock:
        made.clock.trust(WALL_MS, 0.0)
    return made


def town(relays=2, *, clock=True, **other):
    return Town([mesh(number, clock=clock, **other) for number in range(relays)])


def phones(*names):
    return [(Iphone if name[0] == "i" else Android)(name, WALL_MS) for name in names]


# Islands


def test_people_of_two_islands_see_and_hear_each_other():
    streets = town()
    everybody = phones("i-ana", "a-ben", "i-cleo", "a-dora")
    for at, phone in zip((0, 0, 1, 1), everybody, strict=True):
        streets.join(at, phone)
    streets.run(1)
    for phone in everybody:
        assert {other.id for other in everybody if other is not phone} < phone.keys.keys(), phone.name
        streets.send(phone, phone.say(f"{phone.name} is here", streets.now))
    streets.run(2)
    for phone in everybody:
        assert sorted(phone.shown) == sorted(f"{other.name} is here" for other in everybody if other is not phone)
    streets.nothing_refused()


def test_ttl_is_lowered_once_for_all_relays_together_and_an_announce_never_leaves_with_that_of_its_origin():
    streets, (ana, ben, cleo) = town(3), phones("i-ana", "i-ben", "a-cleo")
    for at, phone in enumerate((ana, ben, cleo)):
        streets.join(at, phone)
    streets.run(1)
    streets.send(ana, ana.say("far", streets.now, ttl=4))
    streets.run(1)
    for phone in (ben, cleo):
        [message] = [packet for packet in phone.accepted if packet.type == PacketType.MESSAGE]
        assert message.ttl == 3
        announces = [packet for packet in phone.accepted if packet.type == PacketType.ANNOUNCE]
        assert {packet.ttl for packet in announces if packet.sender == ana.id} == {6}
        assert phone.linked_to == streets.meshes[streets.where(phone)[0]].identity.peer_id
    streets.nothing_refused()


@pytest.mark.parametrize(("ttl", "leaves"), [(1, None), (2, 1), (7, 6), (12, 6), (255, 6)])
def test_a_broadcast_leaves_with_one_less_but_at_most_six(ttl, leaves):
    """As the apps' own: "relay of broadcast ttl 1: does not relay", 2 as 1, 7 and 12 as 6."""
    streets, (ana, ben) = town(1), phones("i-ana", "i-ben")
    streets.join(0, ana)
    streets.join(0, ben)
    streets.run(1)
    streets.send(ana, ana.say("hello", streets.now, ttl=ttl))
    streets.run(1)
    came = [packet.ttl for packet in ben.accepted if packet.type == PacketType.MESSAGE]
    assert came == ([] if leaves is None else [leaves])


def test_a_live_packet_of_another_relay_never_takes_the_place_of_a_link_whatever_its_ttl():
    streets, (ana, ben) = town(1), phones("i-ana", "i-ben")
    streets.join(0, ben)
    streets.run(1)
    streets.meshes[0].receive_live(ana.announce(streets.now), streets.now)
    streets.run(1)
    assert ana.id in ben.keys
    assert ben.linked_to == streets.meshes[0].identity.peer_id
    streets.nothing_refused()


def test_what_a_phone_passes_on_during_the_wait_is_not_sent_to_it():
    streets, (ana, ben, cleo) = town(2), phones("i-ana", "i-ben", "i-cleo")
    streets.join(0, ana)
    streets.join(1, ben)
    streets.join(1, cleo)
    streets.run(1)
    message = ana.say("twice?", streets.now)
    streets.send(ana, message)
    streets.run(0.11)
    assert not ben.shown
    streets.send(ben, message.with_ttl(5))
    streets.run(2)
    assert ben.shown == []
    assert cleo.shown == ["twice?"]
    assert streets.meshes[1].counts["message", "heard_there"] == 1
    streets.nothing_refused()


def test_of_two_relays_of_one_island_one_sends_to_the_others_and_a_phone_gets_it_once_from_each_link():
    streets, (ana, cleo) = town(3), phones("i-ana", "i-cleo")
    streets.delay_s = 0.005
    streets.join(0, ana)
    streets.join(2, cleo)
    bridge = phones("i-bridge")[0]
    streets.join(1, bridge)
    streets.run(1)
    message = ana.say("once", streets.now)
    streets.send(ana, message)
    # The live packet of the first relay arrives before the second has its turn to send what a phone passed on to it.
    streets.send(bridge, message.with_ttl(6))
    streets.meshes[1].receive_live(message.with_ttl(6).encode(), streets.now)
    streets.run(2)
    assert [mesh_.counts["message", "to_relays"] for mesh_ in streets.meshes] == [1, 0, 0]
    assert streets.meshes[1].counts["message", "heard_there"] == 1
    assert cleo.shown == ["once"]


@pytest.mark.parametrize("size", [0, 16_000, 16_384, 60_000, 65_535])
def test_what_no_live_datagram_holds_stays_on_its_island(size):
    """No phone writes more than 512 bytes; if one did, handing it over would end the process."""
    streets, (ana, ben, cleo) = town(2), phones("i-ana", "i-ben", "i-cleo")
    for at, phone in ((0, ana), (0, ben), (1, cleo)):
        streets.join(at, phone)
    streets.run(1)
    streets.send(ben, ben.sync(streets.now))
    streets.send(ana, ana.say("x" * size, streets.now))
    streets.run(30)
    assert all(to_datagram(event.data).encode() for event in streets.happened[0] if isinstance(event, ToRelays))
    assert streets.meshes[0].counts["message", "too_long"] == (size > 16_000)
    assert len(cleo.shown) == (size <= 16_000)
    streets.nothing_refused()


def test_request_sync_goes_nowhere_and_unknown_types_pass():
    streets, (ana, ben) = town(2), phones("i-ana", "i-ben")
    streets.join(0, ana)
    streets.join(1, ben)
    streets.run(1)
    streets.send(ana, ana.packet(PacketType.REQUEST_SYNC, b"x", streets.now, ttl=5))
    streets.send(ana, ana.packet(0x7E, b"from the future", streets.now))
    streets.send(
        ana,
        ana.packet(PacketType.NOISE_ENCRYPTED, bytes(40), streets.now, recipient=ben.id, version=2, route=(b"r" * 8,)),
    )
    streets.run(1)
    kinds = [packet.type for packet in ben.accepted if packet.sender == ana.id]
    assert kinds == [PacketType.ANNOUNCE, PacketType.NOISE_ENCRYPTED, 0x7E]
    [routed] = [packet for packet in ben.accepted if packet.route]
    assert routed.route == (b"r" * 8,)
    streets.nothing_refused()


def test_a_conversation_of_two_goes_through_untouched():
    streets, (ana, ben) = town(2), phones("i-ana", "a-ben")
    streets.join(0, ana)
    streets.join(1, ben)
    streets.run(1)
    sent = ana.packet(PacketType.NOISE_HANDSHAKE, bytes(range(32)), streets.now, recipient=ben.id)
    streets.send(ana, sent)
    streets.run(1)
    [came] = [packet for packet in ben.accepted if packet.type == PacketType.NOISE_HANDSHAKE]
    assert came == sent.with_ttl(6)


@pytest.mark.parametrize("seed", range(8))
def test_what_two_say_to_each_other_arrives_in_its_order_so_that_no_message_overtakes_its_handshake(seed):
    streets, (ana, ben) = Town([mesh(10 * seed), mesh(10 * seed + 1)]), phones("i-ana", "a-ben")
    streets.join(0, ana)
    streets.join(1, ben)
    streets.run(1)
    texts = [f"{number}" for number in range(10)]
    for text in texts:
        ana.tell(ben.id, text, streets.now)
    streets.run(3)
    assert ben.private == [(ana.id, text) for text in texts]


def test_relays_do_not_announce_each_other_to_other_islands():
    streets, (ana, ben) = town(2), phones("i-ana", "i-ben")
    streets.join(0, ana)
    streets.join(1, ben)
    relay = streets.meshes[0].identity
    streets.send(ana, relay.announce("relay", WALL_MS, is_relay=True).with_ttl(6))
    other = Identity.from_seeds(b"o" * 32, b"o" * 32)
    streets.send(ana, other.announce("relay", WALL_MS, is_relay=True).with_ttl(6))
    streets.run(1)
    assert other.peer_id not in ben.keys
    assert ana.id in ben.keys
    assert streets.meshes[0].counts["announce", "relay"] == 1
    assert streets.meshes[0].counts["announce", "own"] == 1


def test_our_announce_says_no_more_than_it_has_to():
    streets, (ana,) = town(1), phones("i-ana")
    streets.join(0, ana)
    streets.run(1)
    [packet] = [packet for packet in ana.accepted if packet.type == PacketType.ANNOUNCE]
    identity = streets.meshes[0].identity
    assert (
        packet.payload
        == Announce(
            nickname="relay", noise_key=identity.noise.public, signing_key=identity.signing_public, is_relay=True
        ).encode()
    )
    assert mesh(1).identity.peer_id != mesh(2).identity.peer_id
    with pytest.raises(ValueError, match="one identity become the other"):
        streets.meshes[0].change_identity(mesh(3).identity)


def test_how_far_the_clock_is_off_joins_no_identity_to_the_next():
    streets, (ana,) = town(1), phones("i-ana")
    mesh_, off_ms = streets.meshes[0], []
    for number in range(40):
        mesh_.change_identity(Identity.generate(Random(number).randbytes))
        streets.join(0, ana)
        streets.run(40, announcing=[ana], every=15)
        own = [packet for packet in ana.accepted if packet.sender == mesh_.identity.peer_id]
        said = [packet.timestamp_ms - WALL_MS for packet in own]
        assert len(said) >= 2
        # Of one identity the times follow each other as the announces do, and not one is out of step.
        assert said == sorted(said)
        off_ms.append(said[0] - 1000 * number * 40)
        ana.accepted.clear()
        streets.part(ana)
    assert len(set(off_ms)) > 30
    assert max(off_ms) - min(off_ms) > OWN_OFF_MS
    assert all(abs(off) <= OWN_OFF_MS + 100 for off in off_ms)
    streets.nothing_refused()


def test_we_announce_in_the_rhythm_of_the_phones():
    streets, (ana,) = town(1), phones("i-ana")
    streets.join(0, ana)
    streets.run(301, announcing=[ana])
    times = [packet.timestamp_ms for packet in ana.accepted if packet.type == PacketType.ANNOUNCE]
    gaps = [(later - earlier) / 1000 for earlier, later in pairwise(times)]
    assert all(11 <= gap <= 19 for gap in gaps)
    assert len(times) >= 16


# What is checked


def test_forged_unsigned_and_altered_messages_go_nowhere():
    streets, (ana, eve, ben) = town(2), phones("i-ana", "i-eve", "i-ben")
    for at, phone in ((0, ana), (0, eve), (1, ben)):
        streets.join(at, phone)
    streets.run(1)
    plain = ana.packet(PacketType.MESSAGE, b"give me your keys", streets.now)
    streets.send(eve, eve.identity.sign(plain))
    streets.send(eve, plain)
    genuine = ana.say("true", streets.now)
    altered = bytearray(genuine.encode())
    altered[25] ^= 1
    streets.send(eve, bytes(altered))
    streets.run(2)
    assert (ana.shown, ben.shown) == ([], [])
    streets.send(ana, genuine)
    streets.run(2)
    assert ben.shown == ["true"]
    counts = streets.meshes[0].counts
    assert (counts["message", "forged"], counts["message", "unsigned"]) == (2, 1)


def test_a_message_before_its_sender_s_announce_waits_for_it():
    streets, (ana, ben) = town(2), phones("i-ana", "i-ben")
    streets.join(0, ana, announces=False)
    streets.join(1, ben)
    streets.run(0.5)
    streets.send(ana, ana.say("early", streets.now))
    streets.run(1)
    assert ben.shown == []
    streets.send(ana, ana.announce(streets.now))
    streets.run(1)
    assert ben.shown == ["early"]
    assert ben.strangers == []


def test_an_announce_with_another_signing_key_silences_nobody():
    """The Noise key is public, so anybody can announce it beside keys of his own; first, and again and again."""
    streets, (ana, eve, ben) = town(2), phones("i-ana", "i-eve", "a-ben")
    streets.join(0, eve)
    streets.join(1, ben)
    said = 0

    def lie():
        nonlocal said
        for _ in range(30):
            said += 1
            false = Identity.generate(Random(said).randbytes)
            announce = Announce(nickname="ana", noise_key=ana.identity.noise.public, signing_key=false.signing_public)
            packet = ana.packet(PacketType.ANNOUNCE, announce.encode(), streets.now + said / 1000)
            streets.send(eve, false.sign(packet).with_ttl(6))

    lie()
    streets.join(0, ana)
    streets.run(1)
    lie()
    streets.run(1)
    streets.send(ana, ana.say("it is me", streets.now))
    streets.run(1)
    for mesh_ in streets.meshes:
        assert ana.identity.signing_public in mesh_.memory.keys_of(ana.id)
        assert mesh_.memory.messages == 1
    assert len(streets.meshes[0].memory.keys_of(ana.id)) == 4
    assert streets.meshes[0].counts["announce", "keys"] == 57
    # It reached him. Both apps believe the first signing key that they hear of, which may have been a false one.
    reached = [packet.payload for reason, packet in ben.refused if reason == "forged"] + [
        text.encode() for text in ben.shown
    ]
    assert reached == [b"it is me"]
    assert ben.strangers == []
    assert {reason for reason, _ in ben.refused} <= {"forged", "another signing key"}


def test_replays_go_nowhere():
    streets, (ana, eve, ben) = town(2), phones("i-ana", "i-eve", "a-ben")
    for at, phone in ((0, ana), (0, eve), (1, ben)):
        streets.join(at, phone)
    streets.run(1)
    message, announce = ana.say("now", streets.now), ana.announce(streets.now)
    streets.send(ana, announce)
    streets.send(ana, message)
    streets.run(1)
    for later in (10, 700, 2000):
        streets.run(later, announcing=[ana])
        streets.send(eve, eve.announce(streets.now))
        streets.send(eve, message)
        streets.send(eve, announce)
        streets.run(2)
    assert ben.shown == ["now"]
    assert streets.meshes[0].counts["message", "late"] == 1
    [_] = [packet for packet in ben.accepted if packet.sync_id == decode_packet(announce).sync_id]
    streets.nothing_refused()


def test_altering_the_recipient_of_what_nobody_can_check_does_not_stop_the_true_one():
    streets, (ana, eve, ben) = town(2), phones("i-ana", "i-eve", "i-ben")
    for at, phone in ((0, ana), (0, eve), (1, ben)):
        streets.join(at, phone)
    streets.run(1)
    for recipient in (eve.id, ben.id):
        streets.send(eve, ana.packet(PacketType.NOISE_ENCRYPTED, bytes(40), streets.now, recipient=recipient))
    streets.run(1)
    came = [packet for packet in ben.accepted + ben.known if packet.type == PacketType.NOISE_ENCRYPTED]
    # An iPhone takes the true one for known, as it does not look at the recipient; that is its own fault.
    assert [packet.recipient for packet in came] == [eve.id, ben.id]


def test_an_old_message_that_was_recorded_is_neither_passed_on_nor_answered_with():
    """An Android asks no message's age."""
    streets, (ana, eve, ben) = town(1), phones("i-ana", "i-eve", "a-ben")
    for phone in (ana, eve, ben):
        streets.join(0, phone)
    streets.run(1)
    yesterday = ana.say("yesterday " + "".join(chr(33 + n * 7 % 90) for n in range(700)), streets.now - 86_400)
    streets.send(eve, ana.say("last night", streets.now - 43_200))
    for piece in split(yesterday, 512):
        # Pieces carry no signature, so these are as fresh as whoever sends them says.
        streets.send(eve, replace(piece, timestamp_ms=eve.time_ms(streets.now)))
    streets.run(1)
    streets.send(ben, ben.sync(streets.now))
    streets.run(5)
    assert streets.meshes[0].memory.messages == 0
    assert streets.meshes[0].counts["message", "late"] == 2
    assert "last night" not in ben.shown


@pytest.mark.parametrize("clock", [True, False])
def test_a_recorded_goodbye_takes_nobody_away(clock):
    streets, (ana, eve, ben) = town(1, clock=clock), phones("i-ana", "i-eve", "a-ben")
    for phone in (ana, eve, ben):
        streets.join(0, phone)
    streets.run(1)
    for ago_s in (86_400, 300, 2):
        streets.send(eve, ana.identity.sign(ana.packet(PacketType.LEAVE, b"", streets.now - ago_s)))
    assert streets.meshes[0].memory.keys_of(ana.id)
    streets.send(ana, ana.say("I am still here", streets.now))
    streets.run(2)
    assert ben.shown == ["I am still here"]
    counts = streets.meshes[0].counts
    assert counts["leave", "late"] + counts["leave", "old"] == 3
    # Her own, later one is heard.
    streets.send(ana, ana.identity.sign(ana.packet(PacketType.LEAVE, b"", streets.now)))
    assert not streets.meshes[0].memory.keys_of(ana.id)


@pytest.mark.parametrize("what", ["message", "announce", "piece"])
def test_a_copy_that_ends_here_does_not_stop_the_one_that_goes_further(what):
    streets, (ana, eve, ben, cleo) = town(2), phones("i-ana", "i-eve", "i-ben", "a-cleo")
    for at, phone in ((0, ana), (0, eve), (1, ben), (1, cleo)):
        streets.join(at, phone)
    streets.run(1)
    packet = {
        "message": ana.say("further", streets.now),
        "announce": decode_packet(ana.announce(streets.now)),
        "piece": split(ana.say("x" * 600, streets.now), 512)[0],
    }[what]
    counted = {"piece": "fragment"}.get(what, what), "to_relays"
    before = streets.meshes[0].counts[counted]
    streets.send(eve, packet.with_ttl(1))
    streets.run(1)
    if what != "piece":
        streets.send(eve, replace(packet, signature=bytes(64)))
    assert streets.meshes[0].counts[counted] == before
    streets.send(ana, packet)
    for again in range(1, 8):
        streets.send(eve, packet.with_ttl(again))
    streets.run(2)
    assert streets.meshes[0].counts[counted] == before + 1
    if what != "piece":
        assert [one.ttl for one in ben.accepted if one.sync_id == packet.sync_id] == [6]
    streets.nothing_refused()


def test_of_two_copies_the_one_that_goes_further_counts_while_both_wait():
    streets, (ana, eve, ben) = town(1), phones("i-ana", "i-eve", "i-ben")
    for phone in (ana, eve, ben):
        streets.join(0, phone)
    streets.run(1)
    packet = ana.say("further", streets.now)
    streets.send(eve, packet.with_ttl(2))
    streets.send(ana, packet)
    streets.run(1)
    assert [one.ttl for one in ben.accepted if one.type == PacketType.MESSAGE] == [6]


def test_a_phone_whose_announce_was_here_before_it_is_known_by_its_link_all_the_same():
    """Linked to two relays, or to a phone that passes on faster."""
    streets, (ana,) = town(1), phones("i-ana")
    streets.join(0, ana, announces=False)
    announce = decode_packet(ana.announce(streets.now))
    streets.meshes[0].receive_live(announce.with_ttl(6).encode(), streets.now)
    streets.run(1)
    streets.send(ana, announce)
    streets.send(ana, ana.sync(streets.now))
    assert streets.meshes[0].counts["request_sync", "answered"] == 1


def test_nobody_is_taken_for_another_by_saying_again_what_that_one_said():
    streets, (ana, eve, mallory) = town(1), phones("i-ana", "i-eve", "i-mallory")
    streets.join(0, ana)
    streets.join(0, eve)
    streets.join(0, mallory, announces=False)
    announce = decode_packet(ana.announce(streets.now))
    streets.run(1)
    streets.send(ana, announce)
    for phone in (eve, mallory):
        streets.send(phone, announce)
        streets.send(phone, replace(announce, signature=bytes(64)))
    peers = [link.peer for link in streets.meshes[0]._links.values()]
    assert peers == [ana.id, eve.id, None]


def test_leaving_out_a_signature_that_need_not_be_there_does_not_stop_the_true_packet():
    streets, (ana, eve, ben) = town(2), phones("i-ana", "i-eve", "a-ben")
    for at, phone in ((0, ana), (0, eve), (1, ben)):
        streets.join(at, phone)
    streets.run(1)
    post = ana.identity.sign(ana.packet(PacketType.BOARD_POST, b"soup at eight", streets.now))
    for false in (None, bytes(64)):
        streets.send(eve, replace(post, signature=false))
    streets.run(1)
    streets.send(ana, post)
    streets.run(1)
    came = [packet.signature for packet in ben.accepted + ben.known if packet.type == PacketType.BOARD_POST]
    assert post.signature in came
    assert bytes(64) not in came


# Frames


def test_what_exceeds_one_write_goes_in_pieces_to_androids_and_whole_to_iphones():
    streets, (ana, ben, cleo) = town(2), phones("i-ana", "a-ben", "i-cleo")
    streets.join(0, ana)
    streets.join(1, ben)
    streets.join(1, cleo)
    streets.run(1)
    text = "".join(chr(33 + n * 7 % 90) for n in range(1500))
    streets.send(ana, ana.say(text, streets.now))
    streets.run(2)
    assert ben.shown == cleo.shown == [text]
    streets.nothing_refused()


def test_what_came_in_pieces_is_passed_on_in_pieces_and_answered_with_whole():
    streets, (ana, ben) = town(2), phones("a-ana", "i-ben")
    streets.join(0, ana)
    streets.run(1)
    text = "".join(chr(33 + n * 7 % 90) for n in range(1500))
    whole = ana.say(text, streets.now)
    for piece in split(whole, 512):
        streets.send(ana, piece)
    streets.run(3600, announcing=[ana])
    streets.join(1, ben)
    streets.run(1)
    streets.send(ben, ben.sync(streets.now))
    streets.run(2)
    assert ben.shown == [text]
    streets.nothing_refused()


# Those away


def test_a_phone_that_was_away_gets_what_it_may_have_announces_first_and_in_no_hurry():
    streets, (ana, ben, late, away) = town(2), phones("i-ana", "i-ben", "i-late", "a-away")
    streets.join(0, ana)
    streets.join(0, ben)
    streets.run(1)
    for number in range(3):
        streets.send(ana, ana.say(f"ana {number}", streets.now))
        streets.send(ben, ben.say(f"ben {number}", streets.now))
        streets.run(1200, announcing=[ana, ben])
    streets.join(1, late)
    streets.join(1, away)
    streets.run(1)
    for phone in (late, away):
        streets.send(phone, phone.sync(streets.now))
    began, heard = streets.now, []
    for _ in range(40):
        streets.run(0.1)
        heard.append(len([text for text in late.shown if text.startswith("ana")]))
    for phone in (late, away):
        assert sorted(phone.shown) == [f"{who} {number}" for who in ("ana", "ben") for number in range(3)]
        assert phone.strangers == []
    assert heard.index(2) - heard.index(1) >= 9
    assert heard.index(3) - heard.index(2) >= 9
    assert {packet.ttl for packet in late.accepted if packet.type == PacketType.MESSAGE} == {0}
    assert {packet.is_answer for packet in late.accepted if packet.type == PacketType.MESSAGE} == {True}
    assert {packet.is_answer for packet in away.accepted} == {False}
    assert streets.now - began < 30
    streets.nothing_refused()


def test_what_is_older_than_a_phone_takes_is_not_answered_with():
    streets, (ana, late, away) = town(1), phones("i-ana", "i-late", "a-away")
    streets.join(0, ana)
    streets.run(1)
    streets.send(ana, ana.say("old", streets.now))
    streets.run(21_596)
    streets.join(0, late)
    streets.join(0, away)
    streets.run(1)
    streets.send(late, late.sync(streets.now))
    streets.send(away, away.sync(streets.now))
    streets.run(30)
    assert late.shown + late.strangers + away.shown == []
    # Whose announce is over reaches only phones that know the sender; an Android asks nobody's age.
    assert len(away.strangers) == 1
    assert streets.meshes[0].memory.peers == 2
    streets.nothing_refused()


def test_messages_of_somebody_who_has_been_silent_still_reach_phones_that_know_him():
    streets, (ana, late) = town(1), phones("i-ana", "i-late")
    late.keys[ana.id] = ana.identity.signing_public
    streets.join(0, ana)
    streets.run(1)
    streets.send(ana, ana.say("before I left", streets.now))
    streets.run(7200)
    streets.join(0, late)
    streets.run(1)
    streets.send(late, late.sync(streets.now))
    streets.run(5)
    assert late.shown == ["before I left"]
    streets.nothing_refused()


def test_what_a_phone_has_or_did_not_ask_for_is_not_sent():
    streets, (ana, late) = town(1), phones("i-ana", "i-late")
    streets.join(0, ana)
    streets.run(1)
    messages = [ana.say(f"{number}", streets.now + number) for number in range(3)]
    for message in messages:
        streets.send(ana, message)
    streets.run(200, announcing=[ana])
    streets.join(0, late)
    streets.run(1)
    streets.send(late, late.sync(streets.now, types=1))
    streets.run(5)
    assert late.shown == []
    streets.send(late, late.sync(streets.now, since_ms=messages[1].timestamp_ms, have=[messages[1].sync_id]))
    streets.run(5)
    assert late.shown == ["2"]


def test_who_says_that_he_goes_is_announced_no_longer_but_what_he_said_stays():
    streets, (ana, late) = town(1), phones("i-ana", "i-late")
    streets.join(0, ana)
    streets.run(1)
    streets.send(ana, ana.say("bye", streets.now))
    assert streets.meshes[0].memory.keys_of(ana.id)
    streets.send(ana, ana.identity.sign(ana.packet(PacketType.LEAVE, b"", streets.now)))
    streets.run(200)
    streets.join(0, late)
    streets.run(1)
    streets.send(late, late.sync(streets.now))
    streets.run(5)
    assert ana.id not in late.keys
    assert len(late.strangers) == 1
    assert streets.meshes[0].memory.messages == 1


@pytest.mark.parametrize("kind", [Iphone, Android])
def test_requests_are_answered_only_to_who_signs_them_over_the_own_link_and_not_without_end(kind):
    streets, phone, (ana,) = town(1), kind("asks", WALL_MS), phones("i-ana")
    streets.join(0, ana)
    streets.join(0, phone)
    streets.run(1)
    counts = streets.meshes[0].counts
    streets.send(ana, phone.sync(streets.now))
    assert counts["request_sync", "forged"] == 1
    for _ in range(100):
        streets.send(phone, phone.sync(streets.now))
        streets.run(0.05)
    assert counts["request_sync", "answered"] <= 10
    assert counts["request_sync", "limited"] >= 90
    streets.nothing_refused()


# Media


def test_files_and_voice_stay_on_their_island_unless_asked_for():
    for carry, expected in ((False, 0), (True, 4)):
        streets, (ana, near, far) = town(2, carry_media=carry), phones("i-ana", "i-near", "i-far")
        for at, phone in ((0, ana), (0, near), (1, far)):
            streets.join(at, phone)
        streets.run(1)
        media = [ana.packet(PacketType.VOICE_FRAME, b"la", streets.now)]
        media += split(ana.packet(PacketType.FILE_TRANSFER, bytes(1000), streets.now), 512)
        for packet in media:
            streets.send(ana, packet)
        streets.run(2)
        assert len(media) == 4
        # As far as the island they are passed on, at the pace of everything else.
        pieces = [p for p in near.accepted if p.type == PacketType.FILE_TRANSFER] + [
            p for p in near.accepted if p.type == PacketType.VOICE_FRAME
        ]
        assert len(pieces) == 2
        counts = streets.meshes[0].counts
        assert counts["voice_frame", "to_relays"] + counts["fragment", "to_relays"] == expected
        assert counts["voice_frame", "media"] + counts["fragment", "media"] == 4 - expected


# The hostile


def test_more_identities_than_there_is_memory_for_on_one_link_cost_the_others_nothing():
    streets, (ana, eve) = town(1), phones("i-ana", "i-eve")
    streets.join(0, ana)
    streets.join(0, eve)
    streets.run(1)
    streets.send(ana, ana.say("still here", streets.now))
    mesh_ = streets.meshes[0]
    for number in range(1500):
        false = Identity.generate(Random(number).randbytes)
        announce = false.announce("x", WALL_MS + int(1000 * streets.now)).with_ttl(6).encode()
        if number < 400:
            mesh_.receive(2, announce, streets.now)
            streets.now += 0.026
        else:
            mesh_.receive_live(announce, streets.now)
            streets.now += 0.1
    # One link may make so many known; what other relays bring pushes out what other relays brought.
    assert mesh_.counts["announce", "identities"] == pytest.approx(400 - 256 - 52, abs=3)
    assert mesh_.memory.peers == 1000
    assert mesh_.memory.keys_of(ana.id)
    assert mesh_.counts["any", "limited"] == 0
    assert len(mesh_._pending) <= MAX_PENDING


def test_a_flooding_phone_is_limited_and_another_is_not_delayed():
    streets, (ana, eve, ben) = town(1), phones("i-ana", "i-eve", "i-ben")
    for phone in (ana, eve, ben):
        streets.join(0, phone)
    streets.run(1)
    for number in range(2000):
        streets.send(
            eve, eve.packet(PacketType.NOISE_ENCRYPTED, number.to_bytes(40, "big"), streets.now, recipient=b"?" * 8)
        )
    streets.send(ana, ana.say("hear me", streets.now))
    streets.run(5)
    assert ben.shown == ["hear me"]
    assert streets.meshes[0].counts["any", "limited"] >= 1790
    at = next(n for n, packet in enumerate(ben.accepted) if packet.type == PacketType.MESSAGE)
    assert at < len(ben.accepted)


def test_a_phone_that_never_reads_costs_a_bounded_part_of_memory():
    streets, (ana,) = town(1), phones("i-ana")
    streets.join(0, ana)
    streets.run(1)
    mesh_ = streets.meshes[0]
    mesh_.open_link(9, streets.now, frame_bytes=512, can_stream=True)
    for number in range(400):
        streets.send(ana, ana.say(f"{number} " + "x" * 400, streets.now))
        streets.run(0.05)
    assert mesh_._links[9].outbox.held_bytes <= MAX_WAITING_BYTES
    assert mesh_.counts["any", "lost"] > 100
    frames = []
    for _ in range(100):
        streets.now += 0.1
        frames += mesh_.frames_to_send(9, streets.now)
    kinds = [decode_packet(frame).type for frame in frames]
    assert kinds[0] == PacketType.ANNOUNCE
    assert mesh_._links[9].outbox.held_bytes == 0


def test_two_hundred_phones_announce_at_once():
    streets, (ana,) = town(2), phones("i-ana")
    streets.join(1, ana)
    streets.join(0, Iphone("i-ben", WALL_MS))
    streets.run(1)
    for number in range(200):
        phone = Android(f"a-{number}", WALL_MS)
        streets.meshes[0].receive(
            1, phone.identity.announce("x", phone.time_ms(streets.now)).with_ttl(6).encode(), streets.now
        )
        streets.now += 0.005
    streets.run(15)
    assert len(ana.keys) == 202
    streets.nothing_refused()


def test_bytes_of_strangers_on_a_link_and_between_relays_are_counted_and_cost_nothing():
    streets, (ana,) = town(1), phones("i-ana")
    streets.join(0, ana)
    random = Random(3)
    for _ in range(150):
        data = random.randbytes(random.randrange(200))
        streets.meshes[0].receive(1, data, streets.now)
        streets.meshes[0].receive_live(data, streets.now)
        streets.meshes[0].receive(77, data, streets.now)
    assert streets.meshes[0].counts["any", "malformed"] == 300
    assert not [event for event in streets.meshes[0].events() if isinstance(event, ToRelays)]


def test_labels_of_counts_name_nobody():
    streets, (ana, ben) = town(2), phones("i-ana", "a-ben")
    streets.join(0, ana)
    streets.join(1, ben)
    streets.run(1)
    streets.send(ana, ana.say("hello", streets.now))
    streets.send(ana, ana.packet(0x7E, b"x", streets.now))
    streets.run(20)
    kinds = {kind.name.lower() for kind in PacketType} | {"any", "other"}
    for mesh_ in streets.meshes:
        assert {kind for kind, _ in mesh_.counts} <= kinds
        assert all(outcome.replace("_", "").isalpha() for _, outcome in mesh_.counts)
        assert len(mesh_.counts) < 60


# Clocks


def test_without_a_clock_nothing_is_said_until_a_phone_says_what_time_it_is():
    streets, (ana,) = town(1, clock=False), phones("i-ana")
    ana.wall_ms += 3_600_000
    streets.join(0, ana, announces=False)
    streets.run(20)
    assert ana.accepted == []
    streets.send(ana, ana.announce(streets.now))
    streets.run(1)
    [packet] = ana.accepted
    assert abs(packet.timestamp_ms - ana.time_ms(streets.now)) < 2000 + OWN_OFF_MS
    streets.nothing_refused()


def test_phones_of_relays_without_clocks_hear_each_other_and_get_what_they_missed():
    streets = town(2, clock=False)
    ana, ben, late = phones("i-ana", "i-ben", "i-late")
    streets.join(0, ana)
    streets.join(1, ben)
    streets.run(1)
    streets.send(ana, ana.say("live", streets.now))
    streets.run(1800, announcing=[ana, ben])
    assert ben.shown == ["live"]
    streets.join(1, late)
    streets.run(1)
    streets.send(late, late.sync(streets.now))
    streets.run(3)
    assert late.shown == ["live"]
    streets.nothing_refused()


def test_a_liar_about_the_time_does_not_keep_three_others_from_being_served():
    streets = town(1, clock=False)
    honest, eve = phones("i-ana", "i-ben", "i-cleo"), Iphone("i-eve", WALL_MS + 10 * FRESH_MS)
    for phone in (*honest, eve):
        streets.join(0, phone)
    streets.run(60, announcing=[*honest, eve], every=15)
    assert abs(streets.meshes[0].clock.time_ms(streets.now) - honest[0].time_ms(streets.now)) < 1000
    streets.send(honest[0], honest[0].say("hello", streets.now))
    streets.run(1)
    for phone in honest:
        assert phone.refused == []
        assert phone.linked_to == streets.meshes[0].identity.peer_id
    assert [phone.shown for phone in honest[1:]] == [["hello"], ["hello"]]


def test_a_liar_does_not_take_the_place_of_another_s_clock_by_announcing_his_name():
    """Names are of Noise keys, which are public. Two of five would be gone, and three liars were the median."""
    streets = town(1, clock=False)
    honest, liars = phones("i-ana", "i-ben", "i-cleo", "i-dora", "i-emil"), phones("i-eve", "i-mallory", "i-trudy")
    for phone in honest:
        streets.join(0, phone)
    streets.run(1)
    for liar, victim in zip(liars, honest, strict=False):
        streets.join(0, liar, announces=False)
        said = Announce(
            nickname="x", noise_key=victim.identity.noise.public, signing_key=liar.identity.signing_public
        ).encode()
        false = make_packet(
            PacketType.ANNOUNCE, said, sender=victim.id, timestamp_ms=liar.time_ms(streets.now) + 500_000
        )
        streets.send(liar, liar.identity.sign(false))
    streets.run(1)
    assert streets.meshes[0].counts["announce", "sent"] > 0
    assert abs(streets.meshes[0].clock.time_ms(streets.now) - honest[0].time_ms(streets.now)) < 1000


# What is for us


def test_a_handshake_with_the_relay_is_answered():
    streets, (ana,) = town(1), phones("i-ana")
    streets.join(0, ana)
    streets.run(1)
    mesh_ = streets.meshes[0]
    session, first = handshake(ana, mesh_.identity.peer_id, streets.now)
    streets.send(ana, first)
    streets.run(0.1)
    [answer] = [packet for packet in ana.accepted if packet.type == PacketType.NOISE_HANDSHAKE]
    third = session.receive_handshake(answer.payload)
    streets.send(ana, ana.packet(PacketType.NOISE_HANDSHAKE, third, streets.now, recipient=mesh_.identity.peer_id))
    assert session.is_open
    assert session.remote_static == mesh_.identity.noise.public
    assert mesh_._links[1].session.is_open
    for _ in range(50):
        _, again = handshake(ana, mesh_.identity.peer_id, streets.now)
        streets.now += 0.001
        streets.send(
            ana,
            make_packet(
                again.type,
                again.payload,
                sender=ana.id,
                recipient=again.recipient,
                timestamp_ms=ana.time_ms(streets.now),
            ),
        )
    assert mesh_.counts["noise_handshake", "limited"] >= 40
    assert not [event for event in streets.happened[0] if getattr(event, "data", b"")[1:2] == b"\x10"]


def test_an_unknown_phone_shows_its_app_by_what_it_asks():
    streets, (ana, ben) = town(1), phones("i-ana", "a-ben")
    streets.join(0, ana)
    streets.join(0, ben)
    streets.run(1)
    assert [link.kind for link in streets.meshes[0]._links.values()] == [Kind.UNKNOWN] * 2
    streets.send(ana, ana.sync(streets.now))
    streets.send(ben, ben.sync(streets.now))
    assert [link.kind for link in streets.meshes[0]._links.values()] == [Kind.IPHONE, Kind.ANDROID]
