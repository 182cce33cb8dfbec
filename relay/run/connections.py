# SPDX-License-Identifier: GPL-2.0-or-later
"""All streams of the running relay: lets them in, lets them take turns, and lets them go.

Who may come, whose turn it is and who has to go is in relay.run.limits and the core.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from relay.core.messages import Goodbye
from relay.core.stats import HandshakeFailure, SessionError
from relay.run.limits import Limits
from relay.run.stream import READ_BYTES, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.link import Link
    from relay.core.node import Node
    from relay.core.stats import Reason
    from relay.links import StreamInfo

#: Streams are served for so long before others are heard: who has a question to ask, a
#: newcomer, the status page. Half of it is what an honest session waits for a busy relay.
TURN_S: Final = 0.001


class Connections:
    """The streams by the numbers of their links (implements relay.run.stream.Keeper)."""

    def __init__(self, node: Node, *, max_connections: int, max_per_address: int, wake: Callable[[], None]) -> None:
        """``wake`` has :meth:`take_turns` called soon."""
        self._node = node
        self._limits = Limits(
            max_connections=max_connections, max_per_address=max_per_address, shares=node.config.shares
        )
        self._turns = self._limits.turns
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Stream] = {}
        #: Those that brought bytes since the last turns.
        self._heard: list[Stream] = []
        #: When nobody had anything to do any more.
        self._idle_since: float | None = None
        self._is_stopping = False
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self.wake = wake

    def stream(
        self,
        describe: Callable[[asyncio.BaseTransport], StreamInfo | None],
        on_closed: Callable[[Reason | None], None] | None,
    ) -> Stream:
        """Return a protocol for a new stream; see relay.links.Host."""
        return Stream(self, describe, on_closed)

    def is_linked(self, peer: str, interface: str) -> bool:
        """Whether a session with a relay at this address is open; see relay.links.Host."""
        return any(
            stream.info is not None
            and stream.info.peer == peer
            and interface in ("", stream.info.interface)
            and stream.link is not None
            and stream.link.ready
            for stream in self._streams.values()
        )

    def addresses_gone(self, addresses: frozenset[str]) -> None:
        """End the streams that use one of our addresses that we have no more."""
        for stream in list(self._streams.values()):
            if stream.info is not None and stream.info.local in addresses:
                stream.abort()

    def stop(self) -> None:
        """Take nothing more: peers that go on sending would keep the store from ever being done."""
        self._is_stopping = True
        self.flush()

    def flush(self) -> None:
        """Write what all have to say."""
        for stream in list(self._streams.values()):
            stream.flush()

    # -- called by streams ------------------------------------------------

    def opened(self, stream: Stream) -> Link | None:
        """Start the session of a new stream, or None when there are too many."""
        info = stream.info
        if info is None or self._is_stopping:
            return None
        if not self._limits.admits(info):
            self._node.stats.add(HandshakeFailure.TOO_MANY)
            return None
        loser = self._limits.loser(info)
        if loser is not None:
            self._streams[loser].evict(HandshakeFailure.TOO_MANY)
        link = self._node.connect(
            kind=info.kind,
            interface=info.interface,
            initiator=info.initiator,
            now=self._loop.time(),
            slow=info.slow,
            pinned=info.pinned,
            named=info.named,
        )
        self._streams[link.number] = stream
        self._limits.opened(link.number, info)
        return link

    def received(self, stream: Stream, link: Link, data: bytes | memoryview) -> None:
        """Take bytes of a stream; something is made of them when it is its turn."""
        self._node.feed(link, data, self._loop.time())
        self._heard.append(stream)
        self._queue(link)
        self.wake()

    def lost(self, stream: Stream) -> Reason | None:
        """Forget a stream; return why its session ended."""
        link = stream.link
        if link is None or self._streams.pop(link.number, None) is None:
            return None
        self._limits.closed(link.number)
        self._node.lost(link, self._loop.time())
        self.wake()
        return link.close_reason

    def evict(self, link: Link, reason: HandshakeFailure | SessionError) -> None:
        """End a session to make room for others."""
        self._node.close(link, Goodbye.BUSY, reason, self._loop.time())

    def slow_reader(self, link: Link) -> None:
        """The peer does not read: end its session."""
        self._node.close(link, Goodbye.SLOW_READER, SessionError.SLOW_READER, self._loop.time())

    def pull(self, link: Link) -> bytes:
        """Return the next bytes for a stream."""
        return self._node.data_to_send(link, self._loop.time())

    def has_output(self, link: Link) -> bool:
        """Whether a further :meth:`pull` may return more."""
        return self._node.has_output(link)

    def may_receive(self, link: Link) -> bool:
        """Whether to read on from a stream."""
        return not self._is_stopping and self._node.may_receive(link)

    def wake_later(self, link: Link) -> None:
        """Serve this link again after the others had their turn."""
        self._queue(link)
        self.wake()

    # -- turns ------------------------------------------------------------

    def take_turns(self) -> bool:
        """Serve whoever has something to do, for a bounded time; tell whether anybody has to wait.

        Who waits is not read from meanwhile: what a turn of the loop reads is bounded by
        what the one before served.
        """
        turns = self._turns
        now = self._loop.time()
        until = now + TURN_S
        self._queue_ready()
        while now < until and (number := turns.next()) is not None:
            began = now
            stream = self._streams.get(number)
            try:
                if stream is not None:
                    self._serve(stream)
                self._queue_ready()
            except Exception:
                # Nobody knows what state it is in; the others, those of its address too, go on.
                if stream is not None:
                    stream.abort()
                self.wake()
                raise
            finally:
                now = self._loop.time()
                turns.spent(now - began)
        heard, self._heard = self._heard, []
        if not turns:
            self._idle_since = now
            return False
        for stream in heard:
            stream.pause_while_busy()
        self.wake()
        return True

    def _queue_ready(self) -> None:
        for link in self._node.take_ready():
            self._queue(link)

    def _queue(self, link: Link) -> None:
        self.rest()
        self._idle_since = None
        self._turns.add(link.number)

    def rest(self) -> None:
        """Count the time in which nobody had anything to do, by which those that have gone are forgotten."""
        if self._idle_since is not None:
            now = self._loop.time()
            self._turns.rest(now - self._idle_since)
            self._idle_since = now

    def _serve(self, stream: Stream) -> None:
        """Do a part of what a stream's bytes ask for, and let it say what there is to say."""
        link = stream.link
        if link is None:
            return
        if link.session.has_input:
            self._node.take_turn(link, self._loop.time())
            if link.session.peer is not None:
                self._limits.proved(link.number)
        stream.flush()
        if link.session.has_input:
            self._queue(link)
        memory = self._limits.memory
        memory.note(link.number, link.held_bytes + stream.unsent_bytes)
        while memory.is_exceeded:
            self._streams[memory.worst()].evict(SessionError.MEMORY)
