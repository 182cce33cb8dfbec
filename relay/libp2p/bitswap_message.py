# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of bitswap 1.2.0 (https://specs.ipfs.tech/bitswap-protocol/): who wants what, and blocks."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from relay.core.errors import DecodeError
from relay.libp2p.cid import Cid, decode_block_prefix, decode_cid
from relay.libp2p.wire import as_bytes, as_number, bytes_field, fields, number_field

PROTOCOL: Final = "/ipfs/bitswap/1.2.0"
#: Bitswap takes no larger one, and no client makes one.
MAX_BLOCK_BYTES: Final = 2 << 20
#: A block, and what is said beside it.
MAX_MESSAGE_BYTES: Final = MAX_BLOCK_BYTES + (64 << 10)
#: boxo sends as many wants at a time, and fewer of all others.
_MAX_ITEMS: Final = 4096
_MAX_ENTRY_FIELDS: Final = 8


class Want(enum.IntEnum):
    """What is asked for."""

    BLOCK = 0
    HAVE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One wish, or its end; ``wants_no``: an answer is expected also where the block is not there."""

    cid: Cid
    priority: int = 1
    cancel: bool = False
    want: Want = Want.BLOCK
    wants_no: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one message says; ``full``: its wishes replace those of before. ``haves``: whether each CID is there."""

    entries: list[Entry] = field(default_factory=list)
    full: bool = False
    blocks: list[tuple[Cid, bytes]] = field(default_factory=list)
    haves: list[tuple[Cid, bool]] = field(default_factory=list)

    def encode(self) -> bytes:
        """Return the protocol buffer."""
        wishes = b"".join(bytes_field(1, _encode_entry(entry)) for entry in self.entries)
        if self.full:
            wishes += number_field(2, 1)
        out = [bytes_field(1, wishes)]
        out += [
            bytes_field(3, bytes_field(1, cid.block_prefix()) + bytes_field(2, block)) for cid, block in self.blocks
        ]
        out += [
            bytes_field(4, bytes_field(1, cid.encode()) + (b"" if is_here else number_field(2, 1)))
            for cid, is_here in self.haves
        ]
        return b"".join(out)


def _encode_entry(entry: Entry) -> bytes:
    out = bytes_field(1, entry.cid.encode()) + number_field(2, entry.priority)
    if entry.cancel:
        out += number_field(3, 1)
    if entry.want is Want.HAVE:
        out += number_field(4, 1)
    if entry.wants_no:
        out += number_field(5, 1)
    return out


def decode_message(message: bytes) -> Message:
    """Decode a message; raise DecodeError. Wishes for what has another hash are left out: they are not to be had."""
    found = Message()
    full = False
    for number, value in fields(message, _MAX_ITEMS):
        if number == 1:
            full = _decode_wishes(as_bytes(value), found.entries) or full
        elif number == 3:
            found.blocks.append(_decode_block(as_bytes(value)))
        elif number == 4:
            _decode_presence(as_bytes(value), found.haves)
    return Message(entries=found.entries, full=full, blocks=found.blocks, haves=found.haves)


def _decode_wishes(message: bytes, entries: list[Entry]) -> bool:
    full = False
    for number, value in fields(message, _MAX_ITEMS):
        if number == 2:
            full = bool(as_number(value))
        elif number == 1:
            cid, priority, cancel, want, wants_no = None, 1, False, 0, False
            for part, said in fields(as_bytes(value), _MAX_ENTRY_FIELDS):
                if part == 1:
                    cid = _cid(as_bytes(said))
                elif part == 2:
                    priority = as_number(said) & 0x7FFF_FFFF
                elif part == 3:
                    cancel = bool(as_number(said))
                elif part == 4:
                    want = as_number(said)
                elif part == 5:
                    wants_no = bool(as_number(said))
            if want > Want.HAVE:
                raise DecodeError("a wish of a kind that is not used")
            if cid is not None:
                entry = Entry(cid=cid, priority=priority, cancel=cancel, want=Want(want), wants_no=wants_no)
                entries.append(entry)
    return full


def _cid(data: bytes) -> Cid | None:
    try:
        return decode_cid(data)
    except DecodeError:
        return None


def _decode_block(message: bytes) -> tuple[Cid, bytes]:
    prefix = block = b""
    for number, value in fields(message, _MAX_ENTRY_FIELDS):
        if number == 1:
            prefix = as_bytes(value)
        elif number == 2:
            block = as_bytes(value)
    if len(block) > MAX_BLOCK_BYTES:
        raise DecodeError("a block that is too long")
    return decode_block_prefix(prefix, block), block


def _decode_presence(message: bytes, haves: list[tuple[Cid, bool]]) -> None:
    cid, is_here = None, True
    for number, value in fields(message, _MAX_ENTRY_FIELDS):
        if number == 1:
            cid = _cid(as_bytes(value))
        elif number == 2:
            is_here = not as_number(value)
    if cid is not None:
        haves.append((cid, is_here))
