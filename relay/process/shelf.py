# SPDX-License-Identifier: GPL-2.0-or-later
"""The shelf: files that an operator put on the card or a stick for participants, as two servers offer them.

`relay appliance shelf` looks at the card's folder once a start and writes a list of it; the card
does not change while it is in the box. `relay stick` does it for a stick, for as long as that is plugged in.
What is not on a list is not there for anybody: a request's path is looked up in the lists and never made into a path.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Its path on the pages, and the list and the folder as the servers' units show them.
PATH: Final = "/shelf/"
LIST: Final = Path("/run/mesh-relay-shelf/list.json")
FOLDER: Final = Path("/run/mesh-relay-shelf-files")
#: The list of a stick's files, and the socket at which `relay stick` reads them for the servers: both are gone with it.
STICK_LIST: Final = Path("/run/mesh-relay-stick/list.json")
STICK_SOCKET: Final = Path("/run/mesh-relay-stick/files.sock")
#: Of two files with one name the first list's is offered: nobody replaces what is on the card by plugging something in.
LISTS: Final = (LIST, STICK_LIST)
#: A page that a phone shows at once; each file costs 4 kB of it, for its QR code.
MAX_FILES: Final = 64
#: Names that mean the same on a card, in an address and in a header. What begins with a
#: dot is what computers leave there, with a line (_) what the image brings along.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]{0,99}")
MAX_LIST_BYTES: Final = 64 * 1024
#: Names that are looked at in a folder: a file system can be made to have more of them than there is memory.
MAX_LOOKED: Final = 4096
#: As large as a file on FAT can be. Its sum is an hour's work on a slow stick.
MAX_FILE_BYTES: Final = 4 * 1024**3
_HASH_BLOCK_BYTES: Final = 1024 * 1024
#: Nothing is shown by a browser: all of it is saved. A phone asks what to do with it by these.
_TYPES: Final = {".apk": "application/vnd.android.package-archive", ".pdf": "application/pdf"}
_OTHER_TYPE: Final = "application/octet-stream"
_SHA256: Final = re.compile(r"(?:[0-9a-f]{64})?")
_RANGE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file on offer. ``size`` in bytes; ``sha256`` in hexadecimal digits, "" until it is known.

    ``stick``: it is on a stick, and `relay stick` has to be asked for it.
    """

    name: str
    size: int
    sha256: str = ""
    stick: bool = False

    @property
    def path(self) -> str:
        """Its path on the page, to be put into a link."""
        return PATH + quote(self.name)

    @property
    def etag(self) -> str:
        """By which a download goes on with the same file and no other; "" until its sum is known."""
        return f'"{self.sha256}"' if self.sha256 else ""


class Missing(enum.Enum):
    """Why a file that was put there is not on offer."""

    NAME = "has a name with other characters than A-Z a-z 0-9 . _ + - ( ) and spaces, or one of over 100"
    KIND = "is a folder or link"
    MANY = f"is one of more than {MAX_FILES}"
    LARGE = f"is larger than {MAX_FILE_BYTES // 1024**3} GiB"


def look(folder: Path, *, stick: bool = False) -> tuple[list[Entry], dict[str, Missing]]:
    """Files in a folder, without their sums, by name; and what is left out. One that cannot be read is empty."""
    found: list[Entry] = []
    missing: dict[str, Missing] = {}
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in islice(entries, MAX_LOOKED))
    except OSError:
        return [], {}
    for name in names:
        if name.startswith((".", "_")):
            continue
        try:
            status = (folder / name).lstat()
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode):
            missing[name] = Missing.KIND
        elif not _NAME.fullmatch(name):
            missing[name] = Missing.NAME
        elif status.st_size > MAX_FILE_BYTES:
            missing[name] = Missing.LARGE
        elif len(found) >= MAX_FILES:
            missing[name] = Missing.MANY
        else:
            found.append(Entry(name=name, size=status.st_size, stick=stick))
    return found, missing


def summed(folder: Path, entry: Entry) -> Entry | None:
    """The entry with its sum; None if the file cannot be read whole."""
    try:
        descriptor = open_entry(folder, entry)
    except OSError:
        return None
    digest = hashlib.sha256()
    left = entry.size
    with os.fdopen(descriptor, "rb") as file:
        while left > 0:
            try:
                block = file.read(min(left, _HASH_BLOCK_BYTES))
            except OSError:
                return None
            if not block:
                return None
            digest.update(block)
            left -= len(block)
    return replace(entry, sha256=digest.hexdigest())


