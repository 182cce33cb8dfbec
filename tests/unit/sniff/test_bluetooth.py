# SPDX-License-Identifier: GPL-2.0-or-later
"""Advertisements, GATT and streams in Bluetooth captures: of one host, and of the air."""

import random
import struct
import uuid

import pytest
from scapy.layers.bluetooth import L2CAP_DisconnReq

from relay.bluetooth import gatt
from relay.sniff.capture import Frame, Link
from relay.sniff.counts import Passed
from relay.sniff.events import Connected, GattSeen, RecordSeen, StreamBroken, StreamClosed, StreamOpened
from relay.sniff.sniffer import Sniffer
from tests.unit.core.memory import envelope
from tests.unit.sniff.sniffing import (
    INFO_HANDLE,
    RX_HANDLE,
    SLOT_HANDLE,
    START_S,
    TX_HANDLES,
    Host,
    advertisement,
    advertising_pdu,
    air,
    conversation,
    discover,
    extended_report,
    frames,
    mac,
    read,
    records,
    report,
    slot_talk,
    structure,
)

ADDRESS = "4a:00:00:00:00:01"


def listen(captured):
    sniffer = Sniffer(ports=())
    events = [event for frame in captured for event in sniffer.feed(frame)]
    return sniffer, events + sniffer.finish()


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def heard(events, stream=1):
    seen = [event for event in of(RecordSeen, events) if event.stream == stream]
    return [(side, one.length_bytes) for side in (True, False) for one in seen if one.from_initiator is side]


@pytest.fixture(scope="module")
def said():
    rng = random.Random(5)
    return conversation(puts=[envelope(rng, size_class=one % 3) for one in range(6)])[0]


# Advertisements


@pytest.mark.parametrize("form", ["report", "extended report", "air"])
def test_an_advertisement_is_told_when_it_says_something_new(form):
    make, link = {
        "report": (report, Link.HCI),
        "extended report": (extended_report, Link.HCI),
        "air": (advertising_pdu, Link.LE),
    }[form]
    one, two = advertisement(b"abc", b"def"), advertisement(b"abc", b"xyz")
    packets = [make(ADDRESS, data) for data in (one, one, one, two, two)]
    _, events = listen(frames(packets, link=link, sent=False))
    assert [(event.address, event.salt, event.digest) for event in events] == [
        (ADDRESS, b"abc".hex(), b"def".hex()),
        (ADDRESS, b"abc".hex(), b"xyz".hex()),
    ]


def test_strangers_are_counted_and_not_told():
    other = structure(0x01, b"\x06") + structure(0x09, b"headphones") + structure(0xFF, b"\x4c\x00" + bytes(8))
    sniffer, events = listen(frames([report(ADDRESS, other)], link=Link.HCI))
    assert (events, sniffer.counts[Passed.OTHER]) == ([], 1)


def test_the_name_in_a_scan_response_is_shown_without_control_characters():
    data = advertisement(b"abc", b"def")
    answer = structure(0x09, b"re\x1b[2Jlay\n\xff")
    _, events = listen(frames([report(ADDRESS, data), report(ADDRESS, answer, kind=4)], link=Link.HCI))
    assert events[-1].gap_name == "re\\x1b[2Jlay\\n\\xff"
    assert events[-1].line().isprintable()
    assert "\x1b" not in events[-1].json()


def test_what_a_host_advertises_itself_is_told_by_its_commands():
    def command(opcode, body):
        return b"\x01" + struct.pack("<HB", opcode, len(body)) + body

    def set_data(data):
        return command(0x2008, bytes([len(data)]) + data.ljust(31, b"\0"))

    packets = [
        command(0x2005, mac(ADDRESS)),
        command(0x2006, struct.pack("<HHBBB6sBB", 160, 160, 0, 1, 0, bytes(6), 7, 0)),
        set_data(advertisement(b"abc", b"def")),
        command(0x200A, b"\x01"),
        set_data(advertisement(b"abc", b"xyz")),
        command(0x200A, b"\x00"),
        set_data(advertisement(b"new", b"new")),
    ]
    _, events = listen(frames(packets, link=Link.HCI, sent=True))
    assert [(event.address, event.digest) for event in events] == [
        (ADDRESS, b"def".hex()),
        (ADDRESS, b"xyz".hex()),
    ]
    extended = [
        command(0x2035, b"\x01" + mac(ADDRESS)),
        command(0x2037, bytes([1, 3, 1, 31]) + advertisement(b"abc", b"def")),
        command(0x2039, bytes([1, 1, 1, 0, 0, 0])),
        command(0x2039, bytes([0, 0])),
        command(0x2037, bytes([1, 3, 1, 31]) + advertisement(b"new", b"new")),
    ]
    _, events = listen(frames(extended, link=Link.HCI, sent=True))
    assert [(event.address, event.digest) for event in events] == [(ADDRESS, b"def".hex())]


