# SPDX-License-Identifier: GPL-2.0-or-later
"""The host: who is connected, who is dialled, and the protocols that every host has (identify, its push, ping)."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.libp2p import identify
from relay.libp2p.channel import Channel
from relay.libp2p.connection import Connection, Messages, StreamError
from relay.libp2p.multiaddr import TcpAddress
from relay.process.crowd import Places

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from relay.libp2p.connection import Handler, Stream
    from relay.libp2p.identity import Identity

logger = logging.getLogger(__name__)

PING_PROTOCOL: Final = "/ipfs/ping/1.0.0"
_PING_BYTES: Final = 32
#: Connections at once, and of one address; one more takes the place of the oldest that does nothing useful. The
#: memory of one is bounded in relay.libp2p.connection.
MAX_CONNECTIONS: Final = 64
MAX_PER_ADDRESS: Final = 8
#: Streams of all peers at once, 5 kB each with the task that reads it: beyond it the oldest goes of the connection that
#: has most.
MAX_STREAMS: Final = 4096
#: Dials under way.
MAX_DIALS: Final = 8
DIAL_S: Final = 5.0
IDENTIFY_S: Final = 10.0
#: After that the old connection of a peer that was dialled anew is not in use, or will be for longer.
RENEW_S: Final = 2.0
BACKLOG: Final = 16
#: Of a peer's; what is above it is a flood.
_PING_REST_S: Final = 0.05


class Host:
    """A libp2p host; `handlers` may be added to until it listens."""

    def __init__(
        self,
        identity: Identity,
        *,
        count: Callable[..., None],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """``count(event, amount)`` counts what happens."""
        self.identity = identity
        self.count = count
        self._random_bytes = random_bytes
        self.handlers: dict[str, Handler] = {
            identify.PROTOCOL: self._on_identify,
            identify.PUSH_PROTOCOL: self._on_push,
            PING_PROTOCOL: self._on_ping,
        }
        #: The connections of each peer, the newest last: a peer that went without a word leaves an old one behind.
        self.peers: dict[bytes, list[Connection]] = {}
        #: Called with each peer's first connection once it said what it speaks; and when the last one is gone, also
        #: where it never did.
        self.on_identified: list[Callable[[bytes], None]] = []
        self.on_left: list[Callable[[bytes], None]] = []
        #: Called where a peer dialled us that is here: it may have gone without a word, and begun anew.
        self.on_returned: list[Callable[[bytes], None]] = []
        #: Where we are to be found, as we tell it: host, port.
        self.listening: list[TcpAddress] = []
        self._places = Places(
            most=MAX_CONNECTIONS, per_address=MAX_PER_ADDRESS, on_dropped=lambda: count("connections_dropped")
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: dict[str, asyncio.Server] = {}
        self._dialling: set[bytes] = set()

    # -- listening and dialling -------------------------------------------------------

    async def listen(self, host: str, port: int = 0) -> int:
        """Listen on an address, in its own words (`fe80::1%eth0`); return the port. Raise OSError."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: self._connection(is_dialled=False, expected=None), host, port, backlog=BACKLOG
        )
        found: int = server.sockets[0].getsockname()[1]
        self._servers[host] = server
        self.listening.append(TcpAddress(host.partition("%")[0], found))
        return found

    def deafen(self, host: str) -> None:
        """Stop listening on an address."""
        server = self._servers.pop(host, None)
        if server is not None:
            server.close()
            plain = host.partition("%")[0]
            self.listening = [address for address in self.listening if address.host != plain]

    def _connection(self, *, is_dialled: bool, expected: bytes | None) -> Connection:
        channel = Channel(self.identity, initiator=is_dialled, expected=expected, random_bytes=self._random_bytes)
        return _Placed(self, channel, is_dialled=is_dialled, places=self._places)

    async def dial(
        self, address: TcpAddress, *, scope: str = "", local: str | None = None, anew: bool = False
    ) -> Connection:
        """Connect to a peer, or return the connection that there is; raise OSError, StreamError.

        ``scope``: the interface of a link-local address. ``local``: the address of ours to dial from. ``anew``: another
        connection beside the one that there is.
        """
        peer = address.peer
        if peer is not None and not anew and (known := self.peers.get(peer)):
            return known[-1]
        if len(self._dialling) >= MAX_DIALS or (peer is not None and peer in self._dialling):
            raise StreamError("too many dials at a time")
        key = peer or self._random_bytes(8)
        self._dialling.add(key)
        self.count("peer_dials")
        try:
            host = address.host
            if scope and ipaddress.ip_address(host).is_link_local:
                host = f"{host}%{scope}"
            async with asyncio.timeout(DIAL_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: self._connection(is_dialled=True, expected=peer),
                    host,
                    address.port,
                    local_addr=(local, 0) if local else None,
                )
                try:
                    await connection.ready()
                except BaseException:
                    connection.drop()
                    raise
            connection.dialled = (address, scope)
            return connection
        except (OSError, StreamError):
            self.count("peer_dials_failed")
            raise
        finally:
            self._dialling.discard(key)

    def connection(self, peer: bytes) -> Connection | None:
        """The newest connection with a peer."""
        found = self.peers.get(peer)
        return found[-1] if found else None

    def speakers(self, protocols: Iterable[str]) -> list[bytes]:
        """The peers that speak any of these."""
        wanted = set(protocols)
        there = ((peer, self.identified(peer)) for peer in self.peers)
        return [peer for peer, connection in there if connection is not None and connection.protocols & wanted]

    def identified(self, peer: bytes) -> Connection | None:
        """The newest connection on which a peer said what it speaks: one that was dialled anew begins without that."""
        return next((each for each in reversed(self.peers.get(peer, ())) if each.protocols), None)

    async def open(self, peer: bytes, protocols: list[str]) -> Stream:
        """Open a stream to a peer that is connected; raise StreamError."""
        connection = self.connection(peer)
        if connection is None:
            raise StreamError("the peer is not connected")
        return await connection.open(protocols)

    async def close(self) -> None:
        """Close everything."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        for found in list(self.peers.values()):
            for connection in list(found):
                connection.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- relay.libp2p.connection.Owner ------------------------------------------------

    def established(self, connection: Connection) -> None:
        """Take a peer in, and ask what it speaks."""
        if connection.peer == self.identity.peer:
            connection.drop()
            return
        self.count("peers_met")
        self.peers.setdefault(connection.peer, []).append(connection)
        self.spawn(self._identify(connection))

    def lost(self, connection: Connection) -> None:
        """Forget a connection, and the peer with its last one."""
        found = self.peers.get(connection.peer)
        if not found or connection not in found:
            return
        found.remove(connection)
        if not found:
            del self.peers[connection.peer]
            # Also of one that never said what it speaks: it may have spoken.
            for told in self.on_left:
                told(connection.peer)

    def opened(self) -> None:
        """Keep the streams of all peers within their bound."""
        there = [connection for found in self.peers.values() for connection in found]
        if sum(connection.stream_count for connection in there) > MAX_STREAMS:
            self.count("streams_crowded_out")
            max(there, key=lambda connection: connection.stream_count).shed()

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run something until it ends; an error of ours is logged, and costs nothing else."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a part of the host failed", exc_info=error)

    def reachable(self, connection: Connection) -> list[TcpAddress]:
        """Where whoever is at the other end can dial us: of one segment nothing is told on another."""
        here = connection.local_host.partition("%")[0]
        return [each for each in self.listening if each.host == here]

    # -- identify and ping ------------------------------------------------------------

    def _said(self, connection: Connection) -> bytes:
        host, port = connection.remote
        observed = TcpAddress(host.partition("%")[0], port) if host and port else None
        return identify.encode_identify(
            key_message=self.identity.key_message,
            addresses=self.reachable(connection),
            protocols=sorted(self.handlers),
            observed=observed,
        )

    async def _on_identify(self, stream: Stream) -> None:
        await stream.send(self._said(stream.connection))

    async def _on_push(self, stream: Stream) -> None:
        async with asyncio.timeout(IDENTIFY_S):
            message = await Messages(stream, identify.MAX_MESSAGE_BYTES).next()
        if message is not None:
            self._learn(stream.connection, message)

    async def _identify(self, connection: Connection) -> None:
        try:
            stream = await connection.open([identify.PROTOCOL])
        except StreamError:
            return
        try:
            async with asyncio.timeout(IDENTIFY_S):
                message = await Messages(stream, identify.MAX_MESSAGE_BYTES).next()
            if message is not None:
                self._learn(connection, message)
        except DecodeError:
            self.count("messages_malformed")
        except (StreamError, TimeoutError):
            pass
        finally:
            connection.close_stream(stream)

    def _learn(self, connection: Connection, message: bytes) -> None:
        said = identify.decode_identify(message)
        if said.protocols is None or connection.peer not in self.peers:
            return
        is_first = not any(each.protocols for each in self.peers[connection.peer])
        is_return = not is_first and not connection.protocols and not connection.is_dialled
        connection.protocols = said.protocols
        connection.listens = said.addresses
        connection.is_relay = said.is_relay
        if is_first:
            for told in self.on_identified:
                told(connection.peer)
        if is_return:
            for told in self.on_returned:
                told(connection.peer)

    def renew(self, connection: Connection) -> None:
        """Dial a peer again that did not notice that we are here; the old connection ends unless it is in use."""
        self.count("peers_renewed")
        host, _, scope = connection.remote[0].partition("%")
        there = [TcpAddress(each.host, each.port, connection.peer) for each in connection.listens if each.host == host]
        dialled = connection.dialled or (there[0], scope) if there or connection.dialled else None
        if dialled is not None:
            self.spawn(self._redial(connection, *dialled))

    async def _redial(self, old: Connection, address: TcpAddress, scope: str) -> None:
        with suppress(OSError, StreamError):
            await self.dial(address, scope=scope, anew=True)
            await asyncio.sleep(RENEW_S)
            if not old.channel.mux.streams:
                old.close()

    def push(self) -> None:
        """Tell all peers that what we say of ourselves has changed."""
        for peer in self.speakers([identify.PUSH_PROTOCOL]):
            self.spawn(self._push(peer))

    async def _push(self, peer: bytes) -> None:
        with suppress(StreamError, TimeoutError):
            stream = await self.open(peer, [identify.PUSH_PROTOCOL])
            try:
                async with asyncio.timeout(IDENTIFY_S):
                    await stream.send(self._said(stream.connection))
            finally:
                stream.connection.close_stream(stream)

    async def _on_ping(self, stream: Stream) -> None:
        data = b""
        while True:
            while len(data) < _PING_BYTES:
                piece = await stream.read()
                if not piece:
                    return
                data += piece
            stream.write(data[:_PING_BYTES])
            await stream.drain()
            data = data[_PING_BYTES:]
            await asyncio.sleep(_PING_REST_S)


class _Placed(Connection):
    """A connection that has a place while it lasts."""

    def __init__(self, owner: Host, channel: Channel, *, is_dialled: bool, places: Places) -> None:
        super().__init__(owner, channel, is_dialled=is_dialled)
        self._places = places

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._places.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.leave(self)
        super().connection_lost(exc)
