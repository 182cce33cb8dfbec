# SPDX-License-Identifier: GPL-2.0-or-later
"""The board's socket: whoever may open it may ask for one of the verbs, and for nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.board.verbs import MAX_REQUEST_BYTES, Request, decode_request, encode_answer
from relay.core.errors import DecodeError
from relay.process.lines import LineServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The group that the unit gives the socket.
SOCKET_MODE: Final = 0o660
#: Operators and their scripts; one more closes the oldest.
MAX_CONNECTIONS: Final = 4


def board_server(path: Path, perform: Callable[[Request], object], refused: Callable[[], None]) -> LineServer:
    """Answers with what ``perform`` returns; ``refused`` hears of every other request."""

    def answer(line: bytes, _: int) -> bytes:
        try:
            request = decode_request(line)
        except DecodeError as error:
            refused()
            return encode_answer(error=str(error))
        return encode_answer(perform(request))

    return LineServer(
        path=path,
        mode=SOCKET_MODE,
        answer=answer,
        max_connections=MAX_CONNECTIONS,
        max_request_bytes=MAX_REQUEST_BYTES,
        max_unread_bytes=MAX_REQUEST_BYTES,
        on_too_long=refused,
    )
