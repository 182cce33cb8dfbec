# SPDX-License-Identifier: GPL-2.0-or-later
"""What a power cut leaves of a card: all that was flushed, and of what was written after that whatever chance says.

card.c keeps the log. A card promises nothing of a write until a flush that came after it has returned; until then each
of its sectors is on the medium or not, in whatever order. What is not modelled is a card that loses more than it may.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import random

SOURCE = Path(__file__).with_name("card.c")
SECTOR_BYTES = 512
_HEAD = struct.Struct("<IIQQQ")
_MAGIC = 0x44524143
_WRITE, _ZERO, _FLUSH, _MARK = b"WZFM"
#: Of what was not flushed, the part of sectors that stays: none, all, or some; each as often.
_KEPT = (0.0, 1.0, 0.5, 0.9)


def build(folder):
    """Compile what is preloaded; return its path."""
    made = folder / "card.so"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o", made, SOURCE], check=True)
    return made


def preloaded(library, card, *, log=None, marks=None, faults=None):
    """The words before a command that uses the file ``card``; the others as of card.c."""
    words = {"LD_PRELOAD": library, "CARD": card, "CARD_LOG": log, "CARD_MARKS": marks, "CARD_FAULTS": faults}
    return ["env", *(f"{name}={value}" for name, value in words.items() if value is not None)]


class Record(NamedTuple):
    """One of the log; ``at``: where it begins there, ``end``: behind it. Times are monotonic."""

    op: int
    offset: int
    length: int
    time_s: float
    at: int
    end: int


class Log:
    """The log of one run; what it wrote last, it may have been killed in."""

    def __init__(self, path):
        self._file = path.open("rb")
        self.records = list(self._read(path.stat().st_size))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def _read(self, size):
        at = 0
        while at + _HEAD.size <= size:
            magic, op, offset, length, time_ns = _HEAD.unpack(os.pread(self._file.fileno(), _HEAD.size, at))
            assert magic == _MAGIC, at
            end = at + _HEAD.size + length * {_WRITE: 2, _ZERO: 1, _FLUSH: 0, _MARK: 1}[op]
            if end > size:
                return
            yield Record(op, offset, length, time_ns / 1e9, at, end)
            at = end

    def before(self, record):
        """The bytes that were on the card; of a mark what it says."""
        return os.pread(self._file.fileno(), record.length, record.at + _HEAD.size)

    def after(self, record):
        """The bytes that were written."""
        if record.op == _ZERO:
            return bytes(record.length)
        return os.pread(self._file.fileno(), record.length, record.at + _HEAD.size + record.length)

    def index_at(self, size):
        """How many records there were when the log had ``size`` bytes."""
        return sum(record.end <= size for record in self.records)

    def last_flush(self, index):
        """Before how many records nothing is lost, if the power fails before record ``index``."""
        return next((at + 1 for at in range(index - 1, -1, -1) if self.records[at].op == _FLUSH), 0)

    def unflushed(self, index):
        """What was written by then, and need not be on the card."""
        return [one for one in self.records[self.last_flush(index) : index] if one.op in (_WRITE, _ZERO)]

    def marks(self, index=None):
        """What was said, with the number of the record."""
        found = enumerate(self.records[:index])
        return [(number, self.before(one)) for number, one in found if one.op == _MARK]

    def cut(self, card, index, chance: random.Random, *, flushes=True):
        """Make of ``card``, on which all of the log is, what is left if the power fails before record ``index``.

        Return how many sectors are lost of those written. ``flushes=False``: of a card that ignores them.
        """
        kept = self.last_flush(index) if flushes else 0
        part = chance.choice(_KEPT)
        lost = 0
        with card.open("r+b") as file:
            descriptor = file.fileno()
            for record in reversed(self.records[kept:]):
                if record.op in (_WRITE, _ZERO):
                    os.pwrite(descriptor, self.before(record), record.offset)
            for record in self.records[kept:index]:
                if record.op not in (_WRITE, _ZERO):
                    continue
                written = self.after(record)
                for at in range(0, record.length, SECTOR_BYTES):
                    if chance.random() < part:
                        os.pwrite(descriptor, written[at : at + SECTOR_BYTES], record.offset + at)
                    else:
                        lost += 1
        return lost
