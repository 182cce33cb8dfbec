# SPDX-License-Identifier: GPL-2.0-or-later
"""What is to be sent, as a stream that can be read once per recipient and is never held in memory."""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from relay.client.errors import SendError
from relay.client.group import Group
from relay.client.pieces import MAX_BODY_BYTES, MAX_WHOLE_BYTES, PIECE_BYTES, Kind, file_head

_CHUNK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """`head` followed by all of `file`: `size` bytes with SHA-256 `digest`. With `is_to_group`, `head` begins so."""

    kind: Kind
    is_to_group: bool
    head: bytes
    file: BinaryIO
    size: int
    digest: bytes

    def slices(self) -> Iterator[bytes]:
        """Yield the body cut into pieces, from the start; SendError when the file is not what it was."""
        with _reading():
            self.file.seek(0)
        digest = hashlib.sha256()
        left = self.size
        carried = self.head
        whole_bytes = MAX_WHOLE_BYTES if self.size <= MAX_WHOLE_BYTES else PIECE_BYTES
        while True:
            length = min(whole_bytes, left)
            with _reading():
                piece = carried + _read_exactly(self.file, length - len(carried))
                is_longer = len(piece) == left and self.file.read(1) != b""
            carried = b""
            digest.update(piece)
            left -= len(piece)
            if len(piece) < length or is_longer or (not left and digest.digest() != self.digest):
                raise SendError("the file changed while it was being sent; send it again")
            yield piece
            if not left:
                return


def text_body(text: str, group: Group | None = None) -> Body:
    """Return a text, to a group if it is, as a body; SendError when it is empty or too long."""
    encoded = text.encode(errors="replace")
    if not encoded:
        raise SendError("there is nothing to send: write a text in quotes, or name a file with --file PATH")
    return _measure(Kind.TEXT, group, b"", io.BytesIO(encoded))


def file_body(file: BinaryIO, name: str, group: Group | None = None) -> Body:
    """Return an open, seekable file as a body, reading it once; SendError when it is too long, before that."""
    with _reading():
        length = file.seek(0, io.SEEK_END)
    _require_size(MAX_BODY_BYTES - most_file_bytes(name, group) + length)
    return _measure(Kind.FILE, group, file_head(name), file)


def most_file_bytes(name: str, group: Group | None = None) -> int:
    """How long a file of that name may be: name and group take a little of the 4 GiB."""
    return MAX_BODY_BYTES - len(file_head(name)) - (len(group.encode()) if group else 0)


def spool(stream: BinaryIO, folder: Path, most_bytes: int = MAX_BODY_BYTES) -> BinaryIO:
    """Copy a pipe into a file in `folder` that has no name, so that nothing is left however the process ends.

    SendError at the first byte beyond `most_bytes`, whether more comes or not, and when the disk does not take it.
    """
    # Returned open: the caller closes it, and with it the file is gone.
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        left = most_bytes
        while chunk := stream.read(min(_CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            _require_size(MAX_BODY_BYTES - left)
            file.write(chunk)
        file.flush()
    except OSError as error:
        # What it has not written yet does not fit now either.
        with contextlib.suppress(OSError):
            file.close()
        raise SendError(f"cannot keep what comes in {folder}: {error.strerror}; nothing of it is sent") from error
    except BaseException:
        file.close()
        raise
    return file


def _measure(kind: Kind, group: Group | None, head: bytes, file: BinaryIO) -> Body:
    if group is not None:
        head = group.encode() + head
    digest = hashlib.sha256(head)
    size = len(head)
    with _reading():
        file.seek(0)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            # It may grow while it is read.
            _require_size(size)
    return Body(kind=kind, is_to_group=group is not None, head=head, file=file, size=size, digest=digest.digest())


def _require_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise SendError(f"at most 4 GiB ({MAX_BODY_BYTES} bytes) can be sent as one message; split it")


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Say what to do about a file that cannot be read after all: a stick that fails, or was pulled out."""
    try:
        yield
    except OSError as error:
        raise SendError(f"cannot read it: {error.strerror}; copy it to this disk first, and send that") from error


def _read_exactly(file: BinaryIO, length: int) -> bytes:
    """Return `length` bytes, or fewer at the end of the file."""
    parts: list[bytes] = []
    while length > 0 and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
