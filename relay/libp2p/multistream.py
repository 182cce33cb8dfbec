# SPDX-License-Identifier: GPL-2.0-or-later
"""multistream-select 1.0 (https://github.com/multiformats/multistream-select): both sides agree on a protocol.

Free of I/O: bytes come in, bytes go out, and at last the protocol and what was sent behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError
from relay.libp2p.wire import Cutter, delimited

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

HEADER: Final = "/multistream/1.0.0"
_NOT_AVAILABLE: Final = "na"
#: go-multistream allows as many.
MAX_LINE_BYTES: Final = 1024
#: Protocols that a peer may ask for one after the other: those that ask for gossipsub have five.
MAX_PROPOSALS: Final = 16


class NotSelectedError(DecodeError):
    """The other side has none of the protocols that were asked for, or asked for too many."""


def _line(text: str) -> bytes:
    return delimited(text.encode() + b"\n")


class _Side:
    def __init__(self) -> None:
        self._cutter = Cutter(MAX_LINE_BYTES)
        self._out = bytearray()
        self._is_greeted = False
        #: The protocol, once both sides have agreed on it.
        self.selected: str | None = None

    def data_to_send(self) -> bytes:
        """Return what is to be sent now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def rest(self) -> bytes:
        """Return what was sent behind the agreement, of the protocol itself."""
        return self._cutter.rest()

    def receive(self, data: bytes) -> None:
        """Take what came; raise DecodeError, of which NotSelectedError is one."""
        self._cutter.receive(data)
        while self.selected is None and (line := self._cutter.next()) is not None:
            text = _text(line)
            if not self._is_greeted:
                if text != HEADER:
                    raise DecodeError("not multistream-select 1.0")
                self._is_greeted = True
            else:
                self._answer(text)

    def _answer(self, text: str) -> None:
        raise NotImplementedError


def _text(line: bytes) -> str:
    if not line.endswith(b"\n"):
        raise DecodeError("a line without its end")
    try:
        return line[:-1].decode()
    except UnicodeDecodeError:
        raise DecodeError("a line is not UTF-8") from None


class Asking(_Side):
    """The side that proposes."""

    def __init__(self, protocols: Sequence[str]) -> None:
        """``protocols``: the best first."""
        super().__init__()
        self._protocols = list(protocols)
        self._out += _line(HEADER) + _line(self._protocols[0])

    def _answer(self, text: str) -> None:
        if text == self._protocols[0]:
            self.selected = text
        elif text == _NOT_AVAILABLE:
            del self._protocols[0]
            if not self._protocols:
                raise NotSelectedError("the other side has none of these protocols")
            self._out += _line(self._protocols[0])
        else:
            raise DecodeError("an answer to what was not asked")


class Answering(_Side):
    """The side that chooses among ``protocols``."""

    def __init__(self, protocols: Container[str]) -> None:
        super().__init__()
        self._protocols = protocols
        self._proposals = 0
        self._out += _line(HEADER)

    def _answer(self, text: str) -> None:
        if text in self._protocols:
            self.selected = text
            self._out += _line(text)
            return
        self._proposals += 1
        if self._proposals >= MAX_PROPOSALS:
            raise NotSelectedError("too many proposals")
        self._out += _line(_NOT_AVAILABLE)
