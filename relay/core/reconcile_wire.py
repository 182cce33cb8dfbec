# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes and bounds of reconciliation messages (docs/protocol.md sections 8.3 to 8.8).

A message is a kind byte and a body. A body too long for one message is cut into
full ones whose kind byte has the top bit set, and a last one without it.
"""

from __future__ import annotations

import enum
import hashlib
from array import array
from typing import TYPE_CHECKING

from relay.core.codec import Reader, Writer
from relay.core.errors import DecodeError, RelayError
from relay.core.riblt import SHORT_ID_BYTES, SLICE, SYMBOL_BYTES, symbols_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: With its type byte it fits frames.MAX_MESSAGE_BYTES.
MAX_RECONCILE_MESSAGE = 16_384
MORE_FRAGMENTS = 0x80
ROOT_BYTES = 16
#: Two different hours look equal with probability 2**-40, until the next session.
FINGERPRINT_BYTES = 5
_FINGERPRINT_MASK = (1 << 8 * FINGERPRINT_BYTES) - 1
MAX_NUMBER_BYTES = 5
#: Hours with entries that a responder lists: 24 weeks, where lifetimes are one. Of
#: more hours it lists the last and offers all of the others. At most 61,450 bytes
#: of message and 0.5 MiB of state.
MAX_HOURS = 4096
MAX_FINGERPRINTS_BYTES = 2 * MAX_NUMBER_BYTES + MAX_HOURS * (2 * MAX_NUMBER_BYTES + FINGERPRINT_BYTES)
#: First batch: 10 KiB at most, and so the list that may come in its place.
MAX_FIRST_SYMBOLS = 1024
#: A smaller batch, but for the first, spends a round trip on little.
MIN_MORE_SYMBOLS = 16
_ROOT_CONTEXT = b"mesh-relay/1 reconcile root"


class Kind(enum.IntEnum):
    """First byte of a message (low 7 bits)."""

    ROOT = 1
    COMPLETE = 2
    FINGERPRINTS = 3
    HOURS = 4
    SYMBOLS = 5
    MORE = 6
    LIST_PLEASE = 7
    LIST = 8
    WANTS = 9
    MARKS = 10


class HourStatus(enum.IntEnum):
    """What the initiator says of one of the responder's hours."""

    EQUAL = 0
    DIFFERS = 1
    EMPTY = 2


class ReconcileReason(enum.Enum):
    """What a peer did wrong."""

    UNEXPECTED_MESSAGE = "unexpected_message"  # not in the state table, or out of turn
    TOO_LONG = "too_long"  # longer than its state allows
    BAD_COUNT = "bad_count"  # contradicts an earlier count or a bound
    UNKNOWN_ID = "unknown_id"  # wants what was never in the symbols


