# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines on a stream, and a server on a Unix socket that answers each with one."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, Self, cast

from relay.process.pacer import Pacer
from relay.process.unix_sockets import UnixListener, listen_unix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Lines:
    """What has arrived, cut into lines."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        #: The line that has no end yet; who holds this bounds it.
        self.rest = b""

    def receive(self, data: bytes) -> list[bytes]:
        """Return the lines that end in ``data``, without their line feeds."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        return lines


#: struct ucred: process, user, group.
_UCRED = struct.Struct("@iII")


#: Of the loop: the task of asyncio's that accepts, its protocol's connection_made(), the end of what that dropped.
_ACCEPTING_TURNS: Final = 3


class LineServer:
    """Listens at ``path``; `async with` begins and, at the end, closes every connection.

    ``answer`` makes the line to send back, line feed included, of a request and the user who asks (unix(7); in the
    user namespace of a service all but root and its own user are 65534). ``max_connections``: one more closes the
    oldest, so that connections which were left open lock nobody out and need no timer. A request of more than
    ``max_request_bytes`` ends its connection, of which ``on_too_long`` hears; so does asking on while more than
    ``max_unread_bytes`` of answers wait to be read. With asyncio's 256 KiB that a connection reads at once these bound
    the memory. Answers are made in turn, one of each connection, and paced (relay.process.pacer).
    """

    def __init__(
        self,
        *,
        path: Path,
        mode: int,
        answer: Callable[[bytes, int], bytes],
        max_connections: int,
        max_request_bytes: int,
        max_unread_bytes: int,
        on_too_long: Callable[[], None] = lambda: None,
    ) -> None:
        """``mode``: permission bits of the socket."""
        self._path = path
        self._mode = mode
        self.answer = answer
        self._max_connections = max_connections
        self.max_request_bytes = max_request_bytes
        self.max_unread_bytes = max_unread_bytes
        self.on_too_long = on_too_long
        self._listener: UnixListener | None = None
        self._server: asyncio.Server | None = None
        #: In order of arrival; a dict for its order.
        self._connections: dict[_Connection, None] = {}
        #: Those that have asked, in turn.
        self._asking: dict[_Connection, None] = {}
        self._next: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Listen; raise SocketInUseError or OSError."""
        self._listener = listen_unix(self._path, self._mode, self._max_connections)
        loop = asyncio.get_running_loop()
        self._pacer = Pacer(loop.time)
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=self._listener.sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, remove the socket, drop who is connected."""
        if self._next is not None:
            self._next.cancel()
        server, self._server = self._server, None
        if server is not None and self._listener is not None:
            server.close()
            self._listener.close()
            for connection in list(self._connections):
                connection.drop()
            # Who was accepted in this moment is known to asyncio only: he comes to `opened`, and is dropped there.
            for _turn in range(_ACCEPTING_TURNS):
                await asyncio.sleep(0)
            await server.wait_closed()

    def opened(self, connection: _Connection) -> None:
        """Note a connection, at the expense of the oldest if there are too many."""
        self._connections[connection] = None
        if self._server is None:
            # Accepted just before the end.
            connection.drop()
        elif len(self._connections) > self._max_connections:
            next(iter(self._connections)).drop()

    def closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)
        self._asking.pop(connection, None)

    def asks(self, connection: _Connection) -> None:
        """Let a connection have its next answer in its turn."""
        self._asking[connection] = None
        self._go_on()

    def _go_on(self) -> None:
        if self._next is None and self._asking:
            self._next = asyncio.get_running_loop().call_later(self._pacer.delay_s, self._take_turn)

    def _take_turn(self) -> None:
        self._next = None
        if not self._asking:
            return
        connection = next(iter(self._asking))
        del self._asking[connection]
        self._pacer.begin()
        if connection.answer_next():
            self._asking[connection] = None
        self._pacer.end()
        self._go_on()


class _Connection(asyncio.Protocol):
    """One who asks; a protocol, not a task, so that there is nothing to supervise."""

    def __init__(self, server: LineServer) -> None:
        self._server = server
        self._lines = Lines()
        self._asked: deque[bytes] = deque()
        self._is_ending = False
        self._transport: asyncio.Transport | None = None
        self._user = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        _, self._user, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        self._server.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.closed(self)

    def drop(self) -> None:
        """Close at once."""
        self._server.closed(self)
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:  # pragma: no cover - asyncio connects before it reads
            return
        self._asked.extend(self._lines.receive(data))
        if self._asked:
            # It is read on when all of this has its answer.
            transport.pause_reading()
            self._server.asks(self)
        if len(self._lines.rest) > self._server.max_request_bytes:
            self._server.on_too_long()
            self._is_ending = True
            if not self._asked:
                self.drop()

    def answer_next(self) -> bool:
        """Answer one request; tell whether there are more."""
        transport = self._transport
        if transport is None:  # pragma: no cover - who is closed asks no more
            return False
        # Asks without reading the answers.
        if transport.get_write_buffer_size() > self._server.max_unread_bytes:
            self.drop()
            return False
        transport.write(self._server.answer(self._asked.popleft(), self._user))
        if not self._asked and self._is_ending:
            self.drop()
        elif not self._asked and not transport.is_closing():
            transport.resume_reading()
        return bool(self._asked)