def make_list(folder: Path, output: Path, say: Callable[[str], None], *, stick: bool = False) -> None:
    """Write the list of ``folder`` to ``output``: first without sums, as these take seconds for a large file."""
    entries, missing = look(folder, stick=stick)
    for name, reason in missing.items():
        # Not the name itself: it may say whose file it was.
        say(f"a file of {len(name)} characters is not offered: it {reason.value}")
    write_list(entries, output)
    known: list[Entry] = []
    for at, entry in enumerate(entries, 1):
        found = summed(folder, entry)
        if found is None:
            say(f"a file of {entry.size} bytes cannot be read whole: card or stick may be damaged")
        else:
            known.append(found)
        write_list([*known, *entries[at:]], output)


def write_list(entries: list[Entry], output: Path) -> None:
    """Put a list in the place of an earlier one."""
    fresh = output.with_suffix(".new")
    fresh.write_text(json.dumps([asdict(entry) for entry in entries]))
    fresh.chmod(0o644)
    fresh.replace(output)


def read_list(path: Path = LIST) -> dict[str, Entry]:
    """The entries by name; none where there is no list, or one that is none."""
    try:
        with path.open("rb") as file:
            rows = json.loads(file.read(MAX_LIST_BYTES))
        entries = [Entry(**row) for row in rows]
        if not all(map(_is_sound, entries)):
            return {}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
    return {entry.name: entry for entry in entries}


def _is_sound(entry: Entry) -> bool:
    """Whether it may go into addresses and headers: of two lists one is made by who reads strangers' sticks."""
    return bool(
        _NAME.fullmatch(entry.name)
        and type(entry.size) is int
        and 0 <= entry.size <= MAX_FILE_BYTES
        and _SHA256.fullmatch(entry.sha256)
        and type(entry.stick) is bool
    )


def read_lists(paths: Sequence[Path] = LISTS) -> dict[str, Entry]:
    """The entries of all lists by name, MAX_FILES at most; of the first that has the name."""
    found: dict[str, Entry] = {}
    for path in paths:
        for name, entry in read_list(path).items():
            if len(found) < MAX_FILES:
                found.setdefault(name, entry)
    return found


def changed_at(paths: Sequence[Path] = LISTS) -> tuple[tuple[int, int], ...]:
    """What is another value once a list was written anew, came or went."""
    return tuple(_written(path) for path in paths)


def _written(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def open_entry(folder: Path, entry: Entry) -> int:
    """A descriptor of the file, to read from; raise OSError where it is no plain file of that size any more."""
    if not _NAME.fullmatch(entry.name):
        raise FileNotFoundError(entry.name)
    descriptor = os.open(folder / entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        os.close(descriptor)
        raise FileNotFoundError(entry.name)
    return descriptor


def find(path: str, entries: dict[str, Entry]) -> Entry | None:
    """The entry that a request's path (as it came, without its query) names; None for all other paths."""
    if not path.startswith(PATH):
        return None
    name = unquote_to_bytes(path[len(PATH) :]).decode("latin-1")
    return entries.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What of a file is sent: ``status`` 200 (all), 206 (a part) or 416 (there is no such part)."""

    status: int
    start: int = 0
    length: int = 0


class Whole(Protocol):
    """What parts are asked of."""

    @property
    def size(self) -> int:
        """Bytes of it."""

    @property
    def etag(self) -> str:
        """By which it is known to be the same."""


def piece(entry: Whole, wanted: str, only_if: str) -> Piece:
    """What the headers Range and If-Range ask for (RFC 9110 section 14); several parts, and nonsense, get all of it."""
    whole = Piece(status=200, length=entry.size)
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match[0] == "bytes=-" or (only_if and only_if.strip() != entry.etag):
        return whole
    first, last = match[1], match[2]
    if not first:
        length = min(int(last), entry.size)
        return Piece(status=206, start=entry.size - length, length=length) if length else Piece(status=416)
    start, end = int(first), min(int(last), entry.size - 1) if last else entry.size - 1
    if last and int(last) < start:
        return whole
    return Piece(status=206, start=start, length=end - start + 1) if start < entry.size else Piece(status=416)


def headers(entry: Entry, part: Piece) -> Iterator[tuple[str, str]]:
    """The headers of an answer, but for Content-Length."""
    yield "Content-Type", _TYPES.get(Path(entry.name).suffix.lower(), _OTHER_TYPE)
    yield "Content-Disposition", f'attachment; filename="{entry.name}"'
    yield "X-Content-Type-Options", "nosniff"
    yield "Content-Security-Policy", "default-src 'none'; sandbox"
    yield "Accept-Ranges", "bytes"
    yield "Cache-Control", "no-cache"
    if entry.sha256:
        yield "ETag", entry.etag
        # RFC 9530: of the whole file, also where a part is sent.
        yield "Repr-Digest", f"sha-256=:{base64.b64encode(bytes.fromhex(entry.sha256)).decode()}:"
    if part.status == 206:
        yield "Content-Range", f"bytes {part.start}-{part.start + part.length - 1}/{entry.size}"
    elif part.status == 416:
        yield "Content-Range", f"bytes */{entry.size}"
