# SPDX-License-Identifier: GPL-2.0-or-later
"""Both ends of a slot over an air that loses, repeats and overtakes: every byte arrives, once and in order."""

from __future__ import annotations

import heapq
import random
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.bluetooth.directions import MAX_TIMEOUT_S, WINDOW
from relay.bluetooth.gatt import decode_beacon, decode_info
from relay.bluetooth.slot_frames import MAX_WINDOW, CloseReason, decode_frame
from relay.bluetooth.slots import Slot
from relay.core.errors import DecodeError

#: More than any of the transfers below may take: 8 timeouts in a row are 60 s.
MUST_END_S = 4000.0


class Air:
    """Two slots, and what is on its way between them; time jumps to the next thing that happens."""

    def __init__(self, seed, *, loss=0.0, repeat=0.0, jitter_s=0.0, frame_bytes=64):
        self.random = random.Random(seed)
        self.loss, self.repeat, self.jitter_s = loss, repeat, jitter_s
        self.now = 0.0
        self.ends = [Slot(is_central=is_central, nonce=7, frame_bytes=frame_bytes) for is_central in (True, False)]
        self.got = [bytearray(), bytearray()]
        self.reads = [True, True]
        self.unsent = [b"", b""]
        self.on_air = []
        self.order = count()
        self.sent = 0
        self.ends[0].open(0.0)

    def turn(self, end):
        """Let one end's owner write, read and send."""
        slot = self.ends[end]
        if room := slot.room:
            slot.write(self.unsent[end][:room])
            self.unsent[end] = self.unsent[end][room:]
        if self.reads[end] and slot.has_data:
            self.got[end] += slot.read(self.now)
        for frame in slot.frames(self.now):
            assert 3 <= len(frame) <= slot.frame_bytes
            self.sent += 1
            for _ in range(2 if self.random.random() < self.repeat else 1):
                if self.random.random() >= self.loss:
                    arrival = self.now + 0.02 + self.random.random() * self.jitter_s
                    heapq.heappush(self.on_air, (arrival, next(self.order), 1 - end, frame))

    def step(self):
        """Go to the next event; False when there is none."""
        self.turn(0)
        self.turn(1)
        times = [slot.deadline for slot in self.ends if slot.deadline is not None]
        if self.on_air:
            times.append(self.on_air[0][0])
        if not times:
            return False
        self.now = max(self.now, min(times))
        while self.on_air and self.on_air[0][0] <= self.now:
            _, _, end, frame = heapq.heappop(self.on_air)
            self.ends[end].receive(frame, self.now)
        return True

    def run(self, until):
        while not until():
            assert self.step() or until(), "nothing is due and it is not over"
            assert self.now < MUST_END_S


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.1),
    repeat=st.floats(0, 0.2),
    jitter_s=st.sampled_from([0.0, 0.01, 0.1]),
    frame_bytes=st.sampled_from([20, 64, 512]),
    frames=st.tuples(st.integers(0, 400), st.integers(0, 400)),
)
def test_every_byte_arrives_once_and_in_order(seed, loss, repeat, jitter_s, frame_bytes, frames):
    air = Air(seed, loss=loss, repeat=repeat, jitter_s=jitter_s, frame_bytes=frame_bytes)
    wanted = [air.random.randbytes(number * (frame_bytes - 3)) for number in frames]
    air.unsent = list(wanted)
    air.run(lambda: [len(got) for got in air.got] == [len(wanted[1]), len(wanted[0])])
    assert air.got == [bytearray(wanted[1]), bytearray(wanted[0])]
    assert [slot.ended for slot in air.ends] == [None, None]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), loss=st.floats(0, 0.1), size=st.integers(0, 20_000))
def test_a_stream_that_is_closed_delivers_all_first(seed, loss, size):
    air = Air(seed, loss=loss)
    wanted = air.random.randbytes(size)
    air.unsent[0] = wanted
    air.run(lambda: not air.unsent[0])
    air.ends[0].close()
    air.run(lambda: air.ends[0].ended is not None)
    air.turn(1)
    assert air.ends[0].ended is CloseReason.END
    assert air.got[1] == wanted


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), pause_s=st.floats(0, 300))
def test_who_does_not_read_stops_the_other_and_loses_nothing(seed, pause_s):
    air = Air(seed)
    wanted = air.random.randbytes(30_000)
    air.unsent[0] = wanted
    air.reads[1] = False
    until = air.now + pause_s
    while air.now < until:
        air.step()
    # What the pause cost the air: a window, and a probe with its answer each time.
    assert air.sent <= 2 + 2 * WINDOW + 2 * (8 + pause_s / MAX_TIMEOUT_S)
    assert sum(map(len, air.ends[1]._receiver._arrived)) <= WINDOW * 61
    air.reads[1] = True
    air.run(lambda: len(air.got[1]) == len(wanted))
    assert air.got[1] == wanted


@settings(deadline=None, max_examples=200)
@given(frames=st.lists(st.binary(max_size=40), max_size=200), is_open=st.booleans())
def test_whatever_arrives_the_slot_stays_within_its_bounds(frames, is_open):
    air = Air(0)
    if is_open:
        air.unsent = [b"x" * 2000, b""]
        for _ in range(6):
            air.step()
    slot = air.ends[0]
    for frame in frames:
        slot.receive(frame, air.now)
        air.now += 0.01
        assert len(slot.frames(air.now)) <= MAX_WINDOW + 8
        assert len(slot._receiver._arrived) <= WINDOW


@given(st.binary(max_size=600))
def test_decoders_take_anything(value):
    for decode in (decode_frame, decode_beacon):
        try:
            decoded = decode(value)
        except DecodeError:
            continue
        assert value.startswith(decoded.encode())


@given(st.binary(max_size=20))
def test_info_is_taken_whatever_is_appended(value):
    try:
        info = decode_info(value)
    except DecodeError:
        return
    assert decode_info(info.encode()) == info
