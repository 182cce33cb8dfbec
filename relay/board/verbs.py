# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of the board's socket: one JSON object per line each way, as on the control socket.

Request ``{"v": 1, "op": "status"}``; answer ``{"v": 1, "ok": true, "result": ...}`` or
``{"v": 1, "ok": false, "error": "..."}``. Nothing else is done for anybody:

======== =================================================================
status   what light and button are at, as an object
clock    gives the relay the time ``"unix_s"``, whole seconds since 1970
identify the light flickers for ten seconds, to be found among many boxes
panic    erases the relay and switches it off; needs ``"sure": true``
poweroff shuts the machine down
======== =================================================================
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Final

from relay.control.control_client import MAX_UNIX_S
from relay.core.errors import DecodeError

VERSION: Final = 1
#: The longest request is under 50 bytes.
MAX_REQUEST_BYTES: Final = 256


class Verb(enum.Enum):
    """What can be asked for; the value is ``op``."""

    STATUS = "status"
    CLOCK = "clock"
    IDENTIFY = "identify"
    PANIC = "panic"
    POWEROFF = "poweroff"


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for. ``unix_s``: with CLOCK, the time."""

    verb: Verb
    unix_s: int = 0


def encode_request(request: Request) -> bytes:
    """The line that asks for it, with its line feed."""
    return _line({"v": VERSION, "op": request.verb.value, **_more(request.verb, request.unix_s)})


def _more(verb: Verb, unix_s: int) -> dict[str, object]:
    """What goes with a verb."""
    if verb is Verb.CLOCK:
        return {"unix_s": unix_s}
    return {"sure": True} if verb is Verb.PANIC else {}


def decode_request(line: bytes) -> Request:
    """What a line, without its line feed, asks for; raise DecodeError with what is wrong."""
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
    wanted = {"v": VERSION, "op": op} | _more(verb, 1_700_000_000)
    unix_s = values.get("unix_s", 0)
    is_time = type(unix_s) is int and 0 <= unix_s <= MAX_UNIX_S
    if values.keys() != wanted.keys() or values.get("sure", True) is not True or not is_time:
        raise DecodeError(f"{op} is asked for with {json.dumps(wanted)}, and no more")
    return Request(verb, unix_s)


def encode_answer(result: object = None, error: str = "") -> bytes:
    """The line that answers, with its line feed."""
    if error:
        return _line({"v": VERSION, "ok": False, "error": error})
    return _line({"v": VERSION, "ok": True, "result": result})


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"
