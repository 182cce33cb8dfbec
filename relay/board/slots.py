# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the card's two slots starts, and what is remembered of that: the record that U-Boot and `relay slot` share.

A slot is a kernel and a root. U-Boot (image/boot/boot.cmd) takes the first of ``order`` that has tries left, and takes
one of these off before it starts it; `relay slot` gives them back once the relay is ready. So a slot that fails
TRIES times in a row, in whatever way, makes room for the other one. Where neither has a try left they take turns,
uncounted, and nothing restarts the one that comes up.

What made room is given one more trial, if it had proved itself and is still whole: three plugs pulled early must
not turn a security update back for good. Else what runs is copied over it.

A slot that was just written is on trial: it counts as well only when all that is the relay's own works as it did in
the slot before (:data:`OWN_FAULTS`); if that does not come within the time of relay-trial.timer, the machine starts
again. One that came through its trial is never restarted for what does not work: that is a cable's, an adapter's, or
the card's fault, which the other slot would have, too.

The record is in two sectors before the first partition, as U-Boot's environment with its checksum (`env export -c`):
the older one is written over, in one write of one sector. Everything here is free of I/O.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Collection

SECTOR_BYTES: Final = 512
#: Between the marks of relay/board/card.py; boot.cmd has them in hexadecimal.
RECORD_SECTORS: Final = (1152, 1408)
SLOTS: Final = ("A", "B")
TRIES: Final = 3
#: What of conditions (relay.control.conditions) is the relay's own doing. Neighbours are not in here, nor the clock,
#: nor that nobody can reach it: who jams a radio or moves a box must not turn a security update back.
OWN_FAULTS: Final = frozenset(
    {
        "ble_down",
        "bitchat_down",
        "board_down",
        "discovery_down",
        "link_down",
        "net_down",
        "network_trouble",
        "store_unwritable",
        "task_stalled",
    }
)
#: A failed slot whose content cannot be read.
UNKNOWN: Final = "unknown"

_FIELDS: Final = ("serial", "order", "left_A", "left_B", "good", "trial", "failed", "known")
_CHECKSUM: Final = struct.Struct("<I")
_HEX: Final = re.compile(r"[0-9a-f]{1,8}")
_FAILED: Final = re.compile(r"[0-9a-z]{0,16}")
#: Names of conditions and units, by commas; 18 bytes each.
_KNOWN: Final = re.compile(r"[a-z0-9_,.@-]{0,300}")
_MAX_SERIAL: Final = 0xFFFFFFFF


