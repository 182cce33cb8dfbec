# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames: messages cut into turns, and put together again."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import DecodeError
from relay.core.frames import (
    CONTROL_LANE,
    FRAME_HEADER_BYTES,
    LANES,
    LIVE_LANE,
    MAX_MESSAGE_BYTES,
    MAX_RECORD_PLAINTEXT_BYTES,
    WHOLE_LANE,
    FrameReader,
    FrameWriter,
)

#: All but the one on which messages go by the dozen.
SINGLE_LANES = [lane for lane in range(LANES) if lane != WHOLE_LANE]
queues = st.lists(st.tuples(st.sampled_from(SINGLE_LANES), st.integers(4, MAX_MESSAGE_BYTES)), max_size=20)


def frame(lane, data, *, more=False):
    return struct.pack(">BH", lane | (0x80 if more else 0), len(data)) + data


def content(number, size):
    return (number.to_bytes(4, "big") * (size // 4 + 1))[:size]


@given(queues, st.integers(FRAME_HEADER_BYTES + 1, MAX_RECORD_PLAINTEXT_BYTES), st.integers(1, 5000))
def test_every_message_arrives_whole_and_in_order_of_its_lane(queue, record_bytes, fragment_bytes):
    # Records of a few bytes would take minutes for the largest messages.
    queue = [(lane, min(size, max(4, 200 * record_bytes))) for lane, size in queue]
    fragment_bytes = max(fragment_bytes, max((size for _, size in queue), default=1) // 200)
    writer, reader = FrameWriter(record_bytes=record_bytes, fragment_bytes=fragment_bytes), FrameReader()
    sent = [(lane, content(number, size)) for number, (lane, size) in enumerate(queue)]
    for lane, message in sent:
        writer.push(lane, message)
    received = []
    while (record := writer.pull_record()) is not None:
        assert 0 < len(record) <= record_bytes
        received += reader.read_record(record)
    assert writer.queued_bytes == 0
    assert sorted(received) == sorted(message for _, message in sent)
    for lane in SINGLE_LANES:
        own = [message for its, message in sent if its == lane]
        assert [message for message in received if message in own] == own


def test_a_small_message_overtakes_a_large_one_that_is_under_way():
    writer, reader = FrameWriter(record_bytes=976, fragment_bytes=480), FrameReader()
    large, small = bytes(16_385), b"small"
    writer.push(6, large)
    assert reader.read_record(writer.pull_record()) == []
    writer.push(3, small)
    assert small in reader.read_record(writer.pull_record())
    received = []
    while (record := writer.pull_record()) is not None:
        received += reader.read_record(record)
    assert received == [large]


def test_control_goes_before_everything_that_waits():
    writer, reader = FrameWriter(record_bytes=2000, fragment_bytes=480), FrameReader()
    for lane in range(1, WHOLE_LANE):
        writer.push(lane, bytes([lane]) * 4000)
    writer.push(CONTROL_LANE, b"urgent")
    assert reader.read_record(writer.pull_record())[0] == b"urgent"


def test_lanes_take_turns_so_that_none_starves():
    writer, reader = FrameWriter(record_bytes=976, fragment_bytes=480), FrameReader()
    for _ in range(100):
        writer.push(6, bytes(16_384))
    for number in range(10):
        writer.push(4, bytes([number]) * 400)
    records, received = 0, []
    while len(received) < 10:
        received += reader.read_record(writer.pull_record())
        records += 1
    assert records <= 20


@pytest.mark.parametrize("others", [(3,), (1, 3, 4, 5, 6)])
@pytest.mark.parametrize(("record_bytes", "fragment_bytes"), [(976, 480), (65_519, 4352)])
def test_what_is_live_has_a_quarter_beside_others_and_all_when_it_is_alone(others, record_bytes, fragment_bytes):
    writer = FrameWriter(record_bytes=record_bytes, fragment_bytes=fragment_bytes)
    for lane in others:
        size = 256 if lane == 3 else 5000
        for _ in range(500_000 // size):
            writer.push(lane, bytes(size))
    for _ in range(200):
        writer.push(LIVE_LANE, bytes(600))
    used = dict.fromkeys((*others, LIVE_LANE), 0)
    waits = 0
    while all(not writer.is_idle(lane) for lane in used):
        record, at = writer.pull_record(), 0
        while at < len(record):
            lane, size = struct.unpack_from(">BH", record, at)
            used[lane & 0x7F] += size
            # The others never wait for more than a turn of it.
            waits = waits + size if lane & 0x7F == LIVE_LANE else 0
            assert waits <= fragment_bytes
            at += FRAME_HEADER_BYTES + size
    part = used[LIVE_LANE] / sum(used.values())
    assert 0.15 < part <= 0.26
    while writer.pull_record() is not None:
        pass
    for _ in range(200):
        writer.push(LIVE_LANE, bytes(600))
    assert len(writer.pull_record()) == record_bytes


@given(
    st.lists(
        st.binary(max_size=600)
        | st.builds(
            lambda lane, data, more: frame(lane, data, more=more),
            st.integers(0, LANES + 1),
            st.binary(max_size=300),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_any_records_give_messages_or_a_decode_error_and_bounded_memory(records):
    reader = FrameReader()
    for record in records:
        try:
            messages = reader.read_record(record)
        except DecodeError:
            return
        assert all(0 < len(message) <= MAX_MESSAGE_BYTES for message in messages)
        assert sum(map(len, messages)) <= sum(map(len, records))


@pytest.mark.parametrize(
    "record",
    [
        b"\x00",
        b"\x00\x00",
        frame(0, b""),
        frame(0, b"", more=True),
        frame(LANES, b"x"),
        frame(0, b"whole")[:-1],
        frame(0, b"whole") + b"\x01",
    ],
)
def test_truncated_empty_and_misdirected_frames_are_refused(record):
    with pytest.raises(DecodeError):
        FrameReader().read_record(record)


def test_the_longest_message_passes_and_one_byte_more_does_not():
    assert FrameReader().read_record(frame(1, bytes(MAX_MESSAGE_BYTES))) == [bytes(MAX_MESSAGE_BYTES)]
    with pytest.raises(DecodeError, match="too long"):
        FrameReader().read_record(frame(1, bytes(MAX_MESSAGE_BYTES + 1)))


def test_a_message_that_never_ends_is_cut_off_at_the_bound():
    reader = FrameReader()
    piece = frame(1, bytes(1000), more=True)
    for _ in range(MAX_MESSAGE_BYTES // 1000):
        assert reader.read_record(piece) == []
    with pytest.raises(DecodeError, match="too long"):
        reader.read_record(piece)


@given(
    st.lists(st.tuples(st.integers(1, 200), st.sampled_from([1, 256, 1024, 4096]), st.integers(0, 6000)), max_size=6)
)
def test_messages_sent_by_the_dozen_arrive_as_if_sent_one_by_one(groups):
    writer, reader = FrameWriter(record_bytes=MAX_RECORD_PLAINTEXT_BYTES, fragment_bytes=4352), FrameReader()
    sent, others = [], []
    for number, (count, size, other) in enumerate(groups):
        rests = [content(1000 * number + n, size) for n in range(count)]
        writer.push_whole(b"start", rests)
        sent += [b"start" + rest for rest in rests]
        if other:
            writer.push(other % WHOLE_LANE, bytes(other))
            others.append(bytes(other))
    received = []
    while (record := writer.pull_record()) is not None:
        assert 0 < len(record) <= MAX_RECORD_PLAINTEXT_BYTES
        received += reader.read_record(record)
    assert [message for message in received if message.startswith(b"start")] == sent
    assert sorted(message for message in received if not message.startswith(b"start")) == sorted(others)


@pytest.mark.parametrize(("record_bytes", "fragment_bytes", "size"), [(976, 480, 256), (65_519, 4352, 16_384)])
def test_what_would_block_others_does_not_go_by_the_dozen(record_bytes, fragment_bytes, size):
    with pytest.raises(ValueError, match="do not go whole"):
        FrameWriter(record_bytes=record_bytes, fragment_bytes=fragment_bytes).push_whole(b"", [bytes(size)])


@pytest.mark.parametrize("record_bytes", [0, FRAME_HEADER_BYTES, MAX_RECORD_PLAINTEXT_BYTES + 1])
def test_a_writer_without_room_is_a_mistake_of_the_caller(record_bytes):
    with pytest.raises(ValueError, match="record of"):
        FrameWriter(record_bytes=record_bytes, fragment_bytes=480)


def test_a_partial_message_goes_on_where_it_was_after_other_lanes():
    reader = FrameReader()
    assert reader.read_record(frame(1, b"ab", more=True) + frame(2, b"xy", more=True)) == []
    assert reader.read_record(frame(2, b"z") + frame(3, b"other") + frame(1, b"c")) == [b"xyz", b"other", b"abc"]
