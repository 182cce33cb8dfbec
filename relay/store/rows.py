# SPDX-License-Identifier: GPL-2.0-or-later
"""What rows of a store have to look like, and what is made up for one that is lost; for all who read a damaged one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.core.envelope import HEADER_BYTES, ID_BYTES, decode_envelope, decode_header, envelope_id, price_paid
from relay.core.errors import DecodeError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

#: Version, type, class and a zero: all of a header that can be wrong. Those that are right, five, are remembered.
_KIND_BYTES = 4
_KINDS: set[bytes] = set()
#: Above any seq that a relay can reach; a damaged rowid must not use up the range.
MAX_SEQ = 1 << 48


def is_header(header: bytes) -> bool:
    """Tell whether bytes are a header, whatever it says."""
    if header[:_KIND_BYTES] in _KINDS:
        return True
    try:
        decode_header(header)
    except DecodeError:
        return False
    _KINDS.add(header[:_KIND_BYTES])
    return True


def is_admitted_shape(values: Sequence[object]) -> bool:
    """Tell whether ``values`` can be (id, header, interface, arrived_s)."""
    match values:
        case (bytes(identity), bytes(header), int(), int()):
            return len(identity) == ID_BYTES and len(header) == HEADER_BYTES
    return False


def are_admitted(rows: Sequence[tuple[object, ...]]) -> bool:
    """Tell of many rows at once whether each is (seq, id, header, interface, arrived_s, ...) with a header.

    May say no of some that are, if what their headers say was never seen before; never the other way.
    """
    _, ids, headers, interfaces, arrived_s, *_ = zip(*rows, strict=True)
    if {*map(type, ids), *map(type, headers)} != {bytes} or {*map(type, interfaces), *map(type, arrived_s)} != {int}:
        return False
    if {*map(len, ids)} != {ID_BYTES} or {*map(len, headers)} != {HEADER_BYTES}:
        return False
    return {header[:_KIND_BYTES] for header in headers} <= _KINDS


def is_envelope(data: object, identity: object) -> bool:
    """Tell whether ``data`` is an envelope, and the one that ``identity`` names."""
    if not isinstance(data, bytes) or envelope_id(data) != identity:
        return False
    try:
        decode_envelope(data)
    except DecodeError:
        return False
    return True


def admit_alone(connection: sqlite3.Connection, seq: int, envelope: bytes) -> bool:
    """Make up the lost admitted row of a body; False if the body cannot be an envelope."""
    identity = envelope_id(envelope)
    try:
        header = decode_envelope(envelope)
    except DecodeError:
        return False
    if price_paid(identity, header.size_class) < 0:
        return False
    # Rows are in the order of arrival: the neighbour came at about the same time.
    neighbour = (0, 0)
    for nearest in ("< ?1 ORDER BY seq DESC", "> ?1 ORDER BY seq"):
        select = f"SELECT interface, arrived_s FROM admitted WHERE seq {nearest} LIMIT 1"  # noqa: S608
        if row := connection.execute(select, (seq,)).fetchone():
            neighbour = row
            break
    connection.execute("INSERT INTO admitted VALUES (?,?,?,?,?)", (seq, identity, envelope[:HEADER_BYTES], *neighbour))
    return True
