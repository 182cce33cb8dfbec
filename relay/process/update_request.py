# SPDX-License-Identifier: GPL-2.0-or-later
"""How an update is handed in, from a stick or by an operator: to `relay slot`, which asks for it piece by piece.

A connection each to a Unix socket (relay-slot.socket). Whoever has the update sends one line of JSON,
``{"v": 1, "older": false}``, or has the machine started anew with what was handed in before,
``{"v": 1, "older": false, "restart": true}``. Then come lines from the other side: ``{"read": [OFFSET, LENGTH]}``,
which is answered with so many bytes; it may say the SHA-256 of these in hexadecimal, ``"sha256"``. And at last
``{"said": TEXT, "reason": REASON}``. Offsets only grow, so an update can come through a
pipe. An end before the last line, from either side, means that it is over for now.
"""

from __future__ import annotations

import json
import select
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError, RelayError

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION: Final = 1
SOCKET: Final = Path("/run/mesh-relay-update/update.sock")
MAX_LINE_BYTES: Final = 1024
#: Asked for at once; as large as a piece of relay.board.manifest.
MAX_READ_BYTES: Final = 1 << 20
#: How often it is looked whether the stick is still there.
LOOK_S: Final = 1.0
#: Who answers may have to start first, on a board that is slow and busy.
RESTART_TIMEOUT_S: Final = 120.0


class UpdateError(RelayError):
    """The update cannot be handed in; the message has the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What came of it. ``reason``: a word, "" if it was taken."""

    text: str
    reason: str


def connect(path: Path = SOCKET) -> socket.socket:
    """Raise UpdateError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
    except PermissionError as error:
        sock.close()
        raise UpdateError(f"{path} is not yours to open; join the group relay-update, or use sudo") from error
    except OSError as error:
        sock.close()
        raise UpdateError(f"nobody answers at {path}; it is there on an appliance only") from error
    return sock


def hand_in(
    sock: socket.socket, read: Callable[[int, int], bytes], *, older: bool, is_there: Callable[[], bool]
) -> Said:
    """Answer what is asked for, by ``read`` (offset, length), until it is said what came of it; raise UpdateError.

    :param older: whether a person said that it may be older
    :param is_there: whether the update can still be read; asked each second
    """
    try:
        sock.settimeout(LOOK_S)
        sock.sendall(encode_line({"v": VERSION, "older": older}))
        line = b""
        while is_there():
            try:
                more = sock.recv(MAX_LINE_BYTES)
            except TimeoutError:
                continue
            if not more:
                break
            line += more
            if not line.endswith(b"\n"):
                continue
            asked = decode_line(line)
            line = b""
            if "said" in asked:
                return Said(text=str(asked["said"]), reason=str(asked.get("reason", "")))
            offset, length = decode_range(asked)
            piece = read(offset, length)
            if len(piece) != length:
                break
            sock.settimeout(None)
            sock.sendall(piece)
            sock.settimeout(LOOK_S)
    except (OSError, DecodeError) as error:
        raise UpdateError("the update was cut off; try again, and it goes on where it was") from error
    raise UpdateError("the update was cut off; try again, and it goes on where it was")


def ask_for_restart(sock: socket.socket, timeout_s: float) -> Said:
    """Have the machine start anew with what was handed in before; raise UpdateError."""
    try:
        sock.settimeout(timeout_s)
        sock.sendall(encode_line({"v": VERSION, "older": False, "restart": True}))
        with sock.makefile("rb") as file:
            said = decode_line(file.readline(MAX_LINE_BYTES))
    except (OSError, DecodeError) as error:
        raise UpdateError("nobody said whether it starts anew; switch it off and on") from error
    return Said(text=str(said.get("said", "")), reason=str(said.get("reason", "")))


class Incoming:
    """The other side: asks who has the update. Raise OSError or DecodeError for who does not keep to it.

    ``gives_way``: where others come who go before this one, which is cut off then.
    """

    def __init__(self, sock: socket.socket, timeout_s: float, *, gives_way: socket.socket | None = None) -> None:
        sock.settimeout(timeout_s)
        self._timeout_s = timeout_s
        self._gives_way = gives_way
        #: SHA-256 of pieces, by their offsets, where they are known.
        self.hashes: dict[int, str] = {}
        self._sock = sock
        self._file = sock.makefile("rb")
        found = decode_line(self._file.readline(MAX_LINE_BYTES))
        older = found.get("older")
        if found.get("v") != VERSION or not isinstance(older, bool):
            raise DecodeError("an update handed in by another version")
        self.older = older
        self.restart = found.get("restart") is True

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes of it; raise OSError."""
        asked: dict[str, object] = {"read": [offset, length]}
        if offset in self.hashes:
            asked["sha256"] = self.hashes[offset]
        self._sock.sendall(encode_line(asked))
        if self._gives_way is not None:
            ready = select.select([self._sock, self._gives_way], [], [], self._timeout_s)[0]
            if self._gives_way in ready or not ready:
                raise OSError("somebody else hands something in")
        found = self._file.read(length)
        if len(found) != length:
            raise OSError("the update was cut off")
        return found

    def say(self, said: Said) -> None:
        """End it."""
        self._sock.sendall(encode_line({"said": said.text, "reason": said.reason}))


def encode_line(values: dict[str, object]) -> bytes:
    """One line of either side."""
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, object]:
    """Raise DecodeError."""
    try:
        values = json.loads(line[:MAX_LINE_BYTES])
    except (ValueError, RecursionError) as error:
        raise DecodeError("no line of JSON") from error
    if not isinstance(values, dict):
        raise DecodeError("no object")
    return values


def decode_range(asked: dict[str, object]) -> tuple[int, int]:
    """Offset and length of what is asked for; raise DecodeError."""
    found = asked.get("read")
    if not isinstance(found, list) or len(found) != 2 or not all(type(part) is int and part >= 0 for part in found):
        raise DecodeError("nothing that can be read")
    offset, length = found
    if length > MAX_READ_BYTES:
        raise DecodeError("more than is asked for at once")
    return offset, length
