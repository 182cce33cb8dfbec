# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits for one phone: bounded, the most useful first, at the rate that the phone may have of the air."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from relay.bitchat.limits import BYTES_OUT
from relay.bitchat.packet import PacketType
from relay.core.rate import Bucket

if TYPE_CHECKING:
    from relay.bitchat.packet import Packet

MAX_WAITING_BYTES: Final = 64 << 10
"""For one phone: four seconds of its rate. A phone that never reads costs no more."""


class Lane(enum.IntEnum):
    """What goes first. Announces do, as nothing can be checked without them."""

    ANNOUNCE = 0
    CONVERSATION = 1
    PUBLIC = 2
    PIECES = 3
    ANSWER = 4


def lane_of(packet: Packet) -> Lane:
    """Return the lane of a packet that is passed on."""
    if packet.is_answer or packet.ttl == 0:
        return Lane.ANNOUNCE if packet.type == PacketType.ANNOUNCE else Lane.ANSWER
    if packet.type == PacketType.ANNOUNCE:
        return Lane.ANNOUNCE
    if packet.type == PacketType.FRAGMENT:
        return Lane.PIECES
    return Lane.PUBLIC if packet.is_broadcast else Lane.CONVERSATION


class Group(NamedTuple):
    """Frames that are worth nothing without each other: a packet, or its pieces; ``until``: when they are too late."""

    frames: tuple[bytes, ...]
    until: float


class Outbox:
    """The frames that wait for one link."""

    def __init__(self, now: float) -> None:
        self._lanes: tuple[deque[Group], ...] = tuple(deque() for _ in Lane)
        self._bucket = Bucket(BYTES_OUT, now)
        self._started: deque[bytes] = deque()
        self.held_bytes = 0

    def put(self, lane: Lane, group: Group) -> int:
        """Let frames wait; return how many groups gave way, the oldest of the least useful first."""
        self._lanes[lane].append(group)
        self.held_bytes += _size(group)
        lost = 0
        while self.held_bytes > MAX_WAITING_BYTES:
            last = next((waiting for waiting in reversed(self._lanes) if waiting), None)
            if last is None:
                break
            self.held_bytes -= _size(last.popleft())
            lost += 1
        return lost

    def take(self, now: float) -> list[bytes]:
        """Return the frames that may go now."""
        frames = []
        while self.held_bytes and self._bucket.open_at(now) <= now:
            if not self._started and not self._start(now):
                break
            frame = self._started.popleft()
            self._bucket.spend(len(frame), now)
            self.held_bytes -= len(frame)
            frames.append(frame)
        return frames

    def next_s(self, now: float) -> float | None:
        """When something may go (monotonic seconds), None when nothing waits."""
        return self._bucket.open_at(now) if self.held_bytes else None

    def clear(self) -> int:
        """Forget what waits; return how many groups that are."""
        lost = sum(map(len, self._lanes)) + bool(self._started)
        for waiting in self._lanes:
            waiting.clear()
        self._started.clear()
        self.held_bytes = 0
        return lost

    def _start(self, now: float) -> bool:
        for waiting in self._lanes:
            while waiting:
                group = waiting.popleft()
                if group.until > now:
                    self._started.extend(group.frames)
                    return True
                self.held_bytes -= _size(group)
        return False


def _size(group: Group) -> int:
    return sum(map(len, group.frames))
