# SPDX-License-Identifier: GPL-2.0-or-later
"""What a slot does at its limits (docs/ble.md section 5)."""

from __future__ import annotations

import pytest

from relay.bluetooth.directions import ACK_DELAY_S, FIRST_TIMEOUT_S, MAX_TIMEOUTS, WINDOW
from relay.bluetooth.slot_frames import CloseReason, Frame, Kind, decode_frame, encode_close, encode_open
from relay.bluetooth.slots import Slot
from relay.core.errors import DecodeError


def opened(frame_bytes=20, window=WINDOW):
    """A relay's end whose stream is open, with the answer sent."""
    slot = Slot(is_central=False, nonce=9, frame_bytes=frame_bytes)
    assert slot.receive(encode_open(9, 0, window), 0.0)
    assert [decode_frame(frame).kind for frame in slot.frames(0.0)] == [Kind.OPEN]
    return slot


def data(sequence, payload=b"x", acknowledged=0):
    return Frame(kind=Kind.DATA, sequence=sequence, acknowledged=acknowledged, payload=payload).encode()


def ack(acknowledged):
    return Frame(kind=Kind.ACK, sequence=0, acknowledged=acknowledged).encode()


def decoded(slot, now):
    return [decode_frame(frame) for frame in slot.frames(now)]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0\0",
        b"\0\0\0",
        b"\1\0\0x",
        b"\2\0\0\1",
        b"\2\0\0\2\10",
        b"\2\0\0\1\0",
        b"\2\0\0\1\x41",
        b"\3\0\0\4",
        b"\4\0\0",
    ],
)
def test_frames_that_are_none(value):
    with pytest.raises(DecodeError):
        decode_frame(value)
    assert not opened().receive(value, 0.0)


def test_an_open_that_is_repeated_is_answered_again_and_another_is_another_stream():
    slot = opened()
    assert slot.receive(encode_open(9, 0, WINDOW), 0.1)
    assert [frame.acknowledged for frame in decoded(slot, 0.1)] == [9]
    assert not slot.receive(encode_open(10, 0, WINDOW), 0.2)
    assert slot.frames(0.2) == []


def test_the_central_ignores_the_answer_to_an_earlier_stream():
    slot = Slot(is_central=True, nonce=5, frame_bytes=20)
    slot.open(0.0)
    assert [frame.sequence for frame in decoded(slot, 0.0)] == [5]
    assert not slot.receive(encode_open(0, 4, WINDOW), 0.1)
    assert not slot.receive(data(0), 0.1)
    assert slot.receive(encode_open(0, 5, WINDOW), 0.1)
    assert slot.receive(data(0), 0.1)


def test_an_open_without_an_answer_is_repeated_and_given_up():
    slot = Slot(is_central=True, nonce=5, frame_bytes=20)
    slot.open(0.0)
    sent = 0
    while slot.ended is None:
        now = slot.deadline
        sent += sum(frame.kind is Kind.OPEN for frame in decoded(slot, now))
    assert (sent, slot.ended) == (MAX_TIMEOUTS, CloseReason.TIMEOUT)
    assert slot.deadline is None


