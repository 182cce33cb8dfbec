# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture files: every format gives the same frames, and no bytes give anything but frames or a CaptureError."""

import contextlib
import io
import random
import struct

import pytest
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, RawPcapNgWriter, wrpcap

from relay.sniff.capture import (
    MAX_BLOCK_BYTES,
    MAX_FRAME_BYTES,
    MAX_INTERFACES,
    CaptureError,
    DamagedCaptureError,
    Link,
    read_capture,
    read_frames,
)
from tests.unit.sniff.sniffing import START_S, btsnoop, pcap

PACKETS = [bytes([number]) * (20 + number) for number in range(5)]
EVENT, ACL = b"\x3e\x01\x02", b"\x40\x20\x01\x00\x05"


def read(content):
    return list(read_frames(io.BytesIO(content), "capture"))


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit_s"), [(0xA1B2C3D4, 1e-6), (0xA1B23C4D, 1e-9)])
def test_pcap_in_either_order_and_resolution(endian, magic, unit_s):
    found = read(pcap(1, PACKETS, endian=endian, magic=magic, unit_s=unit_s))
    assert [frame.data for frame in found] == PACKETS
    assert [frame.link for frame in found] == [Link.ETHERNET] * 5
    assert [frame.time_s for frame in found] == pytest.approx([START_S + 0.001 * index for index in range(5)])


def test_what_scapy_writes(tmp_path):
    wrpcap(str(tmp_path / "a.pcap"), [Ether(one) for one in PACKETS])
    with PcapNgWriter(str(tmp_path / "a.pcapng")) as writer:
        for one in PACKETS:
            packet = Ether(one)
            packet.time = START_S
            writer.write(packet)
    for name in ("a.pcap", "a.pcapng"):
        found = list(read_capture(tmp_path / name))
        assert [frame.data for frame in found] == PACKETS, name
        assert {frame.link for frame in found} == {Link.ETHERNET}
    assert found[0].time_s == pytest.approx(START_S)


def test_pcapng_keeps_interfaces_and_sections_apart():
    def block(kind, body, endian):
        body += bytes(-len(body) % 4)
        length = 12 + len(body)
        return struct.pack(endian + "II", kind, length) + body + struct.pack(endian + "I", length)

    def section(endian):
        head = block(0x0A0D0D0A, struct.pack(endian + "IHHq", 0x1A2B3C4D, 1, 0, -1), endian)
        # A resolution of 2^-10 s on the second.
        options = struct.pack(endian + "HHB3xHH", 9, 1, 0x8A, 0, 0)
        one = block(1, struct.pack(endian + "HHI", 1, 0, 0), endian)
        two = block(1, struct.pack(endian + "HHI", 187, 0, 0) + options, endian)
        unknown = block(0x0BAD, b"whatever", endian)
        frames = b"".join(
            block(6, struct.pack(endian + "5I", index, 0, 1024 * 1024, 3, 9) + b"abc", endian) for index in (0, 1)
        )
        simple = block(3, struct.pack(endian + "I", 2) + b"xy", endian)
        return head + one + two + unknown + frames + simple

    found = read(section("<") + section(">"))
    assert [(frame.adapter, frame.link, frame.data) for frame in found] == [
        (0, Link.ETHERNET, b"abc"),
        (1, Link.HCI, b"abc"),
        (0, Link.ETHERNET, b"xy"),
        (2, Link.ETHERNET, b"abc"),
        (3, Link.HCI, b"abc"),
        (2, Link.ETHERNET, b"xy"),
    ]
    assert [frame.time_s for frame in found[:2]] == [pytest.approx(1.048576), 1024.0]
    assert found[0].wire_bytes == 9


