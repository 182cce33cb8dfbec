# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket of `relay run`, asked: one JSON object per line each way, for the operator on this machine.

Request ``{"v": 1, "op": "status"}``, ``{"v": 1, "op": "metrics"}`` (Prometheus' text
format, as one string) or ``{"v": 1, "op": "clock", "unix_s": 1700000000}``;
answer ``{"v": 1, "ok": true, "result": ...}`` or ``{"v": 1, "ok": false, "error": "..."}``.
Several requests may follow each other on one connection.

Whoever may open the socket may read the status: the relay's other processes, the screen, operators. The clock,
by which mail is refused and expires, is set by root and the relay's own user only; on an appliance
`relay board` asks for its operators.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any, Self

from relay.control.status import SCHEMA, Status, read_status
from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VERSION = 1
#: A status is under 64 KiB even with every link row in use (relay.core.stats.MAX_LINK_ROWS).
MAX_ANSWER_BYTES = 1024 * 1024
CLIENT_TIMEOUT_S = 10.0
#: A relay that reads a large store at its start answers nothing meanwhile; so does one that hangs.
ANSWER_TIMEOUT_S = 5.0
#: The end of the year 9999, which is as far as dates go.
MAX_UNIX_S = 253_402_300_799

_PERMISSION = 'use sudo, or be in its group, where relay.toml has access = "group" in [control]'


class ControlError(RelayError):
    """The relay does not answer, or refused; the message has the remedy."""


class NotYoursError(ControlError):
    """The socket is there, or may be, and this user may not open it."""


class ControlClient:
    """Asks the relay at ``path``; blocking, for commands. `with` closes it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CLIENT_TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except PermissionError as error:
            self._socket.close()
            raise NotYoursError(f"{path} is not yours to open; {_PERMISSION}") from error
        except OSError as error:
            self._socket.close()
            raise ControlError(f"no relay answers at {path}; start one with `relay run`") from error
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def status(self) -> dict[str, Any]:
        """The status as the relay sent it (`relay status --json`); raise ControlError."""
        result = self._ask({"op": "status"})
        return result if isinstance(result, dict) else {}

    def read_status(self) -> Status:
        """The status, checked; raise ControlError."""
        try:
            return read_status(self.status())
        except ValueError as error:
            raise ControlError(f"the relay's status is not of schema {SCHEMA}; use its own `relay status`") from error

    def metrics(self) -> str:
        """The metrics as `/metrics` has them, in Prometheus' text format; raise ControlError."""
        return str(self._ask({"op": "metrics"}))

    def set_clock(self, unix_s: int) -> None:
        """Give the relay the time; raise ControlError when it refuses."""
        self._ask({"op": "clock", "unix_s": unix_s})

    def _ask(self, request: dict[str, object]) -> object:
        try:
            self._socket.sendall(json.dumps({"v": VERSION, **request}).encode() + b"\n")
            line = self._file.readline(MAX_ANSWER_BYTES)
            answer = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError) as error:
            raise ControlError("the relay closed the connection or does not answer") from error
        if not isinstance(answer, dict) or answer.get("v") != VERSION:
            raise ControlError("the relay closed the connection, or is of another version than this command")
        if not answer.get("ok"):
            raise ControlError(str(answer.get("error")))
        return answer.get("result")


def connect_to_first(paths: Sequence[Path]) -> ControlClient:
    """Connect to the first of ``paths`` (one at least) where a relay answers; raise ControlError that names all."""
    refused = []
    for path in paths:
        try:
            return ControlClient(path)
        except ControlError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    forbidden = [path for path, error in zip(paths, refused, strict=True) if isinstance(error, NotYoursError)]
    if not forbidden:
        raise ControlError(f"no relay answers at {_listed(paths)}; start one with `relay run`")
    others = [path for path in paths if path not in forbidden]
    nobody = f"no relay answers at {_listed(others)}, and " if others else ""
    raise NotYoursError(f"{nobody}{_listed(forbidden)} is not yours to open; {_PERMISSION}")


def _listed(paths: Sequence[Path]) -> str:
    return " or ".join(map(str, paths))


async def ask_status(path: Path) -> Status | None:
    """The relay's status, None if it does not answer; for processes that must not wait."""
    try:
        return read_status((await _ask(path, {"op": "status"}))["result"])
    except (OSError, TimeoutError, ValueError, KeyError, TypeError):
        return None


async def ask_metrics(path: Path) -> str | None:
    """The relay's metrics in Prometheus' text format, None if it does not answer."""
    try:
        return str((await _ask(path, {"op": "metrics"}))["result"])
    except (OSError, TimeoutError, ValueError, KeyError, TypeError):
        return None


async def give_clock(path: Path, unix_s: int) -> bool:
    """Give the relay the time; return whether it took it."""
    try:
        return bool((await _ask(path, {"op": "clock", "unix_s": unix_s}))["ok"])
    except (OSError, TimeoutError, ValueError, KeyError, TypeError):
        return False


async def _ask(path: Path, request: dict[str, object]) -> Any:
    writer = None
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
            writer.write(json.dumps({"v": VERSION, **request}).encode() + b"\n")
            return json.loads(await reader.readline())
    finally:
        if writer is not None:
            writer.close()
