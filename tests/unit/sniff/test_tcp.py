# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions on IP, as a listener gets them: whatever the network does to segments, the records come out."""

import random
import struct

import pytest
from scapy.layers.dot11 import Dot11, RadioTap
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1Q, Ether

from relay.core.messages import Role
from relay.sniff import streams
from relay.sniff.capture import Frame, Link
from relay.sniff.counts import Passed
from relay.sniff.events import RecordSeen, StreamBroken, StreamClosed, StreamOpened
from relay.sniff.records import could_be
from relay.sniff.segments import MAX_WAITING_BYTES, Assembly, Room
from relay.sniff.sniffer import Sniffer
from tests.unit.core.memory import Relay, envelope
from tests.unit.sniff.sniffing import (
    PHONE_MAC,
    PORT,
    RELAY_MAC,
    START_S,
    conversation,
    ethernet,
    frames,
    records,
    segments,
)


def listen(captured, *, ports=(PORT,)):
    """The sniffer after all frames, and its events."""
    sniffer = Sniffer(ports=ports)
    events = [event for frame in captured for event in sniffer.feed(frame)]
    return sniffer, events + sniffer.finish()


def heard(events, stream=1):
    """(said by the dialling side, length) of the records, those of the dialling side first."""
    seen = [event for event in events if isinstance(event, RecordSeen) and event.stream == stream]
    return [(side, one.length_bytes) for side in (True, False) for one in seen if one.from_initiator is side]


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def said():
    """A client that puts envelopes of every class."""
    rng = random.Random(5)
    return conversation(puts=[envelope(rng, size_class=one % 4) for one in range(12)])[0]


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("mss", [41, 1400, 60_000])
def test_every_record_is_told_with_its_length(said, mss, v6):
    sniffer, events = listen(frames(ethernet(segments(said, mss=mss, v6=v6))))
    assert heard(events) == records(said)
    assert [one.handshake for one in of(RecordSeen, events)][:3] == [1, 2, 3]
    (opened,) = of(StreamOpened, events)
    assert opened.responder.endswith(f":{PORT}")
    assert [one.why for one in of(StreamClosed, events)] == ["end of stream"]
    assert not sniffer.counts.as_dict()


def test_the_first_message_tells_the_pattern():
    for secret, name in ((None, "XX"), (bytes(32), "XXpsk3")):
        said, _ = conversation(secret=secret, role=Role.CLIENT)
        first = of(RecordSeen, listen(frames(ethernet(segments(said))))[1])[0]
        assert (first.handshake, first.pattern) == (1, name)


@pytest.mark.parametrize("seed", range(5))
def test_reordered_and_repeated_segments_change_nothing(said, seed):
    rng = random.Random(seed)
    found = segments(said, mss=300, seed=seed, close=False)
    start, rest = found[:3], found[3:]
    # Each is late by up to 20 places; every fifth comes twice.
    order = sorted((index + rng.uniform(0, 20), one) for index, one in enumerate(range(len(rest))))
    late = [rest[one] for _, one in order]
    late = [one for packet in late for one in [packet] * (1 + (rng.random() < 0.2))]
    sniffer, events = listen(frames(ethernet(start + late)))
    assert heard(events) == records(said)
    assert not of(StreamBroken, events)
    assert sniffer.counts.as_dict() == {}


def test_segments_cut_anew_when_sent_again_overlap(said):
    stream = b"".join(data for side, data in said if side)
    number = 0xFFFF_FFF0  # wraps
    packets = [Ether() / IP() / TCP(sport=5, dport=PORT, seq=number, flags="S")]
    rng = random.Random(1)
    at = 0
    while at < len(stream):
        begin = max(0, at - rng.randrange(50))
        end = at + rng.randrange(1, 800)
        tcp = TCP(sport=5, dport=PORT, seq=(number + 1 + begin) % 2**32, flags="PA")
        packets.append(Ether() / IP() / tcp / stream[begin:end])
        at = min(end, len(stream))
    _, events = listen(frames(packets))
    assert heard(events) == [one for one in records(said) if one[0]]


def test_a_stream_that_ran_already_is_told_but_not_cut_into_records(said):
    _, events = listen(frames(ethernet(segments(said, syn=False)[10:])))
    assert [one.why for one in of(StreamBroken, events)] == ["joined midway"]
    assert not of(RecordSeen, events)