def test_a_quarter_of_the_window_is_acknowledged_at_once_and_less_after_a_while():
    slot = opened()
    for sequence in range(WINDOW // 4):
        slot.receive(data(sequence), 1.0)
    slot.read(1.0)
    assert [frame.acknowledged for frame in decoded(slot, 1.0)] == [WINDOW // 4]
    slot.receive(data(WINDOW // 4), 1.0)
    slot.read(1.0)
    assert slot.frames(1.0) == []
    assert slot.deadline == pytest.approx(1.0 + ACK_DELAY_S)
    assert [frame.acknowledged for frame in decoded(slot, slot.deadline)] == [WINDOW // 4 + 1]
    assert slot.deadline is None


def test_what_was_not_read_is_not_acknowledged():
    slot = opened()
    slot.receive(data(0), 1.0)
    assert slot.frames(9.0) == []
    slot.receive(data(0), 9.0)  # the sender probes
    assert [frame.acknowledged for frame in decoded(slot, 9.0)] == [0]
    assert slot.read(9.0) == b"x"
    assert [frame.acknowledged for frame in decoded(slot, 9.1)] == [1]


def test_no_more_than_the_window_is_held():
    drops = []
    slot = Slot(is_central=False, nonce=9, frame_bytes=20, count=drops.append)
    slot.receive(encode_open(9, 0, WINDOW), 0.0)
    for sequence in range(WINDOW + 3):
        slot.receive(data(sequence), 1.0)
    assert slot.read(1.0) == b"x" * WINDOW
    assert drops == ["frames_dropped_beyond_window"] * 3


def test_no_more_than_the_peers_window_is_sent():
    slot = opened(frame_bytes=4, window=5)
    slot.write(b"abcdefgh")
    assert [frame.payload for frame in decoded(slot, 0.0)] == [b"a", b"b", b"c", b"d", b"e"]
    slot.receive(ack(2), 0.1)
    assert [frame.payload for frame in decoded(slot, 0.1)] == [b"f", b"g"]


def test_the_same_acknowledgement_three_times_sends_the_missing_frame_again_once():
    slot = opened(frame_bytes=4)
    slot.write(b"abcd")
    slot.frames(0.0)
    slot.receive(ack(1), 0.1)
    for _ in range(2):
        slot.receive(ack(1), 0.1)
    assert slot.frames(0.1) == []
    slot.receive(ack(1), 0.1)
    assert [frame.payload for frame in decoded(slot, 0.1)] == [b"b"]
    for _ in range(6):  # the repetitions for those behind it
        slot.receive(ack(1), 0.12)
    assert slot.frames(0.12) == []
    slot.receive(ack(3), 0.2)  # "c" was there; "d" was lost, too
    assert [frame.payload for frame in decoded(slot, 0.2)] == [b"d"]


def test_frames_after_a_gap_are_kept():
    drops = []
    slot = Slot(is_central=False, nonce=9, frame_bytes=20, count=drops.append)
    slot.receive(encode_open(9, 0, WINDOW), 0.0)
    slot.frames(0.0)
    for sequence in (2, 1, 2):
        slot.receive(data(sequence, bytes([sequence])), 1.0)
        assert not slot.has_data
    assert [frame.acknowledged for frame in decoded(slot, 1.0)] == [0, 0, 0]
    slot.receive(data(0, b"\0"), 1.1)
    assert slot.read(1.1) == b"\0\1\2"
    assert drops == ["frames_dropped_out_of_order"]


def test_data_that_repeats_an_acknowledgement_tells_of_no_gap():
    slot = opened(frame_bytes=4)
    slot.write(b"abcd")
    slot.frames(0.0)
    for sequence in range(5):
        slot.receive(data(sequence), 0.1)
    assert slot.frames(0.1) == []


def test_a_timeout_probes_with_one_frame_and_each_answer_brings_the_next():
    slot = opened(frame_bytes=4)
    slot.write(b"abc")
    slot.frames(0.0)
    assert [frame.payload for frame in decoded(slot, FIRST_TIMEOUT_S)] == [b"a"]
    assert slot.deadline == pytest.approx(3 * FIRST_TIMEOUT_S)
    slot.receive(ack(1), 1.5)
    assert [frame.payload for frame in decoded(slot, 1.5)] == [b"b"]
    slot.receive(ack(3), 1.6)
    assert slot.frames(1.6) == []
    assert slot.deadline is None


def test_silence_ends_the_stream_and_any_frame_keeps_it():
    slot = opened(frame_bytes=4)
    slot.write(b"abc")
    probes = 0
    while slot.ended is None:
        now = slot.deadline or 0.0
        frames = decoded(slot, now)
        probes += 1
        if probes == 5:
            slot.receive(ack(0), now)
    assert probes == 5 + MAX_TIMEOUTS
    assert slot.ended is CloseReason.TIMEOUT
    assert [frame.kind for frame in frames] == [Kind.CLOSE]


def test_close_before_anything_was_said_and_when_told():
    slot = Slot(is_central=True, nonce=5, frame_bytes=20)
    slot.open(0.0)
    slot.frames(0.0)
    slot.close()
    assert [frame.kind for frame in decoded(slot, 0.1)] == [Kind.CLOSE]
    slot = opened()
    slot.receive(data(0), 0.0)
    slot.receive(encode_close(9, CloseReason.BUSY), 0.0)
    assert slot.ended is CloseReason.BUSY
    assert (slot.read(0.0), slot.room, slot.frames(0.0)) == (b"x", 0, [])


def test_the_close_of_an_earlier_stream_ends_nothing():
    slot = opened()
    assert not slot.receive(encode_close(8, CloseReason.END), 0.0)
    assert slot.ended is None


def test_who_goes_on_after_the_end_is_told_again():
    slot = opened()
    slot.abort(CloseReason.TIMEOUT)
    assert slot.frames(0.0) == [encode_close(9, CloseReason.TIMEOUT)]
    for value in (data(0), ack(0), encode_open(9, 0, WINDOW)):
        assert slot.frames(0.0) == []
        assert slot.receive(value, 0.0)
        assert slot.frames(0.0) == [encode_close(9, CloseReason.TIMEOUT)]
    slot.receive(encode_close(9, CloseReason.END), 0.0)
    assert slot.frames(0.0) == []
