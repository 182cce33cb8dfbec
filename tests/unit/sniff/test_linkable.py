# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture of a day of relays passes; each leak planted in one is found."""

# ruff: noqa: ARG002 - what a leak overrides, it mostly does without looking

import math
import random
import struct

import pytest

from relay.adapters.epoch import Epoch
from relay.core.news import news_digest
from relay.sniff import linkable
from relay.sniff.capture import Frame, Link
from relay.sniff.linkable import Field, Linkage
from relay.sniff.sniffer import Sniffer, examine
from tests.unit.sniff.sniffing import (
    INFO_HANDLE,
    START_S,
    Host,
    advertisement,
    air,
    announcement,
    conversation,
    discover,
    ethernet,
    extended_report,
    frames,
    mac,
    private_address,
    read,
    report,
    segments,
    slot_talk,
    structure,
)

EPOCH_S = 900.0


class Mesh:
    """Relays that advertise by docs/ble.md for some epochs, with what a test makes them do wrong."""

    def __init__(self, *, seed=1, relays=2, epochs=8, news_s=30.0):
        self.rng = random.Random(seed)
        self.relays = relays
        self.epochs = epochs
        self.news_s = news_s

    def address(self, relay, epoch):
        return private_address(self.rng)

    def salt(self, relay, epoch):
        return self.rng.randbytes(3)

    def digest(self, relay, epoch, salt):
        return news_digest(self.rng.randbytes(16), salt)

    def more(self, relay, epoch):
        return b""

    def name(self, relay):
        return b"relay"

    def frame(self, time_s, data):
        return Frame(time_s=time_s, link=Link.HCI, data=data, wire_bytes=len(data), sent=False)

    def talk(self, relay, epoch, address):
        """HCI capture of a phone that comes by and reads."""
        host = discover(Host(is_central=True, peer=address).connected())
        read(host, INFO_HANDLE, bytes([1, epoch % 2, 0x80, 0, 8]))
        said, _ = conversation(1000 * relay + epoch)
        return slot_talk(host, said).disconnected()

    def frames(self, *, talks=False):
        found = []
        # Relays change at times of their own.
        starts_s = [START_S + 200 * relay for relay in range(self.relays)]
        for epoch in range(self.epochs):
            for relay in range(self.relays):
                start_s = starts_s[relay]
                starts_s[relay] += EPOCH_S + 1 + self.rng.uniform(0, 60)
                address, salt = self.address(relay, epoch), self.salt(relay, epoch)
                time_s, end_s = start_s, start_s + EPOCH_S - 5 - self.rng.uniform(0, 60)
                while time_s < end_s:
                    data = advertisement(salt, self.digest(relay, epoch, salt), more=self.more(relay, epoch))
                    found.append(self.frame(time_s, report(address, data)))
                    name = structure(0x09, self.name(relay))
                    found.append(self.frame(time_s + 0.001, report(address, name, kind=4)))
                    time_s += self.rng.uniform(0.9, 1.1) * self.news_s
                if talks:
                    found += self.talk(relay, epoch, address).frames(start_s=start_s + 100)
        return sorted(found, key=lambda frame: frame.time_s)


def fields(found):
    return {finding.field for finding in found.findings}


def test_a_clean_capture_passes():
    found = examine(Mesh().frames(talks=True))
    assert found.findings == ()
    # 16 of relays and the phone, which has one address here and is the host itself: unknown to its own capture.
    assert found.epochs >= 16
    assert found.sessions == 16
    assert found.is_clean


@pytest.mark.slow
def test_a_whole_day_passes_although_chance_repeats_digests():
    """96 epochs, 1,900 digests a relay: 16 million pairs for 16.7 million values."""
    captured = Mesh(seed=3, relays=3, epochs=96, news_s=45.0).frames()
    digests = {}
    for frame in captured:
        if frame.data[5] == 0:
            digests.setdefault(frame.data[-4:-1], set()).add(frame.data[7:13])
    assert any(len(whos) > 1 for whos in digests.values()), "choose another seed: nothing repeats"
    found = examine(captured)
    assert found.findings == ()
    assert found.epochs == 288


class ConstantSalt(Mesh):
    def salt(self, relay, epoch):
        return b"abc"


class SaltOfDevice(Mesh):
    def salt(self, relay, epoch):
        return bytes([1, 2, relay])


