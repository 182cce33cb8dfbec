# SPDX-License-Identifier: GPL-2.0-or-later
"""Between a Bluetooth stream and the Unix socket of `relay run` (docs/links.md section 2)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from relay.bluetooth.gatt import MAX_VALUE_BYTES
from relay.bluetooth.slot_frames import HEADER
from relay.bluetooth.sockets import Reader
from relay.bluetooth.stream import StreamEndedError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from relay.bluetooth.stream import Stream

#: Read from `relay run` at a time: four records of a slow link, and eight full frames of a
#: slot, so that none is sent nearly empty. What lies here can be overtaken by nothing; half
#: of it costs nearly twice the processor time per byte.
CHUNK_BYTES: Final = 8 * (MAX_VALUE_BYTES - HEADER.size)
#: What may wait for `relay run` to read it (Linux doubles that): beyond, the peer has to stop sending.
AHEAD_BYTES: Final = 8 << 10
#: For the last bytes of a session that `relay run` ended.
LINGER_S: Final = 2.0
#: A peer that does not take one chunk in so long is disconnected: `relay run` has given
#: up on it by then, which cannot be seen from here before that chunk has left.
STALL_S: Final = 60.0


async def splice(stream: Stream, sock: socket.socket, moved: Callable[[int], None] = lambda _: None) -> bool:
    """Copy both ways until either end closes; then both are closed. ``sock`` is non-blocking.

    ``moved`` is told how many bytes the peer sent or took.
    Return False when it ended because the peer took nothing any more.
    """
    try:
        async with asyncio.TaskGroup() as tasks:  # noqa: TID251 - of this floor, and its task ends with it
            upward = tasks.create_task(_upward(stream, sock, moved))
            downward = tasks.create_task(_downward(stream, sock, moved))
            await asyncio.wait({upward, downward}, return_when=asyncio.FIRST_COMPLETED)
            is_stalled = downward.done() and not downward.result()
            upward.cancel()
            downward.cancel()
        return not is_stalled
    finally:
        stream.close()
        sock.close()


async def _upward(stream: Stream, sock: socket.socket, moved: Callable[[int], None]) -> None:
    """From the air to the socket."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await stream.receive():
            moved(len(data))
            await loop.sock_sendall(sock, data)


async def _downward(stream: Stream, sock: socket.socket, moved: Callable[[int], None]) -> bool:
    """From the socket to the air, with the last bytes on their way at the end; False when the peer takes nothing."""
    reader = Reader(sock, piece_bytes=CHUNK_BYTES, batch_bytes=CHUNK_BYTES)
    try:
        while data := await reader.read():
            async with asyncio.timeout(STALL_S):
                await stream.send(data)
            moved(len(data))
    except TimeoutError:
        return False
    except StreamEndedError:
        return True
    finally:
        reader.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            await stream.finish()
    return True
