# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams from other processes, by Unix socket (docs/links.md).

Another process (`relay ble`, a serial modem, a test) connects, writes one line of
JSON that says what it brings, and from then on the connection is the stream; or,
for the relay's own other processes, the one on which they report how they are; or,
for a gateway, that of its live datagrams.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Final, cast

from relay.core.errors import DecodeError
from relay.links import StreamInfo
from relay.process.link_socket import MAX_PREAMBLE_BYTES, ForeignStream, Gateway, decode_preamble
from relay.process.reports import Component
from relay.process.unix_sockets import listen_unix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from relay.links import Host

PREAMBLE_TIMEOUT_S: Final = 5.0
BACKLOG: Final = 64


class ForeignLink:
    """Accepts streams of other processes."""

    name = "unix"

    def __init__(self, *, path: Path, mode: int, own_interfaces: Sequence[str] = ()) -> None:
        """``mode``: permission bits of the socket at ``path``; ``own_interfaces``: those that the operator named."""
        self._path = path
        self._mode = mode
        self._network = set(own_interfaces)

    async def run(self, host: Host) -> None:
        """Serve until cancelled."""
        self._note_interfaces()
        listener = listen_unix(self._path, self._mode, BACKLOG)
        try:
            server = await asyncio.get_running_loop().create_unix_server(
                lambda: _Preamble(host, self._require_foreign), sock=listener.sock
            )
            async with server:
                await server.serve_forever()
        finally:
            listener.close()

    def _require_foreign(self, interface: str) -> None:
        """Raise DecodeError for the name of a network interface: its share is not for others.

        That is one which is here, or was when :meth:`run` began or a stream came. Whoever may open the socket, or has
        taken over a process that may, would use its share up, and displace what is in it.
        """
        self._note_interfaces()
        if interface in self._network:
            raise DecodeError(f"{interface} is a network interface of this machine; streams need a name of their own")

    def _note_interfaces(self) -> None:
        self._network.update(name for _, name in socket.if_nameindex())


class _Preamble(asyncio.Protocol):
    """Reads the first line, then hands the transport to a session."""

    def __init__(self, host: Host, require_foreign: Callable[[str], None]) -> None:
        self._host = host
        self._require_foreign = require_foreign
        self._line = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._timeout = asyncio.get_running_loop().call_later(PREAMBLE_TIMEOUT_S, self._give_up)

    def connection_lost(self, _: Exception | None) -> None:
        self._stop_timeout()

    def _give_up(self) -> None:
        self._host.preamble_refused()
        if self._transport is not None:
            self._transport.abort()

    def _stop_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:  # pragma: no cover - asyncio connects before it reads
            return
        self._line += data
        line, newline, rest = bytes(self._line).partition(b"\n")
        if not newline and len(line) <= MAX_PREAMBLE_BYTES:
            return
        self._stop_timeout()
        try:
            brought = decode_preamble(line)
            if isinstance(brought, ForeignStream):
                self._require_foreign(brought.interface)
        except DecodeError as error:
            self._host.preamble_refused()
            transport.write(json.dumps({"error": str(error)}).encode() + b"\n")
            transport.close()
            return
        if isinstance(brought, Component):
            protocol = self._host.component(brought)
        elif isinstance(brought, Gateway):
            protocol = self._host.gateway(brought)
        else:
            info = StreamInfo(
                kind=brought.link, interface=brought.interface, initiator=brought.initiator, slow=brought.slow
            )
            protocol = self._host.stream(lambda _: info)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            protocol.data_received(rest)
