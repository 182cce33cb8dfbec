# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of the board's socket: one JSON object per line each way, as on the control socket.

Request ``{"v": 1, "op": "status"}``; answer ``{"v": 1, "ok": true, "result": ...}`` or
``{"v": 1, "ok": false, "error": "..."}``. Nothing else is done for anybody:

======== =================================================================
status   what light and button are at, as an object
identify the light flickers for ten seconds, to be found among many boxes
panic    erases the relay and switches it off; needs ``"sure": true``
poweroff shuts the machine down
======== =================================================================
"""

from __future__ import annotations

import enum
import json
from typing import Final

from relay.core.errors import DecodeError

VERSION: Final = 1
#: The longest request is under 50 bytes.
MAX_REQUEST_BYTES: Final = 256


class Verb(enum.Enum):
    """What can be asked for; the value is ``op``."""

    STATUS = "status"
    IDENTIFY = "identify"
    PANIC = "panic"
    POWEROFF = "poweroff"


def encode_request(verb: Verb) -> bytes:
    """The line that asks for ``verb``, with its line feed."""
    sure = {"sure": True} if verb is Verb.PANIC else {}
    return _line({"v": VERSION, "op": verb.value, **sure})


def decode_request(line: bytes) -> Verb:
    """The verb that a line, without its line feed, asks for; raise DecodeError with what is wrong."""
    if len(line) > MAX_REQUEST_BYTES:
        raise DecodeError(f"the request has more than {MAX_REQUEST_BYTES} bytes")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DecodeError("the request is not JSON") from error
    if not isinstance(values, dict) or type(values.get("v")) is not int or values["v"] != VERSION:
        raise DecodeError(f'the request is not of version {VERSION}: {{"v": {VERSION}, "op": ...}}')
    op = values.get("op")
    verb = next((verb for verb in Verb if verb.value == op), None)
    if verb is None:
        raise DecodeError(f"unknown operation; there are {', '.join(verb.value for verb in Verb)}")
    wanted = {"v": VERSION, "op": op} | ({"sure": True} if verb is Verb.PANIC else {})
    if values.keys() != wanted.keys() or values.get("sure", True) is not True:
        raise DecodeError(f"{op} is asked for with {json.dumps(wanted)}, and no more")
    return verb


def encode_answer(result: object = None, error: str = "") -> bytes:
    """The line that answers, with its line feed."""
    if error:
        return _line({"v": VERSION, "ok": False, "error": error})
    return _line({"v": VERSION, "ok": True, "result": result})


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"
