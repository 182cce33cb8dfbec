# SPDX-License-Identifier: GPL-2.0-or-later
"""Radio contacts: packets that are lost, doubled and overtaken, and a stream above them.

A session of the relay runs on a reliable byte stream (TCP, L2CAP), so no real
link ever hands it a gap, a repetition or a swap: the kernel below sees those and
turns them into delay, stalls and broken connections. Here likewise: what a
:class:`Contact` does to packets is repaired by a selective-repeat protocol as
small as it can be (sequence numbers, cumulative and selective acknowledgement,
doubling retransmission, a bounded window, a patience after which the connection
breaks), and what reaches the session is what reaches it in life: late, in
bursts, or cut off in the middle of a record. What the session does with a stream
that *is* damaged, because somebody on the way damages it, is another question;
:class:`Tamper` answers it by changing the bytes above the repair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.sim.scheduler import Scheduler

#: What a packet carries besides the stream: link, IP and transport headers, about.
HEADER_BYTES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    """How good a contact is; probabilities are per packet, and per acknowledgement.

    ``window_packets`` may be under way in one direction, ``buffer_bytes`` wait to
    become packets: what a kernel keeps, beyond the relay's say.
    """

    latency_s: float = 0.004
    jitter_s: float = 0.004
    bytes_per_s: float = 1_000_000.0
    packet_bytes: int = 1400
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.05
    patience_s: float = 12.0
    window_packets: int = 48
    buffer_bytes: int = 48 << 10


@dataclass(slots=True)
class Air:
    """What all contacts of a world sent and suffered."""

    packets: int = 0
    bytes: int = 0
    lost: int = 0
    doubled: int = 0
    overtaken: int = 0
    repeated: int = 0
    broken: int = 0
    tampered: int = 0


@dataclass(slots=True, kw_only=True)
class Tamper:
    """Damages the stream itself: each probability is per delivered piece."""

    flip: float = 0.0
    repeat: float = 0.0
    swap: float = 0.0
    drop: float = 0.0
    kept: bytes = b""

    def apply(self, data: bytes, rng: random.Random) -> list[bytes]:
        """Return the pieces to deliver in place of ``data``."""
        if self.kept:
            late, self.kept = self.kept, b""
            return [data, late]
        roll = rng.random()
        for name, probability in (("flip", self.flip), ("repeat", self.repeat), ("swap", self.swap)):
            if roll < probability:
                return getattr(self, f"_{name}")(data, rng)
            roll -= probability
        return [] if roll < self.drop else [data]

    @staticmethod
    def _flip(data: bytes, rng: random.Random) -> list[bytes]:
        at = rng.randrange(len(data))
        return [data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]]

    @staticmethod
    def _repeat(data: bytes, _rng: random.Random) -> list[bytes]:
        return [data, data]

    def _swap(self, data: bytes, _rng: random.Random) -> list[bytes]:
        self.kept = data
        return []


@dataclass(slots=True)
class _Packet:
    data: bytes
    due_s: float
    tries: int = 0


@dataclass(slots=True)
class Half:
    """One direction of a contact: the sender's and the receiver's state."""

    unsent: bytearray = field(default_factory=bytearray)
    under_way: dict[int, _Packet] = field(default_factory=dict)
    parked: dict[int, bytes] = field(default_factory=dict)
    next_number: int = 0
    expected: int = 0
    air_free_s: float = 0.0
    progress_s: float = 0.0
    timer_s: float | None = None
    stream_bytes: int = 0
    ending: bool = False
    end_number: int = -1


class End:
    """One side's handle: write, close, and three callbacks.

    ``on_bytes(data)``, ``on_room()`` when more can be written, ``on_lost()`` once.
    ``may_read()`` says whether the owner takes bytes now; if not, packets stay
    unacknowledged and come again.
    """

    __slots__ = ("_contact", "may_read", "on_bytes", "on_lost", "on_room", "side")

    def __init__(self, contact: Contact, side: int) -> None:
        self._contact = contact
        self.side = side
        self.on_bytes: Callable[[bytes], None] = lambda _: None
        self.on_room: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None
        self.may_read: Callable[[], bool] = lambda: True

    @property
    def room_bytes(self) -> int:
        """Bytes that :meth:`write` takes now."""
        return self._contact.room(self.side)

    @property
    def is_silent(self) -> bool:
        """Whether nothing passes any more."""
        return self._contact.silent

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._contact.write(self.side, data)

    def close(self) -> None:
        """End the stream once what was written has arrived."""
        self._contact.close(self.side)


class Contact:
    """Two ends within reach of each other."""

    def __init__(self, scheduler: Scheduler, rng: random.Random, radio: Radio, air: Air) -> None:
        self.radio = radio
        self.ends = (End(self, 0), End(self, 1))
        self.halves = (Half(), Half())
        self.tamper: Tamper | None = None
        self.silent = False
        self._told = [False, False]
        self._scheduler = scheduler
        self._rng = rng
        self._air = air
        for half in self.halves:
            half.progress_s = scheduler.now

    @property
    def over(self) -> bool:
        """Whether both ends know that the stream ended."""
        return all(self._told)

    # -- the ends ---------------------------------------------------------

    def room(self, side: int) -> int:
        half = self.halves[side]
        return 0 if half.ending or self._told[side] else max(0, self.radio.buffer_bytes - len(half.unsent))

    def write(self, side: int, data: bytes) -> None:
        if self._told[side]:
            return
        half = self.halves[side]
        if not half.under_way and not half.unsent:
            half.progress_s = self._scheduler.now
        half.unsent += data
        half.stream_bytes += len(data)
        self._send(side)

    def close(self, side: int) -> None:
        half = self.halves[side]
        if not half.ending and not self._told[side]:
            half.ending = True
            self._send(side)

    def fade(self) -> None:
        """Go out of reach: nothing passes any more, and nobody is told."""
        self.silent = True

    def cut(self) -> None:
        """Tell both ends that the connection broke."""
        self.silent = True
        for side in (0, 1):
            self._tell(side)

    def _tell(self, side: int) -> None:
        if not self._told[side]:
            self._told[side] = True
            self.ends[side].on_lost()

    # -- packets ----------------------------------------------------------

    def _send(self, side: int) -> None:
        half, window = self.halves[side], self.radio.window_packets
        while len(half.under_way) < window and (half.unsent or (half.ending and half.end_number < 0)):
            data = bytes(half.unsent[: self.radio.packet_bytes])
            del half.unsent[: len(data)]
            number = half.next_number
            half.next_number += 1
            if not data:
                half.end_number = number
            half.under_way[number] = packet = _Packet(data, 0.0)
            self._transmit(side, number, packet)
        self._arm(side)

    def _transmit(self, side: int, number: int, packet: _Packet) -> None:
        half, radio, now = self.halves[side], self.radio, self._scheduler.now
        size = len(packet.data) + HEADER_BYTES
        half.air_free_s = max(half.air_free_s, now) + size / radio.bytes_per_s
        wait_s = 2 * (radio.latency_s + radio.jitter_s) + (radio.reorder_s if radio.reorder else 0.0) + 0.05
        packet.due_s = half.air_free_s + wait_s * (1 << min(packet.tries, 5))
        packet.tries += 1
        self._air.packets += 1
        self._air.bytes += size
        copies = 1
        if radio.duplicate and self._rng.random() < radio.duplicate:
            copies = 2
            self._air.doubled += 1
        for _ in range(copies):
            if self.silent or (radio.loss and self._rng.random() < radio.loss):
                self._air.lost += 1
                continue
            delay_s = radio.latency_s + radio.jitter_s * self._rng.random()
            if radio.reorder and self._rng.random() < radio.reorder:
                delay_s += radio.reorder_s
                self._air.overtaken += 1
            self._scheduler.at(half.air_free_s + delay_s, self._arrive, side, number, packet.data)

    def _arrive(self, side: int, number: int, data: bytes) -> None:
        other = 1 - side
        half = self.halves[side]
        if self.silent or self._told[other] or not self.ends[other].may_read():
            return
        self._air.bytes += HEADER_BYTES
        if not (self.radio.loss and self._rng.random() < self.radio.loss):
            self._scheduler.after(self.radio.latency_s, self._acknowledged, side, number)
        if number < half.expected or number in half.parked:
            return
        half.parked[number] = data
        pieces = []
        ended = False
        while half.expected in half.parked:
            piece = half.parked.pop(half.expected)
            half.expected += 1
            if piece:
                pieces.append(piece)
            else:
                ended = True
        if pieces:
            self._deliver(other, b"".join(pieces))
        if ended:
            self._tell(other)

    def _deliver(self, other: int, data: bytes) -> None:
        if self.tamper is None:
            self.ends[other].on_bytes(data)
            return
        pieces = self.tamper.apply(data, self._rng)
        self._air.tampered += pieces != [data]
        for piece in pieces:
            if not self._told[other]:
                self.ends[other].on_bytes(piece)

    def _acknowledged(self, side: int, number: int) -> None:
        half = self.halves[side]
        if self.silent or half.under_way.pop(number, None) is None:
            return
        half.progress_s = self._scheduler.now
        if number == half.end_number:
            self._tell(side)
            return
        full = len(half.unsent) >= self.radio.buffer_bytes // 2
        self._send(side)
        if full > (len(half.unsent) >= self.radio.buffer_bytes // 2) and not self._told[side]:
            self.ends[side].on_room()

    def _arm(self, side: int) -> None:
        half = self.halves[side]
        if not half.under_way:
            return
        due_s = min(packet.due_s for packet in half.under_way.values())
        if half.timer_s is None or due_s < half.timer_s:
            half.timer_s = due_s
            self._scheduler.at(due_s, self._timer, side, due_s)

    def _timer(self, side: int, due_s: float) -> None:
        half, now = self.halves[side], self._scheduler.now
        if half.timer_s != due_s:
            return
        half.timer_s = None
        if self._told[side]:
            return
        if half.under_way and now - half.progress_s > self.radio.patience_s:
            self._air.broken += 1
            self._tell(side)
            return
        for number, packet in half.under_way.items():
            if packet.due_s <= now:
                self._air.repeated += 1
                self._transmit(side, number, packet)
        self._arm(side)
