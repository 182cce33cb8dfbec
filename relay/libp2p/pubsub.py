# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves what :class:`Gossipsub` says between it and the peers of a host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NoReturn

from relay.libp2p.connection import Budget, Messages, StreamError
from relay.libp2p.gossipsub import HEARTBEAT_S, Gossipsub
from relay.libp2p.gossipsub_message import MAX_RPC_BYTES, PROTOCOL, decode_rpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.libp2p.connection import Stream
    from relay.libp2p.gossipsub import Event
    from relay.libp2p.host import Host

SEND_S: Final = 20.0
#: As of bitswap: of two connections one ends, and the other goes on.
RETRIES: Final = 5
RETRY_S: Final = 0.5
#: Streams of one peer on which it may speak; it needs one.
_MAX_STREAMS: Final = 2
MAX_HELD_BYTES: Final = 4 << 20


class Pubsub:
    """Of one host."""

    def __init__(self, host: Host, router: Gossipsub, *, on_event: Callable[[Event], None]) -> None:
        self._host = host
        self.router = router
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._wakes: dict[bytes, asyncio.Event] = {}
        self._listening: dict[bytes, int] = {}
        #: Peers to be told of all that we subscribe to on a stream of their newest connection.
        self._anew: set[bytes] = set()
        self._budget = Budget(MAX_HELD_BYTES)
        host.handlers[PROTOCOL] = self._on_stream
        host.on_identified.append(self._on_peer)
        host.on_left.append(self._on_left)
        host.on_returned.append(self._on_returned)

    def _on_peer(self, peer: bytes) -> None:
        connection = self._host.identified(peer)
        if connection is None or PROTOCOL not in connection.protocols or peer in self._wakes:
            return
        self._wakes[peer] = asyncio.Event()
        self.router.opened(peer, self._loop.time())
        self._host.spawn(self._talk(peer, self._wakes[peer]))

    def _on_returned(self, peer: bytes) -> None:
        if peer in self._wakes:
            self._anew.add(peer)
            self.router.greet(peer)
            self.flush()

    def _on_left(self, peer: bytes) -> None:
        self._anew.discard(peer)
        wake = self._wakes.pop(peer, None)
        if wake is not None:
            wake.set()
            self._tell(self.router.closed(peer))

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            self._on_event(event)
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        for peer in self.router.has_messages():
            if (wake := self._wakes.get(peer)) is not None:
                wake.set()

    async def _on_stream(self, stream: Stream) -> None:
        peer = stream.peer
        if self._listening.get(peer, 0) >= _MAX_STREAMS:
            stream.reset()
            return
        self._listening[peer] = self._listening.get(peer, 0) + 1
        messages = Messages(stream, MAX_RPC_BYTES, self._budget)
        try:
            while (data := await messages.next()) is not None:
                rpc = decode_rpc(data)
                # It may speak before it has said what it speaks.
                if peer in self._host.peers and peer not in self._wakes:
                    self._wakes[peer] = asyncio.Event()
                    self.router.opened(peer, self._loop.time())
                    self._host.spawn(self._talk(peer, self._wakes[peer]))
                self._tell(self.router.receive(peer, rpc, self._loop.time()))
                stream.connection.useful_s = self._loop.time()
        finally:
            messages.close()
            self._listening[peer] -= 1
            if not self._listening[peer]:
                del self._listening[peer]

    async def _talk(self, peer: bytes, wake: asyncio.Event) -> None:
        """Tell a peer what waits for it, on one stream for as long as it is there."""
        for _ in range(RETRIES):
            try:
                await self._talk_on(peer, wake)
            except (StreamError, TimeoutError):
                await asyncio.sleep(RETRY_S)
                self.router.greet(peer)
            else:
                return
        # Begun anew, with all our subscriptions, when it speaks again.
        if self._wakes.get(peer) is wake:
            self._on_left(peer)

    async def _talk_on(self, peer: bytes, wake: asyncio.Event) -> None:
        stream: Stream | None = None
        try:
            while self._wakes.get(peer) is wake:
                wake.clear()
                for message in self.router.messages_to_send(peer):
                    if stream is not None and peer in self._anew:
                        stream.connection.close_stream(stream)
                        stream = None
                    self._anew.discard(peer)
                    if stream is None:
                        stream = await self._host.open(peer, [PROTOCOL])
                    async with asyncio.timeout(SEND_S):
                        await stream.send(message)
                await wake.wait()
        finally:
            if stream is not None:
                stream.connection.close_stream(stream)

    async def run(self) -> NoReturn:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.router.heartbeat(self._loop.time())
            self.flush()
