# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections of gateways: live datagrams both ways, and the time for them (docs/links.md section 4)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, cast

from relay.core.errors import DecodeError
from relay.core.stats import LiveDropped, LiveTotal
from relay.process.gateway_frames import ClockReading, FrameCutter, decode_datagram, encode_live_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.messages import LiveDatagram
    from relay.core.node import Node
    from relay.process.link_socket import Gateway

#: Each is a process that somebody has set up on this machine.
MAX_GATEWAYS: Final = 8
#: Read at a time: 1,560 of the shortest datagrams, a few milliseconds.
READ_BYTES: Final = 32 << 10
#: A gateway that brings more than its rate is not read from for so long, so that it costs no time.
PAUSE_S: Final = 0.1
#: What a gateway does not read.
MAX_UNREAD_BYTES: Final = 256 << 10
#: A clock that moved by less is as it was: gateways allow for seconds.
STEP_S: Final = 0.5


class Gateways:
    """All of them; of each name the newest."""

    def __init__(self, node: Node, *, wake: Callable[[], None], on_refused: Callable[[], None]) -> None:
        """``wake`` has :meth:`deliver` called soon, ``on_refused`` hears of a gateway that was sent away."""
        self._node = node
        self._wake = wake
        self._on_refused = on_refused
        self._connections: dict[str, _Connection] = {}
        self._loop = asyncio.get_running_loop()

    def connection(self, gateway: Gateway) -> asyncio.Protocol:
        """Return a protocol for a connection whose first line was read."""
        return _Connection(self, gateway)

    def deliver(self) -> None:
        """Hand what neighbours and other gateways said to those who want it."""
        for heard in self._node.live.take_heard():
            frame = encode_live_frame(heard.datagram.encode())
            for connection in self._connections.values():
                if heard.datagram.kind in connection.gateway.kinds and connection.gateway.name != heard.gateway:
                    taken = connection.deliver(frame)
                    self._node.stats.add(LiveTotal.DELIVERED if taken else LiveDropped.UNREAD)

    def tell_time(self) -> None:
        """Tell those to whom it is news what the relay takes for the time."""
        now = self._loop.time()
        unix_s = self._node.clock.unix_s(now)
        offset_s = None if unix_s is None else unix_s - now
        for connection in self._connections.values():
            connection.tell_time(offset_s, now)

    def abort(self) -> None:
        """End all connections."""
        for connection in list(self._connections.values()):
            connection.abort()

    # -- called by connections --------------------------------------------

    def opened(self, connection: _Connection) -> None:
        """Take a gateway in, in place of an older one of its name; raise DecodeError if there are too many."""
        older = self._connections.get(connection.gateway.name)
        if older is not None:
            older.abort()
        elif len(self._connections) >= MAX_GATEWAYS:
            self.refused()
            raise DecodeError(f"no more than {MAX_GATEWAYS} gateways: end one that is not needed")
        self._connections[connection.gateway.name] = connection
        self._kinds_changed()
        self.tell_time()

    def received(self, connection: _Connection, datagram: LiveDatagram) -> bool:
        """Take in what a gateway says; False if that is beyond its rate."""
        taken = self._node.live.handed_over(connection.gateway.name, datagram, self._loop.time())
        self._wake()
        return taken

    def refused(self) -> None:
        """Count a gateway that does not speak as it should."""
        self._on_refused()

    def closed(self, connection: _Connection) -> None:
        """Forget a connection, unless another one has taken its place."""
        if self._connections.get(connection.gateway.name) is connection:
            del self._connections[connection.gateway.name]
            self._kinds_changed()

    def _kinds_changed(self) -> None:
        self._node.live.wanted = frozenset().union(
            *(connection.gateway.kinds for connection in self._connections.values())
        )


class _Connection(asyncio.BufferedProtocol, asyncio.Protocol):
    """One gateway."""

    def __init__(self, gateways: Gateways, gateway: Gateway) -> None:
        self.gateway = gateway
        self._gateways = gateways
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._frames = FrameCutter()
        self._pause: asyncio.TimerHandle | None = None
        #: What it was told last: nothing yet, no clock, or the clock's offset from monotonic seconds.
        self._is_told = False
        self._offset_s: float | None = None

    # -- called by the event loop -----------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        try:
            self._gateways.opened(self)
        except DecodeError as error:
            self._refuse(error)

    def connection_lost(self, _: Exception | None) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._gateways.closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as large as it always is
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._buffer[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        taken = True
        try:
            for content in self._frames.receive(data):
                taken = self._gateways.received(self, decode_datagram(content)) and taken
        except DecodeError as error:
            self._gateways.refused()
            self._refuse(error)
            return
        if not taken and self._pause is None:
            self._transport.pause_reading()
            self._pause = asyncio.get_running_loop().call_later(PAUSE_S, self._read_on)

    def _read_on(self) -> None:
        self._pause = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _refuse(self, error: DecodeError) -> None:
        if self._transport is not None:
            self._transport.write(json.dumps({"error": str(error)}).encode() + b"\n")
            self._transport.close()

    # -- called by Gateways -----------------------------------------------

    def deliver(self, frame: bytes) -> bool:
        """Hand a frame over; False if too much lies unread."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() + len(frame) > MAX_UNREAD_BYTES:
            return False
        transport.write(frame)
        return True

    def tell_time(self, offset_s: float | None, now: float) -> None:
        """Tell what the time is less monotonic seconds, None for no clock, if it was not told so."""
        before = self._offset_s
        is_same = before is offset_s if before is None or offset_s is None else abs(before - offset_s) < STEP_S
        if self._is_told and is_same:
            return
        self._is_told, self._offset_s = True, offset_s
        unix_ms = None if offset_s is None else max(0, round(1000 * (now + offset_s)))
        self.deliver(ClockReading(unix_ms=unix_ms).encode())

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()
