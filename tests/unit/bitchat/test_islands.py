# SPDX-License-Identifier: GPL-2.0-or-later
"""Islands of phones of both kinds, that behave as their apps do, and relays: nothing is sent that a phone refuses."""

import re
from random import Random

import pytest

from relay.bitchat.announce import Identity
from relay.bitchat.mesh import Mesh
from relay.bitchat.packet import PacketType, decode_packet
from tests.unit.bitchat.phones import Android, Iphone, Town
from tests.unit.bitchat.vectors import DECISIONS

WALL_MS = 1_780_000_000_000
#: Of a phone's clock; two phones may be twice as far from each other, and iPhones take 120 s.
OFF_MS = 25_000
ISLANDS = 3
PHONES = 8
STEPS = 60


class Days:
    """Phones that come, talk, walk and go, at relays of which only the first has a clock."""

    def __init__(self, seed):
        self.random = random = Random(seed)
        meshes = []
        for number in range(ISLANDS):
            made = Random(1000 * seed + number)
            mesh = Mesh(
                Identity.generate(made.randbytes),
                now=0.0,
                earliest_ms=WALL_MS - 10**9,
                draw=made.random,
                random_bytes=made.randbytes,
            )
            if number == 0:
                mesh.clock.trust(WALL_MS, 0.0)
            meshes.append(mesh)
        self.town = Town(meshes)
        self.phones = [
            (Iphone if number % 2 else Android)(f"p{number}", WALL_MS + random.randrange(-OFF_MS, OFF_MS), acts=True)
            for number in range(PHONES)
        ]
        self.island = {}
        self.said = {phone.name: [] for phone in self.phones}

    def run(self):
        for phone in self.phones:
            self.come(phone, self.random.randrange(ISLANDS))
        for number in range(STEPS):
            self.town.run(self.random.choice((0.3, 2, 7, 25)))
            self.something(number)
        self.town.run(60)

    def come(self, phone, island):
        for other in self.phones:
            if self.island.get(other.name) == island and self.random.random() < 0.4:
                self.town.pair(phone, other)
        self.island[phone.name] = island
        self.town.join(island, phone)

    def go(self, phone):
        self.town.part(phone)
        for other in self.phones:
            self.town.unpair(phone, other)
        return self.island.pop(phone.name)

    def something(self, number):
        phone = self.random.choice(self.phones)
        town, now = self.town, self.town.now
        if phone.name not in self.island:
            self.come(phone, self.random.randrange(ISLANDS))
            return
        match self.random.randrange(9):
            case 0 | 1 | 2:
                self.say(phone, f"{number}")
            case 3:
                self.say(phone, f"{number} " + "".join(chr(33 + n * 7 % 90) for n in range(900)))
            case 4:
                other = self.random.choice(self.phones)
                town.say(
                    phone, phone.packet(PacketType.NOISE_ENCRYPTED, b"%04d" % number * 60, now, recipient=other.id)
                )
            case 5:
                town.say(phone, phone.identity.sign(phone.packet(PacketType.VOICE_FRAME, b"%d" % number, now)))
            case 6:
                town.say(phone, phone.identity.sign(phone.packet(0x7E, b"%d" % number, now)))
            case 7:
                island = self.go(phone)
                town.run(self.random.choice((0.1, 3)))
                self.come(phone, (island + 1) % ISLANDS)
            case 8:
                town.say(phone, phone.identity.sign(phone.packet(PacketType.LEAVE, b"", now)))
                self.go(phone)

    def say(self, phone, text):
        self.said[phone.name].append(text)
        self.town.say(phone, phone.say(text, self.town.now))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_people_do_no_phone_is_sent_what_it_refuses_and_shows_nothing_twice(seed):
    days = Days(seed)
    days.run()
    heard = 0
    for phone in days.phones:
        assert phone.refused == [], (seed, phone.name)
        assert phone.misled == [], (seed, phone.name)
        assert phone.lost == [], (seed, phone.name)
        assert len(set(phone.shown)) == len(phone.shown), (seed, phone.name)
        heard += len(phone.shown)
    # Who was there heard most of it.
    assert heard > PHONES * sum(map(len, days.said.values())) / 3, heard


def streets(*, clocks=(True,)):
    meshes = []
    for number, has_clock in enumerate(clocks):
        made = Random(number)
        mesh = Mesh(
            Identity.generate(made.randbytes),
            now=0.0,
            earliest_ms=WALL_MS - 10**9,
            draw=made.random,
            random_bytes=made.randbytes,
        )
        if has_clock:
            mesh.clock.trust(WALL_MS, 0.0)
        meshes.append(mesh)
    return Town(meshes)


