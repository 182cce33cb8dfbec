# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: one JSON object per line each way, for the operator on this machine.

Request ``{"v": 1, "op": "status"}`` or ``{"v": 1, "op": "clock", "unix_s": 1700000000}``;
answer ``{"v": 1, "ok": true, "result": ...}`` or ``{"v": 1, "ok": false, "error": "..."}``.
Several requests may follow each other on one connection.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any, Self

from relay.control.status import SCHEMA, Status, read_status
from relay.core.errors import RelayError
from relay.process.unix_sockets import UnixListener, listen_unix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from relay.control.status import Engine

VERSION = 1
#: The longest request is under 100 bytes; asyncio reads up to 256 KiB at once, which is let go of at once.
MAX_REQUEST_BYTES = 4096
#: A status is under 64 KiB even with every link row in use (relay.core.stats.MAX_LINK_ROWS).
MAX_ANSWER_BYTES = 1024 * 1024
#: Operators and their scripts. One more closes the oldest, so that connections which
#: were left open lock nobody out and need no timer. With answers waiting: 8 MiB.
MAX_CONNECTIONS = 8
CLIENT_TIMEOUT_S = 10.0
#: The end of the year 9999, which is as far as dates go.
MAX_UNIX_S = 253_402_300_799


_PERMISSION = 'use sudo, or be in its group, where relay.toml has access = "group" in [control]'


class ControlError(RelayError):
    """The relay does not answer, or refused; the message has the remedy."""


class NotYoursError(ControlError):
    """The socket is there, or may be, and this user may not open it."""


class ControlServer:
    """Answers for ``engine``; `async with` listens and, at the end, closes every connection."""

    def __init__(self, engine: Engine, path: Path, mode: int) -> None:
        self._engine = engine
        self._path = path
        self._mode = mode
        self._listener: UnixListener | None = None
        self._server: asyncio.Server | None = None
        #: In order of arrival; a dict for its order.
        self._connections: dict[_Connection, None] = {}

    async def __aenter__(self) -> Self:
        """Listen; raise SocketInUseError or OSError."""
        self._listener = listen_unix(self._path, self._mode, MAX_CONNECTIONS)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=self._listener.sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, remove the socket, drop who is connected."""
        server, self._server = self._server, None
        if server is not None and self._listener is not None:
            server.close()
            self._listener.close()
            for connection in list(self._connections):
                connection.drop()
            await server.wait_closed()

    def opened(self, connection: _Connection) -> None:
        """Note a connection, at the expense of the oldest if there are too many."""
        self._connections[connection] = None
        if self._server is None:
            # Accepted just before the end.
            connection.drop()
        elif len(self._connections) > MAX_CONNECTIONS:
            next(iter(self._connections)).drop()

    def closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    def answer(self, line: bytes) -> bytes:
        """Perform the request in ``line`` and return the line to send back."""
        try:
            answer = {"v": VERSION, "ok": True, "result": self._perform(line)}
        except RelayError as error:
            answer = {"v": VERSION, "ok": False, "error": str(error)}
        return json.dumps(answer, separators=(",", ":")).encode() + b"\n"

    def _perform(self, line: bytes) -> object:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ControlError("the request is not JSON") from error
        if not isinstance(request, dict) or request.get("v") != VERSION:
            raise ControlError(f'the request is not of version {VERSION}: {{"v": {VERSION}, "op": ...}}')
        operation = request.get("op")
        if operation == "status":
            return self._engine.status().as_dict()
        if operation == "clock":
            unix_s = request.get("unix_s")
            if not isinstance(unix_s, int) or isinstance(unix_s, bool) or not 0 < unix_s <= MAX_UNIX_S:
                raise ControlError("unix_s must be whole seconds since 1970")
            self._engine.set_clock(unix_s)
            return None
        raise ControlError("unknown operation; there are status and clock")


class _Connection(asyncio.Protocol):
    """One operator; a protocol, not a task, so that there is nothing to supervise."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            self._server.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.closed(self)

    def drop(self) -> None:
        """Close at once."""
        self._server.closed(self)
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        if self._transport is None or len(self._received) > MAX_REQUEST_BYTES:
            self.drop()
            return
        for line in lines:
            # Asks without reading the answers.
            if self._transport.get_write_buffer_size() > MAX_ANSWER_BYTES:
                self.drop()
                return
            self._transport.write(self._server.answer(line))


class ControlClient:
    """Asks the relay at ``path``; blocking, for commands. `with` closes it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CLIENT_TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except PermissionError as error:
            self._socket.close()
            raise NotYoursError(f"{path} is not yours to open; {_PERMISSION}") from error
        except OSError as error:
            self._socket.close()
            raise ControlError(f"no relay answers at {path}; start one with `relay run`") from error
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def status(self) -> dict[str, Any]:
        """The status as the relay sent it (`relay status --json`); raise ControlError."""
        result = self._ask({"op": "status"})
        return result if isinstance(result, dict) else {}

    def read_status(self) -> Status:
        """The status, checked; raise ControlError."""
        try:
            return read_status(self.status())
        except ValueError as error:
            raise ControlError(f"the relay's status is not of schema {SCHEMA}; use its own `relay status`") from error

    def set_clock(self, unix_s: int) -> None:
        """Give the relay the time; raise ControlError when it refuses."""
        self._ask({"op": "clock", "unix_s": unix_s})

    def _ask(self, request: dict[str, object]) -> object:
        try:
            self._socket.sendall(json.dumps({"v": VERSION, **request}).encode() + b"\n")
            line = self._file.readline(MAX_ANSWER_BYTES)
            answer = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError) as error:
            raise ControlError("the relay closed the connection or does not answer") from error
        if not isinstance(answer, dict) or answer.get("v") != VERSION:
            raise ControlError("the relay closed the connection, or is of another version than this command")
        if not answer.get("ok"):
            raise ControlError(str(answer.get("error")))
        return answer.get("result")


def connect_to_first(paths: Sequence[Path]) -> ControlClient:
    """Connect to the first of ``paths`` (one at least) where a relay answers; raise ControlError that names all."""
    refused = []
    for path in paths:
        try:
            return ControlClient(path)
        except ControlError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    forbidden = [path for path, error in zip(paths, refused, strict=True) if isinstance(error, NotYoursError)]
    if not forbidden:
        raise ControlError(f"no relay answers at {_listed(paths)}; start one with `relay run`")
    others = [path for path in paths if path not in forbidden]
    nobody = f"no relay answers at {_listed(others)}, and " if others else ""
    raise NotYoursError(f"{nobody}{_listed(forbidden)} is not yours to open; {_PERMISSION}")


def _listed(paths: Sequence[Path]) -> str:
    return " or ".join(map(str, paths))
