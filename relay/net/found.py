# SPDX-License-Identifier: GPL-2.0-or-later
"""What was found before anything was changed, kept in a file so that whoever comes after a crash can put it back.

The file is written before each change, under another name first, so that it is
always whole. It holds addresses of this machine and lies in the runtime folder,
which is memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME: Final = "net.json"
VERSION: Final = 1
#: Far above what the largest configuration leaves (8 radios, 16 bridge ports, tens of addresses and routes each).
MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLink:
    """An interface as it was, told from others by its number, which the kernel does not give out again.

    ``kind``: its nl80211 type, WIRED for one that is no radio's. ``addresses`` and
    ``routes``: bodies of RTM_NEWADDR and RTM_NEWROUTE messages, hexadecimal.
    ``believes``: as of relay.net.deaf; none in a record of a version that did not change it.
    """

    name: str
    index: int
    up: bool
    mtu: int
    master: int
    address_mode: int
    link_mode: int
    kind: int
    four_address: bool
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    believes: Mapping[str, str] = field(default_factory=dict)


#: ``kind`` of an interface that is no radio's.
WIRED: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLink:
    """An interface that was made here, told from another of that name by its number."""

    name: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The record. ``country``: the regulatory domain that was replaced, "" if none was."""

    links: tuple[FoundLink, ...] = ()
    made: tuple[MadeLink, ...] = ()
    country: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to put back."""
        return not (self.links or self.made or self.country)


#: struct rtmsg; what is shorter is neither address nor route.
_MIN_BODY_BYTES: Final = 12
_TYPES: Final = {
    "name": str,
    "index": int,
    "up": bool,
    "mtu": int,
    "master": int,
    "address_mode": int,
    "link_mode": int,
    "kind": int,
    "four_address": bool,
}


def encode(found: Found) -> bytes:
    """Write a record as JSON."""
    return json.dumps({"version": VERSION, **asdict(found)}).encode()


def decode(data: bytes) -> Found:
    """Read a record; raise DecodeError."""
    try:
        document: Any = json.loads(data)
        if document["version"] != VERSION or len(data) > MAX_BYTES:
            raise DecodeError("a record of another version of the relay")
        return Found(
            links=tuple(_link(entry) for entry in document["links"]),
            made=tuple(
                MadeLink(name=_typed(entry["name"], str), index=_typed(entry["index"], int))
                for entry in document["made"]
            ),
            country=_typed(document["country"], str),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DecodeError("not a record of what was found") from error


def _link(entry: Any) -> FoundLink:
    values: dict[str, Any] = {}
    for item in fields(FoundLink):
        if item.name == "believes":
            told = _typed(entry.get(item.name, {}), dict)
            values[item.name] = {_typed(name, str): _typed(number, str) for name, number in told.items()}
            continue
        value = entry[item.name]
        if item.name in {"addresses", "routes"}:
            values[item.name] = tuple(bytes.fromhex(_typed(text, str)).hex() for text in value)
            if any(len(text) < 2 * _MIN_BODY_BYTES for text in values[item.name]):
                raise DecodeError("an address or route that is none")
        else:
            values[item.name] = _typed(value, _TYPES[item.name])
    return FoundLink(**values)


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise DecodeError(f"{kind.__name__} expected")
    return value


class Record:
    """The record in its file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found = Found()

    def load(self) -> None:
        """Read what a run before this one left, if anything; raise DecodeError or OSError."""
        try:
            self.found = decode(self._path.read_bytes())
        except FileNotFoundError:
            self.found = Found()

    def note_link(self, link: FoundLink) -> None:
        """Remember an interface before it is changed; what is remembered of the same one already stays."""
        if any(link.index == old.index and link.name == old.name for old in self.found.links):
            return
        # One of that name with another number has gone, and its successor is what there is to put back.
        links = tuple(old for old in self.found.links if old.name != link.name)
        self._save(replace(self.found, links=(*links, link)))

    def note_made(self, made: MadeLink) -> None:
        """Remember an interface before it is made."""
        self._save(replace(self.found, made=(*self.found.made, made)))

    def note_country(self, country: str) -> None:
        """Remember the regulatory domain before another is asked for; the first one stays."""
        if not self.found.country:
            self._save(replace(self.found, country=country))

    def keep(self, found: Found) -> None:
        """Replace the record by what is still to be put back; without anything the file goes."""
        if found.is_empty:
            self._path.unlink(missing_ok=True)
            self.found = found
        else:
            self._save(found)

    def _save(self, found: Found) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".part")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_bytes(encode(found))
        fresh.replace(self._path)
        self.found = found
