# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters: taken from whom, kept as what, found by whom, handed over when; and phones that give and get them."""

from dataclasses import replace

import pytest

from relay.bitchat.announce import Announce
from relay.bitchat.courier import DAY_MS, MAX_CIPHERTEXT_BYTES, Letter, recipient_tag
from relay.bitchat.couriers import (
    AGAIN_S,
    MAX_READ,
    MAX_UNREAD_OF_LINK,
    Couriers,
    Outcome,
    expiry_hour,
    name_of,
    to_envelopes,
)
from relay.bitchat.fragments import split
from relay.bitchat.limits import LETTERS_OF_PHONE
from relay.bitchat.mesh import KeepLetter, LookFor
from relay.bitchat.packet import PacketType
from relay.client import seal
from relay.core.envelope import SIZES, decode_header, envelope_id, price_paid
from relay.core.named import unwrap, wrap
from tests.unit.bitchat.phones import Android, Iphone
from tests.unit.bitchat.test_mesh import WALL_MS, phones, town
from tests.unit.bitchat.vectors import VECTORS, secret

HOUR_MS = 3_600_000
ANA_KEY = secret("ana", "noise_static_public")
ANA = secret("ana", "peer_id")


def letter(text=b"sealed", *, key=ANA_KEY, hours=24.0, at_ms=WALL_MS, copies=4):
    return Letter(
        tag=recipient_tag(key, at_ms // DAY_MS),
        expiry_ms=at_ms + int(hours * HOUR_MS),
        ciphertext=text,
        copies=copies,
    )


def take(couriers, given, *, time_ms=WALL_MS, now=0.0, depositor=b"ben", link=1):
    payload = given if isinstance(given, bytes) else given.encode()
    return couriers.take(payload, depositor=depositor, link=link, time_ms=time_ms, now=now)


def test_the_letter_of_the_vectors_is_taken_without_its_copies_and_handed_over_as_it_is_then():
    couriers = Couriers(0.0)
    outcome, kept = take(couriers, bytes.fromhex(VECTORS["ios"]["courier"]["payload"]))
    assert outcome is Outcome.TAKEN
    assert kept.copies == 1
    names = couriers.heard(ANA, ANA_KEY, WALL_MS, link=1, now=1.0)
    [envelope] = to_envelopes(kept)
    [name] = [name for name in names if name.bucket == decode_header(envelope).bucket and unwrap(envelope, name)]
    assert name == name_of(kept.tag)
    [handover] = couriers.found(envelope, time_ms=WALL_MS, now=2.0)
    assert (handover.recipient, handover.letter) == (ANA, kept)


def test_all_copies_of_a_letter_whoever_had_them_are_the_same_envelopes():
    envelopes = {to_envelopes(letter(copies=copies)) for copies in (1, 2, 4, 8)}
    assert len(envelopes) == 1
    assert to_envelopes(letter(b"other")) not in envelopes


@pytest.mark.parametrize("size", [1, 100, 900, 4000, 16_000, MAX_CIPHERTEXT_BYTES])
def test_envelopes_look_like_all_others_and_say_nothing_of_the_letter(size):
    kept = letter(bytes(size))
    whole = b"".join(to_envelopes(kept))
    assert kept.tag not in whole
    assert bytes(40) not in whole
    for envelope in to_envelopes(kept):
        header = decode_header(envelope)
        assert len(envelope) in SIZES
        assert header.expiry_hour % 6 == 0
        assert price_paid(envelope_id(envelope), header.size_class) >= 8
    assert 8 in seal.PRICE_LADDER


def test_the_longest_letter_is_two_envelopes_and_comes_back_in_any_order():
    kept = letter(bytes(range(256)) * 64).to_deliver()
    envelopes = to_envelopes(kept)
    assert len(envelopes) == 2
    for order in (envelopes, envelopes[::-1]):
        couriers = Couriers(0.0)
        couriers.heard(ANA, ANA_KEY, WALL_MS, link=1, now=0.0)
        assert couriers.found(order[0], time_ms=WALL_MS, now=1.0) == []
        assert couriers.found(order[0], time_ms=WALL_MS, now=1.0) == []
        [handover] = couriers.found(order[1], time_ms=WALL_MS, now=1.0)
        assert handover.letter == kept


def test_copies_end_with_the_letter():
    kept = letter()
    assert kept.expiry_ms - 6 * HOUR_MS < expiry_hour(kept) * HOUR_MS <= kept.expiry_ms
    couriers = Couriers(0.0)
    couriers.heard(ANA, ANA_KEY, WALL_MS, link=1, now=0.0)
    [envelope] = to_envelopes(kept)
    assert couriers.found(envelope, time_ms=kept.expiry_ms, now=1.0) == []
    assert len(couriers.found(envelope, time_ms=kept.expiry_ms - 1, now=1.0)) == 1


@pytest.mark.parametrize(
    ("given", "time_ms", "outcome"),
    [
        (letter(), WALL_MS, Outcome.TAKEN),
        (letter(hours=25), WALL_MS, Outcome.TAKEN),
        (letter(hours=25.1), WALL_MS, Outcome.LIFETIME),
        (replace(letter(), expiry_ms=2**64 - 1), WALL_MS, Outcome.LIFETIME),
        (letter(hours=0), WALL_MS, Outcome.EXPIRED),
        (letter(), None, Outcome.NO_CLOCK),
        (b"junk", WALL_MS, Outcome.MALFORMED),
    ],
)
def test_what_is_taken(given, time_ms, outcome):
    assert take(Couriers(0.0), given, time_ms=time_ms)[0] is outcome


def test_a_letter_that_ends_too_soon_for_an_envelope_is_kept_by_this_relay_alone():
    couriers, at_ms = Couriers(0.0), WALL_MS - WALL_MS % (6 * HOUR_MS)
    brief = letter(hours=5, at_ms=at_ms)
    assert take(couriers, brief, time_ms=at_ms) == (Outcome.BRIEF, None)
    couriers.heard(ANA, ANA_KEY, at_ms, link=1, now=1.0)
    [handover] = couriers.waiting(ANA, time_ms=at_ms, now=1.0)
    assert handover.letter == brief.to_deliver()
    assert couriers.waiting(ANA, time_ms=at_ms, now=2.0) == []
    assert couriers.waiting(ANA, time_ms=at_ms + 5 * HOUR_MS, now=2 + AGAIN_S) == []


def test_one_phone_gives_so_many_and_the_same_letter_counts_once():
    couriers = Couriers(0.0)
    assert take(couriers, letter())[0] is Outcome.TAKEN
    for copies in (1, 2, 4):
        assert take(couriers, letter(copies=copies), depositor=b"cleo")[0] is Outcome.KNOWN
    outcomes = [take(couriers, letter(b"%d" % number))[0] for number in range(100)]
    assert outcomes.count(Outcome.TAKEN) == LETTERS_OF_PHONE.burst - 1
    assert set(outcomes) == {Outcome.TAKEN, Outcome.LIMIT}
    # Under another name it is the same phone, and by another link the same name.
    assert take(couriers, letter(b"mine"), depositor=b"dora")[0] is Outcome.LIMIT
    assert take(couriers, letter(b"mine"), link=2)[0] is Outcome.LIMIT
    assert take(couriers, letter(b"mine"), depositor=b"dora", link=3)[0] is Outcome.TAKEN
    many = [take(couriers, letter(b"x%d" % n), depositor=b"%d" % n, link=n)[0] for n in range(4, 500)]
    assert many.count(Outcome.TAKEN) < 60


def test_it_is_found_by_who_knows_the_public_key_and_by_nobody_else_and_not_twice_in_a_row():
    [envelope] = to_envelopes(letter())
    couriers = Couriers(0.0)
    couriers.heard(b"ben", secret("ben", "noise_static_public"), WALL_MS, link=1, now=0.0)
    assert couriers.found(envelope, time_ms=WALL_MS, now=1.0) == []
    couriers.heard(ANA, ANA_KEY, WALL_MS + DAY_MS, link=1, now=1.0)
    assert len(couriers.found(envelope, time_ms=WALL_MS, now=1.0)) == 1
    assert couriers.found(envelope, time_ms=WALL_MS, now=2.0) == []
    couriers.expire(AGAIN_S + 2)
    assert couriers.heard(ANA, ANA_KEY, WALL_MS, link=1, now=AGAIN_S + 2)
    assert len(couriers.found(envelope, time_ms=WALL_MS, now=AGAIN_S + 3)) == 1


def test_junk_under_a_name_that_its_maker_knows_is_bounded_and_hides_no_letter():
    couriers, kept = Couriers(0.0), letter().to_deliver()
    couriers.heard(ANA, ANA_KEY, WALL_MS, link=1, now=0.0)
    name = name_of(kept.tag)
    for number in range(40):
        junk = wrap(number.to_bytes(2, "big") + bytes(17_000), name, expiry_hour=9, price=0)[0]
        assert couriers.found(junk, time_ms=WALL_MS, now=1.0) == []
    assert couriers.found(wrap(b"no letter", name, expiry_hour=9, price=0)[0], time_ms=WALL_MS, now=1.0) == []
    other = letter(key=b"o" * 32).to_deliver().encode()
    assert couriers.found(wrap(other, name, expiry_hour=9, price=0)[0], time_ms=WALL_MS, now=1.0) == []
    assert couriers._parts.held_bytes <= 1 << 20
    [envelope] = to_envelopes(kept)
    assert len(couriers.found(envelope, time_ms=WALL_MS, now=1.0)) == 1


def test_who_makes_up_identities_waits_for_himself_until_the_store_is_read_for_them():
    couriers = Couriers(0.0)
    for number in range(400):
        couriers.heard(b"%08d" % number, number.to_bytes(32, "big"), WALL_MS, link=1, now=0.0)
    ana = set(couriers.heard(ANA, ANA_KEY, WALL_MS, link=2, now=1.0))
    read = couriers.take_unread()
    assert ana <= read
    buckets = [{name.bucket for name in read}]
    while more := couriers.take_unread():
        buckets.append({name.bucket for name in more})
    assert all(len(one) <= MAX_READ for one in buckets)
    # Whoever is in the same bucket is read for with it, so that nothing is read twice.
    assert sorted(bucket for one in buckets for bucket in one) == list(range(32))
    # She is known for a while, and a new one is looked for in his own buckets alone.
    assert couriers.heard(ANA, ANA_KEY, WALL_MS + 1, link=2, now=2.0) == ()
    new = couriers.heard(b"new", bytes(32), WALL_MS, link=1, now=3.0)
    assert {name.bucket for name in couriers.take_unread()} == {name.bucket for name in new}
    assert couriers.take_unread() == frozenset()


def test_names_that_wait_to_be_read_for_are_bounded():
    couriers = Couriers(0.0)
    for number in range(900):
        couriers.heard(b"%08d" % number, number.to_bytes(32, "big"), WALL_MS, link=number % 2, now=0.0)
    assert [len(names) for names in couriers._unread.values()] == [MAX_UNREAD_OF_LINK] * 2
    for link in range(2):
        couriers.close_link(link)
    assert [len(names) for names in couriers._unread.values()] == [MAX_UNREAD_OF_LINK]


def test_who_goes_and_comes_back_before_the_store_was_read_for_him_is_looked_for():
    couriers = Couriers(0.0)
    ana = set(couriers.heard(ANA, ANA_KEY, WALL_MS, link=2, now=1.0))
    couriers.close_link(2)
    assert couriers.heard(ANA, ANA_KEY, WALL_MS + 1, link=3, now=2.0) == ()
    assert couriers.take_unread() == ana
    assert couriers.take_unread() == frozenset()


# With phones


def test_a_letter_given_at_one_island_is_handed_over_at_another_six_hours_later():
    """The store between the two relays is this test: it keeps envelopes, and shows those in the buckets asked for."""
    streets, (ben,) = town(2), phones("i-ben")
    ana = Iphone("i-ana", WALL_MS)
    streets.join(0, ben)
    streets.run(1)
    given = letter(b"for you alone", key=ana.identity.noise.public)
    streets.send(
        ben,
        ben.identity.sign(
            ben.packet(PacketType.COURIER, given.encode(), streets.now, recipient=streets.meshes[0].identity.peer_id)
        ),
    )
    streets.run(1)
    [kept] = [event.letter for event in streets.happened[0] if isinstance(event, KeepLetter)]
    store = to_envelopes(kept)
    streets.part(ben)
    streets.run(6 * 3600)
    streets.join(1, ana)
    streets.run(1)
    [asked] = [event for event in streets.happened[1] if isinstance(event, LookFor)]
    buckets = {name.bucket for name in asked.names}
    for envelope in store:
        assert decode_header(envelope).bucket in buckets
        streets.meshes[1].found(envelope, streets.now)
    streets.run(1)
    assert ana.letters == []
    streets.send(ana, ana.sync(streets.now))
    streets.run(1)
    assert ana.letters == [given.to_deliver()]
    [packet] = [packet for packet in ana.accepted if packet.type == PacketType.COURIER]
    assert packet.recipient == ana.id
    assert packet.is_signed_by(streets.meshes[1].identity.signing_public)
    streets.nothing_refused()


def read(streets, store, seen=0):
    """The store of the first relay is read each time that it is asked for; return how many times it was so far."""
    times = sum(isinstance(event, LookFor) for event in streets.happened[0])
    for _ in range(times - seen):
        for envelope in store:
            streets.meshes[0].found(envelope, streets.now)
    return times


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("asks_s", [0.5, 60.0])
def test_junk_for_somebody_keeps_no_letter_from_him_wherever_it_is_in_the_store(first, asks_s):
    """Whoever heard him once can make it: he gets it, and waits a second for each, until his letter has its turn."""
    streets, (ana,) = town(1), phones("i-ana")
    key = ana.identity.noise.public
    true = to_envelopes(letter(b"true", key=key))
    junk = [one for n in range(40) for one in to_envelopes(letter(n.to_bytes(2, "big") * 8000, key=key))]
    store = [*true, *junk] if first else [*junk, *true]
    streets.join(0, ana)
    read_times, asked = 0, False
    for second in range(200):
        if second >= asks_s and not asked:
            asked = True
            streets.send(ana, ana.sync(streets.now))
        streets.run(1)
        read_times = read(streets, store, read_times)
    assert letter(b"true", key=key).to_deliver() in ana.letters
    assert len(ana.letters) == len({given.ciphertext for given in ana.letters}) == 41
    # All that was given was given once, and the store is not read any more.
    assert 1 < read_times < 10
    assert streets.meshes[0].counts["any", "lost"] == 0
    streets.nothing_refused()


@pytest.mark.parametrize("replays", [True, False])
def test_who_says_to_be_somebody_takes_no_letter_from_him(replays):
    """By a signing key of his own beside the other's Noise key, or by what that one said before he came here."""
    streets, (ana, eve) = town(1), phones("i-ana", "i-eve")
    [envelope] = to_envelopes(letter(b"true", key=ana.identity.noise.public))
    streets.join(0, eve, announces=False)
    said = Announce(nickname="ana", noise_key=ana.identity.noise.public, signing_key=eve.identity.signing_public)
    false = ana.packet(PacketType.ANNOUNCE, said.encode(), streets.now)
    streets.send(eve, ana.announce(streets.now) if replays else eve.identity.sign(false))
    streets.run(1)
    times = read(streets, [envelope])
    assert times == 1
    streets.run(60)
    streets.join(0, ana)
    streets.send(ana, ana.sync(streets.now))
    streets.run(1)
    read(streets, [envelope], times)
    streets.run(1)
    assert [given.ciphertext for given in ana.letters] == [b"true"]


def test_who_goes_before_he_was_given_his_letter_gets_it_when_he_is_back():
    streets, (ana,) = town(1), phones("i-ana")
    store = to_envelopes(letter(b"true", key=ana.identity.noise.public))
    for _ in range(3):
        streets.join(0, ana)
        streets.run(1)
        times = read(streets, store)
        streets.part(ana)
        streets.run(60)
    streets.join(0, ana)
    streets.run(1)
    assert read(streets, store, times) == times + 1
    streets.send(ana, ana.sync(streets.now))
    streets.run(1)
    assert [given.ciphertext for given in ana.letters] == [b"true"]


def test_an_android_gets_no_letter_which_it_does_not_know():
    streets, ana = town(1), Android("a-ana", WALL_MS)
    streets.join(0, ana)
    streets.run(1)
    [envelope] = to_envelopes(letter(key=ana.identity.noise.public))
    streets.meshes[0].found(envelope, streets.now)
    streets.send(ana, ana.sync(streets.now))
    streets.run(1)
    assert ana.letters == []
    assert streets.meshes[0].counts["courier", "refused_type"] == 1
    streets.nothing_refused()


def test_letters_are_taken_only_from_the_phone_of_the_link_and_with_its_signature():
    streets, (ben, eve) = town(1), phones("i-ben", "i-eve")
    streets.join(0, ben)
    streets.join(0, eve)
    streets.run(1)
    relay = streets.meshes[0].identity.peer_id
    packet = ben.packet(PacketType.COURIER, letter().encode(), streets.now, recipient=relay)
    streets.send(eve, ben.identity.sign(packet))
    unsigned = ben.packet(PacketType.COURIER, letter(b"other").encode(), streets.now, recipient=relay)
    streets.send(ben, unsigned)
    streets.run(1)
    assert not [event for event in streets.happened[0] if isinstance(event, KeepLetter)]
    assert streets.meshes[0].counts["courier", "forged"] == 2
    # That another gave it first does not keep his own from being taken.
    streets.send(ben, ben.identity.sign(packet))
    streets.run(1)
    assert len([event for event in streets.happened[0] if isinstance(event, KeepLetter)]) == 1


def test_a_letter_in_pieces_is_taken_too():
    streets, (ben,) = town(1), phones("i-ben")
    streets.join(0, ben)
    streets.run(1)
    relay = streets.meshes[0].identity.peer_id
    given = letter(bytes(5000))
    packet = ben.identity.sign(ben.packet(PacketType.COURIER, given.encode(), streets.now, recipient=relay))
    for piece in split(packet, 512):
        streets.send(ben, piece)
    streets.run(1)
    [event] = [event for event in streets.happened[0] if isinstance(event, KeepLetter)]
    assert event.letter == given.to_deliver()
