# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks the board that runs; blocking, for commands."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Final

from relay.board.verbs import Request, Verb, encode_request
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S: Final = 10.0
#: Notices of 20 KiB each may have to be escaped.
MAX_ANSWER_BYTES: Final = 256 * 1024


class BoardError(RelayError):
    """The board does not answer, or refused; the message has the remedy."""


def ask(path: Path, verb: Verb, *, unix_s: int = 0) -> object:
    """The result of ``verb``; raise BoardError. ``unix_s``: with CLOCK, the time."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(path))
            sock.sendall(encode_request(Request(verb, unix_s)))
            with sock.makefile("rb") as file:
                answer = json.loads(file.readline(MAX_ANSWER_BYTES))
    except PermissionError as error:
        raise BoardError(f"{path} is not yours to open; join the group relay-operator, or use sudo") from error
    except (OSError, ValueError) as error:
        raise BoardError(f"no board answers at {path}; relay-board.service runs on the appliance only") from error
    if not isinstance(answer, dict) or not answer.get("ok"):
        raise BoardError(str(answer.get("error") if isinstance(answer, dict) else answer))
    return answer.get("result")
