# SPDX-License-Identifier: GPL-2.0-or-later
"""The two directions of a slot's stream: what to send, again or at all, and what arrived (docs/ble.md section 5).

What is lost is little; what is late, when bluetoothd and the bus are busy with other
clients, is much. So a frame is sent again one at a time, as the acknowledgements show
it missing (NewReno, RFC 6582, with a window that does not change): sending all again
that is on its way would make a slow machine slower, which makes it later still.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.bluetooth.slot_frames import MAX_WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.bluetooth.slot_frames import Frame

#: DATA frames that we take unacknowledged; measured, more are no faster. With 512
#: bytes each a slot holds at most 12 KiB of what arrived, and 32 KiB of what it sends
#: to somebody with the largest window.
WINDOW: Final = 24
#: What may wait to be cut into frames.
SEND_BUFFER_BYTES: Final = 4096
ACK_DELAY_S: Final = 0.05
#: Repetitions of an acknowledgement that tell of a gap, rather than of a late frame.
REPEATS_OF_A_GAP: Final = 3

#: Before there is an estimate (RFC 6298 section 2.1), and its bounds.
FIRST_TIMEOUT_S: Final = 1.0
MIN_TIMEOUT_S: Final = 0.3
MAX_TIMEOUT_S: Final = 10.0
#: The other side has gone if so many timeouts in a row brought nothing: 35 s or more.
MAX_TIMEOUTS: Final = 8


class _Timer:
    """Retransmission timeout by RFC 6298."""

    __slots__ = ("_deviation_s", "_smoothed_s", "timeout_s")

    def __init__(self) -> None:
        self._smoothed_s: float | None = None
        self._deviation_s = 0.0
        self.timeout_s = FIRST_TIMEOUT_S

    def measured(self, round_trip_s: float) -> None:
        """Take in a round trip, which also ends all doubling."""
        if self._smoothed_s is None:
            self._smoothed_s = round_trip_s
            self._deviation_s = round_trip_s / 2
        else:
            self._deviation_s += (abs(round_trip_s - self._smoothed_s) - self._deviation_s) / 4
            self._smoothed_s += (round_trip_s - self._smoothed_s) / 8
        wanted_s = self._smoothed_s + 4 * self._deviation_s
        self.timeout_s = min(max(wanted_s, MIN_TIMEOUT_S), MAX_TIMEOUT_S)

    def expired(self) -> None:
        """Double the timeout."""
        self.timeout_s = min(2 * self.timeout_s, MAX_TIMEOUT_S)


@dataclass(slots=True)
class _Sent:
    """A DATA frame that is not acknowledged."""

    payload: bytes
    sent_s: float
    is_repeated: bool = False


class Sender:
    """The direction away from us: what is unsent, and what is unacknowledged."""

    __slots__ = (
        "_count",
        "_first",
        "_must_repeat",
        "_recovering",
        "_repeats",
        "_timer",
        "_unacknowledged",
        "_unsent",
        "_window",
        "expires",
        "timeouts",
    )

    def __init__(self, count: Callable[[str], None]) -> None:
        self._count = count
        self._unsent = bytearray()
        self._unacknowledged: deque[_Sent] = deque()
        self._first = 0  # sequence number of the first unacknowledged frame
        self._must_repeat = False  # ... which has to be sent again
        self._recovering = 0  # so many frames were on their way when one was found missing
        self._repeats = 0
        self._window = 0
        self._timer = _Timer()
        self.timeouts = 0
        self.expires: float | None = None

    @property
    def room(self) -> int:
        return max(SEND_BUFFER_BYTES - len(self._unsent), 0)

    @property
    def is_drained(self) -> bool:
        return not self._unsent and not self._unacknowledged

    @property
    def next(self) -> int:
        return (self._first + len(self._unacknowledged)) % 256

    def write(self, data: bytes) -> None:
        self._unsent += data

    def open(self, window: int) -> None:
        self._window = window

    def acknowledged(self, until: int, now: float, *, is_bare: bool) -> None:
        """The other side has all before ``until``; ``is_bare``: it said so in an ACK."""
        count = (until - self._first) % 256
        if count > len(self._unacknowledged):
            return  # an old one, or nonsense
        if count == 0:
            if is_bare and self._unacknowledged:
                self._repeated(now)
            return
        for _ in range(count):
            newest = self._unacknowledged.popleft()
        if not newest.is_repeated:  # else nobody knows which copy it is for (Karn's algorithm)
            self._timer.measured(now - newest.sent_s)
        self._first = until
        self._repeats = 0
        self.timeouts = 0
        self._recovering = max(self._recovering - count, 0)
        # Of those on their way with the missing one, the next is missing as well.
        self._must_repeat = self._recovering > 0
        self.expires = now + self._timer.timeout_s if self._unacknowledged else None

    def _repeated(self, now: float) -> None:
        self._repeats += 1
        if self._repeats >= REPEATS_OF_A_GAP and not self._recovering:
            self._recover(now)

    def _recover(self, now: float) -> None:
        self._recovering = len(self._unacknowledged)
        self._must_repeat = True
        self._repeats = 0
        self.expires = now + self._timer.timeout_s

    def expired(self, now: float) -> None:
        """Probe with the first frame; the acknowledgement shows what else is missing."""
        self.timeouts += 1
        self._timer.expired()
        self._recover(now)

    def frames(self, now: float, payload_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Give sequence numbers and payloads of the frames to send now."""
        if self._must_repeat:
            self._must_repeat = False
            self._unacknowledged[0].is_repeated = True
            self._count("slot_retransmits")
            yield self._first, self._unacknowledged[0].payload
        while self._unsent and len(self._unacknowledged) < self._window and not self.timeouts:
            payload = bytes(self._unsent[:payload_bytes])
            del self._unsent[:payload_bytes]
            sequence = self.next
            self._unacknowledged.append(_Sent(payload=payload, sent_s=now))
            if self.expires is None:
                self.expires = now + self._timer.timeout_s
            yield sequence, payload


