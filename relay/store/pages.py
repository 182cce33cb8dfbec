# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of a damaged store, read page by page without SQLite.

SQLite stops at the first page that makes no sense, and what hangs below a bad
inner page is out of its reach. Rows however lie whole in leaf pages (and chains
of overflow pages), so whatever page is left gives its rows. Nothing is written.

It also takes the log for ended at the first frame that is damaged, though all that
was committed after that is still there: here each frame is judged by itself.

Source: https://www.sqlite.org/fileformat2.html, sections 1.3 to 1.6, 2.1 and 4.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from relay.core.envelope import MAX_ENVELOPE_BYTES
from relay.store.schema import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TABLE_LEAF = 13
_INDEX_LEAF = 10
_HEADER_BYTES = 100
_LOG_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
#: Of the log: its header, a frame, and where in each of them the salts of the log's present use stand.
LOG_HEADER_BYTES = _LOG_HEADER.size
FRAME_BYTES = _FRAME_HEADER.size + PAGE_BYTES
LOG_SALTS = slice(16, 24)
FRAME_SALTS = slice(8, 16)
_LOG_MAGIC = 0x377F0682
_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")
#: Longest record worth reading: an envelope with its record header, or a value of
#: ``meta``. A damaged length would otherwise follow a chain through the whole file.
_MAX_RECORD_BYTES = 4 * MAX_ENVELOPE_BYTES
#: Bytes of an integer by serial type 0 to 9; 7 is a float, which no table here has.
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8, None, 0, 0)

Value: TypeAlias = int | bytes | str | None


class Row(NamedTuple):
    """One row: its rowid (None in a table without), and its columns."""

    rowid: int | None
    values: tuple[Value, ...]


