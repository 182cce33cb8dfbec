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

#: One lane for control and one for each size class, twice (live and bulk, for
#: slow links); receivers keep at most one partial message for each.
LANES = 8
CONTROL_LANE = 0
#: For messages that go out in one frame each, many at a time.
WHOLE_LANE = LANES - 1
#: Frames joined for one turn of that lane: a record of a fast link, which is then not copied again.
BLOCK_BYTES = 65_000
_MORE = 0x80
_HEADER = struct.Struct(">BH")
FRAME_HEADER_BYTES = _HEADER.size

#: Longest message: an envelope of 16,384 bytes and its message header, or a full
#: list of offers or of reconciliation symbols. A hostile peer can make a
#: receiver keep LANES times this, 130 KiB.
MAX_MESSAGE_BYTES = 16_640
#: Noise section 3 allows 65,535 bytes a message, of which 16 are the tag.
MAX_RECORD_PLAINTEXT_BYTES = 65_535 - 16


class FrameWriter:
    """Queues messages by lane and packs them into records."""

    __slots__ = ("_fragment_bytes", "_lanes", "_next", "_record_bytes", "queued_bytes")

    def __init__(self, *, record_bytes: int, fragment_bytes: int) -> None:
        """``record_bytes``: plaintext limit of a record; ``fragment_bytes``: one lane's turn."""
        if not FRAME_HEADER_BYTES < record_bytes <= MAX_RECORD_PLAINTEXT_BYTES:
            raise ValueError(f"record of {record_bytes} bytes")
        self._record_bytes = record_bytes
        self._fragment_bytes = min(fragment_bytes, record_bytes - FRAME_HEADER_BYTES)
        self._lanes: list[deque[bytes]] = [deque() for _ in range(LANES)]
        self._next = 0
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
        for step in range(LANES):
            lane = (self._next + step) % LANES
            if self._lanes[lane]:
                self._next = lane + 1
                return lane
        return None

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
    """Takes records apart into whole messages."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: list[bytearray | None] = [None] * LANES

    def read_record(self, record: bytes) -> list[bytes]:
        """Return the messages that ``record`` completes; raise DecodeError on garbage."""
        messages: list[bytes] = []
        partials, unpack = self._partial, _HEADER.unpack_from
        offset, end = 0, len(record)
        while offset < end:
            if end - offset < FRAME_HEADER_BYTES:
                raise DecodeError("truncated frame header")
            flags, size = unpack(record, offset)
            start = offset + FRAME_HEADER_BYTES
            offset = start + size
            lane = flags & ~_MORE
            if lane >= LANES or not size or offset > end:
                raise DecodeError("bad lane or frame length")
            fragment = record[start:offset]
            partial = partials[lane]
            if partial is None and flags == lane:
                if size > MAX_MESSAGE_BYTES:
                    raise DecodeError("message too long")
                messages.append(fragment)
                continue
            if partial is None:
                partial = self._partial[lane] = bytearray()
            partial += fragment
            if len(partial) > MAX_MESSAGE_BYTES:
                raise DecodeError("message too long")
            if flags == lane:
                messages.append(bytes(partial))
                self._partial[lane] = None
        return messages
