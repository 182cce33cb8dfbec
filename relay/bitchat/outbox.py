# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits for one phone, or for all other relays: bounded, at a rate, and fair to those by whom it came.

By turns of so many bytes each link is served by which packets came, and apart from them what nobody can check; within
one the senders; of one sender the most useful first. So whoever brings much, under as many names as he likes, waits
for himself; and where there is no room, who has the most waiting gives way.
"""

from __future__ import annotations

import enum
from bisect import insort_right
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from relay.bitchat.packet import UNSIGNED_TYPES, PacketType
from relay.core.rate import Bucket

if TYPE_CHECKING:
    from collections.abc import Hashable

    from relay.bitchat.packet import Packet
    from relay.core.rate import Rate

MAX_WAITING_BYTES: Final = 64 << 10
"""For one phone: four seconds of its rate. A phone that never reads costs no more."""


class Lane(enum.IntEnum):
    """What goes first of one sender. Announces do, as nothing can be checked without them."""

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


def is_checked(packet: Packet) -> bool:
    """Whether somebody who is known signed it."""
    return packet.signature is not None and packet.type not in UNSIGNED_TYPES


class Group(NamedTuple):
    """Frames that are worth nothing without each other: a packet, or its pieces; ``until``: when they are too late."""

    frames: tuple[bytes, ...]
    until: float

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(map(len, self.frames))


@dataclass(slots=True)
class _Turn:
    """Whose turn it is: who had the least. ``had`` counts bytes from when there was nothing waiting."""

    had: int
    held_bytes: int = 0


@dataclass(slots=True)
class _Sender(_Turn):
    waiting: list[tuple[Lane, int, Group]] = field(default_factory=list)


@dataclass(slots=True)
class _Origin(_Turn):
    senders: dict[bytes, _Sender] = field(default_factory=dict)


T = TypeVar("T", bound=_Turn)
_Key = tuple["Hashable", bool]


class Outbox:
    """The frames that wait for one link."""

    def __init__(self, now: float, rate: Rate, *, frame_cost: int = 0) -> None:
        """``frame_cost``: bytes that each frame costs besides its own."""
        self._origins: dict[_Key, _Origin] = {}
        self._number = 0
        self._bucket = Bucket(rate, now)
        self._frame_cost = frame_cost
        self._started: deque[bytes] = deque()
        self.held_bytes = 0
        #: Groups that gave way, or waited for too long, until somebody counts them.
        self.lost = 0

    def put(self, packet: Packet, group: Group, origin: Hashable) -> None:
        """Let the frames of a packet wait, which came by a link; where there is no room, others give way."""
        key = (origin, is_checked(packet))
        if (of_origin := self._origins.get(key)) is None:
            of_origin = self._origins[key] = _Origin(_least(self._origins))
        if (sender := of_origin.senders.get(packet.sender)) is None:
            sender = of_origin.senders[packet.sender] = _Sender(_least(of_origin.senders))
        self._number += 1
        insort_right(sender.waiting, (lane_of(packet), self._number, group))
        self._hold(of_origin, sender, group.size)
        while self.held_bytes > MAX_WAITING_BYTES and self._origins:
            self._give_way()

    def take(self, now: float) -> list[bytes]:
        """Return the frames that may go now."""
        frames = []
        while self.held_bytes and self._bucket.open_at(now) <= now:
            if not self._started and not self._start(now):
                break
            frame = self._started.popleft()
            self._bucket.spend(len(frame) + self._frame_cost, now)
            self.held_bytes -= len(frame)
            frames.append(frame)
        return frames

    def next_s(self, now: float) -> float | None:
        """When something may go (monotonic seconds), None when nothing waits."""
        return self._bucket.open_at(now) if self.held_bytes else None

    def clear(self) -> None:
        """Forget what waits."""
        self.lost += bool(self._started) + sum(
            len(sender.waiting) for of_origin in self._origins.values() for sender in of_origin.senders.values()
        )
        self._origins.clear()
        self._started.clear()
        self.held_bytes = 0

    def _hold(self, of_origin: _Origin, sender: _Sender, size: int) -> None:
        self.held_bytes += size
        of_origin.held_bytes += size
        sender.held_bytes += size

    def _start(self, now: float) -> bool:
        """Begin with the next group that is not too late."""
        while self._origins:
            key = min(self._origins, key=lambda one: self._origins[one].had)
            of_origin = self._origins[key]
            name = min(of_origin.senders, key=lambda one: of_origin.senders[one].had)
            sender = of_origin.senders[name]
            group = sender.waiting.pop(0)[2]
            is_late = group.until <= now
            if is_late:
                self.lost += 1
            else:
                # It is held until each of its frames has gone.
                self._started.extend(group.frames)
                self.held_bytes += group.size
                of_origin.had += group.size
                sender.had += group.size
            self._hold(of_origin, sender, -group.size)
            self._tidy(key, name)
            if not is_late:
                return True
        return False

    def _give_way(self) -> None:
        """Lose the oldest of the least useful of who has the most."""
        key = max(self._origins, key=lambda one: self._origins[one].held_bytes)
        of_origin = self._origins[key]
        name = max(of_origin.senders, key=lambda one: of_origin.senders[one].held_bytes)
        sender = of_origin.senders[name]
        last = sender.waiting[-1][0]
        at = next(at for at, (lane, _, _) in enumerate(sender.waiting) if lane == last)
        self._hold(of_origin, sender, -sender.waiting.pop(at)[2].size)
        self.lost += 1
        self._tidy(key, name)

    def _tidy(self, key: _Key, name: bytes) -> None:
        of_origin = self._origins[key]
        if not of_origin.senders[name].waiting:
            del of_origin.senders[name]
        if not of_origin.senders:
            del self._origins[key]


def _least(turns: dict[_Key, T] | dict[bytes, T]) -> int:
    """What whoever comes anew has had: as much as the one whose turn it is."""
    return min((turn.had for turn in turns.values()), default=0)