class Pages:
    """The pages of a database file under its write-ahead log, as far as they can be read."""

    def __init__(self, file_fd: int, log_fd: int | None) -> None:
        """Read through descriptors that remain the caller's; ``log_fd`` None for no log."""
        self._file_fd = file_fd
        self._log_fd = log_fd
        self.count = os.fstat(file_fd).st_size // PAGE_BYTES
        self.unreadable = 0
        #: Where in the log the newest committed copy of a page starts.
        self._in_log: dict[int, int] = {}
        #: Commits in the log before the first damage in it, and after that, which SQLite does not see.
        self.commits_seen = self.commits_after_damage = 0
        #: Whether what is damaged was committed for sure: the log's header, or the end of a commit.
        self._committed_damage = False
        if log_fd is not None:
            self._read_log(log_fd)
        self._free = self._free_pages()

    @property
    def log_is_damaged(self) -> bool:
        """Whether commits of which somebody was told are not seen by SQLite.

        One commit behind the damage may be the last, of which a power cut left half.
        """
        return self.commits_after_damage > (0 if self._committed_damage else 1)

    def rows(self) -> Iterator[Row]:
        """Yield every row of every leaf page that is in use, in the order of the file."""
        return self._rows(range(1, self.count + 1))

    def rows_in_log(self) -> Iterator[Row]:
        """Yield the rows of those of its pages that the log has."""
        return self._rows(sorted(number for number in self._in_log if number <= self.count))

    def _rows(self, numbers: Iterable[int]) -> Iterator[Row]:
        for number in numbers:
            if self._free[number]:
                # What was deleted stays deleted.
                continue
            page = self._page(number)
            if page is None:
                self.unreadable += 1
                continue
            yield from self._leaf_rows(page, _HEADER_BYTES if number == 1 else 0)

    def _page(self, number: int) -> bytes | None:
        """Return page ``number``, or None beyond the end and where the medium fails."""
        if not 0 < number <= self.count:
            return None
        fd, offset = self._file_fd, (number - 1) * PAGE_BYTES
        if number in self._in_log and self._log_fd is not None:
            fd, offset = self._log_fd, self._in_log[number]
        try:
            page = os.pread(fd, PAGE_BYTES, offset)
        except OSError:
            return None
        return page if len(page) == PAGE_BYTES else None

    def _read_log(self, fd: int) -> None:
        """Find the newest committed frame of each page (section 4.1 to 4.3)."""
        header = os.pread(fd, _LOG_HEADER.size, 0)
        first_frame = os.pread(fd, _FRAME_HEADER.size, _LOG_HEADER.size)
        if len(header) < _LOG_HEADER.size or len(first_frame) < _FRAME_HEADER.size:
            return
        magic, _, page_bytes, _, salt1, salt2, *expected = _LOG_HEADER.unpack(header)
        byte_order = ">" if magic & 1 else "<"
        sums = _checksum((0, 0), struct.unpack(f"{byte_order}6I", header[:24]))
        is_sound = magic & ~1 == _LOG_MAGIC and page_bytes == PAGE_BYTES and list(sums) == expected
        if not is_sound:
            # What stood there, each frame repeats; but for the order of the bytes, which is the machine's.
            byte_order = "<" if sys.byteorder == "little" else ">"
            self._committed_damage = True
            _, _, salt1, salt2, _, _ = _FRAME_HEADER.unpack(first_frame)
        words = struct.Struct(f"{byte_order}{PAGE_BYTES // 4 + 2}I")
        since_commit: dict[int, int] = {}
        offset = _LOG_HEADER.size
        while True:
            try:
                frame = os.pread(fd, _FRAME_HEADER.size + PAGE_BYTES, offset)
            except OSError:
                frame = bytes(_FRAME_HEADER.size + PAGE_BYTES)
            if len(frame) < _FRAME_HEADER.size + PAGE_BYTES:
                return
            number, pages_after, *salts, sum1, sum2 = _FRAME_HEADER.unpack_from(frame)
            # Of another salt is what an earlier use of the file left.
            is_ours = salts == [salt1, salt2]
            if is_ours and _checksum(sums, words.unpack(frame[:8] + frame[_FRAME_HEADER.size :])) == (sum1, sum2):
                since_commit[number] = offset + _FRAME_HEADER.size
                if pages_after:
                    self._in_log.update(since_commit)
                    since_commit.clear()
                    self.count = pages_after
                    self.commits_seen += is_sound
                    self.commits_after_damage += not is_sound
            else:
                is_sound = False
                self._committed_damage |= is_ours and pages_after > 0
            # The sum goes on from frame to frame. Where it is wrong, the next is judged by what stands in this one.
            sums = (sum1, sum2)
            offset += len(frame)

    def _free_pages(self) -> bytearray:
        """Return a flag by page number: on the list of free pages (section 1.5)."""
        free = bytearray(self.count + 1)
        header = self._page(1)
        trunk = _U32.unpack_from(header, 32)[0] if header else 0
        while 0 < trunk <= self.count and not free[trunk]:
            page = self._page(trunk)
            if page is None:
                break
            free[trunk] = 1
            trunk, leaves = struct.unpack_from(">II", page)
            leaves = min(leaves, PAGE_BYTES // 4 - 2)
            for number in struct.unpack_from(f">{leaves}I", page, 8):
                if number <= self.count:
                    free[number] = 1
        return free

    def _leaf_rows(self, page: bytes, start: int) -> Iterator[Row]:
        kind = page[start]
        if kind not in {_TABLE_LEAF, _INDEX_LEAF}:
            return
        (cells,) = _U16.unpack_from(page, start + 3)
        for index in range(min(cells, (PAGE_BYTES - start - 8) // 2)):
            (at,) = _U16.unpack_from(page, start + 8 + 2 * index)
            row = self._cell(page, at, kind)
            if row is not None:
                yield row

    def _cell(self, page: bytes, at: int, kind: int) -> Row | None:
        length, at = _varint(page, at)
        rowid = None
        if kind == _TABLE_LEAF:
            rowid, at = _varint(page, at)
        if length > _MAX_RECORD_BYTES:
            return None
        payload = self._payload(page, at, length, kind)
        values = None if payload is None else _record(payload)
        return None if values is None else Row(rowid, values)

    def _payload(self, page: bytes, at: int, length: int, kind: int) -> bytes | None:
        """Return a record of ``length`` bytes that starts at ``at`` (section 1.6)."""
        most = PAGE_BYTES - 35 if kind == _TABLE_LEAF else (PAGE_BYTES - 12) * 64 // 255 - 23
        if length <= most:
            return page[at : at + length] if at + length <= PAGE_BYTES else None
        least = (PAGE_BYTES - 12) * 32 // 255 - 23
        local = least + (length - least) % (PAGE_BYTES - 4)
        if local > most:
            local = least
        if at + local + 4 > PAGE_BYTES:
            return None
        parts = [page[at : at + local]]
        rest = length - local
        (number,) = _U32.unpack_from(page, at + local)
        while rest > 0:
            overflow = self._page(number)
            if overflow is None:
                return None
            parts.append(overflow[4 : 4 + rest])
            rest -= PAGE_BYTES - 4
            (number,) = _U32.unpack_from(overflow)
        return b"".join(parts)


def _checksum(sums: tuple[int, int], words: tuple[int, ...]) -> tuple[int, int]:
    """Continue the log's checksum over 32-bit ``words`` (section 4.2)."""
    s0, s1 = sums
    for x0, x1 in zip(words[::2], words[1::2], strict=True):
        s0 = s0 + x0 + s1 & 0xFFFFFFFF
        s1 = s1 + x1 + s0 & 0xFFFFFFFF
    return s0, s1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, offset behind it); bytes beyond the end count as zero."""
    value = 0
    for index in range(8):
        byte = data[at + index] if at + index < len(data) else 0
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    byte = data[at + 8] if at + 8 < len(data) else 0
    value = value << 8 | byte
    return value - (1 << 64 if value >> 63 else 0), at + 9


def _record(payload: bytes) -> tuple[Value, ...] | None:
    """Decode a record (section 2.1); None for what is none, or holds a float."""
    header_bytes, at = _varint(payload, 0)
    end = header_bytes
    values: list[Value] = []
    while at < header_bytes <= len(payload):
        serial, at = _varint(payload, at)
        if serial < 0:
            return None
        if serial >= 12:
            length: int | None = (serial - 12) // 2
        else:
            length = _INTEGER_BYTES[serial] if serial < len(_INTEGER_BYTES) else None
        if length is None or end + length > len(payload):
            return None
        data = payload[end : end + length]
        end += length
        if serial == 0:
            values.append(None)
        elif serial >= 12 and serial % 2 == 0:
            values.append(data)
        elif serial >= 12:
            try:
                values.append(data.decode())
            except UnicodeDecodeError:
                return None
        elif serial >= 8:
            values.append(serial - 8)
        else:
            values.append(int.from_bytes(data, "big", signed=True))
    return tuple(values) if values and at == header_bytes and end == len(payload) else None
