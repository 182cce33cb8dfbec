# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the store as a block of the log, a column at a time: a start takes in a million of them."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeAlias

from relay.core.block import DISPLACED, HELD, PURGE_FLAG, Block, EntryState
from relay.core.envelope import (
    CLASS_BITS,
    ENVELOPE_VERSION,
    HEADER_BYTES,
    ID_BYTES,
    SIZES,
    TAG_BYTES,
    EnvelopeType,
    decode_header,
    price_paid,
)
from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What the store knows of an identity without reading its body: seq, id, header, interface, arrived_s (when it came
#: first), whether it has a body, and whether it was displaced. Not a class: a start makes a million of them.
AdmittedRow: TypeAlias = tuple[int, bytes, bytes, int, int, int, int]
#: Leading zero bits of a byte.
_ZERO_BITS: Final = bytes(8 - byte.bit_length() for byte in range(256))
#: Whether this machine writes numbers otherwise than an envelope does.
_IS_SWAPPED: Final = array("H", b"\0\1")[0] != 1
#: Of the types of envelopes, what is in their kinds.
_PURGES: Final = bytes(PURGE_FLAG if kind else 0 for kind in range(256))


def loaded_block(rows: Sequence[AdmittedRow], latest_s: float) -> Block:
    """Return a block of rows of the store, all columns at once; ``latest_s``: when what was before them arrived."""
    seqs, ids, headers, interface, first_arrived, has_body, displaced = zip(*rows, strict=True)
    joined = b"".join(headers)
    if len(joined) != HEADER_BYTES * len(rows) or not _are_headers(joined):
        for header in headers:
            decode_header(header)
        raise DecodeError("headers longer than they are")
    block = Block(seqs[0])
    if seqs[-1] - seqs[0] != len(rows) - 1:
        block.seqs = array("Q", seqs)
    block.ids = bytearray().join(ids)
    block.tags = bytearray(TAG_BYTES * len(rows))
    for byte in range(TAG_BYTES):
        block.tags[byte::TAG_BYTES] = joined[HEADER_BYTES - TAG_BYTES + byte :: HEADER_BYTES]
    hours = bytearray(4 * len(rows))
    for byte in range(4):
        hours[byte::4] = joined[4 + byte :: HEADER_BYTES]
    block.expiry = array("I", bytes(hours))
    if _IS_SWAPPED:
        block.expiry.byteswap()
    purges = int.from_bytes(joined[1::HEADER_BYTES].translate(_PURGES))
    block.kind = bytearray((purges | int.from_bytes(joined[2::HEADER_BYTES])).to_bytes(len(rows)))
    block.price = _prices(b"".join(ids), joined[2::HEADER_BYTES])
    block.interface = bytearray(interface)
    block.arrived = array("d", first_arrived)
    if first_arrived[0] < latest_s or sorted(first_arrived) != list(first_arrived):
        block.first_arrived = block.arrived
        block.arrived = array("d", list(accumulate(first_arrived, max, initial=latest_s))[1:])
    if all(has_body):
        block.state = bytearray([HELD]) * len(rows)
    else:
        gone = int(EntryState.GONE)
        states = zip(has_body, displaced, strict=True)
        block.state = bytearray([HELD if body else DISPLACED if left else gone for body, left in states])
    block.checked = bytearray(len(rows))
    block.taken = bytearray(len(rows))
    block.tally()
    return block


def _are_headers(joined: bytes) -> bool:
    """Tell whether headers one after the other are such as decode_header takes."""
    kinds, classes = set(joined[1::HEADER_BYTES]), set(joined[2::HEADER_BYTES])
    return (
        set(joined[::HEADER_BYTES]) == {ENVELOPE_VERSION}
        and max(kinds) < len(EnvelopeType)
        and max(classes) < len(SIZES)
        and not any(joined[3::HEADER_BYTES])
        and (kinds == {0} or not any(map(int.__and__, joined[1::HEADER_BYTES], map(bool, joined[2::HEADER_BYTES]))))
    )


def _prices(ids: bytes, classes: bytes) -> array[int]:
    """Return what price_paid returns of each, mostly from a table."""
    first_bytes = ids[::ID_BYTES]
    zeros = first_bytes.translate(_ZERO_BITS)
    prices = array("b", zeros)
    if any(classes):
        prices = array("b", [bits - CLASS_BITS * size_class for bits, size_class in zip(zeros, classes, strict=True)])
    at = first_bytes.find(0)
    while at >= 0:
        prices[at] = price_paid(ids[ID_BYTES * at : ID_BYTES * (at + 1)], classes[at])
        at = first_bytes.find(0, at + 1)
    return prices


if HEADER_BYTES != 8 + TAG_BYTES:  # pragma: no cover - the columns above are cut by it
    raise AssertionError
