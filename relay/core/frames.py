# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames: messages of a session cut so that a large one never blocks a small one.

docs/protocol.md section 5. A record (one Noise transport message) holds whole
frames; a frame is ``u8 lane | MORE, u16 length, bytes``. Messages of one lane
arrive in order; the lanes take turns, a fragment each.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Receivers keep at most one partial message for each.
LANES = 9
CONTROL_LANE = 0
#: For messages that go out in one frame each, many at a time.
WHOLE_LANE = 7
#: For what is said now or never: it gets a turn once others had three times as much, or when none of them waits.
LIVE_LANE = 8
_LIVE_PART = 3
#: Frames joined for one turn of that lane: a record of a fast link, which is then not copied again.
BLOCK_BYTES = 65_000
_MORE = 0x80
_HEADER = struct.Struct(">BH")
FRAME_HEADER_BYTES = _HEADER.size

#: Longest message: an envelope of 16,384 bytes and its message header, or a full
#: list of offers or of reconciliation symbols. A hostile peer can make a
#: receiver keep LANES times this, 147 KiB.
MAX_MESSAGE_BYTES = 16_640
#: Noise section 3 allows 65,535 bytes a message, of which 16 are the tag.
MAX_RECORD_PLAINTEXT_BYTES = 65_535 - 16


class OversizedError(DecodeError):
    """A message longer than any may be."""