def test_damaged_pdus_of_the_air_are_not_believed():
    pdu = advertising_pdu(ADDRESS, advertisement(b"abc", b"def"))
    for flags, expected in ((0x0401, 0), (0x0C01, 1), (0x0001, 1)):
        data = struct.pack("<BbbBIH", 37, -40, -128, 0, 0, flags) + pdu
        sniffer, events = listen(frames([data], link=Link.LE_PHDR))
        assert len(events) == expected
        assert sniffer.counts[Passed.BAD_CHECKSUM] == 1 - expected


# GATT


def test_reads_of_ours_are_told_with_what_they_say():
    host = discover(Host().connected())
    read(host, INFO_HANDLE, bytes([1, 1]) + struct.pack("<HB", 0x81, 8))
    read(host, SLOT_HANDLE, b"\x03")
    read(host, SLOT_HANDLE, b"\xff")
    read(host, 0x99, b"something else")
    _, events = listen(host.disconnected().frames())
    assert [(one.characteristic, one.detail) for one in of(GattSeen, events)] == [
        ("INFO", "version 1, busy, PSM 0x81, 8 slots"),
        ("SLOT", "slot 3"),
        ("SLOT", "none is free"),
    ]
    assert [(one.central, one.is_open) for one in of(Connected, events)] == [(host.peer, True), (host.peer, False)]


@pytest.mark.parametrize("is_central", [True, False])
@pytest.mark.parametrize("mtu", [27, 251])
def test_a_slot_gives_its_stream(said, mtu, is_central):
    host = slot_talk(discover(Host(mtu=mtu, is_central=is_central).connected()), said)
    _, events = listen(host.disconnected().frames())
    assert heard(events) == records(said)
    assert [one.why for one in of(StreamClosed, events)] == ["connection lost"]


def test_a_slot_is_recognised_without_discovery_and_without_directions(said):
    """Joined when the connection was there already, in a capture that does not say who sent."""
    host = slot_talk(Host(), said)
    _, events = listen(host.frames(knows_direction=False))
    assert heard(events) == records(said)


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_a_slot_that_come_again_count_once(said, seed):
    rng = random.Random(seed)
    host = slot_talk(discover(Host().connected()), said, lose=set(rng.sample(range(3, 200), 30)))
    sniffer, events = listen(host.frames())
    assert heard(events) == records(said)
    assert sniffer.streams.summaries()[0].repeated_bytes


def test_a_frame_that_the_capture_lacks_ends_the_records(said):
    host = slot_talk(discover(Host(mtu=251).connected()), said)
    data = [index for index, (_, packet) in enumerate(host.packets) if packet[9:10] == b"\x52" and packet[12] == 0]
    del host.packets[data[3]]
    _, events = listen(host.frames())
    assert [one.why for one in of(StreamBroken, events)] == ["bytes are missing"]


def test_who_listens_to_another_slot_does_not_disturb_his_own(said):
    mine, _ = conversation(50)
    host = discover(Host(mtu=251).connected())
    slot_talk(host, mine)
    other = slot_talk(Host(mtu=251), said, tx=TX_HANDLES[1], nonce=9)
    overheard = [one for one in other.packets if one[0] is not False and one[1][9:10] == b"\x1b"]
    assert overheard
    middle = len(host.packets) - 3
    host.packets[middle:middle] = overheard
    _, events = listen(host.frames())
    assert heard(events) == records(mine)
    assert {one.characteristic for one in of(GattSeen, events)} == {"RX", "TX 0", "TX 1"}


def test_a_stream_opened_anew_is_another_one(said):
    again, _ = conversation(51)
    host = slot_talk(slot_talk(discover(Host().connected()), said, nonce=1), again, nonce=2)
    _, events = listen(host.frames())
    assert heard(events, 1) == records(said)
    assert heard(events, 2) == records(again)


# Channels


@pytest.mark.parametrize("cids", [(0x40, 0x41), (0x40, 0x40)])
@pytest.mark.parametrize("is_central", [True, False])
def test_a_channel_gives_its_stream(said, is_central, cids):
    host = Host(mtu=251, is_central=is_central).connected().open_channel(asker_cid=cids[0], answer_cid=cids[1])
    rng = random.Random(3)
    for side, data in said:
        at = 0
        while at < len(data):
            size = rng.randrange(1, 600)
            host.sdu(data[at : at + size], cids[1] if side else cids[0], from_central=side)
            at += size
    host.signal(L2CAP_DisconnReq(scid=cids[0], dcid=cids[1]), from_central=True, identifier=2)
    _, events = listen(host.frames())
    assert heard(events) == records(said)
    (opened,) = of(StreamOpened, events)
    assert opened.responder.endswith("PSM 0x80")
    assert [one.why for one in of(StreamClosed, events)] == ["channel closed"]


