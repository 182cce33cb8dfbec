# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading files of a stick for the servers of the shelf, in threads: a stick that hangs holds those who wait for it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.process.shelf import open_entry, read_list
from relay.process.stick_request import MAX_REQUEST_BYTES, StickRequest

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

#: The two servers have places for eight downloads each (relay.process.downloads); one more is closed.
MAX_READERS: Final = 16
#: Of who asks: he is a program of this machine.
REQUEST_TIMEOUT_S: Final = 5.0
#: Of who takes a block: a download waits for its reader for 20 s, rests for 10, and for its turn.
TAKING_TIMEOUT_S: Final = 120.0
#: How soon it is seen that the stick has gone.
LOOK_S: Final = 1.0
_BLOCK_BYTES: Final = 64 * 1024


class Offering:
    """Reads for whoever connects to ``listener`` what ``listing`` names in ``folder``."""

    def __init__(self, listener: socket.socket, folder: Path, listing: Path) -> None:
        self._listener = listener
        self._folder = folder
        self._listing = listing
        self._places = threading.Semaphore(MAX_READERS)

    def run(self, is_there: Callable[[], bool]) -> None:
        """Serve for as long as the stick ``is_there``; who is being served then finds the end of his connection."""
        self._listener.settimeout(LOOK_S)
        while is_there():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._send(connection)
        except (OSError, DecodeError):
            # Pulled out, damaged, or who asked has gone: he finds the end, and counts.
            pass
        finally:
            self._places.release()

    def _send(self, connection: socket.socket) -> None:
        connection.settimeout(REQUEST_TIMEOUT_S)
        line = b""
        while not line.endswith(b"\n"):
            more = connection.recv(MAX_REQUEST_BYTES)
            line += more
            if not more or len(line) > MAX_REQUEST_BYTES:
                raise DecodeError("no request")
        request = StickRequest.decode(line)
        entry = read_list(self._listing).get(request.name)
        if entry is None or request.start + request.length > entry.size:
            return
        connection.settimeout(TAKING_TIMEOUT_S)
        with os.fdopen(open_entry(self._folder, entry), "rb", buffering=0) as file:
            file.seek(request.start)
            left = request.length
            while left > 0 and (block := file.read(min(_BLOCK_BYTES, left))):
                connection.sendall(block)
                left -= len(block)