def test_without_syn_the_preface_is_enough_even_on_a_port_that_nobody_named(said):
    _, events = listen(frames(ethernet(segments(said, syn=False, port=999))))
    assert heard(events) == records(said)
    (opened,) = of(StreamOpened, events)
    assert opened.responder.endswith(":999")


def test_other_programs_on_our_port_are_not_told():
    said = [(True, b"GET / HTTP/1.1\r\n\r\n"), (False, b"HTTP/1.1 400 Bad Request\r\n\r\n")]
    sniffer, events = listen(frames(ethernet(segments(said))))
    assert events == []
    assert [one.is_session for one in sniffer.streams.summaries()] == [False]


def test_a_hole_within_a_record_costs_nothing_and_one_over_a_length_ends_the_records(said):
    found = segments(said, mss=1000, close=False)
    big = [index for index, (side, packet) in enumerate(found) if side and len(packet) >= 1000]
    _, whole = listen(frames(ethernet(found)))
    # The second of the segments that carry the 16 KiB envelopes lies within a record.
    within = next(index for index in big if index - 1 in big and index + 1 in big)
    sniffer, events = listen(frames(ethernet(found[:within] + found[within + 1 :])))
    assert heard(events) == heard(whole)
    assert sniffer.streams.summaries()[0].lost_bytes == 1000
    lost = [event for event in listen(frames(ethernet(found[:4] + found[5:])))[1] if event]
    assert [one.why for one in of(StreamBroken, lost)] == ["bytes are missing"]


def test_short_captures_of_long_frames_still_give_the_lengths(said):
    """As `tcpdump -s 100` makes them."""
    cut = [
        Frame(time_s=one.time_s, link=one.link, data=one.data[:100], wire_bytes=len(one.data))
        for one in frames(ethernet(segments(said, mss=1400)))
    ]
    sniffer, events = listen(cut)
    assert [one.handshake for one in of(RecordSeen, events)][:2] == [1, 2]
    assert sniffer.counts[Passed.CUT]
    # What was heard is right, as far as it goes.
    for side in (True, False):
        mine = [one for one in heard(events) if one[0] is side]
        assert mine == [one for one in records(said) if one[0] is side][: len(mine)]


def test_a_port_used_again_is_another_session(said):
    again, _ = conversation(77)
    found = segments(said, close=False) + segments(again, seed=9)
    _, events = listen(frames(ethernet(found)))
    assert heard(events, 1) == records(said)
    assert heard(events, 2) == records(again)
    assert [one.why for one in of(StreamClosed, events)] == ["dialled anew", "end of stream"]


def test_a_syn_that_comes_again_changes_nothing(said):
    found = segments(said)
    _, events = listen(frames(ethernet(found[:1] * 3 + found[1:6] + found[:1] + found[6:])))
    assert heard(events) == records(said)


def test_what_carries_ip_does_not_matter(said):
    found = segments(said)

    def adhoc(**fields):
        return RadioTap() / Dot11(type=2, addr1=PHONE_MAC, addr2=RELAY_MAC, **fields)

    def snap(packet):
        return b"\xaa\xaa\x03\x00\x00\x00" + (b"\x08\x00") + bytes(packet)

    batman = bytes([0x40, 15, 50, 1]) + bytes(6)
    mesh = struct.pack("<H", 0x0100) + bytes([0, 31, 1, 0, 0, 0])
    far_mesh = struct.pack("<H", 0x0100) + bytes([2, 31, 1, 0, 0, 0]) + bytes(12)
    wrapped = {
        "VLAN": (Link.ETHERNET, [Ether() / Dot1Q(vlan=7) / packet for _, packet in found]),
        "batman": (Link.ETHERNET, [Ether(type=0x4305) / (batman + bytes(Ether() / packet)) for _, packet in found]),
        "IP": (Link.IP, [packet for _, packet in found]),
        "IBSS": (Link.RADIOTAP, [bytes(adhoc()) + snap(one[1]) for one in found]),
        "802.11s": (Link.RADIOTAP, [bytes(adhoc(subtype=8)) + mesh + snap(one[1]) for one in found]),
        "802.11s, far": (Link.RADIOTAP, [bytes(adhoc(subtype=8)) + far_mesh + snap(one[1]) for one in found]),
        "IBSS, no radiotap": (Link.WIFI, [bytes(adhoc())[8:] + snap(one[1]) for one in found]),
    }
    for name, (link, packets) in wrapped.items():
        _, events = listen(frames(packets, link=link))
        assert heard(events) == records(said), name