def test_a_channel_that_was_refused_carries_nothing():
    host = Host(mtu=251).connected().open_channel(result=4).sdu(b"\x00\x22\x01\x00", 0x41, from_central=True)
    sniffer, events = listen(host.frames())
    assert not of(StreamOpened, events)
    assert sniffer.streams.summaries() == []


def test_two_adapters_have_the_same_handles_and_are_not_mixed(said):
    other, _ = conversation(52)
    hosts = []
    for index, one in enumerate((said, other)):
        host = Host(mtu=251, adapter=index).connected().open_channel()
        for side, data in one:
            host.sdu(data, 0x41 if side else 0x40, from_central=side)
        hosts.append(host.frames())
    mixed = sorted(hosts[0] + hosts[1], key=lambda frame: frame.time_s)
    _, events = listen(mixed)
    assert sorted([heard(events, 1), heard(events, 2)]) == sorted([records(said), records(other)])


def test_a_missing_fragment_ends_the_records_of_channels(said):
    host = Host().connected().open_channel()
    for side, data in said:
        host.sdu(data, 0x41 if side else 0x40, from_central=side)
    continuations = [index for index, (_, packet) in enumerate(host.packets) if packet[0] == 2 and packet[2] >> 4 == 1]
    del host.packets[continuations[40]]
    _, events = listen(host.frames())
    assert [one.why for one in of(StreamBroken, events)] == ["bytes are missing"]


# The air


def test_the_same_streams_come_out_of_the_air(said):
    by_slot = slot_talk(discover(Host(is_central=True)), said)
    by_channel = Host(mtu=251, is_central=True).open_channel()
    for side, data in said:
        by_channel.sdu(data, 0x41 if side else 0x40, from_central=side)
    by_equal = Host(mtu=251, is_central=True).open_channel(asker_cid=0x40, answer_cid=0x40)
    for side, data in said:
        by_equal.sdu(data, 0x40, from_central=side)
    for host in (by_slot, by_channel, by_equal):
        packets = [
            struct.pack("<BbbBIH", 3, -40, -128, 0, 0, 1 | kind << 7) + one for kind, one in air(host, own=ADDRESS)
        ]
        _, events = listen(frames(packets, link=Link.LE_PHDR))
        assert heard(events) == records(said)
        assert (of(Connected, events)[0].central, of(Connected, events)[0].peripheral) == (ADDRESS, host.peer)
    # Where no direction is recorded it follows from what is said, unless both channels have one number.
    for host in (by_slot, by_channel):
        _, events = listen(frames([one for _, one in air(host, own=ADDRESS)], link=Link.LE))
        assert heard(events) == records(said)
    sniffer, events = listen(frames([one for _, one in air(by_equal, own=ADDRESS)], link=Link.LE))
    assert heard(events) == []
    assert sniffer.counts[Passed.NO_DIRECTION]


def test_connections_and_fragments_are_bounded():
    sniffer = Sniffer(ports=())
    for handle in range(200):
        for frame in Host(handle=handle).l2cap(0x40, bytes(1000), from_central=True).frames()[:-1]:
            sniffer.feed(frame)
    assert sniffer.counts[Passed.CONNECTIONS_FULL] == 200 - 64


def test_characteristics_are_learnt_from_find_information_too():
    """As Android does for descriptors; a handle known as value stays one."""
    host = Host().connected()
    entry = struct.pack("<H", INFO_HANDLE) + uuid.UUID(gatt.INFO_UUID).bytes[::-1]
    host.att(struct.pack("<BHH", 4, 1, 0xFFFF), from_central=True)
    host.att(b"\x05\x02" + entry, from_central=False)
    read(host, INFO_HANDLE, bytes([1, 0, 0, 0, 8]))
    _, events = listen(host.frames())
    assert of(GattSeen, events)[0].detail == "version 1, room, PSM 0x0, 8 slots"


def test_a_capture_that_cut_its_packets_is_counted():
    frame = Frame(time_s=START_S, link=Link.HCI, data=b"\x02\x40\x20\x40\x00abc", wire_bytes=70, sent=True)
    sniffer, _ = listen([frame])
    assert sniffer.counts[Passed.CUT]


def test_writes_to_rx_without_a_stream_are_harmless():
    host = discover(Host().connected())
    for value in (b"", b"\x00", b"\x09\x00\x00", b"\x00\x00\x00data", b"\x03\x00\x00\x00"):
        host.att(struct.pack("<BH", 0x52, RX_HANDLE) + value, from_central=True)
    _, events = listen(host.frames())
    assert len(of(GattSeen, events)) == 5
    assert not of(StreamOpened, events)