@pytest.mark.parametrize("kind", [Iphone, Android])
def test_who_stays_gets_all_of_the_hours_before_though_his_app_forgets_them_and_asks_for_much_else_besides(kind):
    """An iPhone asks for messages, fragments and files in requests of their own, one right after the other.

    Neither app has anybody in its filter who has been silent for minutes, so they ask for his messages again and again.
    """
    town, gone = streets(), Iphone("gone", WALL_MS)
    town.join(0, gone)
    town.run(1)
    texts = [f"{number}" for number in range(60)]
    for text in texts:
        town.send(gone, gone.say(text, town.now))
        town.run(5)
    town.send(gone, gone.announce(town.now))
    town.part(gone)
    late = kind("late", WALL_MS, acts=True)
    town.join(0, late)
    # Sixty messages of one sender take a minute, and an answer twenty seconds.
    town.run(170)
    assert sorted(late.shown, key=int) == texts
    town.run(600)
    assert late.shown == sorted(set(late.shown), key=late.shown.index)
    assert len(late.repeated) + len(late.known) <= len(texts) / 4, "what was told him once is not told him all the time"
    town.nothing_refused()
    assert late.lost == []


# Each verdict by which an app refuses something, and what gives a relay the occasion to send just that.


class Bait:
    """One relay, ana who is the occasion, and ben who would refuse ``packet``."""

    def __init__(self, kind=Iphone, **clocks):
        self.town = streets(**clocks)
        self.ana, self.ben = Iphone("ana", WALL_MS), kind("ben", WALL_MS)
        self.packet = None

    def both(self):
        for phone in (self.ana, self.ben):
            self.town.join(0, phone)
        self.town.run(1)

    def asks(self, seconds=25):
        self.town.send(self.ben, self.ben.sync(self.town.now))
        self.town.run(seconds)


def said_by(bait, off_ms, kind=PacketType.MESSAGE, ttl=7):
    """Ana's clock is wrong by so much, and she says something all the same."""
    bait.ana.wall_ms += off_ms
    bait.packet = bait.ana.identity.sign(bait.ana.packet(kind, b"bait", bait.town.now, ttl=ttl))
    bait.town.send(bait.ana, bait.packet)
    bait.town.run(3)
    bait.packet = bait.packet.with_ttl(6)


def late_message(bait, seconds, *, stays=False):
    bait.town.join(0, bait.ana)
    bait.town.run(1)
    said_by(bait, 0)
    bait.town.run(seconds - 5, announcing=[bait.ana] if stays else [])
    bait.town.join(0, bait.ben)
    bait.town.run(1.5)


def unasked(bait):
    late_message(bait, 3600)
    bait.town.run(60)
    bait.packet = bait.packet.as_answer(is_answer=True)


def not_bound(bait):
    """It asks before the relay could say who it is, as nobody has said what time it is."""
    bait.town.meshes[0].clock.trust(None, 0.0)
    bait.town.join(0, bait.ana)
    bait.town.run(1)
    said_by(bait, 0)
    bait.town.run(200)
    bait.town.join(0, bait.ben, announces=False)
    bait.asks()
    bait.packet = bait.packet.as_answer(is_answer=True)


def skewed(off_ms, kind=PacketType.MESSAGE):
    def make(bait):
        bait.both()
        said_by(bait, off_ms, kind)

    return make


def old_announce(bait):
    bait.town.join(0, bait.ana)
    bait.town.run(1)
    bait.packet = bait.ana.identity.announce("ana", bait.ana.time_ms(bait.town.now)).as_answer(is_answer=True)
    bait.town.send(bait.ana, bait.packet.with_ttl(7))
    bait.town.run(899)
    bait.town.join(0, bait.ben)
    bait.asks()


def old_message(bait):
    late_message(bait, 21_600)
    bait.asks()
    bait.packet = bait.packet.as_answer(is_answer=True)


def echo(bait):
    bait.both()
    bait.packet = bait.ben.say("bait", bait.town.now)
    bait.town.send(bait.ben, bait.packet)
    bait.town.send(bait.ana, bait.packet.with_ttl(6))
    bait.town.run(2)
    bait.packet = bait.packet.with_ttl(5)


def request(bait):
    bait.both()
    data = bait.ana.sync(bait.town.now)
    bait.packet = decode_packet(data)
    bait.town.send(bait.ana, bait.packet.with_ttl(5))
    bait.town.send(bait.ana, bait.packet)
    bait.town.run(2)


def late_in_pieces(bait):
    """Its link takes no long frames, as it has lost its socket; and the message takes several."""
    bait.town.join(0, bait.ana)
    bait.town.run(1)
    text = "".join(chr(33 + n * 7 % 90) for n in range(900))
    whole = bait.ana.say(text, bait.town.now)
    bait.town.say(bait.ana, whole)
    bait.town.run(3600, announcing=[bait.ana])
    number = bait.town.join(0, bait.ben)
    bait.town.run(1)
    bait.town.meshes[0].narrow_link(number, bait.ben.frame_bytes)
    bait.asks()
    bait.packet = whole