def test_what_cannot_be_read_is_counted_by_its_reason():
    packets = [
        (Link.RADIOTAP, RadioTap() / Dot11(type=2, FCfield="protected") / b"secret"),
        (Link.RADIOTAP, RadioTap() / Dot11(type=0, subtype=8)),
        (Link.ETHERNET, Ether(type=0x4305) / bytes([0x00, 15, 50])),
        (Link.ETHERNET, Ether() / IP() / TCP(dport=80)),
        (Link.ETHERNET, Ether() / IP(frag=100) / b"rest of something"),
        (Link.ETHERNET, b"\x01"),
        (Link.IP, b""),
    ]
    sniffer, events = listen([frame for link, one in packets for frame in frames([one], link=link)])
    assert events == []
    assert sniffer.counts.as_dict() == {
        "other": 2,
        "undissected": 1,
        "encrypted_wifi": 1,
        "batman": 1,
        "wifi_management": 1,
        "fragment": 1,
    }


def test_of_too_many_streams_the_oldest_makes_room(monkeypatch):
    monkeypatch.setattr(streams, "MAX_STREAMS", 20)
    said, _ = conversation()
    sniffer = Sniffer(ports=(PORT,))
    for port in range(25):
        for frame in frames(ethernet(segments(said[:1], client_port=10_000 + port, close=False))):
            sniffer.feed(frame)
    assert sniffer.counts[Passed.STREAMS_FULL] == 5
    assert sum(not one.closed for one in sniffer.streams.summaries()) == 20


def test_what_waits_for_missing_segments_is_bounded():
    room = Room(10 * MAX_WAITING_BYTES)
    assembly = Assembly(room)
    assembly.start(0)
    for number in range(10, 40 * MAX_WAITING_BYTES, 65_536):
        assembly.feed(number, bytes(60_000), 60_000, 0.0)
        assert room.left >= 9 * MAX_WAITING_BYTES - 65_536
    assembly.flush()
    assert room.left == 10 * MAX_WAITING_BYTES


def test_a_gap_is_given_up_after_a_while():
    assembly = Assembly(Room())
    assembly.start(100)
    assert assembly.feed(110, b"later", 5, 0.0) == []
    assert assembly.feed(115, b"still", 5, 9.0) == []
    assert assembly.feed(120, b"there", 5, 11.0) == [10, b"later", b"still", b"there"]


@pytest.mark.parametrize("seed", range(20))
def test_assembly_gives_every_byte_once_and_in_order(seed):
    rng = random.Random(seed)
    stream = rng.randbytes(2000)
    start = rng.choice([0, 2**32 - 700, rng.getrandbits(32)])
    pieces = [(at, stream[at : at + rng.randrange(50, 200)]) for at in range(0, 2000, 50)]
    pieces += [(at := rng.randrange(2000), stream[at : at + 100]) for _ in range(10)]
    first, *others = pieces
    rng.shuffle(others)
    assembly = Assembly(Room())
    got = b""
    for at, data in [first, *others, *pieces]:
        for piece in assembly.feed((start + at) % 2**32, data, len(data), 0.0):
            assert isinstance(piece, bytes)
            got += piece
    assert got == stream


def test_lengths_tell_what_a_record_may_hold():
    assert "HELLO" in {could_be(length) for side, length in records(conversation()[0]) if side}
    rng = random.Random(1)
    for size_class in range(4):
        relay = Relay(1)
        alone, _ = conversation(relay=relay, puts=[envelope(rng, size_class=size_class)])
        lengths = [length for side, length in records(alone) if side]
        assert any(could_be(length) == f"PUT of class {size_class}" for length in lengths), lengths
    assert could_be(17) == ""


def test_figures_of_a_stream(said):
    sniffer, _ = listen(frames(ethernet(segments(said))))
    (stream,) = sniffer.streams.summaries()
    for side in (True, False):
        flow = stream.flows[side]
        mine = [length for one, length in records(said) if one is side]
        assert (flow.records, flow.bytes) == (len(mine), sum(mine) + 2 * len(mine))
        assert sum(flow.by_size) == len(mine)
        assert START_S < flow.first_s < flow.last_s
