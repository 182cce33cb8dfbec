# SPDX-License-Identifier: GPL-2.0-or-later
"""One interface over both bearers: what channels and slots are to the rest of the program."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from relay.bluetooth import l2cap
from relay.bluetooth.slot_frames import CloseReason
from relay.bluetooth.sockets import Reader
from relay.core.errors import RelayError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from relay.bluetooth.slots import Slot

#: How often a channel that is about to close is asked whether its last bytes have left.
_DRAIN_POLL_S: Final = 0.05
#: A free send buffer still counts some overhead of the kernel's.
_DRAINED_BYTES: Final = 0
#: A piece at most. The kernel allocates all packets of a piece at once, and drops it when
#: the send buffer has no room for them; a larger one then finds the socket writable for
#: ever and never leaves (4,000 bytes with a buffer of 8 KiB, Linux 6.12).
_PIECE_BYTES: Final = 1024
#: Taken from a channel at once, if there is so much.
_BATCH_BYTES: Final = 16 << 10


class StreamEndedError(RelayError):
    """The stream ended while there was something to send."""


class Stream(Protocol):
    """A reliable byte stream. Each method may be awaited by one task at a time."""

    async def receive(self) -> bytes:
        """Wait for bytes; b"" once the stream has ended, for whatever reason."""

    async def send(self, data: bytes) -> None:
        """Take ``data``, waiting for room; raise StreamEndedError."""

    async def finish(self) -> None:
        """Wait until all that was sent has left, then close. The caller sets the time limit."""

    def close(self) -> None:
        """End the stream now; whoever waits in another method is woken."""


class _Waiters:
    """Tasks that wait for the stream to change."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        try:
            await future
        finally:
            self._futures.discard(future)

    def wake(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)


class ChannelStream:
    """A stream over an L2CAP channel; owns its socket."""

    def __init__(self, sock: socket.socket) -> None:
        """``sock``: connected and non-blocking."""
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(sock, piece_bytes=l2cap.RECEIVE_MTU_BYTES, batch_bytes=_BATCH_BYTES)
        self._writable = _Waiters()
        self._piece_bytes = min(max(l2cap.send_mtu_bytes(sock), 1), _PIECE_BYTES)
        self._is_closed = False

    async def receive(self) -> bytes:
        """Wait for the next pieces."""
        data = b"" if self._is_closed else await self._reader.read()
        if not data:
            self.close()
        return data

    async def send(self, data: bytes) -> None:
        """Send in pieces that the other side takes."""
        view = memoryview(data)
        while view:
            if self._is_closed:
                raise StreamEndedError("the channel was closed")
            try:
                sent = self._sock.send(view[: self._piece_bytes])
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._on_writable)
                await self._writable.wait()
            except OSError as error:
                self.close()
                raise StreamEndedError("the channel was lost") from error
            else:
                view = view[sent:]

    async def finish(self) -> None:
        """The kernel discards what it has not sent when a channel is closed."""
        while not self._is_closed:
            try:
                if l2cap.unsent_bytes(self._sock) <= _DRAINED_BYTES:
                    break
            except OSError:
                break
            await asyncio.sleep(_DRAIN_POLL_S)
        self.close()

    def close(self) -> None:
        """Close the channel."""
        if not self._is_closed:
            self._is_closed = True
            self._reader.close()
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._writable.wake()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._writable.wake()


class SlotStream:
    """A stream over a GATT slot: gives :class:`Slot` a clock and the way out."""

    def __init__(self, slot: Slot, transmit: Callable[[list[bytes]], None]) -> None:
        """``transmit`` sends attribute values, in order, without waiting; at most a window of them wait."""
        self._slot = slot
        self._transmit = transmit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = _Waiters()

    @property
    def ended(self) -> CloseReason | None:
        """Why the stream is over, or None."""
        return self._slot.ended

    def open(self) -> None:
        """Begin, as the central, once subscribed to TX."""
        self._slot.open(self._loop.time())
        self._pump()

    def frame_received(self, value: bytes) -> bool:
        """Take in an attribute value; False if it is none of this stream's."""
        is_ours = self._slot.receive(value, self._loop.time())
        self._pump()
        return is_ours

    def abort(self, reason: CloseReason) -> None:
        """End the stream and tell the other side why."""
        self._slot.abort(reason)
        self._pump()

    async def receive(self) -> bytes:
        """Wait for bytes."""
        while not self._slot.has_data:
            if self._slot.ended is not None:
                return b""
            await self._changed.wait()
        data = self._slot.read(self._loop.time())
        self._pump()
        return data

    async def send(self, data: bytes) -> None:
        """Fill the slot's buffer as it empties."""
        view = memoryview(data)
        while view:
            if self._slot.ended is not None:
                raise StreamEndedError("the slot's stream has ended")
            if room := self._slot.room:
                self._slot.write(bytes(view[:room]))
                view = view[room:]
                self._pump()
            else:
                await self._changed.wait()

    async def finish(self) -> None:
        """Wait until all has been acknowledged."""
        self._slot.close()
        self._pump()
        while self._slot.ended is None:
            await self._changed.wait()

    def close(self) -> None:
        """End the stream now, and say so."""
        self.abort(CloseReason.END)

    def _pump(self) -> None:
        """Send what is due, and come back when more is."""
        if frames := self._slot.frames(self._loop.time()):
            self._transmit(frames)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (deadline := self._slot.deadline) is not None:
            self._timer = self._loop.call_at(deadline, self._pump)
        self._changed.wake()
