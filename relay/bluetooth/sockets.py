# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a socket in small pieces with few system calls."""

from __future__ import annotations

import asyncio
import socket


class Reader:
    """Reads a non-blocking socket for one task.

    It stays registered with the event loop for as long as the task comes back in time, and takes what is there
    at once. asyncio's own sock_recv() registers and leaves again for each wait: on a radio, whose pieces are of
    1 kB or less, that is more work than the pieces are.
    """

    __slots__ = (
        "_batch_bytes",
        "_is_fresh",
        "_is_registered",
        "_is_stream",
        "_loop",
        "_piece_bytes",
        "_sock",
        "_waiter",
    )

    def __init__(self, sock: socket.socket, *, piece_bytes: int, batch_bytes: int) -> None:
        """Whoever closes ``sock`` calls :meth:`close` before that.

        ``piece_bytes``: of one call of recv(), the largest piece of a socket that has such. ``batch_bytes``: at
        about so many read() stops and returns.
        """
        self._sock = sock
        self._piece_bytes = piece_bytes
        self._batch_bytes = batch_bytes
        self._is_stream = sock.type == socket.SOCK_STREAM
        self._loop = asyncio.get_running_loop()
        self._is_fresh = True
        self._is_registered = False
        self._waiter: asyncio.Future[bytes] | None = None

    async def read(self) -> bytes:
        """Wait for bytes; b"" at the end, whatever caused it."""
        if not self._is_registered:
            # Not before there is something: of a channel that was just accepted the kernel may not have told the other
            # side yet, and asked for bytes it grants credits for them. These then come for a channel that is not
            # known there, are rejected, and the channel is lost (Linux 6.12; up to every tenth of them).
            data = None if self._is_fresh else self._take()
            self._is_fresh = False
            if data is not None:
                return data
            self._loop.add_reader(self._sock, self._on_readable)
            self._is_registered = True
        self._waiter = self._loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """Read no more; who waits gets b""."""
        self._leave()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(b"")

    def _on_readable(self) -> None:
        if self._waiter is None or self._waiter.done():
            # Its task is busy with what came before: the sender has to wait, and the loop must not spin.
            self._leave()
        elif (data := self._take()) is not None:
            self._waiter.set_result(data)

    def _leave(self) -> None:
        if self._is_registered:
            self._is_registered = False
            self._loop.remove_reader(self._sock)

    def _take(self) -> bytes | None:
        """Return what is there, b"" at the end, None for nothing yet."""
        pieces: list[bytes] = []
        size = 0
        try:
            while size < self._batch_bytes:
                data = self._sock.recv(self._piece_bytes)
                if not data:
                    # After some bytes it is found again.
                    return b"".join(pieces)
                pieces.append(data)
                size += len(data)
                if self._is_stream and len(data) < self._piece_bytes:
                    break
        except BlockingIOError:
            return b"".join(pieces) or None
        except OSError:
            pass
        return b"".join(pieces)
