# SPDX-License-Identifier: GPL-2.0-or-later
"""What a slot holds, and an update: so many bytes for its boot partition, so many for its root, and the hashes of all.

The head of an update, which is the same bytes at the end of each slot's root partition (HEAD_BYTES before it):

    mesh-relay update 1 <bytes of the manifest> <bytes of the signature> LF
    the manifest: JSON
    the signature over it: the text of a .minisig file, or nothing
    zeros, up to HEAD_BYTES

Behind the head an update has the bytes of the boot partition, then those of the root. So a slot has in it all that
made it, to the byte; and whoever has the head knows of each piece, before it writes it, whether it is the one that
was signed. Free of I/O.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from relay.board.signature import OtherKeyError, digest_of, verify
from relay.core.errors import DecodeError, RelayError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

#: A piece that is read, hashed and written at once; a card's own blocks are no larger than a few of it.
PIECE_BYTES: Final = 1 << 20
#: Hashes of 640 pieces have 43 KB.
HEAD_BYTES: Final = 64 << 10
#: What a partition can hold is asked separately; more than this no slot has.
MAX_PART_BYTES: Final = 1 << 30
_FIRST: Final = re.compile(rb"mesh-relay update 1 ([0-9]{1,6}) ([0-9]{1,4})\n")
_MAX_FIRST: Final = 64
_BOARD: Final = re.compile(r"[a-z0-9]{1,16}")
_VERSION: Final = re.compile(r"[0-9a-zA-Z.+~-]{1,32}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
#: 16 hexadecimal digits tell any two apart that somebody meets.
_NAME_DIGITS: Final = 16
#: Of the year 9999.
_MAX_BUILT: Final = 253402300799


class RefusedError(RelayError):
    """An update that is not taken; ``reason`` is a word of :data:`REASONS`, the message is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(REASONS[reason])
        self.reason = reason


