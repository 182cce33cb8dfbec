# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay portal`: answers on the socket that systemd hands over, and ends when nobody has asked for a while."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Final

from relay.appliance.portal import MAX_REQUEST_BYTES, answer
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: SD_LISTEN_FDS_START of sd_listen_fds(3).
_FIRST_FD: Final = 3
#: A phone's request comes in one piece.
REQUEST_TIMEOUT_S: Final = 5.0
#: Phones ask when they join and now and then; systemd starts us again.
IDLE_S: Final = 120.0
#: All phones of an access point at once, and some more: 64 x 8 KiB. Others wait in the socket's queue.
MAX_CONNECTIONS: Final = 64


class NoSocketError(RelayError):
    """Not started by systemd; the message has the remedy."""


def run(environ: Mapping[str, str]) -> int:
    """Answer until idle; return the exit status. Raise NoSocketError."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS") != "1":
        raise NoSocketError("there is no socket to answer on; systemd starts this, through relay-portal.socket")
    asyncio.run(serve(socket.socket(fileno=_FIRST_FD), idle_s=IDLE_S))
    return 0


async def serve(listening: socket.socket, *, idle_s: float) -> None:
    """Answer on ``listening`` until nobody has asked for ``idle_s`` seconds."""
    asked = asyncio.Event()
    places = asyncio.Semaphore(MAX_CONNECTIONS)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        async with places:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    writer.write(answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
            except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                writer.transport.abort()
            finally:
                writer.close()

    listening.setblocking(False)
    async with await asyncio.start_server(converse, sock=listening, limit=MAX_REQUEST_BYTES):
        while True:
            asked.clear()
            try:
                async with asyncio.timeout(idle_s):
                    await asked.wait()
            except TimeoutError:
                return