def takes_link(bait):
    bait.both()
    bait.town.run(5)
    bait.packet = bait.ana.identity.announce("ana", bait.ana.time_ms(bait.town.now))
    bait.town.send(bait.ana, bait.packet)
    bait.town.run(2)


def letter(bait):
    """Somebody else's letter, and one for him."""
    bait.both()
    bait.asks(2)
    for recipient in (bait.ben.id, b"elsewher"):
        bait.packet = bait.ana.identity.sign(
            bait.ana.packet(PacketType.COURIER, b"bait" + recipient, bait.town.now, recipient=recipient)
        )
        bait.town.send(bait.ana, bait.packet)
    bait.town.run(2)


def many_pieces(bait):
    bait.town.meshes[0].open_link(99, 0.0, frame_bytes=100)
    bait.both()
    bait.packet = bait.ana.identity.sign(bait.ana.packet(PacketType.MESSAGE, bytes(60_000), bait.town.now))
    bait.town.send(bait.ana, bait.packet)
    bait.town.run(20)
    # For that link, and for a live datagram.
    assert bait.town.meshes[0].counts["message", "too_long"] == 2


SKEWED = {
    "same, age 121 s, no RSR flag": skewed(-121_000),
    "same, 121 s in the future": skewed(125_000),
    "noiseEncrypted age 1 h, no RSR": skewed(-3_600_000, PacketType.NOISE_ENCRYPTED),
}
REFUSING = {
    **SKEWED,
    "age 1 h, RSR flag, phone asked nobody": unasked,
    "age 1 h, RSR flag, link not yet bound to relay": not_bound,
    "announce (after ingress gate) age 901 s": old_announce,
    "public message (after ingress gate) age 21601 s": old_message,
    "phone's own live message echoed ttl 5": echo,
    "REQUEST_SYNC claiming ana over link bound to relay": request,
    "late (1 h) message in fragments, inner without RSR": late_in_pieces,
    "announce of ana ttl 7 over link bound to relay": takes_link,
}
ANDROIDS = {
    "courier envelope (type 4) is known to Android": letter,
    "announce, receiver's clock 599 s after its timestamp": old_announce,
}
OF_PASSING_ON = re.compile("relay of |.* store: ")
#: These say how a phone itself behaves.
OWN = {"RSR flag after Android re-encodes the packet"}


def test_each_verdict_by_which_an_app_refuses_has_its_occasion():
    refusing = {
        name
        for name, verdict in DECISIONS.items()
        if re.match(r"rejected|dropped|false|accepted; attributed to sender", str(verdict))
        and not OF_PASSING_ON.match(name)
    }
    assert refusing == (REFUSING.keys() | ANDROIDS.keys() | OWN) - {
        "announce, receiver's clock 599 s after its timestamp"
    }


@pytest.mark.parametrize(
    ("kind", "name"), [*((Iphone, name) for name in REFUSING), *((Android, name) for name in ANDROIDS)]
)
def test_what_an_app_refuses_it_is_not_sent(kind, name):
    bait = Bait(kind)
    (REFUSING | ANDROIDS)[name](bait)
    ben, packet = bait.ben, bait.packet
    assert ben.links, "he is still there"
    assert ben.accepted or bait.town.meshes[0].clock.time_ms(bait.town.now) is None, "and the relay speaks to him"
    came = [one for one in ben.accepted + ben.known if one.sync_id == packet.sync_id and one.ttl >= packet.ttl]
    assert came == []
    assert (ben.refused, ben.misled) == ([], [])
    # The control: he would refuse it, if he had not heard of it before.
    ben.seen.clear()
    if name == "late (1 h) message in fragments, inner without RSR":
        ben.take(packet, bait.town.now, pieces=3)
    else:
        ben.hear_packet(packet.encode(), bait.town.now, next(iter(ben.links)))
    assert len(ben.refused) + len(ben.misled) == 1
    expected = str(DECISIONS[name])
    if expected.startswith("rejected: "):
        assert ben.refused[0][0] == expected.removeprefix("rejected: ")


def test_more_pieces_than_an_android_takes_are_not_sent():
    bait = Bait(Android)
    many_pieces(bait)
    assert bait.ben.refused == []


def test_a_phone_whose_own_clock_is_wrong_is_sent_what_it_takes_by_that_clock_and_nothing_else_but_our_announce():
    """The one exception: by our own announce, in the true time, an iPhone that is off does not know us."""
    town, ana = streets(), Iphone("ana", WALL_MS)
    off = Iphone("off", WALL_MS + 600_000)
    town.join(0, ana)
    town.join(0, off)
    town.run(60, announcing=[ana, off], every=15)
    for number in range(5):
        town.send(ana, ana.say(f"{number}", town.now))
        town.run(2)
    assert {packet.sender for _, packet in off.refused} == {town.meshes[0].identity.peer_id}
    assert {reason for reason, _ in off.refused} == {"timestampSkew"}
    assert town.meshes[0].counts["message", "refused_timestamp"] == 5