#: Why, and what somebody who holds the stick can do.
REASONS: Final = {
    "damaged": "it is damaged or cut off: copy it anew",
    "unsigned": "it has no signature: take one of a release, or sign it",
    "wrong_key": "it is signed with a key that this relay does not trust: "
    "take one of a release, or write the key into update_keys in relay.toml",
    "bad_signature": "its signature is not valid: copy it anew, and from another source",
    "other_board": "it is for another kind of board",
    "older": "it is not newer than what this relay has",
    "same": "this relay has it already",
    "too_large": "it is larger than a slot of this card: write the new image to a card instead",
    "failed": "it was tried, and did not come up well",
    "on_trial": "the last one has not proved itself yet: try again in a quarter of an hour",
    "read": "the stick was pulled out, or cannot be read",
    "nothing": "there is nothing newer to start with",
    "write": "the card cannot be written: use another",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """``size`` in bytes; ``hashes``: SHA-256 of its pieces, the last of which may be shorter."""

    size: int
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, pieces: Iterator[bytes]) -> Part:
        """The description of such pieces."""
        size, hashes = 0, []
        for piece in pieces:
            size += len(piece)
            hashes.append(hashlib.sha256(piece).hexdigest())
        return cls(size=size, hashes=tuple(hashes))

    def pieces(self) -> Iterator[tuple[int, int, str]]:
        """Offset, length and hash of each."""
        for index, digest in enumerate(self.hashes):
            offset = index * PIECE_BYTES
            yield offset, min(PIECE_BYTES, self.size - offset), digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``board``: what it runs on; ``built``: the time of its source, in seconds since 1970, by which it is older."""

    board: str
    version: str
    built: int
    boot: Part
    root: Part

    def encode(self) -> bytes:
        """The bytes that are signed."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Manifest:
        """Raise DecodeError for anything that :meth:`encode` would not have written."""
        try:
            values: dict[str, Any] = json.loads(raw)
            found = cls(**values | {name: _part(values[name]) for name in ("boot", "root")})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DecodeError("no manifest") from error
        is_text = all(type(text) is str for text in (found.board, found.version))
        if not is_text or not _BOARD.fullmatch(found.board) or not _VERSION.fullmatch(found.version):
            raise DecodeError("a manifest of no board or version")
        if type(found.built) is not int or not 0 <= found.built <= _MAX_BUILT or found.encode() != raw:
            raise DecodeError("no manifest as it would be written")
        return found

    def name(self) -> str:
        """What it is remembered by."""
        return hashlib.sha256(self.encode()).hexdigest()[:_NAME_DIGITS]

    @property
    def size(self) -> int:
        """Bytes of the update, its head included."""
        return HEAD_BYTES + self.boot.size + self.root.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A manifest, and the text of its signature, "" where it has none."""

    manifest: Manifest
    signature: str = ""

    def encode(self) -> bytes:
        """HEAD_BYTES."""
        manifest, signature = self.manifest.encode(), self.signature.encode()
        raw = b"mesh-relay update 1 %d %d\n" % (len(manifest), len(signature)) + manifest + signature
        if len(raw) > HEAD_BYTES:
            raise ValueError("the slot has more pieces than a head can name")
        return raw.ljust(HEAD_BYTES, b"\0")

    @classmethod
    def decode(cls, raw: bytes) -> Head:
        """Raise DecodeError."""
        manifest, signature = _split(raw)
        try:
            head = cls(manifest=Manifest.decode(manifest), signature=signature.decode())
            same = head.encode() == raw
        except ValueError as error:
            raise DecodeError("no update") from error
        if not same:
            raise DecodeError("no update as it would be written")
        return head


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What this relay is, and whom it trusts: the file RELEASE in its checked root, and relay.toml's keys."""

    board: str
    version: str
    built: int
    keys: tuple[str, ...]

    def encode(self) -> str:
        """The file."""
        return json.dumps(asdict(self), sort_keys=True) + "\n"

    @classmethod
    def decode(cls, text: str) -> Own:
        """What the file says; raise DecodeError."""
        try:
            values = json.loads(text)
            return cls(**values | {"keys": tuple(values["keys"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DecodeError("no description of a release") from error


def accept(raw: bytes, own: Own, *, sizes: Sequence[int], held: str, failed: str, older: bool) -> Head:
    """The head of an update that may be written; raise RefusedError, or DecodeError.

    The signature comes first: of what nobody signed not even the manifest is read.

    :param raw: its first HEAD_BYTES
    :param sizes: bytes that there are for boot partition and root
    :param held: the name of what runs
    :param failed: the name of what turned back before
    :param older: whether a person said that it may be older, or have turned back
    """
    _check_signature(*_split(raw), own.keys)
    head = Head.decode(raw)
    found = head.manifest
    if found.board != own.board:
        raise RefusedError("other_board")
    if found.boot.size > sizes[0] or found.root.size > sizes[1]:
        raise RefusedError("too_large")
    if found.name() == held:
        raise RefusedError("same")
    # Of the same source with other packages nobody knows which is the newer one.
    if found.built <= own.built and not older:
        raise RefusedError("older")
    if found.name() == failed and not older:
        raise RefusedError("failed")
    return head


def is_trusted(head: Head, keys: Collection[str]) -> bool:
    """Whether one of ``keys`` signed it."""
    try:
        _check_signature(head.manifest.encode(), head.signature.encode(), keys)
    except RefusedError:
        return False
    return True


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Manifest and signature of a head, neither of them looked at; raise DecodeError."""
    first = _FIRST.match(raw[:_MAX_FIRST])
    if len(raw) != HEAD_BYTES or first is None:
        raise DecodeError("no update")
    end = first.end() + int(first[1])
    return raw[first.end() : end], raw[end : end + int(first[2])]


def _check_signature(manifest: bytes, signature: bytes, keys: Collection[str]) -> None:
    if not signature:
        raise RefusedError("unsigned")
    digest = digest_of(manifest)
    for key in keys:
        try:
            verify(digest, signature.decode(), key)
        except OtherKeyError:
            continue
        except ValueError as error:
            raise RefusedError("bad_signature") from error
        return
    raise RefusedError("wrong_key")


def _part(values: dict[str, Any]) -> Part:
    part = Part(size=values["size"], hashes=tuple(values["hashes"]))
    if values.keys() != {"size", "hashes"} or type(part.size) is not int or not 0 <= part.size <= MAX_PART_BYTES:
        raise DecodeError("a part of no size")
    if len(part.hashes) != -(-part.size // PIECE_BYTES) or not all(
        type(digest) is str and _HASH.fullmatch(digest) for digest in part.hashes
    ):
        raise DecodeError("a part with other hashes than pieces")
    return part
