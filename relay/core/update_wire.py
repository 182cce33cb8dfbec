# SPDX-License-Identifier: GPL-2.0-or-later
"""What relays say to each other of newer software, and before they start anew for it (docs/protocol.md section 6.13).

A message is the body of UPDATE: a kind byte and what belongs to it. All that is known of the software here is what its
neighbour says of it: a board, a version, a number by which one is newer, a size, and the SHA-256 of its head. Who
looks into the head is not the core, nor `relay run`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import Final

from relay.core.codec import Reader, Writer
from relay.core.envelope import ID_BYTES
from relay.core.errors import DecodeError

DIGEST_BYTES: Final = 32
#: Of one PART: with its frames a message like the longest of the others.
MAX_PART_BYTES: Final = 16 << 10
#: Identities that one LEAVING asks for.
MAX_ASKED: Final = 500
#: Of a board and a version; what is in them is as relay.board.manifest has it.
_BOARD: Final = re.compile(r"[a-z0-9]{1,16}")
_VERSION: Final = re.compile(r"[0-9a-zA-Z.+~-]{1,32}")
#: Seconds since 1970 of the end of the year 9999.
MAX_BUILT: Final = 253402300799


class Kind(enum.IntEnum):
    """First byte of the body."""

    OFFER = 1
    ASK = 2
    PART = 3
    NOT_HERE = 4
    LEAVING = 5
    STAYS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Software that somebody has: ``digest`` SHA-256 of its head, ``size`` bytes in all, ``built`` seconds since 1970.

    Of two for one ``board`` the one with the greater ``built`` is newer; of equal ones neither.
    """

    digest: bytes
    size: int
    built: int
    board: str
    version: str

    def encode(self) -> bytes:
        """Return the body."""
        board = self.board.encode()
        writer = Writer().u8(Kind.OFFER)
        start = bytes(writer) + self.digest
        return start + bytes(Writer().u32(self.size).u64(self.built).u8(len(board))) + board + self.version.encode()

    def is_newer_than(self, board: str, built: int) -> bool:
        """Whether a relay of that board, with software of that time, could want it."""
        return self.board == board and self.built > built


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A neighbour wants ``length`` bytes from ``offset`` on, of what it was offered with that ``digest``."""

    digest: bytes
    offset: int
    length: int

    def encode(self) -> bytes:
        """Return the body."""
        return bytes([Kind.ASK]) + self.digest + bytes(Writer().u32(self.offset).u16(self.length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The answer to an Ask: ``data`` from ``offset`` on; None: it is not here any more."""

    offset: int
    data: bytes | None = field(repr=False)

    def encode(self) -> bytes:
        """Return the body."""
        kind = Kind.NOT_HERE if self.data is None else Kind.PART
        return bytes(Writer().u8(kind).u32(self.offset)) + (self.data or b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A neighbour would start anew, and asks whether the other one holds all these and stays."""

    identities: list[bytes]

    def encode(self) -> bytes:
        """Return the body."""
        return bytes([Kind.LEAVING]) + b"".join(self.identities)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stays:
    """The answer to a Leaving: whether it does not start anew itself, and holds all that it was asked for."""

    stays: bool
    holds: bool

    def encode(self) -> bytes:
        """Return the body."""
        return bytes([Kind.STAYS, self.stays | self.holds << 1])


Said = Offer | Ask | Given | Leaving | Stays


def decode_update(message: bytes) -> Said:
    """Decode a whole UPDATE; raise DecodeError."""
    reader = Reader(memoryview(message)[1:])
    kind = reader.u8()
    if kind == Kind.OFFER:
        return _offer(reader)
    if kind == Kind.ASK:
        ask = Ask(digest=reader.bytes(DIGEST_BYTES), offset=reader.u32(), length=reader.u16())
        reader.end()
        if not 0 < ask.length <= MAX_PART_BYTES:
            raise DecodeError("a part has 1 to 16,384 bytes")
        return ask
    if kind in {Kind.PART, Kind.NOT_HERE}:
        offset, data = reader.u32(), bytes(reader.rest())
        if len(data) if kind == Kind.NOT_HERE else not 0 < len(data) <= MAX_PART_BYTES:
            raise DecodeError("a part has 1 to 16,384 bytes, and what is not here none")
        return Given(offset=offset, data=data or None)
    if kind == Kind.LEAVING:
        count, odd = divmod(reader.remaining, ID_BYTES)
        if odd or count > MAX_ASKED:
            raise DecodeError("bad list of identities")
        return Leaving(identities=[reader.bytes(ID_BYTES) for _ in range(count)])
    if kind == Kind.STAYS:
        flags = reader.u8()
        reader.end()
        if flags > 0b11:
            raise DecodeError("unknown flags")
        return Stays(stays=bool(flags & 1), holds=bool(flags & 2))
    raise DecodeError("an update of no kind that there is")


def _offer(reader: Reader) -> Offer:
    digest, size, built = reader.bytes(DIGEST_BYTES), reader.u32(), reader.u64()
    try:
        board = bytes(reader.bytes(reader.u8())).decode("ascii")
        version = bytes(reader.rest()).decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError("an offer of no board or version") from error
    if not _BOARD.fullmatch(board) or not _VERSION.fullmatch(version) or built > MAX_BUILT:
        raise DecodeError("an offer of no board or version")
    return Offer(digest=digest, size=size, built=built, board=board, version=version)