class ReconcileError(RelayError):
    """A peer that breaks the rules of reconciliation."""

    def __init__(self, reason: ReconcileReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason


def symbol_cap(entries: int) -> int:
    """Symbols that cost no more than the initiator's list of ``entries`` short IDs."""
    return entries * SHORT_ID_BYTES // SYMBOL_BYTES


def list_comes_first(entries: int) -> bool:
    """Whether the initiator's list may stand in place of the first batch."""
    return symbol_cap(entries) <= MAX_FIRST_SYMBOLS


def first_batch(differing_hours: int, surplus: int, peer_count: int) -> int:
    """Symbols sent before more is known than hours and how many entries one side has more.

    As many as decode ``surplus`` differences, unless the responder, with
    ``peer_count`` entries, could list them for less.
    """
    near = min(differing_hours, 3)
    size = min(MAX_FIRST_SYMBOLS, 16 + 16 * near + 2 * (differing_hours - near))
    certain = symbols_for(surplus)
    return max(size, certain) if surplus and certain <= min(MAX_FIRST_SYMBOLS, symbol_cap(peer_count)) else size


def fragments(kind: Kind, body: bytes) -> Iterator[bytes]:
    """Cut a body into messages."""
    size = MAX_RECONCILE_MESSAGE - 1
    for start in range(0, max(len(body), 1), size):
        more = MORE_FRAGMENTS if start + size < len(body) else 0
        yield bytes([kind | more]) + body[start : start + size]


def root(key: bytes, hours: dict[int, tuple[int, int]]) -> bytes:
    """Digest of everything in scope: SHA-256 over key and (hour u32, sum u64, count u32), cut to 16."""
    digest = hashlib.sha256(_ROOT_CONTEXT + key)
    for hour in sorted(hours):
        total, count = hours[hour]
        digest.update(bytes(Writer().u32(hour).u64(total).u32(count)))
    return digest.digest()[:ROOT_BYTES]


def fingerprint(total: int) -> bytes:
    """Low bits of an hour's sum of PRF values."""
    return (total & _FINGERPRINT_MASK).to_bytes(FINGERPRINT_BYTES, "big")


def encode_fingerprints(hours: Sequence[int], of: dict[int, tuple[int, int]], first_hour: int) -> bytes:
    """Body of FINGERPRINTS for ascending ``hours`` out of ``of`` (hour to sum and count)."""
    runs = _runs(hours, first_hour)
    writer = Writer().varint(sum(of[hour][1] for hour in hours)).varint(len(runs))
    for gap, length in runs:
        writer.varint(gap).varint(length)
    for hour in hours:
        writer.bytes(fingerprint(of[hour][0]))
    return bytes(writer)


def decode_fingerprints(body: bytes, first_hour: int, last_hour: int) -> tuple[int, dict[int, bytes]]:
    """Return number of entries, and fingerprints by ascending hour."""
    reader = Reader(body)
    count, runs = reader.varint(), reader.varint()
    hours: list[int] = []
    hour = first_hour
    for run in range(runs):
        gap, length = reader.varint(), reader.varint()
        hour += gap
        if not length or (run and not gap) or hour + length - 1 > last_hour:
            raise DecodeError("hours out of scope or not in shortest form")
        if len(hours) + length > MAX_HOURS:
            raise ReconcileError(ReconcileReason.BAD_COUNT, "hours")
        hours += range(hour, hour + length)
        hour += length
    prints = {hour: reader.bytes(FINGERPRINT_BYTES) for hour in hours}
    reader.end()
    if count < len(hours) or (count and not hours):
        raise ReconcileError(ReconcileReason.BAD_COUNT, "entries and hours")
    return count, prints


def _runs(hours: Sequence[int], first_hour: int) -> list[tuple[int, int]]:
    """Fold ascending hours into (gap since the end of the last run, length)."""
    runs: list[tuple[int, int]] = []
    end = first_hour
    for hour in hours:
        if runs and hour == end:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((hour - end, 1))
        end = hour + 1
    return runs


def max_hours_bytes(hours: int) -> int:
    """Longest body of HOURS about so many hours."""
    return MAX_NUMBER_BYTES + (hours + 3) // 4


def encode_hours(kept: int, statuses: Sequence[HourStatus]) -> bytes:
    """Body of HOURS: entries in hours that differ, two bits an hour."""
    writer = Writer().varint(kept)
    for start in range(0, len(statuses), 4):
        a, b, c, d = [*statuses[start : start + 4], 0, 0, 0][:4]
        writer.u8(a << 6 | b << 4 | c << 2 | d)
    return bytes(writer)


def decode_hours(body: bytes, hours: int) -> tuple[int, list[HourStatus]]:
    """Return what `encode_hours` was given, for a known number of ``hours``."""
    reader = Reader(body)
    kept, packed = reader.varint(), reader.bytes((hours + 3) // 4)
    reader.end()
    codes = [byte >> shift & 3 for byte in packed for shift in (6, 4, 2, 0)]
    if max(codes, default=0) > HourStatus.EMPTY or any(codes[hours:]):
        raise DecodeError("status of an hour")
    return kept, [HourStatus(code) for code in codes[:hours]]


def encode_number(number: int) -> bytes:
    """Body of MORE."""
    return bytes(Writer().varint(number))


def decode_number(body: bytes) -> int:
    """Return the number of MORE."""
    reader = Reader(body)
    number = reader.varint()
    reader.end()
    return number


def encode_short_ids(short_ids: array[int], into: bytearray) -> Iterator[None]:
    """Append the body of LIST or WANTS; yields after each SLICE."""
    for start in range(0, len(short_ids), SLICE):
        part = short_ids[start : start + SLICE]
        into += b"".join([short_id.to_bytes(SHORT_ID_BYTES, "big") for short_id in part])
        yield


def decode_short_ids(body: bytes, into: array[int]) -> Iterator[None]:
    """Append the short IDs of LIST or WANTS, which ascend; yields after each SLICE."""
    if len(body) % SHORT_ID_BYTES:
        raise DecodeError("part of a short ID")
    previous = 0
    for offset in range(0, len(body), SHORT_ID_BYTES):
        short_id = int.from_bytes(body[offset : offset + SHORT_ID_BYTES], "big")
        if short_id < previous:
            raise DecodeError("short IDs do not ascend")
        into.append(short_id)
        previous = short_id
        if len(into) % SLICE == 0:
            yield


def decode_marks(body: bytes, short_ids: array[int]) -> array[int]:
    """Return those of ``short_ids`` whose bit is set."""
    number = len(short_ids)
    if len(body) != (number + 7) // 8 or int.from_bytes(body[-1:], "big") & ((1 << -number % 8) - 1):
        raise DecodeError("marks of another length")
    return array("Q", [x for i, x in enumerate(short_ids) if body[i >> 3] << (i & 7) & 0x80])
