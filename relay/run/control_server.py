# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers on the control socket (relay.control.control_client says what is asked there)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from relay.control.control_client import MAX_ANSWER_BYTES, MAX_UNIX_S, VERSION, ControlError
from relay.core.errors import RelayError
from relay.process.lines import LineServer

if TYPE_CHECKING:
    from pathlib import Path

    from relay.control.status import Engine
    from relay.run.metrics import Metrics

#: The longest request is under 100 bytes.
MAX_REQUEST_BYTES = 4096
#: Operators and their scripts. With answers waiting: 8 MiB.
MAX_CONNECTIONS = 8


class ControlServer(LineServer):
    """Answers for ``engine``."""

    def __init__(self, engine: Engine, path: Path, mode: int) -> None:
        self._engine = engine
        self._metrics: Metrics | None = None
        super().__init__(
            path=path,
            mode=mode,
            answer=self._answer,
            max_connections=MAX_CONNECTIONS,
            max_request_bytes=MAX_REQUEST_BYTES,
            max_unread_bytes=MAX_ANSWER_BYTES,
        )

    def _answer(self, line: bytes, user: int) -> bytes:
        """Perform the request in ``line`` and return the line to send back."""
        try:
            answer = {"v": VERSION, "ok": True, "result": self._perform(line, is_owner=user in {0, os.geteuid()})}
        except RelayError as error:
            answer = {"v": VERSION, "ok": False, "error": str(error)}
        return json.dumps(answer, separators=(",", ":")).encode() + b"\n"

    def _perform(self, line: bytes, *, is_owner: bool) -> object:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ControlError("the request is not JSON") from error
        if not isinstance(request, dict) or request.get("v") != VERSION:
            raise ControlError(f'the request is not of version {VERSION}: {{"v": {VERSION}, "op": ...}}')
        operation = request.get("op")
        if operation == "status":
            return self._engine.status().as_dict()
        if operation == "metrics":
            return self._rendered()
        if operation == "clock":
            if not is_owner:
                raise ControlError("the clock is set by root or the relay's own user: use sudo")
            unix_s = request.get("unix_s")
            if not isinstance(unix_s, int) or isinstance(unix_s, bool) or not 0 < unix_s <= MAX_UNIX_S:
                raise ControlError("unix_s must be whole seconds since 1970")
            self._engine.set_clock(unix_s)
            return None
        raise ControlError("unknown operation; there are status, metrics and clock")

    def _rendered(self) -> str:
        if self._metrics is None:
            # With the pages, which have them too, it is there by then; without pages nobody may ever ask.
            from relay.run.metrics import Metrics  # noqa: PLC0415 - a tenth of a start

            self._metrics = Metrics(self._engine)
        return self._metrics.render()
