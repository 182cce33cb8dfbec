# SPDX-License-Identifier: GPL-2.0-or-later
"""The slots of the card, read and written: the record, what a slot holds, and the copying. Blocking.

Nothing here decides anything: relay/board/slots.py says which slot counts, relay/board/manifest.py what may be in it.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.board.card import SECTOR_BYTES
from relay.board.device import Device, Part
from relay.board.manifest import HEAD_BYTES, Head, RefusedError
from relay.board.slots import RECORD_SECTORS, SLOTS, Record, newest, next_record
from relay.core.errors import DecodeError, RelayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.board import manifest
    from relay.board.card import Card

logger = logging.getLogger(__name__)

#: Of image/layout.py, by slot: boot and root.
PARTITIONS: Final = {"A": (2, 5), "B": (3, 6)}


class NoSlotsError(RelayError):
    """No slot of a relay's card is what this machine started from; the message has the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Its two partitions."""

    boot: Part
    root: Part

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes that there are for boot partition and root."""
        return self.boot.size, self.root.size - HEAD_BYTES

    def head(self) -> Head:
        """What it says of what it holds; raise OSError, or DecodeError."""
        with Device(self.root, writable=False) as device:
            return Head.decode(device.read(self.sizes[1], HEAD_BYTES))

    def name(self) -> str:
        """The name of what it holds, "" where that cannot be told."""
        try:
            return self.head().manifest.name()
        except (OSError, DecodeError):
            return ""

    @contextmanager
    def reading(self, wanted: manifest.Manifest) -> Iterator[Callable[[int, int], bytes]]:
        """A source of what it holds, for :meth:`write`."""
        with Device(self.boot, writable=False) as boot, Device(self.root, writable=False) as root:

            def source(offset: int, length: int) -> bytes:
                in_boot = offset < wanted.boot.size
                return boot.read(offset, length) if in_boot else root.read(offset - wanted.boot.size, length)

            yield source

    def is_whole(self, go_on: Callable[[], bool]) -> bool | None:
        """Whether all is there that its head names, as it was; None if that is to be asked again. Raise OSError.

        :param go_on: asked before each piece
        """
        try:
            wanted = self.head().manifest
        except DecodeError:
            return False
        with Device(self.boot, writable=False) as boot, Device(self.root, writable=False) as root:
            for device, part in ((boot, wanted.boot), (root, wanted.root)):
                for piece in part.pieces():
                    if not go_on():
                        return None
                    if not _holds(device, *piece):
                        return False
        return True

    def write(self, head: Head, source: Callable[[int, int], bytes], go_on: Callable[[], bool]) -> int | None:
        """Have in it what ``head`` names; return how many bytes were written, or None if it is to be gone on with.

        What is there already is not written again, so it does not matter where an earlier attempt ended. At the end
        all of it is read from the card once more, and the head written, which goes first: a slot with a head is whole.

        :param source: returns so many bytes from an offset behind the head; raises OSError or RefusedError
        :param go_on: asked before each piece
        """
        raw, described = head.encode(), head.manifest
        with Device(self.boot) as boot, Device(self.root) as root:
            if root.read(self.sizes[1], HEAD_BYTES) != raw:
                _put(root, self.sizes[1], bytes(SECTOR_BYTES))
            wrote = offset = 0
            parts = ((boot, described.boot), (root, described.root))
            for device, wanted in parts:
                for at, length, digest in wanted.pieces():
                    if not go_on():
                        return None
                    if not _holds(device, at, length, digest):
                        piece = source(offset + at, length)
                        if _digest(piece) != digest:
                            raise RefusedError("damaged")
                        _put(device, at, piece)
                        wrote += length
                offset += wanted.size
            for device, wanted in parts:
                device.forget()
                if not all(_holds(device, *piece) for piece in wanted.pieces()):
                    raise RefusedError("write")
            if root.read(self.sizes[1], HEAD_BYTES) != raw:
                _put(root, self.sizes[1], raw)
                wrote += len(raw)
        return wrote


class CardSlots:
    """The slots and the record of a card."""

    def __init__(self, card: Card) -> None:
        """Raise NoSlotsError if it has none, or started from none."""
        self._disk = Part(path=card.disk)
        numbers = {root: slot for slot, (_, root) in PARTITIONS.items()}
        wanted = {number for pair in PARTITIONS.values() for number in pair}
        if not wanted <= card.parts.keys() or card.root not in numbers:
            raise NoSlotsError("this machine did not start from a slot of a relay's card")
        self.running = numbers[card.root]
        self._slots = {
            slot: Slot(boot=card.parts[boot], root=card.parts[root]) for slot, (boot, root) in PARTITIONS.items()
        }

    def __getitem__(self, slot: str) -> Slot:
        """The slot A or B."""
        return self._slots[slot]

    def record(self) -> Record:
        """What is remembered; raise OSError."""
        return newest(self._sectors())[0]

    def remember(self, record: Record) -> None:
        """Write ``record``, if it says something new, over the older of the two; raise OSError."""
        known, index = newest(self._sectors())
        fresh = next_record(record)
        if next_record(known) == fresh:
            return
        with Device(self._disk) as device:
            device.write(RECORD_SECTORS[index] * SECTOR_BYTES, fresh.encode())
            device.sync()
        logger.info("slot %s is first, tries %s", fresh.first, dict(zip(SLOTS, fresh.left, strict=True)))

    def _sectors(self) -> list[bytes]:
        with Device(self._disk, writable=False) as device:
            return [device.read(sector * SECTOR_BYTES, SECTOR_BYTES) for sector in RECORD_SECTORS]


def _holds(device: Device, offset: int, length: int, digest: str) -> bool:
    try:
        return _digest(device.read(offset, length)) == digest
    except OSError:
        # A worn card; it may be written over.
        return False


def _put(device: Device, offset: int, piece: bytes) -> None:
    try:
        device.write(offset, piece)
        # Now: what is in memory only keeps others waiting for minutes on a slow card.
        device.sync()
    except OSError as error:
        raise RefusedError("write") from error


def _digest(piece: bytes) -> str:
    return hashlib.sha256(piece).hexdigest()