class SaltLate(Mesh):
    """The address changes before the salt does, at one of the changes."""

    def salt(self, relay, epoch):
        fresh = super().salt(relay, epoch)
        if relay == 0 and epoch != 4:
            self.last = fresh
        return self.last if relay == 0 else fresh


class DigestKept(Mesh):
    """A new salt, and the digest of before."""

    def digest(self, relay, epoch, salt):
        return news_digest(bytes(16), bytes(3)) if relay == 0 else super().digest(relay, epoch, salt)


class AddressReused(Mesh):
    def address(self, relay, epoch):
        if (relay, epoch) == (0, 0):
            self.first = super().address(relay, epoch)
        return self.first if (relay, epoch) in ((0, 0), (0, 5)) else super().address(relay, epoch)


class AddressKept(Mesh):
    """It never changes, nor does the salt."""

    def address(self, relay, epoch):
        return ["4a:00:00:00:00:01", "4a:00:00:00:00:02"][relay]

    def salt(self, relay, epoch):
        return bytes([relay, 1, 1])


class AddressStatic(Mesh):
    """Random once, at the start."""

    def address(self, relay, epoch):
        return f"c0:00:00:00:{relay:02x}:{epoch:02x}"


class NameOfDevice(Mesh):
    def name(self, relay):
        return b"relay-%d" % relay


class SerialNumber(Mesh):
    """Behind the digest, or as an AD structure of its own."""

    def more(self, relay, epoch):
        return structure(0x16, b"\x0f\x18" + bytes([relay, 2, 3, 4]))