class FrameWriter:
    """Queues messages by lane and packs them into records."""

    __slots__ = ("_fragment_bytes", "_lanes", "_live_due", "_next", "_record_bytes", "queued_bytes")

    def __init__(self, *, record_bytes: int, fragment_bytes: int) -> None:
        """``record_bytes``: plaintext limit of a record; ``fragment_bytes``: one lane's turn."""
        if not FRAME_HEADER_BYTES < record_bytes <= MAX_RECORD_PLAINTEXT_BYTES:
            raise ValueError(f"record of {record_bytes} bytes")
        self._record_bytes = record_bytes
        self._fragment_bytes = min(fragment_bytes, record_bytes - FRAME_HEADER_BYTES)
        self._lanes: list[deque[bytes]] = [deque() for _ in range(LANES)]
        self._next = 0
        #: Bytes of the live lane whose turn it is; never more than one turn, nor less.
        self._live_due = 0
        self.queued_bytes = 0

    def push(self, lane: int, message: bytes) -> None:
        """Queue a message; bounds are the caller's, who sees ``queued_bytes``."""
        self._lanes[lane].append(message)
        self.queued_bytes += len(message)

    def push_whole(self, start: bytes, rests: Sequence[bytes]) -> None:
        """Queue messages of one length, ``start`` and one of ``rests`` each, a frame to a message.

        Joined by the dozen, which is what makes bulk retrieval as fast as it is.
        """
        size = len(start) + len(rests[0])
        if size > self._fragment_bytes or self._record_bytes < BLOCK_BYTES:
            raise ValueError(f"messages of {size} bytes do not go whole on this link")
        start = _HEADER.pack(WHOLE_LANE, size) + start
        count = BLOCK_BYTES // (size + FRAME_HEADER_BYTES)
        for first in range(0, len(rests), count):
            block = start + start.join(rests[first : first + count])
            self._lanes[WHOLE_LANE].append(block)
            self.queued_bytes += len(block)

    def is_idle(self, lane: int) -> bool:
        """Whether nothing waits on ``lane``."""
        return not self._lanes[lane]

    def pull_record(self, *, urgent_only: bool = False) -> bytes | None:
        """Return the plaintext of the next record, or None when nothing (of the control lane) is queued."""
        if not self.queued_bytes or (urgent_only and self.is_idle(CONTROL_LANE)):
            return None
        parts: list[bytes] = []
        room = self._record_bytes
        room -= self._drain(CONTROL_LANE, room, parts, self._record_bytes)
        while not urgent_only and room > FRAME_HEADER_BYTES and self.queued_bytes:
            lane = self._turn()
            if lane is None:
                break
            if lane == WHOLE_LANE:
                used = self._take_block(room, parts)
                if not used:
                    break  # it begins the next record
            else:
                used = self._drain(lane, room, parts, self._fragment_bytes)
            room -= used
            if lane == LIVE_LANE:
                self._live_due = max(-self._fragment_bytes, min(0, self._live_due - used))
            else:
                self._live_due = min(self._fragment_bytes, self._live_due + used // _LIVE_PART)
        return b"".join(parts)

    def _take_block(self, room: int, parts: list[bytes]) -> int:
        blocks = self._lanes[WHOLE_LANE]
        size = len(blocks[0])
        if size > room:
            self._next = WHOLE_LANE
            return 0
        parts.append(blocks.popleft())
        self.queued_bytes -= size
        return size

    def _turn(self) -> int | None:
        is_live = bool(self._lanes[LIVE_LANE])
        if is_live and self._live_due > 0:
            return LIVE_LANE
        for step in range(LIVE_LANE):
            lane = (self._next + step) % LIVE_LANE
            if self._lanes[lane]:
                self._next = lane + 1
                return lane
        return LIVE_LANE if is_live else None

    def _drain(self, lane: int, room: int, parts: list[bytes], turn_bytes: int) -> int:
        """Move at most ``turn_bytes`` of one lane into ``parts``; return the room used."""
        queue = self._lanes[lane]
        used = 0
        while queue and turn_bytes > 0 and room - used > FRAME_HEADER_BYTES:
            message = queue[0]
            size = min(len(message), turn_bytes, room - used - FRAME_HEADER_BYTES)
            if size == len(message):
                queue.popleft()
                parts += (_HEADER.pack(lane, size), message)
            else:
                queue[0] = message[size:]
                parts += (_HEADER.pack(lane | _MORE, size), message[:size])
            used += size + FRAME_HEADER_BYTES
            turn_bytes -= size
            self.queued_bytes -= size
        return used


class FrameReader:
    """Takes records apart into whole messages, as many at a time as is wanted."""

    __slots__ = ("_at", "_partial", "_record")

    def __init__(self) -> None:
        self._partial: list[bytearray | None] = [None] * LANES
        self._record = b""
        self._at = 0

    @property
    def left_bytes(self) -> int:
        """Bytes of the record that are left to :meth:`take`."""
        return len(self._record) - self._at

    @property
    def held_bytes(self) -> int:
        """Bytes of the record and of messages that are not whole yet."""
        return len(self._record) + sum([len(partial) for partial in self._partial if partial is not None])

    def feed(self, record: bytes) -> None:
        """Begin the next record, once nothing is left of the one before."""
        self._record = record
        self._at = 0

    def take(self, most_frames: int, most_bytes: int = MAX_RECORD_PLAINTEXT_BYTES) -> tuple[list[bytes], int]:
        """Return the messages that the next frames complete, and how many frames those were.

        At least one frame, if there is any. Raise DecodeError on garbage; what was whole
        before it is returned first.
        """
        messages: list[bytes] = []
        record, partials, unpack = self._record, self._partial, _HEADER.unpack_from
        offset, end = self._at, len(record)
        until = min(end, offset + most_bytes)
        frames = 0
        error: DecodeError | None = None
        while offset < until and frames < most_frames:
            if end - offset < FRAME_HEADER_BYTES:
                error = DecodeError("truncated frame header")
                break
            flags, size = unpack(record, offset)
            start = offset + FRAME_HEADER_BYTES
            after = start + size
            frames += 1
            if flags < LANES and partials[flags] is None and 0 < size <= MAX_MESSAGE_BYTES and after <= end:
                # Whole, as nearly all are on a fast link.
                messages.append(record[start:after])
                offset = after
                continue
            lane = flags & ~_MORE
            if lane >= LANES or not size or after > end:
                error = DecodeError("bad lane or frame length")
                break
            partial = partials[lane]
            if (size if partial is None else len(partial) + size) > MAX_MESSAGE_BYTES:
                error = OversizedError("message too long")
                break
            fragment = record[start:after]
            if partial is not None:
                partial += fragment
            if flags != lane:
                partials[lane] = bytearray(fragment) if partial is None else partial
            elif partial is not None:
                messages.append(bytes(partial))
                partials[lane] = None
            offset = after
        if error is not None and not messages:
            raise error
        self._at = offset
        if offset >= end:
            self._record, self._at = b"", 0
        return messages, frames

    def read_record(self, record: bytes) -> list[bytes]:
        """Return all messages that ``record`` completes; raise DecodeError on garbage."""
        self.feed(record)
        messages: list[bytes] = []
        while self.left_bytes:
            messages += self.take(len(record))[0]
        return messages
