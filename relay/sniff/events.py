# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay sniff` tells, one by one, in words and as JSON.

Texts that a stranger chose (names) pass through :func:`escaped` before they are
put into an event.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import ClassVar, Final

#: Characters of somebody else's name that are shown.
MAX_NAME_CHARS: Final = 64


def escaped(text: bytes | str) -> str:
    """Return a text with its control characters as escapes (a listener wants to know them), cut to MAX_NAME_CHARS."""
    if isinstance(text, bytes):
        text = text[:MAX_NAME_CHARS].decode(errors="backslashreplace")
    shown = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[:MAX_NAME_CHARS])
    return "".join(shown)[:MAX_NAME_CHARS]


class Bearer(enum.StrEnum):
    """What carries a stream."""

    TCP = "TCP"
    CHANNEL = "LE channel"
    SLOT = "GATT slot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing seen; ``time_s`` since 1970."""

    name: ClassVar[str]
    time_s: float

    def words(self) -> str:
        """The event in a line, without its time."""
        raise NotImplementedError

    def line(self) -> str:
        """The event in a line."""
        return f"{_clock(self.time_s)}  {self.words()}"

    def json(self) -> str:
        """The event as a JSON object in one line."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({"event": self.name, **values})


def _clock(time_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(time_s, UTC):%H:%M:%S.%f}"
    except (OverflowError, ValueError, OSError):
        return "--:--:--.------"  # a capture can name any year


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened(Event):
    """A stream that may be a session began, or was joined while it ran."""

    name: ClassVar[str] = "stream_opened"
    stream: int
    bearer: Bearer
    initiator: str
    responder: str

    def words(self) -> str:
        return f"#{self.stream} {self.bearer} {self.initiator} > {self.responder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSeen(Event):
    """A record; ``handshake`` is 1 to 3, or 0 after it; ``pattern`` is told with the first."""

    name: ClassVar[str] = "record"
    stream: int
    from_initiator: bool
    number: int
    length_bytes: int
    handshake: int
    pattern: str
    could_be: str

    def words(self) -> str:
        arrow = ">" if self.from_initiator else "<"
        what = f"handshake {self.handshake}" if self.handshake else "transport"
        notes = " ".join(filter(None, (self.pattern, f"({self.could_be}?)" if self.could_be else "")))
        return f"#{self.stream} {arrow} {what}, {self.length_bytes} bytes {notes}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBroken(Event):
    """From here on the records of a stream cannot be told apart."""

    name: ClassVar[str] = "stream_broken"
    stream: int
    why: str

    def words(self) -> str:
        return f"#{self.stream} no records: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed(Event):
    """The stream is over."""

    name: ClassVar[str] = "stream_closed"
    stream: int
    why: str

    def words(self) -> str:
        return f"#{self.stream} closed: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced(Event):
    """A DNS-SD announcement of a relay."""

    name: ClassVar[str] = "announcement"
    instance: str
    host: str
    port: int
    by: str

    def words(self) -> str:
        return f"DNS-SD {self.instance} at {self.host} port {self.port}, by {self.by}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised(Event):
    """A relay's advertisement that says something else than the one before. Salt and digest in hexadecimal."""

    name: ClassVar[str] = "advertisement"
    address: str
    salt: str
    digest: str
    gap_name: str

    def words(self) -> str:
        name = f' name "{self.gap_name}"' if self.gap_name else ""
        return f"advertisement {self.address} salt {self.salt or '-'} digest {self.digest or '-'}{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BitchatAdvertised(Event):
    """A phone, or a relay, with bitchat advertises under another address, or says another identity (hexadecimal)."""

    name: ClassVar[str] = "bitchat_advertisement"
    address: str
    peer: str

    def words(self) -> str:
        return f"bitchat advertisement {self.address}{f' of {self.peer}' if self.peer else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Event):
    """A Bluetooth connection began or ended."""

    name: ClassVar[str] = "connection"
    central: str
    peripheral: str
    is_open: bool

    def words(self) -> str:
        return f"{'connected' if self.is_open else 'disconnected'} {self.central} > {self.peripheral}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GattSeen(Event):
    """An attribute of a relay read, written or notified."""

    name: ClassVar[str] = "gatt"
    central: str
    peripheral: str
    operation: str
    characteristic: str
    length_bytes: int
    detail: str

    def words(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return (
            f"GATT {self.central} > {self.peripheral} {self.operation} {self.characteristic}, "
            f"{self.length_bytes} bytes{detail}"
        )
