# SPDX-License-Identifier: GPL-2.0-or-later
"""What the servers of the shelf ask `relay stick` for: a part of one file, a connection for each.

One line of JSON, ``{"name": ..., "start": ..., "length": ...}``; the answer is so many bytes of the file. An end before
that says that there are no more: not on the list, pulled out, damaged.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from relay.core.errors import DecodeError

#: A name has 100 characters at most (relay.process.shelf), the numbers ten digits each.
MAX_REQUEST_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class StickRequest:
    """``length`` bytes of the file, from ``start``."""

    name: str
    start: int
    length: int

    def encode(self) -> bytes:
        """The line, with its line feed."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> StickRequest:
        """What a line asks for; raise DecodeError."""
        try:
            request = cls(**json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise DecodeError("no request") from error
        numbers = (request.start, request.length)
        if type(request.name) is not str or any(type(number) is not int or number < 0 for number in numbers):
            raise DecodeError("no request")
        return request
