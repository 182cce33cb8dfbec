# SPDX-License-Identifier: GPL-2.0-or-later
"""How the secret of storage = "durable" is handed in, by an operator or from a stick: to what opens the store, as root.

A connection each to a Unix socket (relay-unlock.socket). What is sent up to its end is the secret; back comes one line
of JSON, a string: "" once it is open, else what is wrong.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Final

from relay.core.errors import RelayError

SOCKET: Final = Path("/run/mesh-relay-unlock/unlock.sock")
MAX_SECRET_BYTES: Final = 4096
#: Making it takes some seconds, on the slowest board.
ANSWER_TIMEOUT_S: Final = 180.0
_MAX_ANSWER_BYTES: Final = 4096


class OpeningError(RelayError):
    """It cannot be opened or made; the message has the remedy."""


def ask(secret: bytes, path: Path = SOCKET) -> None:
    """Have the store opened, or made if there is none yet; raise OpeningError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ANSWER_TIMEOUT_S)
            sock.connect(os.fspath(path))
            sock.sendall(secret)
            sock.shutdown(socket.SHUT_WR)
            with sock.makefile("rb") as file:
                said = json.loads(file.readline(_MAX_ANSWER_BYTES))
    except PermissionError as error:
        raise OpeningError(f"{path} is not yours to open; join the group relay-unlock, or use sudo") from error
    except (OSError, ValueError) as error:
        raise OpeningError(f"nobody answers at {path}; it is there on an appliance only") from error
    if said:
        raise OpeningError(str(said))
