# SPDX-License-Identifier: GPL-2.0-or-later
"""Of which log a block is an entry, and what it links to: as much of DAG-CBOR as tells that.

https://ipld.io/specs/codecs/dag-cbor/spec/

Nothing is built of what is read, and there is no recursion: work and memory are bounded by the block's length.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.core.errors import DecodeError
from relay.libp2p.cid import Cid, decode_cid

#: Of one block; an entry of Berty's has up to twenty or so.
MAX_LINKS: Final = 1024
#: Of lists in maps in lists.
MAX_DEPTH: Final = 32
_UINT, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = range(8)
_LINK_TAG: Final = 42
#: Values of major type 7 that there are: false, true, null, and a float of 8 bytes.
_FALSE, _TRUE, _NULL, _FLOAT64 = 20, 21, 22, 27
_LENGTH_BYTES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
#: Of the map that an entry of a log is: the log that it belongs to.
_LOG: Final = b"id"


class Entry(NamedTuple):
    """What a block says openly: the log that it is an entry of, "" if of none, and the blocks that it links to."""

    log: str
    links: tuple[Cid, ...]


def read_entry(block: bytes) -> Entry:
    """Read a block; raise DecodeError."""
    try:
        return _read(block)
    except IndexError:
        raise DecodeError("a block is cut") from None


def _head(block: bytes, at: int) -> tuple[int, int, int]:
    """Return major type, its number and where what follows begins; raise DecodeError, IndexError."""
    major, value = block[at] >> 5, block[at] & 31
    at += 1
    if value in _LENGTH_BYTES:
        end = at + _LENGTH_BYTES[value]
        if end > len(block):
            raise DecodeError("a block is cut")
        if major == _SIMPLE:
            return major, value, end
        return major, int.from_bytes(block[at:end]), end
    if value > 27 or (major == _SIMPLE and value not in (_FALSE, _TRUE, _NULL)):
        raise DecodeError("a block with what DAG-CBOR has not")
    return major, value, at


def _read(block: bytes) -> Entry:
    links: list[Cid] = []
    log = b""
    # Of each list and map that is open: how many values are to come, and whether the next one is a key.
    open_left: list[int] = []
    open_is_map: list[bool] = []
    key = b""
    at, size, is_link, is_first = 0, len(block), False, True
    while is_first or is_link or open_left:
        is_first = False
        major, number, at = _head(block, at)
        is_key = bool(open_is_map) and open_is_map[-1] and not open_left[-1] & 1
        if (is_link and major != _BYTES) or (is_key and major != _TEXT):
            raise DecodeError("a block with a link or a key of another kind")
        if major in (_BYTES, _TEXT):
            if number > size - at:
                raise DecodeError("a block is cut")
            value, at = block[at : at + number], at + number
            if is_link:
                links.append(_decode_link(value, len(links)))
                is_link = False
            elif is_key:
                key = value
            elif major == _TEXT and len(open_left) == 1 and key == _LOG and open_is_map[0]:
                log = value
        elif major == _TAG:
            if number != _LINK_TAG:
                raise DecodeError("a block with another tag than that of links")
            is_link = True
            continue
        elif major in (_LIST, _MAP):
            count = number << 1 if major == _MAP else number
            # Each value takes a byte.
            if count > size - at or len(open_left) >= MAX_DEPTH:
                raise DecodeError("a block with more in it than it has room for")
            if count:
                open_left.append(count)
                open_is_map.append(major == _MAP)
                continue
        # A value is complete, and with it all whose last one it was.
        while open_left:
            open_left[-1] -= 1
            if open_left[-1]:
                break
            open_left.pop()
            open_is_map.pop()
    if at != size:
        raise DecodeError("a block with something after it")
    try:
        return Entry(log.decode(), tuple(links))
    except UnicodeDecodeError:
        raise DecodeError("a text is not UTF-8") from None


def _decode_link(value: bytes, before: int) -> Cid:
    if before >= MAX_LINKS:
        raise DecodeError("a block with too many links")
    if not value.startswith(b"\0"):
        raise DecodeError("a link without its first byte")
    return decode_cid(value[1:])
