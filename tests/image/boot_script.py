# SPDX-License-Identifier: GPL-2.0-or-later
"""U-Boot's script (image/boot/boot.cmd) held against its model, `relay.board.slots.choose`, in U-Boot itself.

A start takes seconds, as there is nothing on the card that could be started: U-Boot says what it would, and ends.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from image.layout import SECTOR_BYTES
from relay.board import slots
from relay.board.slots import RECORD_SECTORS, TRIES, Record, choose, newest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.image.card import Card

SEED = 15
#: Records at random, beside those below.
AT_RANDOM = 12
#: Both slots have all their tries, and one of them is on trial.
ON_TRIAL = Record(serial=9, first="B", left=(TRIES, TRIES), trial="B", known=frozenset({"net_down"}))


def pairs() -> Iterator[tuple[str, list[bytes]]]:
    """What the two sectors may hold, and what that is called."""
    draw = random.Random(SEED)
    yield "a card that was never started", [bytes(SECTOR_BYTES)] * 2
    yield "noise", [draw.randbytes(SECTOR_BYTES) for _ in RECORD_SECTORS]
    yield "one that was not written whole", [ON_TRIAL.encode(), ON_TRIAL.encode()[:256] + bytes(256)]
    yield "two with one number", [ON_TRIAL.encode(), replace(ON_TRIAL, first="A", left=(1, 2)).encode()]
    yield "hexadecimal numbers", [replace(ON_TRIAL, serial=0xF).encode(), replace(ON_TRIAL, serial=0x10).encode()]
    yield "large numbers", [replace(ON_TRIAL, serial=serial).encode() for serial in (0xFFFFFFFE, 0x7FFFFFFF)]
    for number in range(AT_RANDOM):
        drawn = [_record(draw) for _ in RECORD_SECTORS]
        yield f"at random {number}", [record.encode() for record in drawn]


def _record(draw: random.Random) -> Record:
    return Record(
        serial=draw.randrange(1 << 9),
        first=draw.choice(slots.SLOTS),
        left=(draw.randrange(TRIES + 1) * draw.randrange(2), draw.randrange(TRIES + 1) * draw.randrange(2)),
        good=draw.choice(slots.SLOTS),
        trial=draw.choice(["", *slots.SLOTS]),
        failed=draw.choice(["", "0123456789abcdef"]),
        known=frozenset(draw.sample(sorted(slots.OWN_FAULTS), 3)),
    )


def differences(card: Card, start: Callable[..., str]) -> Iterator[str]:
    """What U-Boot does otherwise than its model.

    :param card: one of which nothing starts
    :param start: has U-Boot start it, ``writable`` or not, and returns what it said
    """
    for name, sectors in pairs():
        _put(card, sectors)
        record, index = newest(sectors)
        wanted = choose(record)
        tried = _tried(start(writable=True))
        trial = wanted.on_trial
        if tried != [(slot, trial) for slot in wanted.slots]:
            yield f"{name}: it tries {tried} and not {wanted}"
        if card.record() != wanted.record:
            yield f"{name}: it leaves {card.record()} and not {wanted.record}"
        if _sectors(card)[1 - index] != sectors[1 - index]:
            yield f"{name}: it wrote over the record that counted"
    # What takes nothing is never on trial, and both slots are tried at each start.
    _put(card, [ON_TRIAL.encode(), bytes(SECTOR_BYTES)])
    tried = _tried(start(writable=False))
    if tried != [("B", False), ("A", False), ("B", False)]:
        yield f"a card that takes nothing: it tries {tried}"


def _tried(said: str) -> list[tuple[str, bool]]:
    """The slots, in order, and whether the kernel would have been told that it is on trial."""
    lines = [line for line in said.splitlines() if line.startswith("Slot ") and ": left " in line]
    return [(line[5], "relay.trial=1" in line) for line in lines]


def _put(card: Card, sectors: list[bytes]) -> None:
    with card.path.open("r+b") as file:
        for sector, content in zip(RECORD_SECTORS, sectors, strict=True):
            file.seek(sector * SECTOR_BYTES)
            file.write(content)


def _sectors(card: Card) -> list[bytes]:
    found = []
    with card.path.open("rb") as file:
        for sector in RECORD_SECTORS:
            file.seek(sector * SECTOR_BYTES)
            found.append(file.read(SECTOR_BYTES))
    return found
