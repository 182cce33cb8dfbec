# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever is on the air or in a capture: no exception, nothing unprintable, nothing without bound."""

import dataclasses
import gc
import random

import pytest
from scapy.layers.dot11 import Dot11, RadioTap
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from relay.sniff import advertising, internet, linkable, streams
from relay.sniff.capture import Frame, Link
from relay.sniff.linkable import Linkage
from relay.sniff.sniffer import Sniffer, stream_json, stream_lines
from tests.unit.core.memory import envelope
from tests.unit.sniff.sniffing import (
    PORT,
    START_S,
    Host,
    advertisement,
    advertising_pdu,
    announcement,
    conversation,
    discover,
    ethernet,
    extended_report,
    frames,
    private_address,
    report,
    segments,
    slot_talk,
    structure,
)

LINKS = list(Link)


@pytest.fixture(scope="module")
def good():
    """Frames of every kind."""
    rng = random.Random(1)
    said, _ = conversation(puts=[envelope(rng, size_class=one) for one in range(3)])
    channel = Host(mtu=251, handle=0x41).connected().open_channel()
    for side, data in said:
        channel.sdu(data, 0x41 if side else 0x40, from_central=side)
    found = frames(ethernet(segments(said))) + frames(ethernet(segments(said, v6=True)))
    found += slot_talk(discover(Host().connected()), said).disconnected().frames()
    found += slot_talk(Host(handle=9), said).frames(knows_direction=False)
    found += channel.frames()
    data = [advertisement(rng.randbytes(3), rng.randbytes(3), more=structure(0x09, b"relay")) for _ in range(20)]
    found += frames([report(private_address(rng), one) for one in data], link=Link.HCI)
    found += frames([extended_report(private_address(rng), one) for one in data], link=Link.HCI)
    found += frames([advertising_pdu(private_address(rng), one) for one in data], link=Link.LE)
    snap = b"\xaa\xaa\x03\x00\x00\x00\x08\x00"
    found += frames(
        [bytes(RadioTap() / Dot11(type=2)) + snap + bytes(one) for _, one in segments(said)], link=Link.RADIOTAP
    )
    found += frames([announcement("02:00:00:00:00:01", "aa" * 8, "bb" * 8, known=["cc"])] * 5)
    return found


def mutated(good, rng):
    """One frame, damaged in one of many ways."""
    frame = rng.choice(good)
    data = bytearray(frame.data)
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        if not data:
            break
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            case 1:
                del data[at:]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(40))
            case 3:
                data[at : at + 8] = rng.randbytes(min(8, len(data) - at))
            case 4:
                del data[at : at + rng.randrange(1, 8)]
    link = rng.choice(LINKS) if rng.random() < 0.1 else frame.link
    changes = {"link": link, "data": bytes(data), "wire_bytes": len(data)}
    if rng.random() < 0.1:
        changes |= {"time_s": rng.choice([0.0, -1e300, 1e300, START_S]), "sent": rng.choice([True, False, None])}
    return dataclasses.replace(frame, **changes)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_frames_are_counted_and_no_more(good, seed):
    rng = random.Random(seed)
    linkage = Linkage()
    sniffer = Sniffer(ports=(PORT,), linkage=linkage)
    events = []
    for _ in range(1500):
        events += sniffer.feed(mutated(good, rng))
    events += sniffer.finish()
    assert sniffer.frames == 1500
    assert sniffer.counts.as_dict()
    for event in events:
        assert event.line().isprintable(), event
        assert event.json().isprintable()
    for stream in sniffer.streams.summaries():
        assert all(line.isprintable() for line in stream_lines(stream))
        stream_json(stream)
    for finding in linkage.report().findings:
        assert finding.words().isprintable()


def test_frames_of_nothing_but_noise():
    rng = random.Random(1)
    sniffer = Sniffer(ports=range(1, 65536))
    for link in LINKS:
        for _ in range(300):
            data = rng.randbytes(rng.choice([0, 1, 2, 4, 10, 60, 300]))
            sniffer.feed(Frame(time_s=START_S, link=link, data=data, wire_bytes=len(data)))
    sniffer.finish()


def test_headers_in_headers_end_somewhere():
    packet = Ether() / IP() / TCP(dport=PORT)
    for _ in range(50):
        packet = Ether(type=0x4305) / (bytes([0x40, 15, 50, 1]) + bytes(6) + bytes(packet))
    sniffer = Sniffer(ports=(PORT,))
    assert [event for frame in frames([packet]) for event in sniffer.feed(frame)] == []


def test_tables_are_bounded_against_a_flood(monkeypatch):
    """Every frame another address, connection or stream, none of them ever finished."""
    for module, name in (
        (streams, "MAX_STREAMS"),
        (streams, "MAX_SUMMARIES"),
        (internet, "MAX_CONNECTIONS"),
        (advertising, "MAX_ADVERTISERS"),
        (linkable, "MAX_SIGHTINGS"),
    ):
        monkeypatch.setattr(module, name, 100)
    rng = random.Random(1)
    linkage = Linkage()
    sniffer = Sniffer(ports=(PORT,), linkage=linkage)

    def flood(count):
        for number in range(count):
            data = advertisement(rng.randbytes(3), rng.randbytes(3), more=structure(0x09, rng.randbytes(8)))
            tcp = TCP(sport=rng.randrange(65536), dport=PORT, seq=rng.getrandbits(32), flags="PA")
            host = Host(handle=number % 4096, mtu=251).l2cap(0x40, bytes(250), from_central=True)
            name = rng.randbytes(8).hex()
            for frame in (
                *frames([report(private_address(rng), data)], link=Link.HCI),
                *host.frames()[:1],
                *frames([bytes(Ether() / IP(src=f"10.{rng.randrange(256)}.0.1") / tcp / bytes(1000))]),
                *frames([announcement("02:00:00:00:00:01", name, name)]),
            ):
                sniffer.feed(frame)
        gc.collect()
        return len(gc.get_objects())

    before = flood(250)
    assert flood(250) - before < 50
    assert {"streams_full", "connections_full"} <= set(sniffer.counts.as_dict())
    assert sniffer.streams.forgotten
    assert linkage.report().dropped