@pytest.mark.parametrize(
    ("leak", "field"),
    [
        (ConstantSalt, Field.SALT),
        (SaltOfDevice, Field.SALT),
        (SaltLate, Field.SALT),
        (DigestKept, Field.DIGEST),
        (AddressReused, Field.ADDRESS),
        (AddressKept, Field.ADDRESS),
        (AddressStatic, Field.ADDRESS),
        (NameOfDevice, Field.NAME),
        (SerialNumber, Field.ADVERTISED),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_what_advertisements_leak_is_found(leak, field, seed):
    found = examine(leak(seed=seed).frames())
    assert field in fields(found)
    assert not found.is_clean
    assert fields(found) <= {field, Field.NEWS}
    for finding in found.findings:
        assert finding.words().isprintable()


def test_bytes_behind_the_digest_are_no_part_of_the_protocol():
    data = advertisement(b"abc", b"def")[:-10] + structure(0xFF, b"\xff\xff" + b"abcdef" + b"device 7")
    captured = frames([report("4a:00:00:00:00:01", data)], link=Link.HCI)
    (finding,) = examine(captured).findings
    assert (finding.field, finding.value) == (Field.ADVERTISED, b"device 7")


def test_a_public_address_is_found():
    captured = frames([report("00:11:22:33:44:55", advertisement(b"abc", b"def"), random_address=False)], link=Link.HCI)
    (finding,) = examine(captured).findings
    assert finding.detail == "an address that never changes"


def test_a_phone_or_relay_that_dials_from_a_public_address_is_found():
    for is_public in (False, True):
        host = discover(Host(is_central=True, mtu=251, peer="4a:00:00:00:00:01"))
        read(host, INFO_HANDLE, bytes([1, 0, 0x80, 0, 8]))
        pdus = [pdu for _, pdu in air(host, own="4b:00:00:00:00:02", is_public=is_public)]
        found = examine(frames(pdus, link=Link.LE))
        assert [finding.who for finding in found.findings] == [("4b:00:00:00:00:02",)] * is_public


def test_the_same_is_found_in_extended_reports():
    rng = random.Random(1)
    packets = [extended_report(private_address(rng), advertisement(b"abc", rng.randbytes(3))) for _ in range(3)]
    assert fields(examine(frames(packets, link=Link.HCI))) == {Field.SALT}


def test_others_on_the_air_are_not_judged():
    other = structure(0x09, b"headphones") + structure(0xFF, b"\x4c\x00constant")
    rng = random.Random(2)
    captured = Mesh().frames() + frames([report(private_address(rng), other) for _ in range(50)], link=Link.HCI)
    assert examine(captured).is_clean


def talked(handles, **more):
    """Two relays' addresses, each with the same value read from a handle."""
    found = []
    rng = random.Random(4)
    for index in range(2):
        host = discover(Host(is_central=True, peer=private_address(rng), adapter=index).connected())
        for handle, value, kind in handles:
            host.att(struct.pack("<BHHH", 8, 1, 0xFFFF, kind), from_central=True)
            host.att(bytes([9, 2 + len(value)]) + struct.pack("<H", handle) + value, from_central=False)
        read(host, INFO_HANDLE, more.get("info", bytes([1, 0, 0x80, 0, 8])))
        found += host.frames(start_s=START_S + 1000 * index)
    return found


def test_what_gatt_leaks_is_found():
    assert examine(talked([(3, b"relay", 0x2A00)])).findings == ()
    (finding,) = examine(talked([(3, b"relay of Anna", 0x2A00)])).findings
    assert (finding.field, finding.value) == (Field.NAME, b"relay of Anna")
    (finding,) = examine(talked([(9, b"SN 4711", 0x2A25)])).findings
    assert (finding.field, finding.value) == (Field.GATT, b"SN 4711")
    # An unusual channel number is one that it may have again.
    (finding,) = examine(talked([], info=bytes([1, 0, 0x97, 0, 8]))).findings
    assert finding.field is Field.GATT
    # The hash of the database is the same for all who run the same.
    found = examine(talked([(9, bytes(range(16)), 0x2B2A)]))
    assert found.findings == ()
    (finding,) = found.software
    assert finding.value == bytes(range(16))


def test_a_key_that_is_not_fresh_is_found():
    """Two sessions of which one side draws the same: the same seed."""
    one, _ = conversation(1)
    other, _ = conversation(1)
    captured = frames(ethernet(segments(one))) + frames(ethernet(segments(other, client_port=50_001)))
    found = examine(captured)
    assert fields(found) == {Field.EPHEMERAL_KEY, Field.HANDSHAKE, Field.RECORD}
    # A relay that draws its e once, and otherwise well.
    keys = [b"\x00\x60" + bytes(range(32)) + random.Random(seed).randbytes(64) for seed in (1, 2)]
    captured = []
    for index, key in enumerate(keys):
        first = b"\x00\x22\x01\x00" + random.Random(index + 9).randbytes(32)
        captured += frames(ethernet(segments([(True, first), (False, key)], client_port=50_000 + index)))
    (finding,) = examine(captured).findings
    assert (finding.field, finding.value) == (Field.EPHEMERAL_KEY, bytes(range(32)))
    assert examine(
        frames(ethernet(segments(one))) + frames(ethernet(segments(conversation(2)[0], client_port=6)))
    ).is_clean


def test_an_instance_under_two_addresses_is_found():
    one, other = "02:00:00:00:00:01", "02:00:00:00:00:02"
    clean = [
        announcement(one, "aa" * 8, "bb" * 8),
        announcement(other, "cc" * 8, "dd" * 8),
        # A question says what it knows already: others' names.
        announcement(other, "", "", response=False, known=["aa" * 8]),
    ]
    assert examine(frames(clean)).is_clean
    leak = [*clean, announcement("02:00:00:00:00:03", "aa" * 8, "ee" * 8)]
    (finding,) = examine(frames(leak)).findings
    assert (finding.field, finding.who) == (Field.INSTANCE, (one, "02:00:00:00:00:03"))
    leak = [*clean, announcement("02:00:00:00:00:03", "ff" * 8, "bb" * 8)]
    assert fields(examine(frames(leak))) == {Field.HOST}


def test_announcements_are_told_once_and_teach_the_port():
    said, _ = conversation(1)
    captured = frames([announcement("02:00:00:00:00:01", "aa" * 8, "bb\x1b" * 4)] * 3)
    captured += frames(ethernet(segments(said[2:], port=4270, syn=False)), start_s=START_S + 1)
    sniffer = Sniffer(ports=())
    events = [event for frame in captured for event in sniffer.feed(frame)]
    assert [event.name for event in events][:2] == ["announcement", "stream_opened"]
    assert events[0].line().isprintable()


def test_nothing_is_no_proof():
    assert not examine([]).is_clean
    assert not examine(frames([report("4a:00:00:00:00:01", advertisement(b"abc", b"def"))], link=Link.HCI)).is_clean


def test_what_was_not_compared_is_told(monkeypatch):
    monkeypatch.setattr(linkable, "MAX_SIGHTINGS", 50)
    found = examine(Mesh().frames())
    assert found.findings == ()
    assert found.dropped
    assert not found.is_clean


def test_chance_is_computed():
    """Against a count of what really happens, for values of which a repetition is likely."""
    rng = random.Random(1)
    assert not linkable._is_unlikely(0, 1.0)
    for expected in (1e-6, 0.01, 0.3, 2.0, 20.0):
        for number in range(1, 60):
            tail = 1 - sum(
                math.exp(-expected + one * math.log(expected) - math.lgamma(one + 1)) for one in range(number)
            )
            if tail > 1e-9 and not 0.0005 < tail < 0.002:
                assert linkable._is_unlikely(number, expected) == (tail < linkable.CHANCE), (number, expected)
    alarms = 0
    for _ in range(100):
        linkage = Linkage()
        for epoch in range(60):
            linkage.own(str(epoch))
            for step in range(30):
                linkage.add(900.0 * epoch + 30 * step, str(epoch), Field.DIGEST, rng.randbytes(3))
        alarms += bool(linkage.report().findings)
    assert alarms <= 2


def test_addresses_of_the_own_host_count_as_well():
    """A relay's own HCI capture: what it told its controller to advertise."""
    packets = []
    for address in ("4a:00:00:00:00:01", "4b:00:00:00:00:02"):
        packets += [
            b"\x01" + struct.pack("<HB", 0x200A, 1) + b"\x00",
            b"\x01" + struct.pack("<HB", 0x2005, 6) + mac(address),
            b"\x01" + struct.pack("<HB", 0x2008, 32) + b"\x1f" + advertisement(b"abc", bytes([len(packets)] * 3)),
            b"\x01" + struct.pack("<HB", 0x200A, 1) + b"\x01",
        ]
    assert fields(examine(frames(packets, link=Link.HCI, sent=True))) == {Field.SALT}


def clocked(draw, relays, epochs, *, rotation_s=EPOCH_S, random_of_epoch=None):
    """Relays that do nothing but change their addresses, by the product's own clock."""
    linkage = Linkage(max_address_s=rotation_s + 20)
    for relay in range(relays):
        now = START_S + draw.uniform(0, rotation_s)
        for number in range(epochs):
            epoch = Epoch(rotation_s=rotation_s, random=random_of_epoch or draw.random)
            epoch.began(now)
            who = f"{relay} {number}"
            linkage.own(who)
            # It is heard once a second, more or less, if all is well.
            for time_s in (now + draw.uniform(0, 0.1), epoch.silent_at(now) - draw.uniform(0, 1.3)):
                linkage.add(time_s, who, Field.SALT, who.encode())
            now = epoch.over_at(now)
    return linkage.report()


@pytest.mark.parametrize(
    ("relays", "epochs", "rotation_s"), [(3, 7, 900.0), (1, 12, 900.0), (8, 20, 900.0), (2, 6, 30.0)]
)
def test_addresses_that_change_like_clockwork_are_joined_by_that_and_ours_are_not(relays, epochs, rotation_s):
    draw = random.Random(5)
    alarms = 0
    for _ in range(50):
        found = clocked(draw, relays, epochs, rotation_s=rotation_s, random_of_epoch=lambda: 0.0)
        assert fields(found) == {Field.RHYTHM}
        assert len(found.findings[0].who) == relays * epochs, "all of them"
        assert found.findings[0].words().isprintable()
        alarms += len(clocked(draw, relays, epochs, rotation_s=rotation_s).findings)
    assert alarms <= 1


def test_the_radio_labs_few_epochs_alarm_nobody():
    draw = random.Random(8)
    assert sum(len(clocked(draw, 2, 4, rotation_s=30.0).findings) for _ in range(200)) <= 2


def test_silence_of_one_length_is_a_rhythm_too():
    draw = random.Random(6)
    drawn = []

    def one_silence():
        # Before an address expires, and after that: what the one has more the other has less.
        drawn.append(draw.random() if len(drawn) % 2 == 0 else 1 - drawn[-1])
        return drawn[-1]

    found = clocked(draw, 3, 7, random_of_epoch=one_silence)
    assert "ended" in found.findings[-1].detail


def test_a_flood_of_addresses_is_not_compared_for_ever(monkeypatch):
    monkeypatch.setattr(linkable, "MAX_INTERVALS", 100)
    found = clocked(random.Random(7), 8, 30, random_of_epoch=lambda: 0.0)
    assert found.findings == ()
    assert found.dropped
