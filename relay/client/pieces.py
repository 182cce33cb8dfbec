# SPDX-License-Identifier: GPL-2.0-or-later
"""What a sealed envelope says inside: a whole message, a piece of a large one, or a receipt.

docs/protocol.md section 12. A message has a *body*: the text, or a file with its name in
front. A body that fits one envelope goes whole; a longer one in pieces of `PIECE_BYTES`, the last of
which is shorter.
"""

import enum
from dataclasses import dataclass, field
from typing import Final

from relay.client.group import Group, split_group_head
from relay.client.identity import RENDEZVOUS_BYTES
from relay.client.seal import LIFETIMES_DAYS, MAX_PLAINTEXTS
from relay.client.text import safe_file_name, shorten_file_name
from relay.core.codec import Reader, Writer
from relay.core.errors import DecodeError

INNER_VERSION: Final = 1
MESSAGE_ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32

WHOLE_OVERHEAD: Final = 1 + 1 + MESSAGE_ID_BYTES + RENDEZVOUS_BYTES + 2 + 4
"""version, kind, message ID, reply rendezvous, age, sequence: 40 bytes. 87 are left in the smallest envelope."""
PIECE_OVERHEAD: Final = WHOLE_OVERHEAD + 4 + 8 + DIGEST_BYTES
"""Also index, size and digest of the body: 84 bytes."""
MAX_WHOLE_BYTES: Final = MAX_PLAINTEXTS[-1] - WHOLE_OVERHEAD
"""Longest body in one envelope: 16,215."""
PIECE_BYTES: Final = MAX_PLAINTEXTS[-1] - PIECE_OVERHEAD
"""Bytes of the body in every piece but the last: 16,171."""
MAX_BODY_BYTES: Final = 4 * 1024**3
"""4 GiB: 265,597 pieces; what a recipient must be ready to keep on disk for one message."""

MAX_NAME_BYTES: Final = 255
"""One length byte; also the longest name on Linux file systems."""

_PIECED: Final = 0x80
_TO_GROUP: Final = 0x40
MAX_SEQUENCE: Final = 2**32 - 1
_MAX_AGE_MINUTES: Final = 60 * 24 * LIFETIMES_DAYS[-1]


class Kind(enum.IntEnum):
    """What a body is, after the group if it is to one."""

    TEXT = 0
    FILE = 1
    RECEIPT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Place of a piece in its body: `size` bytes with SHA-256 `digest`, cut every `PIECE_BYTES`."""

    index: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """One plaintext. `part` is None when `data` is the whole body; a receipt's body is empty.

    `message_id` (16 bytes) names the message, for a receipt the one that arrived. `age_minutes` is how long
    before the expiry of the envelope the message was sent. `sequence` is greater than in what the sender sent to
    the same recipient before. `reply_rendezvous` (16 bytes) finds the bucket
    for a receipt. `is_to_group`: the body begins with the group.
    """

    kind: Kind
    message_id: bytes
    reply_rendezvous: bytes = field(repr=False)
    age_minutes: int
    sequence: int
    is_to_group: bool = False
    part: Part | None = None
    data: bytes = field(repr=False)

    @property
    def code(self) -> int:
        """The kind, and whether it is to a group: `split_code` takes them apart."""
        return self.kind | (_TO_GROUP if self.is_to_group else 0)

    def encode(self) -> bytes:
        """Return the plaintext."""
        writer = Writer().u8(INNER_VERSION).u8(self.code | (_PIECED if self.part else 0))
        writer.bytes(self.message_id).bytes(self.reply_rendezvous).u16(self.age_minutes).u32(self.sequence)
        if self.part is not None:
            writer.u32(self.part.index).u64(self.part.size).bytes(self.part.digest)
        return bytes(writer.bytes(self.data))


def split_code(code: int) -> tuple[Kind, bool]:
    """Return the kind and whether it is to a group; ValueError for others."""
    return Kind(code & ~_TO_GROUP), bool(code & _TO_GROUP)


def decode_inner(plaintext: bytes) -> Inner:
    """Return what a plaintext says; DecodeError for any other bytes than `Inner.encode` gives."""
    reader = Reader(plaintext)
    if (version := reader.u8()) != INNER_VERSION:
        raise DecodeError(f"inner version {version}, expected {INNER_VERSION}")
    code = reader.u8()
    try:
        kind, is_to_group = split_code(code & ~_PIECED)
    except ValueError:
        raise DecodeError(f"unknown kind {code}") from None
    message_id = reader.bytes(MESSAGE_ID_BYTES)
    reply_rendezvous = reader.bytes(RENDEZVOUS_BYTES)
    if (age_minutes := reader.u16()) > _MAX_AGE_MINUTES:
        raise DecodeError(f"sent {age_minutes} minutes before its expiry, at most {_MAX_AGE_MINUTES}")
    sequence = reader.u32()
    part = _decode_part(reader) if code & _PIECED else None
    data = reader.rest()
    if kind is Kind.RECEIPT and (part or data or is_to_group):
        raise DecodeError("a receipt has no body")
    if part is None or part.index == 0:
        head_bytes = split_head(data, kind, is_to_group=is_to_group)[-1]
        if kind is Kind.TEXT and head_bytes == len(data):
            raise DecodeError("a text without a byte")
    if part and len(data) != piece_length(part.size, part.index):
        raise DecodeError("length of the piece does not follow from its place")
    return Inner(
        kind=kind,
        message_id=message_id,
        reply_rendezvous=reply_rendezvous,
        age_minutes=age_minutes,
        sequence=sequence,
        is_to_group=is_to_group,
        part=part,
        data=data,
    )


def _decode_part(reader: Reader) -> Part:
    part = Part(index=reader.u32(), size=reader.u64(), digest=reader.bytes(DIGEST_BYTES))
    if not MAX_WHOLE_BYTES < part.size <= MAX_BODY_BYTES:
        raise DecodeError(f"body of {part.size} bytes in pieces, from {MAX_WHOLE_BYTES + 1} to {MAX_BODY_BYTES}")
    if part.index >= piece_count(part.size):
        raise DecodeError("index beyond the last piece")
    return part


def piece_count(size: int) -> int:
    """Return in how many envelopes a body of `size` bytes goes."""
    return 1 if size <= MAX_WHOLE_BYTES else -(-size // PIECE_BYTES)


def piece_length(size: int, index: int) -> int:
    """Return how many bytes of the body are in a piece."""
    return size if size <= MAX_WHOLE_BYTES else min(PIECE_BYTES, size - index * PIECE_BYTES)


def file_head(name: str) -> bytes:
    """Return what precedes the content of a file in its body: the length of the name in bytes, and the name."""
    encoded = shorten_file_name(name, MAX_NAME_BYTES).encode()
    return bytes((len(encoded),)) + encoded


def split_head(start: bytes, kind: Kind, *, is_to_group: bool) -> tuple[Group | None, str, int]:
    """Return the group (None for none), the safe file name ('' for a text) and where the content begins; DecodeError.

    `start` is the first piece or the whole of the body.
    """
    group, begin = split_group_head(start) if is_to_group else (None, 0)
    if kind is not Kind.FILE:
        return group, "", begin
    name, head_bytes = split_file_head(start[begin:])
    return group, name, begin + head_bytes


def split_file_head(start: bytes) -> tuple[str, int]:
    """Return the sanitised file name and where the content begins; DecodeError when `start` has no head.

    `start` is the first piece or the whole of the body.
    """
    reader = Reader(start)
    length = reader.u8()
    return safe_file_name(reader.bytes(length).decode(errors="replace")), 1 + length
