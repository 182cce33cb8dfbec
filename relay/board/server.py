# SPDX-License-Identifier: GPL-2.0-or-later
"""The board's socket: whoever may open it may ask for one of the verbs, and for nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Self

from relay.board.verbs import MAX_REQUEST_BYTES, Verb, decode_request, encode_answer
from relay.core.errors import DecodeError
from relay.process.unix_sockets import UnixListener, listen_unix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The group that the unit gives the socket.
SOCKET_MODE: Final = 0o660
#: Operators and their scripts; one more closes the oldest.
MAX_CONNECTIONS: Final = 4


class BoardServer:
    """Answers with what ``perform`` returns; ``refused`` hears of every other request."""

    def __init__(self, path: Path, perform: Callable[[Verb], object], refused: Callable[[], None]) -> None:
        self._path = path
        self._perform = perform
        self._refused = refused
        self._listener: UnixListener | None = None
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, None] = {}

    async def __aenter__(self) -> Self:
        """Listen; raise SocketInUseError or OSError."""
        self._listener = listen_unix(self._path, SOCKET_MODE, MAX_CONNECTIONS)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=self._listener.sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, drop who is connected."""
        if self._server is not None and self._listener is not None:
            self._server.close()
            self._listener.close()
            for connection in list(self._connections):
                connection.drop()
            await self._server.wait_closed()

    def opened(self, connection: _Connection) -> None:
        """Note a connection, at the expense of the oldest if there are too many."""
        self._connections[connection] = None
        if len(self._connections) > MAX_CONNECTIONS:
            next(iter(self._connections)).drop()

    def closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    def too_long(self) -> None:
        """Count a request that has no end."""
        self._refused()

    def answer(self, line: bytes) -> bytes:
        """Perform the request in ``line``; return the line to send back."""
        try:
            verb = decode_request(line)
        except DecodeError as error:
            self._refused()
            return encode_answer(error=str(error))
        return encode_answer(self._perform(verb))


class _Connection(asyncio.Protocol):
    def __init__(self, server: BoardServer) -> None:
        self._server = server
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.closed(self)

    def drop(self) -> None:
        """Close at once."""
        self._server.closed(self)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            # Asks without reading the answers.
            if self._transport.get_write_buffer_size() > MAX_REQUEST_BYTES:
                self.drop()
                return
            self._transport.write(self._server.answer(line))
        if len(self._received) > MAX_REQUEST_BYTES:
            self._server.too_long()
            self.drop()