def other(slot: str) -> str:
    """The other one."""
    return SLOTS[1 - SLOTS.index(slot)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """``first``: the slot that is to start; ``left``: tries of A and B.

    ``good``: where there is no try left, the one to start; ``trial``: the slot that has to prove itself, or "" (it has
    tries as soon as it is known to be whole).
    ``failed``: what turned back (:func:`relay.board.manifest.Manifest.name`), until something else proves itself.
    ``known``: what did not work already when the slot on trial was written.
    """

    serial: int = 0
    first: str = "A"
    left: tuple[int, int] = (TRIES, 0)
    good: str = "A"
    trial: str = ""
    failed: str = ""
    known: frozenset[str] = frozenset()

    def tries(self, slot: str) -> int:
        """How many are left; a slot without any is not used, but as the last resort."""
        return self.left[SLOTS.index(slot)]

    def with_tries(self, slot: str, tries: int) -> Record:
        """The same with as many tries of one slot."""
        left = {name: self.tries(name) for name in SLOTS} | {slot: tries}
        return replace(self, left=(left["A"], left["B"]))

    def encode(self) -> bytes:
        """A sector."""
        values = {
            "serial": f"{self.serial:x}",
            "order": f"{self.first} {other(self.first)}",
            "left_A": f"{self.left[0]:x}",
            "left_B": f"{self.left[1]:x}",
            "good": self.good,
            "trial": self.trial,
            "failed": self.failed,
            "known": ",".join(sorted(self.known)),
        }
        # What is empty is not there: U-Boot knows no difference.
        text = "".join(f"{name}={value}\0" for name, value in sorted(values.items()) if value)
        data = text.encode("ascii").ljust(SECTOR_BYTES - _CHECKSUM.size, b"\0")
        return _CHECKSUM.pack(zlib.crc32(data)) + data

    @classmethod
    def decode(cls, sector: bytes) -> Record:
        """What a sector says; raise DecodeError for one that is no record, or was not written whole."""
        if len(sector) != SECTOR_BYTES or _CHECKSUM.unpack(sector[:4])[0] != zlib.crc32(sector[4:]):
            raise DecodeError("no record, or damaged")
        try:
            rows = [row.split("=", 1) for row in sector[4:].decode("ascii").split("\0") if row]
            values = dict.fromkeys(_FIELDS, "") | dict(rows)
        except ValueError as error:
            raise DecodeError("no environment") from error
        numbers = [values[name] for name in ("serial", "left_A", "left_B")]
        first = values["order"][:1]
        if (
            values.keys() != set(_FIELDS)
            or not all(_HEX.fullmatch(number) for number in numbers)
            or values["order"] not in {"A B", "B A"}
            or values["good"] not in SLOTS
            or values["trial"] not in {"", *SLOTS}
            or not _FAILED.fullmatch(values["failed"])
            or not _KNOWN.fullmatch(values["known"])
        ):
            raise DecodeError("a record with something else in it")
        serial, *left = (int(number, 16) for number in numbers)
        return cls(
            serial=serial,
            first=first,
            left=(left[0], left[1]),
            good=values["good"],
            trial=values["trial"],
            failed=values["failed"],
            known=frozenset(name for name in values["known"].split(",") if name),
        )


def newest(sectors: Collection[bytes]) -> tuple[Record, int]:
    """The record that counts, and the index of the sector that is to be written next.

    Of a card that was never started, and of one that lost both, what boot.cmd takes then.
    """
    found: Record | None = None
    write = 0
    for index, sector in enumerate(sectors):
        try:
            record = Record.decode(sector)
        except DecodeError:
            continue
        # As in boot.cmd: of two equal ones the first.
        if found is None or record.serial > found.serial:
            found, write = record, 1 - index
    return found or Record(), write


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What U-Boot does: try ``slots`` in this order, and leave ``record``. ``on_trial``: the kernel is told so."""

    slots: tuple[str, ...]
    record: Record
    on_trial: bool


def choose(record: Record) -> Start:
    """The model of boot.cmd; for tests, and for machines that have no U-Boot."""
    counted = replace(record, serial=record.serial + 1)
    for slot in (record.first, other(record.first)):
        if tries := record.tries(slot):
            return Start(slots=(slot,), record=counted.with_tries(slot, tries - 1), on_trial=record.trial == slot)
    return Start(
        slots=(record.good, other(record.good)), record=replace(counted, good=other(record.good)), on_trial=False
    )


def came_up(record: Record, running: str, content: str) -> Record:
    """What is to be remembered as soon as a slot has come as far as to our own process.

    :param content: the name of what the other slot holds
    """
    # One on trial is the last resort where there is no other.
    is_tried = record.trial == running and any(record.left)
    found = record if is_tried else replace(record, good=running)
    if running == record.first:
        return found
    # The one that should have started did not, as often as it may. If it had proved itself it may once more.
    trial = "" if record.trial == record.first else record.first
    found = replace(found, first=running, trial=trial, failed=content or UNKNOWN, known=frozenset())
    return found.with_tries(other(running), 0)


def proved(record: Record, running: str) -> Record:
    """What is to be remembered once a slot is well: it has all its tries again."""
    found = replace(record, good=running).with_tries(running, TRIES)
    if record.trial == running:
        # What turned back before was another one.
        return replace(found, trial="", failed="", known=frozenset())
    return found


def emptied(record: Record, slot: str) -> Record:
    """Before anything of a slot is written over: nobody starts it, and that it does not start is no failure."""
    return replace(record.with_tries(slot, 0), first=other(slot), trial="" if record.trial == slot else record.trial)


def filled(record: Record, slot: str) -> Record:
    """A slot holds a copy of the one that runs."""
    return record.with_tries(slot, TRIES)


def is_to_be_tried_again(record: Record, slot: str) -> bool:
    """Whether a slot that failed is to start once more, on trial, if all of it is still there."""
    return record.trial == slot and not record.tries(slot)


def updated(record: Record, slot: str, faults: Collection[str]) -> Record:
    """A slot is whole, and is to start next, on trial. ``faults``: of what runs now."""
    return replace(record.with_tries(slot, TRIES), first=slot, trial=slot, known=frozenset(faults))


def is_well(record: Record, running: str, faults: Collection[str] | None) -> bool:
    """Whether the running slot does what is asked of it.

    :param faults: what does not work; None: the relay is not ready
    """
    if faults is None:
        return False
    return record.trial != running or not set(faults) - record.known


def next_record(record: Record) -> Record:
    """The same, to be written."""
    return replace(record, serial=record.serial % _MAX_SERIAL + 1)
