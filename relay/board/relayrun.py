# SPDX-License-Identifier: GPL-2.0-or-later
"""What the board knows of `relay run`: its status, asked for now and then."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from relay.board.light import Code
from relay.control.client import MAX_ANSWER_BYTES, VERSION
from relay.control.status import Status, read_status

if TYPE_CHECKING:
    from pathlib import Path

#: A relay that reads a large store at its start answers nothing meanwhile; so does one that hangs.
ANSWER_TIMEOUT_S: Final = 5.0
#: From this part on there is next to nothing left for a newcomer that pays nothing.
FULL: Final = 0.99


async def ask_status(path: Path) -> Status | None:
    """The relay's status, None if it does not answer."""
    try:
        return read_status((await _ask(path, {"op": "status"}))["result"])
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


def codes_of(status: Status | None) -> set[Code]:
    """What the light has to say of it."""
    if status is None or not status.ready:
        return {Code.STARTING}
    store = status.store
    part = max(store.bytes / max(store.max_bytes, 1), store.envelopes / max(store.max_envelopes, 1))
    codes = {Code.WORKING}
    if part >= FULL or not store.writable:
        codes.add(Code.FULL)
    if not status.clock.trusted:
        codes.add(Code.CLOCK)
    return codes