class Receiver:
    """The direction towards us: what arrived and was not taken yet.

    A frame is acknowledged when its bytes have been taken, not before: who takes
    nothing makes the other side stop at the window, with nothing lost.
    """

    __slots__ = ("_arrived", "_count", "_due", "_early", "_expected", "_owed", "_repeats")

    def __init__(self, count: Callable[[str], None]) -> None:
        self._count = count
        self._arrived: deque[bytes] = deque()
        self._early: dict[int, bytes] = {}  # after a gap, by sequence number
        self._expected = 0
        self._owed = 0  # DATA frames taken and not acknowledged
        self._due: float | None = None
        self._repeats = 0

    @property
    def acknowledged(self) -> int:
        return (self._expected - len(self._arrived)) % 256

    @property
    def has_data(self) -> bool:
        return bool(self._arrived)

    @property
    def due(self) -> float | None:
        """When the next acknowledgement has to leave."""
        return self._due

    @property
    def has_gap(self) -> bool:
        """Whether the other side has to be told in ACKs, which it counts."""
        return self._repeats > 0

    def receive(self, frame: Frame, now: float) -> None:
        ahead = (frame.sequence - self._expected) % 256
        if ahead == 0 and self._has_room(0):
            self._arrived.append(frame.payload)
            self._expected = (self._expected + 1) % 256
            while (payload := self._early.pop(self._expected, None)) is not None:
                self._arrived.append(payload)
                self._expected = (self._expected + 1) % 256
            return
        # Three tell as much as one for each frame of a burst.
        self._repeats = min(self._repeats + 1, REPEATS_OF_A_GAP)
        self._due = now
        if ahead < MAX_WINDOW and not self._has_room(ahead):
            self._count("frames_dropped_beyond_window")
        elif ahead >= MAX_WINDOW or frame.sequence in self._early:
            self._count("frames_dropped_out_of_order")
        else:
            self._early[frame.sequence] = frame.payload

    def _has_room(self, ahead: int) -> bool:
        return len(self._arrived) + self._owed + ahead < WINDOW

    def take(self, now: float) -> bytes:
        self._owed += len(self._arrived)
        if self._owed >= WINDOW // 4:
            self._due = now
        elif self._owed and self._due is None:
            self._due = now + ACK_DELAY_S
        data = b"".join(self._arrived)
        self._arrived.clear()
        return data

    def bare_acknowledgements(self, now: float) -> int:
        """Return how many ACK frames to send, when no DATA carries the number."""
        if self._due is None or now < self._due:
            return 0
        count = max(self._repeats, 1)
        self.said()
        return count

    def said(self) -> None:
        """What we send tells the number now."""
        self._owed = 0
        self._due = None
        self._repeats = 0
