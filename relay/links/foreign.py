# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams from other processes, by Unix socket (docs/links.md).

Another process (`relay ble`, a serial modem, a test) connects, writes one line of
JSON that says what it brings, and from then on the connection is the stream; or,
for the relay's own other processes, the one on which they report how they are.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, Final, cast

from relay.core.errors import DecodeError
from relay.core.stats import LinkKind
from relay.links import StreamInfo
from relay.process.reports import Component, decode_component
from relay.process.unix_sockets import listen_unix

if TYPE_CHECKING:
    from pathlib import Path

    from relay.links import Host

PREAMBLE_VERSION: Final = 1
MAX_PREAMBLE_BYTES: Final = 512
PREAMBLE_TIMEOUT_S: Final = 5.0
BACKLOG: Final = 64
_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,14}")
_KEYS: Final = {"version": int, "interface": str, "initiator": bool, "slow": bool}
#: What the optional key `link` may say.
_LINKS: Final = {str(kind): kind for kind in (LinkKind.UNIX, LinkKind.BLE)}


def decode_preamble(line: bytes) -> StreamInfo | Component:
    """Decode the first line of a foreign stream or of a component; raise DecodeError with what is wrong."""
    if len(line) > MAX_PREAMBLE_BYTES:
        raise DecodeError(f"the first line has more than {MAX_PREAMBLE_BYTES} bytes")
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DecodeError("the first line is not JSON") from error
    if isinstance(values, dict) and "component" in values:
        return decode_component(values)
    if not isinstance(values, dict) or values.keys() - {"link"} != _KEYS.keys():
        raise DecodeError(f"the first line must have exactly the keys {', '.join(_KEYS)}")
    for key, kind in _KEYS.items():
        if type(values[key]) is not kind:
            raise DecodeError(f"{key} must be of type {kind.__name__}")
    if values["version"] != PREAMBLE_VERSION:
        raise DecodeError(f"preamble version {values['version']}, expected {PREAMBLE_VERSION}")
    if not _INTERFACE.fullmatch(values["interface"]):
        raise DecodeError("interface must be a short name such as hci0")
    link = values.get("link", "unix")
    if not isinstance(link, str) or link not in _LINKS:
        raise DecodeError(f"link must be one of {', '.join(_LINKS)}")
    return StreamInfo(
        kind=_LINKS[link], interface=values["interface"], initiator=values["initiator"], slow=values["slow"]
    )


class ForeignLink:
    """Accepts streams of other processes."""

    name = "unix"

    def __init__(self, *, path: Path, mode: int) -> None:
        """``mode``: permission bits of the socket at ``path``."""
        self._path = path
        self._mode = mode

    async def run(self, host: Host) -> None:
        """Serve until cancelled."""
        listener = listen_unix(self._path, self._mode, BACKLOG)
        try:
            server = await asyncio.get_running_loop().create_unix_server(lambda: _Preamble(host), sock=listener.sock)
            async with server:
                await server.serve_forever()
        finally:
            listener.close()


class _Preamble(asyncio.Protocol):
    """Reads the first line, then hands the transport to a session."""

    def __init__(self, host: Host) -> None:
        self._host = host
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
            info = decode_preamble(line)
        except DecodeError as error:
            self._host.preamble_refused()
            transport.write(json.dumps({"error": str(error)}).encode() + b"\n")
            transport.close()
            return
        protocol = self._host.component(info) if isinstance(info, Component) else self._host.stream(lambda _: info)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            protocol.data_received(rest)
