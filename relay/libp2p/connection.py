# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection and its streams on asyncio: moves bytes between a transport and a :class:`Channel`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

from relay.core.errors import DecodeError, RelayError
from relay.libp2p import yamux
from relay.libp2p.channel import Channel, Established
from relay.libp2p.multistream import Answering, Asking, NotSelectedError
from relay.libp2p.wire import Cutter, delimited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from relay.libp2p.multiaddr import TcpAddress

    Handler = Callable[["Stream"], Awaitable[None]]

logger = logging.getLogger(__name__)

#: From the first byte until streams can be opened; and until a stream has its protocol.
HANDSHAKE_S: Final = 10.0
NEGOTIATE_S: Final = 10.0
#: A connection on which nothing came for so long is asked, and ended when no answer comes for as long again.
IDLE_S: Final = 30.0
#: Of one connection, what its readers have not taken; beyond it nothing more is read of it.
MAX_UNREAD_BYTES: Final = 512 << 10
#: And when that does not end, the stream with most of it is reset: the others wait for it.
STALL_S: Final = 5.0
#: A writer waits while so much of his stream is not on its way.
WRITE_AHEAD_BYTES: Final = 64 << 10
#: And all writers of a connection wait while so much of it is not: who opens many streams and reads none has this, and
#: one message of each.
MAX_UNSENT_BYTES: Final = 512 << 10
_BUFFER_BYTES: Final = 128 << 10
_CHUNK_BYTES: Final = 128 << 10


class StreamError(RelayError):
    """A stream that was reset, or whose connection ended; or that could not be opened."""


class Owner(Protocol):
    """Whose connections these are."""

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Who answers which protocol."""

    def established(self, connection: Connection) -> None:
        """A peer is there."""

    def lost(self, connection: Connection) -> None:
        """A connection is over, whether it was established or not."""

    def opened(self) -> None:
        """A peer has opened a stream."""

    def count(self, event: str, amount: int = 1) -> None:
        """Count what happened."""

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run something of the host's."""


class Stream:
    """One stream: read by one task at a time."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.protocol = ""
        self._parts: list[bytes] = []
        self._head = b""
        self.unread_bytes = 0
        self._is_ended = False
        self._is_reset = False
        self._wake = asyncio.Event()

    @property
    def peer(self) -> bytes:
        """Whose it is."""
        return self.connection.peer

    # -- called by the connection -----------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._parts.append(data)
        self.unread_bytes += len(data)
        self._wake.set()

    def ended(self) -> None:
        """No more comes."""
        self._is_ended = True
        self._wake.set()

    def lost(self) -> None:
        """It is over both ways."""
        self._is_reset = True
        self._wake.set()

    def wake(self) -> None:
        """There is room to write."""
        self._wake.set()

    # -- called by readers and writers ------------------------------------------------

    def unread(self, data: bytes) -> None:
        """Put back what was read too much."""
        self._head = data

    async def read(self) -> bytes:
        """Return what is there, waiting for something; b"" at the end. Raise StreamError."""
        if self._head:
            head, self._head = self._head, b""
            return head
        while not self._parts:
            if self._is_reset:
                raise StreamError("the stream was reset")
            if self._is_ended:
                return b""
            self._wake.clear()
            await self._wake.wait()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self.connection.took(self, len(data))
        return data

    def write(self, data: bytes) -> None:
        """Send, once there is room; raise StreamError where that is over."""
        if self._is_reset:
            raise StreamError("the stream was reset")
        self.connection.write(self.number, data)

    async def drain(self) -> None:
        """Wait until most of what was written is on its way; raise StreamError."""
        while self.connection.is_behind(self.number):
            if self._is_reset:
                break
            self._wake.clear()
            await self._wake.wait()
        if self._is_reset:
            raise StreamError("the stream was reset")

    def end(self) -> None:
        """Send no more."""
        self.connection.end(self.number)

    def reset(self) -> None:
        """End it both ways."""
        self.connection.reset(self.number)
        self.lost()

    async def send(self, message: bytes) -> None:
        """Send a message with its length before it."""
        self.write(delimited(message))
        await self.drain()


class Budget:
    """Memory that several share."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def take(self, count: int) -> bool:
        """Take so many bytes, or give them back where the number is negative; False where there are not so many."""
        if count > self._left:
            return False
        self._left -= count
        return True