def test_every_wrapping_of_hci_gives_the_same():
    """H4 and who sent it, where anybody says so."""
    expected = [(b"\x04" + EVENT, False), (b"\x02" + ACL, True), (b"\x02" + ACL, False)]
    wrapped = {
        "btsnoop, bare": btsnoop(1001, [(3, EVENT), (0, ACL), (1, ACL)]),
        "btsnoop, H4": btsnoop(1002, [(3, b"\x04" + EVENT), (0, b"\x02" + ACL), (1, b"\x02" + ACL)]),
        "btsnoop, monitor": btsnoop(2001, [(0, b"new index"), (3, EVENT), (4, ACL), (5, ACL), (12, b"note")]),
        "pcap, direction": pcap(201, [b"\0\0\0\1\x04" + EVENT, b"\0\0\0\0\x02" + ACL, b"\0\0\0\1\x02" + ACL]),
        "pcap, monitor": pcap(254, [b"\0\0\0\3" + EVENT, b"\0\0\0\4" + ACL, b"\0\0\0\5" + ACL, b"\0\0\0\x0cnote"]),
    }
    for name, content in wrapped.items():
        found = read(content)
        assert [(frame.data, frame.sent) for frame in found] == expected, name
        assert {frame.link for frame in found} == {Link.HCI}
        assert found[0].time_s == pytest.approx(START_S, abs=0.01)
    assert [frame.sent for frame in read(pcap(187, [b"\x04" + EVENT]))] == [None]
    assert [one.adapter for one in read(btsnoop(2001, [(3, EVENT), (1 << 16 | 3, EVENT)]))] == [0, 1]


@pytest.mark.parametrize("content", [pcap(1, PACKETS), btsnoop(1002, [(1, one) for one in PACKETS])])
def test_of_a_capture_that_is_cut_off_the_first_part_is_given(content):
    for end in range(len(content)):
        found = []
        with contextlib.suppress(CaptureError):
            found.extend(frame.data for frame in read_frames(io.BytesIO(content[:end]), "capture"))
        assert found == PACKETS[: len(found)]
    assert len(found) == 4


def test_lengths_beyond_any_frame_are_refused_before_they_are_read():
    class Counting(io.BytesIO):
        largest = 0

        def read(self, size=-1):
            assert 0 <= size <= MAX_BLOCK_BYTES
            return super().read(size)

    huge = pcap(1, []) + struct.pack("<IIII", 0, 0, 0xFFFF_FFFF, 0)
    snoop = btsnoop(1002, []) + struct.pack(">IIIIq", 0, 0xFFFF_FFFF, 0, 0, 0)
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    for content in (
        huge,
        snoop,
        section + struct.pack("<II", 6, 0xFFFF_FFFC),
        section[:4] + b"\xfc\xff\xff\xff" + section[8:],
    ):
        with pytest.raises(DamagedCaptureError):
            list(read_frames(Counting(content), "capture"))
    assert len(read(pcap(1, [bytes(MAX_FRAME_BYTES)]))) == 1
    many = section + struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20) * (MAX_INTERFACES + 1)
    with pytest.raises(DamagedCaptureError):
        read(many)


def test_what_is_no_capture_is_said_with_the_remedy(tmp_path):
    for content in (b"", b"abc", b"PK\x03\x04 a zip file", b"btsnooq\0" + bytes(8)):
        with pytest.raises(CaptureError, match="pcap, pcapng and btsnoop are"):
            read(content)
    with pytest.raises(CaptureError, match="link type 147"):
        read(pcap(147, PACKETS))
    with pytest.raises(CaptureError, match="kind 1003"):
        read(btsnoop(1003, []))
    with pytest.raises(CaptureError, match="cannot be read: No such file"):
        list(read_capture(tmp_path / "nowhere"))
    with pytest.raises(CaptureError, match="cannot be read: Is a directory"):
        list(read_capture(tmp_path))


@pytest.mark.parametrize("seed", range(30))
def test_no_bytes_give_anything_but_frames_or_an_error(seed, tmp_path):
    rng = random.Random(seed)
    with RawPcapNgWriter(str(tmp_path / "a")) as writer:
        writer.linktype = 1
        writer.write(PACKETS[0])
        writer.write(PACKETS[1])
    good = [pcap(1, PACKETS), btsnoop(2001, [(3, one) for one in PACKETS]), (tmp_path / "a").read_bytes()]
    for _ in range(300):
        content = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(len(content))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        del content[rng.randrange(len(content)) + 1 :]
        try:
            for frame in read_frames(io.BytesIO(bytes(content)), "capture"):
                assert len(frame.data) <= MAX_BLOCK_BYTES
        except CaptureError:
            pass
