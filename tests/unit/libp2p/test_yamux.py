# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams of two sides that talk to each other, and what is refused."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.errors import DecodeError
from relay.libp2p import yamux
from relay.libp2p.yamux import MAX_CONTROL_BYTES, MAX_INBOUND, WINDOW_BYTES, Yamux

HEADER = struct.Struct(">BBHII")
DATA, WINDOW, PING, AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind, flags, stream, length, body=b""):
    return HEADER.pack(0, kind, flags, stream, length) + body


class Side:
    """One side, and what arrived of each stream."""

    def __init__(self, *, initiator, takes=True):
        self.mux = Yamux(initiator=initiator)
        self.takes = takes
        self.got = {}
        self.ended = set()
        self.reset = set()
        self.opened = []

    def receive(self, data):
        for event in self.mux.receive(data):
            match event:
                case yamux.Opened(number):
                    self.opened.append(number)
                case yamux.Data(number, piece):
                    self.got[number] = self.got.get(number, b"") + piece
                    if self.takes:
                        self.mux.taken(number, len(piece))
                case yamux.Ended(number):
                    self.ended.add(number)
                case yamux.Reset(number):
                    self.reset.add(number)


def exchange(a, b, size=10_000):
    """Have both say all they can."""
    while a.mux.has_work or b.mux.has_work:
        moved = False
        for one, other in ((a, b), (b, a)):
            data = one.mux.data_to_send(1 << 16, [])
            moved = moved or bool(data)
            for at in range(0, len(data), size):
                other.receive(data[at : at + size])
        if not moved:
            return


@settings(deadline=None)
@given(st.lists(st.binary(max_size=1000), max_size=20), st.integers(1, 400))
def test_what_is_written_arrives_in_order_and_then_the_end(pieces, size):
    a, b = Side(initiator=True), Side(initiator=False)
    number = a.mux.open()
    for piece in pieces:
        a.mux.write(number, piece)
    a.mux.end(number)
    exchange(a, b, size)
    assert b.opened == [number]
    assert b.got.get(number, b"") == b"".join(pieces)
    assert b.ended == {number}
    b.mux.write(number, b"answer")
    b.mux.end(number)
    exchange(a, b, size)
    assert a.got == {number: b"answer"}
    assert a.mux.streams == b.mux.streams == 0


def test_a_window_bounds_what_is_on_its_way_and_reading_opens_it():
    a, b = Side(initiator=True), Side(initiator=False, takes=False)
    number = a.mux.open()
    a.mux.write(number, bytes(3 * WINDOW_BYTES))
    exchange(a, b)
    assert len(b.got[number]) == WINDOW_BYTES
    b.mux.taken(number, WINDOW_BYTES // 2 - 1)
    exchange(a, b)
    assert len(b.got[number]) == WINDOW_BYTES
    b.mux.taken(number, WINDOW_BYTES // 2 + 1)
    exchange(a, b)
    assert len(b.got[number]) == 2 * WINDOW_BYTES


def test_one_that_has_much_to_say_holds_up_no_other():
    a, b = Side(initiator=True), Side(initiator=False)
    much, little = a.mux.open(), a.mux.open()
    a.mux.write(much, bytes(WINDOW_BYTES))
    a.mux.write(little, b"little")
    b.receive(a.mux.data_to_send(100_000, []))
    assert b.got[little] == b"little"
    assert len(b.got[much]) < WINDOW_BYTES


def test_the_end_is_a_frame_of_its_own():
    """go-yamux heeds the flags of a frame before its data: a reader would have the end, and not the data."""
    a = Yamux(initiator=True)
    number = a.open()
    a.write(number, b"text")
    a.end(number)
    data, frames = a.data_to_send(1 << 16, []), []
    while data:
        _, kind, flags, _, length = HEADER.unpack_from(data)
        frames.append((kind, flags))
        data = data[HEADER.size + (length if kind == DATA else 0) :]
    assert (DATA, 0) in frames
    assert frames[-1] == (WINDOW, FIN)


def test_a_reset_ends_both_ways_and_what_is_on_its_way_is_thrown_away():
    a, b = Side(initiator=True), Side(initiator=False)
    number = a.mux.open()
    a.mux.write(number, b"text")
    exchange(a, b)
    b.mux.reset(number)
    a.mux.write(number, b"more")
    late = a.mux.data_to_send(1 << 16, [])
    a.receive(b.mux.data_to_send(1 << 16, []))
    b.receive(late)
    assert a.reset == {number}
    assert a.mux.streams == b.mux.streams == 0
    assert b.got == {number: b"text"}


def test_more_streams_than_there_may_be_are_reset_and_the_rest_goes_on():
    b = Side(initiator=False)
    for number in range(MAX_INBOUND + 10):
        b.receive(frame(WINDOW, SYN, 2 * number + 1, 0))
    assert len(b.opened) == MAX_INBOUND
    assert b.mux.refused == 10
    said = b.mux.data_to_send(1 << 20, [])
    answers = [HEADER.unpack_from(said, at)[2] for at in range(0, len(said), HEADER.size)]
    assert answers.count(RST) == 10
    b.receive(frame(WINDOW, RST, 1, 0))
    b.receive(frame(WINDOW, SYN, 99_999, 0))
    assert b.opened[-1] == 99_999


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, SYN, 1, 1 + WINDOW_BYTES),  # beyond the window
        frame(DATA, 0, 7, 1 + WINDOW_BYTES),  # ... of a stream that there is not
        frame(WINDOW, SYN, 2, 0),  # a number of ours
        frame(WINDOW, SYN, 1, 0) * 2,
        frame(WINDOW, SYN, 0, 0),
        frame(PING, SYN, 1, 0),
        frame(4, 0, 1, 0),
        frame(DATA, 16, 1, 0),
        b"\x01" + frame(DATA, SYN, 1, 0)[1:],
        frame(WINDOW, SYN, 1, 0xFFFF_FFFF),  # a window that no number says
        frame(DATA, SYN | FIN, 1, 1, b"x") + frame(DATA, 0, 1, 1, b"y"),
    ],
)
def test_what_no_honest_peer_sends_ends_the_connection(data):
    with pytest.raises(DecodeError):
        Yamux(initiator=False).receive(data)


def test_who_asks_without_reading_the_answers_is_hung_up_on():
    b = Yamux(initiator=False)
    with pytest.raises(DecodeError):
        b.receive(frame(PING, SYN, 0, 1) * (MAX_CONTROL_BYTES // HEADER.size + 1))


def test_a_ping_is_answered():
    a, b = Side(initiator=True), Side(initiator=False)
    a.mux.ping(7)
    b.receive(a.mux.data_to_send(1 << 16, []))
    assert a.mux.receive(b.mux.data_to_send(1 << 16, [])) == [yamux.Pong(7)]


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_events_or_a_decode_error(data):
    mux = Yamux(initiator=False)
    try:
        mux.receive(data)
        mux.data_to_send(1 << 16, [])
    except DecodeError:
        pass