class Messages:
    """The messages of a stream, each with its length before it."""

    def __init__(self, stream: Stream, most_bytes: int, budget: Budget | None = None) -> None:
        """``budget``: of what is held of messages that are not whole; then :meth:`close` has to be called."""
        self._stream = stream
        self._cutter = Cutter(most_bytes)
        self._budget = budget
        self._taken = 0

    async def next(self) -> bytes | None:
        """Return the next one, None at the end; raise StreamError, DecodeError."""
        while (message := self._cutter.next()) is None:
            if not self._settle():
                raise StreamError("too much is being received at a time")
            data = await self._stream.read()
            if not data:
                if self._cutter.held_bytes:
                    raise DecodeError("a message is cut")
                return None
            self._cutter.receive(data)
        self._settle()
        return message

    def _settle(self) -> bool:
        more = self._cutter.held_bytes - self._taken
        if self._budget is not None and not self._budget.take(more):
            return False
        self._taken += more
        return True

    def close(self) -> None:
        """Give back what was taken of the budget."""
        if self._budget is not None:
            self._budget.take(-self._taken)
            self._taken = 0


class Connection(asyncio.Protocol):
    """One connection with a peer."""

    def __init__(self, owner: Owner, channel: Channel, *, is_dialled: bool) -> None:
        self._owner = owner
        self.channel = channel
        self.is_dialled = is_dialled
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._peer = b""
        #: Of the other end: address, with its scope where it is link-local, and port.
        self.remote: tuple[str, int] = ("", 0)
        #: Of these the address, by which places are counted.
        self.address = ""
        self.local_host = ""
        self.began_s = self._loop.time()
        self.useful_s = self.began_s
        self._heard_s = self.began_s
        self._is_asked = False
        self._is_writable = True
        self._is_reading = True
        self._is_pump_due = False
        #: Somebody waits for MAX_UNSENT_BYTES.
        self._is_behind = False
        self._stalled: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refused = 0
        #: Of all streams.
        self._unread_bytes = 0
        self._established: asyncio.Future[None] = self._loop.create_future()
        #: What the peer said of itself by identify: what it speaks, and where it listens.
        self.protocols: frozenset[str] = frozenset()
        self.listens: tuple[TcpAddress, ...] = ()
        #: It says that it is a relay, as we are.
        self.is_relay = False
        #: Where we dialled, and by which interface; None: the peer did.
        self.dialled: tuple[TcpAddress, str] | None = None

    @property
    def peer(self) -> bytes:
        """The peer's ID, once it is established."""
        return self._peer

    @property
    def is_open(self) -> bool:
        """Whether streams can be opened."""
        return self._transport is not None and bool(self._peer)

    # -- relay.process.crowd.Connection -----------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether it does something useful, and keeps its place for that."""
        return self._loop.time() - self.useful_s < IDLE_S and self.is_open

    def drop(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- called by the event loop -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        found = transport.get_extra_info("peername")
        self.remote = (str(found[0]), int(found[1])) if found else ("", 0)
        self.address = self.remote[0]
        here = transport.get_extra_info("sockname")
        self.local_host = str(here[0]) if here else ""
        self._transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self._timer = self._loop.call_later(HANDSHAKE_S, self._on_timer)
        self._pump()

    def data_received(self, data: bytes) -> None:
        self._heard_s, self._is_asked = self._loop.time(), False
        try:
            events = self.channel.receive(data)
        except DecodeError as error:
            self._owner.count("protocol_errors" if self._peer else "handshakes_failed")
            logger.debug("a peer is hung up on: %s", error)
            self._say_last()
            self.drop()
            return
        for event in events:
            self._on_event(event)
        refused = self.channel.mux.refused
        if refused > self._refused:
            self._owner.count("streams_refused", refused - self._refused)
            self._refused = refused
        self._pump_soon()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        for stream in list(self._streams.values()):
            stream.lost()
        self._streams.clear()
        if not self._established.done():
            self._established.set_exception(StreamError("the peer hung up"))
            # Nobody need wait for it.
            self._established.exception()
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._pump()

    # -- events -----------------------------------------------------------------------

    def _on_event(self, event: Established | yamux.Event) -> None:
        match event:
            case Established(peer):
                self._peer = peer
                if not self._established.done():
                    self._established.set_result(None)
                self._owner.established(self)
            case yamux.Opened(number):
                self._streams[number] = stream = Stream(self, number)
                self._owner.spawn(self._accept(stream))
                self._owner.opened()
            case yamux.Data(number, data):
                if (found := self._streams.get(number)) is not None:
                    found.feed(data)
                    self._unread_bytes += len(data)
                    self._hold_if_full()
                else:
                    # Of a stream that nobody reads any more.
                    self.reset(number)
            case yamux.Ended(number):
                if (found := self._streams.get(number)) is not None:
                    found.ended()
            case yamux.Reset(number):
                if (found := self._forget(number)) is not None:
                    found.lost()
            case yamux.Room(number):
                if (found := self._streams.get(number)) is not None:
                    found.wake()
            case yamux.Pong() | yamux.Away():
                pass

    async def _accept(self, stream: Stream) -> None:
        """Agree on a protocol for a stream of the peer, and have it answered."""
        handlers = self._owner.handlers
        try:
            async with asyncio.timeout(NEGOTIATE_S):
                protocol = await _agree(stream, Answering(handlers))
            stream.protocol = protocol
            await handlers[protocol](stream)
        except NotSelectedError:
            self._owner.count("protocols_refused")
            stream.reset()
        except DecodeError:
            self._owner.count("messages_malformed")
            stream.reset()
        except (StreamError, TimeoutError):
            stream.reset()
        else:
            stream.end()
        finally:
            self._done(stream)

    def _done(self, stream: Stream) -> None:
        """Let go of a stream: if more comes of it, or is there, it is reset."""
        is_unread = bool(stream.unread_bytes)
        if self._forget(stream.number) is not None and is_unread:
            self.reset(stream.number)

    def _forget(self, number: int) -> Stream | None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._unread_bytes -= stream.unread_bytes
            stream.unread_bytes = 0
            self._release()
        return stream

    # -- called by streams ------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until the peer has proved who it is; raise StreamError."""
        await asyncio.shield(self._established)

    async def open(self, protocols: Sequence[str]) -> Stream:
        """Open a stream for one of these, the best first; raise StreamError where the peer has none, or is gone.

        Whoever opened it has to call :meth:`close_stream` at the end.
        """
        if not self.is_open:
            raise StreamError("the connection is over")
        try:
            number = self.channel.mux.open()
        except yamux.StreamLimitError as error:
            raise StreamError("no more streams in this connection") from error
        self._streams[number] = stream = Stream(self, number)
        try:
            async with asyncio.timeout(NEGOTIATE_S):
                stream.protocol = await _agree(stream, Asking(protocols))
        except (DecodeError, TimeoutError) as error:
            stream.reset()
            raise StreamError("the peer does not speak that") from error
        except BaseException:
            stream.reset()
            raise
        return stream

    def close_stream(self, stream: Stream) -> None:
        """Let go of a stream that we opened."""
        stream.end()
        self._done(stream)

    def write(self, number: int, data: bytes) -> None:
        """Send of a stream."""
        self.channel.mux.write(number, data)
        self._pump_soon()

    def end(self, number: int) -> None:
        """Send no more of a stream."""
        self.channel.mux.end(number)
        self._pump_soon()

    def reset(self, number: int) -> None:
        """End a stream both ways."""
        with suppress(DecodeError):
            self.channel.mux.reset(number)
        self._forget(number)
        self._pump_soon()

    def took(self, stream: Stream, count: int) -> None:
        """A reader has taken so much, which is all."""
        self._unread_bytes -= stream.unread_bytes
        stream.unread_bytes = 0
        self.channel.mux.taken(stream.number, count)
        self._release()
        self._pump_soon()

    def is_behind(self, number: int) -> bool:
        """Whether a writer of this stream has to wait."""
        mux = self.channel.mux
        if mux.unsent_bytes > MAX_UNSENT_BYTES and mux.waiting_bytes(number):
            self._is_behind = True
            return True
        return mux.waiting_bytes(number) > WRITE_AHEAD_BYTES

    @property
    def stream_count(self) -> int:
        """Streams that somebody here reads or writes."""
        return len(self._streams)

    def shed(self) -> None:
        """Reset the oldest stream."""
        if (oldest := next(iter(self._streams.values()), None)) is not None:
            oldest.reset()

    def close(self) -> None:
        """Say goodbye and close."""
        self._say_last()
        if self._transport is not None:
            self._transport.close()

    # -- bounds -----------------------------------------------------------------------

    def _hold_if_full(self) -> None:
        if self._is_reading and self._transport is not None and self._unread_bytes > MAX_UNREAD_BYTES:
            self._is_reading = False
            self._transport.pause_reading()
            self._stalled = self._loop.call_later(STALL_S, self._on_stall)

    def _release(self) -> None:
        if self._is_reading or self._transport is None or self._unread_bytes > MAX_UNREAD_BYTES // 2:
            return
        self._is_reading = True
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self._heard_s = self._loop.time()
        self._transport.resume_reading()

    def _on_stall(self) -> None:
        self._stalled = self._loop.call_later(STALL_S, self._on_stall)
        fullest = max(self._streams.values(), key=lambda stream: stream.unread_bytes, default=None)
        if fullest is not None:
            self._owner.count("streams_stalled")
            fullest.reset()

    def _on_timer(self) -> None:
        now = self._loop.time()
        if not self._peer:
            self._owner.count("handshakes_failed")
            self.drop()
            return
        silent_s = now - self._heard_s
        if self._is_reading and silent_s >= IDLE_S:
            if self._is_asked and silent_s >= 2 * IDLE_S:
                self._owner.count("peers_silent")
                self.drop()
                return
            if not self._is_asked:
                self._is_asked = True
                with suppress(DecodeError):
                    self.channel.mux.ping(0)
                self._pump_soon()
        self._timer = self._loop.call_later(IDLE_S / 2, self._on_timer)

    # -- what goes out ----------------------------------------------------------------

    def _pump_soon(self) -> None:
        """Write once all who have something to say have said it, so that much of it shares a record."""
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_due = False
        events: list[yamux.Event] = []
        while self._transport is not None and self._is_writable:
            data = self.channel.data_to_send(_CHUNK_BYTES, events)
            if not data:
                break
            self._transport.write(data)
        for event in events:
            self._on_event(event)
        if self._is_behind and self.channel.mux.unsent_bytes <= MAX_UNSENT_BYTES:
            self._is_behind = False
            for stream in self._streams.values():
                stream.wake()

    def _say_last(self) -> None:
        if self._transport is None or not self._peer:
            return
        with suppress(DecodeError):
            self.channel.mux.go_away()
            self._transport.write(self.channel.data_to_send(_CHUNK_BYTES, []))


async def _agree(stream: Stream, side: Asking | Answering) -> str:
    """Agree on the protocol of a stream; raise DecodeError, StreamError."""
    try:
        while True:
            if data := side.data_to_send():
                stream.write(data)
            if side.selected is not None:
                break
            data = await stream.read()
            if not data:
                raise StreamError("the stream ended before it had a protocol")
            side.receive(data)
    except NotSelectedError:
        if data := side.data_to_send():
            stream.write(data)
        raise
    stream.unread(side.rest())
    return side.selected
