# SPDX-License-Identifier: GPL-2.0-or-later
"""yamux (https://github.com/hashicorp/yamux/blob/master/spec.md): many streams in one connection. Free of I/O.

Bytes come in, events go out; what is to be sent is made when there is room for it, a piece of each stream in turn, so
that one that has much holds up none.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from relay.core.errors import DecodeError

PROTOCOL: Final = "/yamux/1.0.0"
#: Version, kind, flags, stream, length.
_HEADER: Final = struct.Struct(">BBHII")
HEADER_BYTES: Final = _HEADER.size
#: What each side may send of a stream before it hears more.
WINDOW_BYTES: Final = 256 << 10
#: A frame's: as go-yamux in libp2p, so that a small one waits for little.
MAX_FRAME_BYTES: Final = 64 << 10
#: Streams that a peer may have open in one connection.
MAX_INBOUND: Final = 1024
#: Answers to pings, ends and resets that may wait to be sent; whoever asks for more without reading is hung up on.
MAX_CONTROL_BYTES: Final = 64 << 10
_U32: Final = 0xFFFF_FFFF


class _Kind(enum.IntEnum):
    DATA = 0
    WINDOW = 1
    PING = 2
    GO_AWAY = 3


_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8


class GoAway(enum.IntEnum):
    """Why a connection ends."""

    NORMAL = 0
    PROTOCOL = 1
    INTERNAL = 2


class Opened(NamedTuple):
    """The peer has opened a stream."""

    stream: int


class Data(NamedTuple):
    """The peer has sent of a stream; what is taken of it, :meth:`Yamux.taken` has to be told."""

    stream: int
    data: bytes


class Ended(NamedTuple):
    """The peer sends no more of a stream."""

    stream: int


class Reset(NamedTuple):
    """A stream is over, both ways."""

    stream: int


class Room(NamedTuple):
    """More of a stream can be written."""

    stream: int


class Pong(NamedTuple):
    """The peer has answered a ping."""

    value: int


class Away(NamedTuple):
    """The peer takes no more streams."""

    code: int


Event = Opened | Data | Ended | Reset | Room | Pong | Away


class StreamLimitError(Exception):
    """No more streams can be opened in this connection."""


@dataclass(slots=True)
class _Stream:
    #: What we may still send, and what the peer may.
    send_window: int = WINDOW_BYTES
    receive_window: int = WINDOW_BYTES
    #: Taken by the reader, and not told to the peer yet.
    taken: int = 0
    waiting: deque[memoryview] = field(default_factory=deque)
    waiting_bytes: int = 0
    #: Flags that the next frame has to carry.
    flags: int = 0
    is_ending: bool = False
    #: We have said that no more comes; so has the peer.
    is_ended: bool = False
    is_peer_ended: bool = False


class Yamux:
    """One side of a connection."""

    def __init__(self, *, initiator: bool) -> None:
        self._next = 1 if initiator else 2
        self._parity = self._next & 1
        self._streams: dict[int, _Stream] = {}
        self._inbound = 0
        self._header = bytearray()
        #: Of a frame of data that is not whole yet: the stream, what is missing of it, and its flags.
        self._frame: tuple[int, int, int] | None = None
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        #: Streams that have something to send, in the order of their turns; a dict for its order.
        self._turns: dict[int, None] = {}
        self._is_away = False
        #: Streams of the peer that were refused.
        self.refused = 0
        #: Bytes of all streams that wait to be sent.
        self.unsent_bytes = 0

    # -- what arrives -----------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take what came; raise DecodeError for what no honest peer sends."""
        events: list[Event] = []
        at, end = 0, len(data)
        while at < end:
            if self._frame is not None:
                number, left, flags = self._frame
                piece = data[at : at + left]
                at += len(piece)
                self._frame = None if len(piece) == left else (number, left - len(piece), flags)
                self._on_data(events, number, piece)
                if self._frame is None:
                    self._on_flags(events, number, flags)
                continue
            need = HEADER_BYTES - len(self._header)
            self._header += data[at : at + need]
            at += need
            if len(self._header) < HEADER_BYTES:
                break
            version, kind, flags, number, length = _HEADER.unpack(self._header)
            self._header.clear()
            if version != 0 or kind > _Kind.GO_AWAY or flags > (_SYN | _ACK | _FIN | _RST):
                raise DecodeError("a frame that is not of yamux")
            self._on_frame(events, _Kind(kind), flags, number, length)
        return events

    def _on_frame(self, events: list[Event], kind: _Kind, flags: int, number: int, length: int) -> None:
        if kind is _Kind.PING or kind is _Kind.GO_AWAY:
            if number:
                raise DecodeError("a frame of the session that names a stream")
            if kind is _Kind.GO_AWAY:
                events.append(Away(length))
            elif flags & _SYN:
                self._say(_Kind.PING, _ACK, 0, length)
            else:
                events.append(Pong(length))
            return
        if not number:
            raise DecodeError("a frame of a stream that names none")
        if flags & _SYN:
            self._on_opened(events, number)
        stream = self._streams.get(number)
        if kind is _Kind.WINDOW:
            if stream is not None and length:
                # Beyond what a number on the wire can say nobody may go: it is a game.
                if stream.send_window + length > _U32:
                    raise DecodeError("a window that is larger than any")
                stream.send_window += length
                if stream.waiting_bytes:
                    self._turns[number] = None
            self._on_flags(events, number, flags)
            return
        if stream is not None:
            if length > stream.receive_window:
                raise DecodeError("more than the window has room for")
            stream.receive_window -= length
        elif length > WINDOW_BYTES:
            # Of a stream that was reset some may still be on its way: not more than it had.
            raise DecodeError("more than any window has room for")
        if length:
            self._frame = (number, length, flags)
        else:
            self._on_flags(events, number, flags)

    def _on_opened(self, events: list[Event], number: int) -> None:
        # Not in their order: who opens many at once sends them as they come.
        if number & 1 == self._parity or number in self._streams:
            raise DecodeError("a stream with a number that the peer may not give")
        if self._inbound >= MAX_INBOUND or self._is_away:
            self.refused += 1
            self._say(_Kind.WINDOW, _RST, number, 0)
            return
        self._inbound += 1
        self._streams[number] = _Stream()
        # At once: a peer opens no more streams while 256 are not answered.
        self._say(_Kind.WINDOW, _ACK, number, 0)
        events.append(Opened(number))

    def _on_data(self, events: list[Event], number: int, piece: bytes) -> None:
        stream = self._streams.get(number)
        if stream is not None and piece:
            if stream.is_peer_ended:
                raise DecodeError("more of a stream that has ended")
            events.append(Data(number, piece))

    def _on_flags(self, events: list[Event], number: int, flags: int) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        if flags & _RST:
            self._forget(number)
            events.append(Reset(number))
        elif flags & _FIN and not stream.is_peer_ended:
            stream.is_peer_ended = True
            events.append(Ended(number))
            self._forget_if_over(number, stream)

    # -- what the owner does ----------------------------------------------------------

    def open(self) -> int:
        """Open a stream and return its number; raise StreamLimitError."""
        number = self._next
        if number > _U32 - 2:
            raise StreamLimitError
        self._next += 2
        self._streams[number] = _Stream(flags=_SYN)
        self._turns[number] = None
        return number

    def write(self, number: int, data: bytes) -> None:
        """Send of a stream, once there is room; nothing where it is over."""
        stream = self._streams.get(number)
        if stream is None or stream.is_ending or not data:
            return
        stream.waiting.append(memoryview(data))
        stream.waiting_bytes += len(data)
        self.unsent_bytes += len(data)
        self._turns[number] = None

    def waiting_bytes(self, number: int) -> int:
        """Bytes of a stream that wait to be sent."""
        stream = self._streams.get(number)
        return stream.waiting_bytes if stream is not None else 0

    def end(self, number: int) -> None:
        """Send no more of a stream after what waits."""
        stream = self._streams.get(number)
        if stream is not None and not stream.is_ending:
            stream.is_ending = True
            self._turns[number] = None

    def reset(self, number: int) -> None:
        """End a stream both ways, and forget what waits."""
        stream = self._streams.get(number)
        if stream is None:
            return
        if not stream.flags & _SYN:
            self._say(_Kind.WINDOW, _RST, number, 0)
        self._forget(number)

    def taken(self, number: int, count: int) -> None:
        """Note that a reader has taken so many bytes: half of a window, and the peer hears of it."""
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.taken += count
        if stream.taken >= WINDOW_BYTES // 2 and not stream.is_peer_ended:
            self._turns[number] = None

    def ping(self, value: int) -> None:
        """Ask whether the peer is there."""
        self._say(_Kind.PING, _SYN, 0, value)

    def go_away(self, code: GoAway = GoAway.NORMAL) -> None:
        """Say that no more streams are taken."""
        if not self._is_away:
            self._is_away = True
            self._say(_Kind.GO_AWAY, 0, 0, code)

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    def _say(self, kind: _Kind, flags: int, number: int, length: int) -> None:
        self._control_bytes += HEADER_BYTES
        if self._control_bytes > MAX_CONTROL_BYTES:
            raise DecodeError("a peer that asks without reading the answers")
        self._control.append(_HEADER.pack(0, kind, flags, number, length))

    def _forget(self, number: int) -> None:
        self.unsent_bytes -= self._streams.pop(number).waiting_bytes
        self._turns.pop(number, None)
        if number & 1 != self._parity:
            self._inbound -= 1

    def _forget_if_over(self, number: int, stream: _Stream) -> None:
        if stream.is_ended and stream.is_peer_ended:
            self._forget(number)

    # -- what goes out ----------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether :meth:`data_to_send` would return anything."""
        return bool(self._control or self._turns)

    def data_to_send(self, target_bytes: int, events: list[Event]) -> bytes:
        """Return about so many bytes to send now; ``events`` gets a Room for each stream that has sent all it had."""
        out = bytearray()
        while self._control:
            out += self._control.popleft()
        self._control_bytes = 0
        while self._turns and len(out) < target_bytes:
            number = next(iter(self._turns))
            del self._turns[number]
            self._turn(out, number, self._streams[number], events)
        return bytes(out)

    def _turn(self, out: bytearray, number: int, stream: _Stream, events: list[Event]) -> None:
        if stream.taken >= WINDOW_BYTES // 2 or stream.flags:
            grown = 0 if stream.is_peer_ended else stream.taken
            out += _HEADER.pack(0, _Kind.WINDOW, stream.flags, number, grown)
            stream.receive_window += grown
            stream.taken = stream.flags = 0
        room = min(stream.send_window, MAX_FRAME_BYTES, stream.waiting_bytes)
        if room:
            out += _HEADER.pack(0, _Kind.DATA, 0, number, room)
            stream.send_window -= room
            stream.waiting_bytes -= room
            self.unsent_bytes -= room
            while room:
                piece = stream.waiting[0]
                if len(piece) <= room:
                    out += stream.waiting.popleft()
                    room -= len(piece)
                else:
                    out += piece[:room]
                    stream.waiting[0] = piece[room:]
                    room = 0
            if stream.waiting_bytes and stream.send_window:
                self._turns[number] = None
            if not stream.waiting_bytes:
                events.append(Room(number))
        if stream.is_ending and not stream.is_ended and not stream.waiting_bytes:
            # In a frame of its own, as go-yamux does: of one with data it heeds the end first, and a reader that looks
            # at that moment has the end without the data.
            out += _HEADER.pack(0, _Kind.WINDOW, _FIN, number, 0)
            stream.is_ended = True
            self._forget_if_over(number, stream)
