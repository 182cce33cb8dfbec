# SPDX-License-Identifier: GPL-2.0-or-later
"""One stream of the event loop, bound to one session of the core."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.link import Link
    from relay.core.stats import HandshakeFailure, Reason, SessionError
    from relay.links import StreamInfo

#: Read from a stream at a time, into a buffer that all share; a record of a fast link.
READ_BYTES: Final = 64 << 10
#: What the transport may hold of a fast link.
FAST_BUFFER_BYTES: Final = 256 << 10
#: What lies between the session and whoever reads from a slow link, at most: bytes that
#: nothing more urgent can overtake. That is a turn of one or two records in the
#: transport, and what the kernel holds of them.
SLOW_AHEAD_BYTES: Final = 6 << 10
#: The kernel's part. Linux doubles it and counts its own records in: four of ours
#: in a Unix socket, 0.2 s of a radio of 20 kB/s. By default it holds 200 kB, 10 s.
SLOW_SOCKET_BYTES: Final = 4608
#: Bytes for one stream before others get their turn.
TURN_BYTES: Final = 128 << 10
#: How often it is asked for more in a turn: it may have looked through a part of the store for little each time.
TURN_PULLS: Final = 8
#: A peer that takes nothing for so long is disconnected.
SLOW_READER_S: Final = 60.0
#: Time for the last bytes of a session that ended.
LINGER_S: Final = 2.0


class Keeper(Protocol):
    """What a stream needs of the relay."""

    read_buffer: memoryview

    def opened(self, stream: Stream) -> Link | None:
        """Start a session, or None when there are too many."""

    def received(self, stream: Stream, link: Link, data: bytes | memoryview) -> None:
        """Take bytes."""

    def lost(self, stream: Stream) -> Reason | None:
        """Forget a stream; return why its session ended."""

    def evict(self, link: Link, reason: HandshakeFailure | SessionError) -> None:
        """End a session to make room for others."""

    def slow_reader(self, link: Link) -> None:
        """The peer does not read: end its session."""

    def pull(self, link: Link) -> bytes:
        """Return the next bytes to send."""

    def has_output(self, link: Link) -> bool:
        """Whether a further :meth:`pull` may return more."""

    def may_receive(self, link: Link) -> bool:
        """Whether to read on."""

    def wake(self) -> None:
        """Something is to be done."""

    def wake_later(self, link: Link) -> None:
        """Serve this link again after the others had their turn."""


class Stream(asyncio.BufferedProtocol, asyncio.Protocol):
    """Moves bytes between a transport and a session."""

    def __init__(
        self,
        keeper: Keeper,
        describe: Callable[[asyncio.BaseTransport], StreamInfo | None],
        on_closed: Callable[[Reason | None], None] | None,
    ) -> None:
        self._keeper = keeper
        self._describe = describe
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._reading = True
        self._is_slow = False
        self._is_ending = False
        self._is_finished = False
        self._deadline: asyncio.TimerHandle | None = None
        self.link: Link | None = None
        self.info: StreamInfo | None = None

    # -- called by the event loop -----------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open a session unless the link or the limits turn the stream away."""
        self._transport = cast("asyncio.Transport", transport)
        self.info = self._describe(transport)
        self.link = self._keeper.opened(self) if self.info else None
        if self.link is None or self.info is None:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=FAST_BUFFER_BYTES)
        self._keeper.wake()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as large as it always is
        """Say where to read to; the bytes are taken out of there before anybody else reads."""
        return self._keeper.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand bytes to the session."""
        self.data_received(self._keeper.read_buffer[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """Hand bytes to the session, as whoever brings the stream may have read some."""
        if self.link is not None:
            self._keeper.received(self, self.link, data)

    def pause_writing(self) -> None:
        """Stop producing, and give the peer a while to read."""
        self._writable = False
        self._arm(SLOW_READER_S)

    def resume_writing(self) -> None:
        """Go on producing."""
        self._writable = True
        if self.link is None or not self.link.closed:
            self._disarm()
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        """End the session."""
        self._disarm()
        reason = self._keeper.lost(self)
        if self._on_closed is not None:
            self._on_closed(reason)

    # -- called by the keeper ---------------------------------------------

    def abort(self) -> None:
        """End the stream at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait in the transport."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def pause_while_busy(self) -> None:
        """Read no more until something is made of what was read."""
        if self.link is not None and self.link.session.has_input:
            self._read(may_receive=False)

    def evict(self, reason: HandshakeFailure | SessionError) -> None:
        """End the session to make room; its place is free when this returns."""
        if self.link is not None:
            self._keeper.evict(self.link, reason)
            self.flush()
            # What it did not read would stay in memory, and room is what there is none of.
            self.abort()
            self._keeper.lost(self)

    def flush(self) -> None:
        """Write what the session has to say, and read on or pause as the store keeps up."""
        link, transport = self.link, self._transport
        if link is None or transport is None or self._is_finished:
            return
        if link.session.is_slow and not self._is_slow:
            self._is_slow = True
            _keep_little(transport)
        written = pulls = 0
        is_drained = False
        while self._writable and written < TURN_BYTES and pulls < TURN_PULLS:
            pulls += 1
            data = self._keeper.pull(link)
            if not data:
                is_drained = True
                if self._keeper.has_output(link):
                    # It looked through a part of the store, in vain, and gives the others a turn.
                    self._keeper.wake_later(link)
                break
            transport.write(data)
            written += len(data)
        else:
            if self._writable:
                self._keeper.wake_later(link)
        if link.closed:
            if not self._is_ending:
                self._is_ending = True
                self._arm(LINGER_S)
            if is_drained:
                self._finish(link, transport)
            return
        self._read(may_receive=self._keeper.may_receive(link))

    def _read(self, *, may_receive: bool) -> None:
        transport = self._transport
        if transport is None or may_receive is self._reading or transport.is_closing():
            return
        self._reading = may_receive
        if may_receive:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _finish(self, link: Link, transport: asyncio.Transport) -> None:
        """Close, once the last bytes are written."""
        self._is_finished = True
        if transport.is_closing():
            return
        if link.session.peer is None:
            transport.close()
            return
        # Closing with bytes unread would make the kernel reset the connection, and the
        # last acknowledgements and the goodbye be lost: read on, to no effect, until the
        # peer has heard and closes.
        try:
            transport.write_eof()
        except OSError:  # the peer is gone already
            transport.abort()
            return
        self._read(may_receive=True)

    def _arm(self, delay_s: float) -> None:
        self._disarm()
        self._deadline = asyncio.get_running_loop().call_later(delay_s, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if self.link is not None:
            self._keeper.slow_reader(self.link)
        self.abort()


def _keep_little(transport: asyncio.Transport) -> None:
    """Let transport and kernel hold no more than a slow link needs to be kept busy."""
    transport.set_write_buffer_limits(high=0)
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None:
        return
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SLOW_SOCKET_BYTES)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, SLOW_SOCKET_BYTES)
