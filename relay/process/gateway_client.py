# SPDX-License-Identifier: GPL-2.0-or-later
"""How a gateway hands live datagrams to `relay run` and gets those of others (docs/links.md section 4)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn

from relay.core.errors import DecodeError
from relay.process.gateway_frames import ClockReading, FrameCutter, decode_frame, encode_live_frame
from relay.process.link_socket import CONNECT_TIMEOUT_S
from relay.process.printable import printable_ascii
from relay.process.supervisor import keep_trying

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relay.core.messages import LiveDatagram
    from relay.process.link_socket import Gateway

logger = logging.getLogger(__name__)

#: `relay run` may be away for days; a connection to nobody costs nothing.
MAX_DELAY_S: Final = 10.0
#: What waits for `relay run` to read, at most; beyond it a datagram would be late.
MAX_AHEAD_BYTES: Final = 64 << 10
_READ_BYTES: Final = 64 << 10
_MAX_REFUSAL_CHARS: Final = 300


class GatewayRefusedError(DecodeError):
    """`relay run` does not take this gateway; the text says why."""


class GatewayClient:
    """One gateway's connection to `relay run`, for as long as :meth:`run` does; it may come and go."""

    def __init__(
        self,
        path: Path,
        gateway: Gateway,
        *,
        on_live: Callable[[LiveDatagram], None],
        on_clock: Callable[[int | None], None],
        on_away: Callable[[], None] = lambda: None,
    ) -> None:
        """``path``: link.sock.

        ``on_live`` hears each datagram of another gateway; ``on_clock`` the time in milliseconds since the Unix epoch,
        None while `relay run` trusts no clock, at each connection and when that changes; ``on_away`` each time that
        `relay run` is not there, or no more.
        """
        self._path = path
        self._gateway = gateway
        self._on_live = on_live
        self._on_clock = on_clock
        self._on_away = on_away
        self._writer: asyncio.StreamWriter | None = None

    @property
    def is_connected(self) -> bool:
        """Whether `relay run` took this gateway: it said what it takes for the time."""
        return self._writer is not None

    def send(self, datagram: LiveDatagram) -> bool:
        """Hand a datagram over; False, and it is lost, while `relay run` is not there or does not keep up.

        Raise ValueError for one that is out of bounds.
        """
        encoded = datagram.encode()
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() > MAX_AHEAD_BYTES:
            return False
        writer.write(encode_live_frame(encoded))
        return True

    async def run(self, *, random: Callable[[], float]) -> NoReturn:
        """Be connected for ever; ``random`` returns floats in [0, 1)."""
        loop = asyncio.get_running_loop()
        is_away = False

        async def attempt() -> None:
            nonlocal is_away
            began = loop.time()
            try:
                await self._connect()
            except GatewayRefusedError as error:
                if not is_away:
                    logger.warning("relay run refuses this gateway: %s", error)
            except (OSError, DecodeError) as error:
                if not is_away:
                    # Once: it can take hours until someone starts the relay.
                    logger.warning("relay run does not answer (%s), trying again", type(error).__name__)
            is_away = loop.time() - began < MAX_DELAY_S
            self._on_away()

        await keep_trying(attempt, random=random, max_s=MAX_DELAY_S)

    async def _connect(self) -> None:
        """Connect, and take what comes until the connection ends; raise OSError, DecodeError."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(self._gateway.preamble())
            await self._listen(reader, writer)
        finally:
            self._writer = None
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameCutter()
        while data := await reader.read(_READ_BYTES):
            if data.startswith(b"{") and not frames.held_bytes:
                raise GatewayRefusedError(await _refusal(data, reader))
            for content in frames.receive(data):
                said = decode_frame(content)
                if isinstance(said, ClockReading):
                    self._writer = writer
                    self._on_clock(said.unix_ms)
                else:
                    self._on_live(said)


async def _refusal(begun: bytes, reader: asyncio.StreamReader) -> str:
    """Return what `relay run` says, for the log: it closes the connection after it."""
    said = begun
    while len(said) < _MAX_REFUSAL_CHARS and (more := await reader.read(_MAX_REFUSAL_CHARS)):
        said += more
    return printable_ascii(said.decode(errors="replace").strip())[:_MAX_REFUSAL_CHARS]
