# SPDX-License-Identifier: GPL-2.0-or-later
"""bitchat in a capture: what is in the clear is told, what joins a relay's addresses is found, bombs cost nothing."""

import random
import struct
import uuid

import pytest

from relay.bitchat.announce import Identity
from relay.bitchat.courier import DAY_MS, Letter, recipient_tag
from relay.bitchat.fragments import split
from relay.bitchat.packet import PacketType, make_packet
from relay.bitchat.service import CHARACTERISTIC_UUID, SERVICE_UUID
from relay.sniff.capture import Link
from relay.sniff.events import BitchatAdvertised, GattSeen
from relay.sniff.linkable import Field, Linkage
from relay.sniff.sniffer import Sniffer
from tests.unit.bitchat.phones import Android, Iphone
from tests.unit.bitchat.vectors import PACKETS, wire
from tests.unit.sniff.sniffing import Host, frames, private_address, report, structure

WALL_MS = 1_780_000_000_000
HANDLE = 0x31
OUR_UUID = uuid.UUID(SERVICE_UUID).bytes[::-1]


def listen(captured, linkage=None):
    sniffer = Sniffer(ports=(), linkage=linkage)
    return [event for frame in captured for event in sniffer.feed(frame)] + sniffer.finish()


def discovered(host):
    """The central learns bitchat's characteristic."""
    host.connected()
    host.att(struct.pack("<BHHH", 0x08, HANDLE - 1, 0xFFFF, 0x2803), from_central=True)
    entry = struct.pack("<HBH", HANDLE - 1, 0x1E, HANDLE) + uuid.UUID(CHARACTERISTIC_UUID).bytes[::-1]
    return host.att(bytes([0x09, len(entry)]) + entry, from_central=False)


def written(host, value):
    return host.att(struct.pack("<BH", 0x52, HANDLE) + value, from_central=True)


def notified(host, value):
    return host.att(struct.pack("<BH", 0x1B, HANDLE) + value, from_central=False)


def told(host):
    return [event for event in listen(host.frames()) if isinstance(event, GattSeen)]


def test_who_says_what_to_whom_is_told_as_far_as_it_is_in_the_clear():
    ana, ben = Iphone("ana", WALL_MS), Android("ben\x1b", WALL_MS)
    host = discovered(Host())
    written(host, ana.announce(0))
    notified(host, ben.announce(0))
    written(host, ana.say("soup at eight", 0).encode())
    ana.links["link"] = ben.id
    written(host, ana.sync(0))
    written(host, ben.sync(0))
    notified(host, ben.packet(PacketType.NOISE_ENCRYPTED, bytes(40), 0, recipient=ana.id).encode())
    letter = Letter(tag=recipient_tag(bytes(32), 0), expiry_ms=WALL_MS + DAY_MS, ciphertext=bytes(99))
    written(host, ana.packet(PacketType.COURIER, letter.encode(), 0, recipient=ben.id).encode())
    piece = split(ana.say("x" + random.Random(1).randbytes(400).hex(), 0), 400)[1]
    written(host, piece.encode())
    seen = told(host)
    assert [(event.operation, event.characteristic) for event in seen] == [
        ("write without response", "BITCHAT"),
        ("notify", "BITCHAT"),
        *[("write without response", "BITCHAT")] * 3,
        ("notify", "BITCHAT"),
        *[("write without response", "BITCHAT")] * 2,
    ]
    me, you = ana.id.hex(), ben.id.hex()
    assert [event.detail for event in seen] == [
        f'ANNOUNCE {me} > all TTL 7, signed, "ana"',
        f'ANNOUNCE {you} > all TTL 7, signed, "ben\\x1b"',
        f'MESSAGE {me} > all TTL 7, signed, "soup at eight"',
        f"REQUEST_SYNC {me} > {you} TTL 0, signed, has 0, iPhone",
        f"REQUEST_SYNC {you} > all TTL 0, signed, has 0, Android",
        f"NOISE_ENCRYPTED {you} > {me} TTL 7, 40 bytes",
        f"COURIER {me} > {you} TTL 7, letter under {letter.tag.hex()}, 99 bytes",
        f"FRAGMENT {me} > all TTL 7, 2 of 3 of MESSAGE {piece.payload[:8].hex()}",
    ]


@pytest.mark.parametrize("name", PACKETS)
def test_every_packet_of_the_vectors_is_told(name):
    host = discovered(Host(mtu=1000))
    written(host, wire(name))
    [event] = told(host)
    assert event.detail.split()[0] != "no"


def test_what_is_no_packet_or_would_be_too_long_is_told_as_that():
    host = discovered(Host(mtu=2000))
    bomb = make_packet(
        PacketType.MESSAGE, bytes(900_000), sender=bytes(8), timestamp_ms=WALL_MS, version=2, compress=True
    )
    for value in (b"", b"?" * 60, bomb.encode(), Iphone("ana", WALL_MS).announce(0)[:-70]):
        notified(host, value)
    wrong = make_packet(PacketType.ANNOUNCE, b"\1", sender=bytes(8), timestamp_ms=WALL_MS)
    notified(host, wrong.encode())
    assert [event.detail for event in told(host)] == [
        "no packet, or a part of one",
        "no packet, or a part of one",
        "would be 900000 bytes",
        "no packet, or a part of one",
        "ANNOUNCE 0000000000000000 > all TTL 7, 1 bytes that say nothing",
    ]


def test_whoever_advertises_it_is_told_once_and_again_with_another_identity():
    service, peer = structure(0x07, OUR_UUID), structure(0x21, OUR_UUID + b"identity")
    other = structure(0x21, OUR_UUID + b"another1")
    captured = [report("4a:00:00:00:00:01", service)] * 2
    captured += [report("4a:00:00:00:00:01", peer, kind=4)] * 2 + [report("4a:00:00:00:00:02", service)]
    captured += [report("4a:00:00:00:00:01", other, kind=4), report("4a:00:00:00:00:03", structure(0xFF, b"x" * 9))]
    events = listen(frames(captured, link=Link.HCI, sent=False))
    assert all(isinstance(event, BitchatAdvertised) for event in events)
    assert [event.words() for event in events] == [
        "bitchat advertisement 4a:00:00:00:00:01",
        f"bitchat advertisement 4a:00:00:00:00:01 of {b'identity'.hex()}",
        "bitchat advertisement 4a:00:00:00:00:02",
        f"bitchat advertisement 4a:00:00:00:00:01 of {b'another1'.hex()}",
    ]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_relay_that_keeps_its_identity_under_another_address_is_found(keeps):
    rng, linkage = random.Random(4), Linkage()
    identity = Identity.generate(rng.randbytes)
    captured = []
    for number in range(3):
        host = discovered(Host(is_central=True, peer=private_address(rng), handle=0x40 + number))
        notified(host, identity.announce("relay", WALL_MS + number, is_relay=True).encode())
        # What phones say, and pass on, is theirs.
        written(host, Iphone("ana", WALL_MS).announce(number))
        written(
            host,
            Identity.from_seeds(bytes(32), bytes(32))
            .announce("relay", WALL_MS + number, is_relay=True)
            .with_ttl(6)
            .encode(),
        )
        captured += host.frames()
        if not keeps:
            identity = Identity.generate(rng.randbytes)
    listen(captured, linkage)
    found = {finding.field for finding in linkage.report().findings}
    assert found == ({Field.BITCHAT} if keeps else set())
