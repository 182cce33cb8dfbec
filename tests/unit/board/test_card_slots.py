# SPDX-License-Identifier: GPL-2.0-or-later
"""Slots on a card that is a file: copied, cut off anywhere, gone on with; and what is no copy."""

import os
from types import MappingProxyType

import pytest

from image.layout import SECTOR_BYTES, layout
from relay.board import card_slots, panic, slots
from relay.board.card import OWN_SECTOR, Card, pack_own
from relay.board.card_slots import CardSlots, NoSlotsError
from relay.board.device import Device, Part
from relay.board.manifest import HEAD_BYTES, PIECE_BYTES, Head, Manifest, RefusedError
from relay.board.manifest import Part as Described
from tests.unit.board.conftest import PowerCutError

MIB = 1 << 20
#: Partitions of the card: MESH-RELAY, two for kernels, two for roots; start and size in MiB.
PARTS = {1: (1, 1), 2: (2, 3), 3: (5, 3), 5: (8, 5), 6: (13, 5)}
BOOT = os.urandom(MIB + 4096)
ROOT = os.urandom(MIB + 100 * 4096)


def described(boot, root, **changes):
    def part(data):
        return Described.of(data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))

    values = {"board": "test", "version": "1.0", "built": 1000, "boot": part(boot), "root": part(root)} | changes
    return Head(manifest=Manifest(**values))


def source_of(data):
    return lambda offset, length: data[offset : offset + length]


def always():
    return True


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card"
    path.write_bytes(b"")
    os.truncate(path, 18 * MIB)
    parts = {number: Part(path=path, start=at * MIB, size=size * MIB) for number, (at, size) in PARTS.items()}
    made = Card(disk=path, boot=parts[1], data=None, parts=MappingProxyType(parts), root=5)
    CardSlots(made)["A"].write(described(BOOT, ROOT), source_of(BOOT + ROOT), always)
    return made


def content(card, slot):
    boot, root = (card.parts[number] for number in card_slots.PARTITIONS[slot])
    with Device(boot) as one, Device(root) as two:
        return one.read(0, len(BOOT)), two.read(0, len(ROOT))


def copy(card):
    """As `relay slot` does it."""
    found = CardSlots(card)
    head = found["A"].head()
    found.remember(slots.emptied(found.record(), "B"))
    with found["A"].reading(head.manifest) as source:
        wrote = found["B"].write(head, source, always)
    found.remember(slots.filled(found.record(), "B"))
    return wrote


def test_the_partitions_are_the_images():
    numbers = {label: layout()[label].number for label in ("BOOT_A", "ROOT_A", "BOOT_B", "ROOT_B")}
    assert {slot: (numbers[f"BOOT_{slot}"], numbers[f"ROOT_{slot}"]) for slot in slots.SLOTS} == card_slots.PARTITIONS
    assert all(part.start > max(slots.RECORD_SECTORS) for part in layout().partitions)
    assert layout()["ROOT_A"].size * SECTOR_BYTES // PIECE_BYTES * 67 < HEAD_BYTES


def test_a_copy_is_whole_and_is_not_made_twice(card):
    assert copy(card) == len(BOOT) + len(ROOT) + HEAD_BYTES
    assert content(card, "B") == (BOOT, ROOT)
    found = CardSlots(card)
    assert found["B"].head() == found["A"].head()
    assert found["B"].name() == found["A"].name() != ""
    assert found.record().left[1] == slots.TRIES
    assert copy(card) == 0


def wipe(card):
    """As on a fresh card."""
    for part in (card.parts[3], card.parts[6], Part(path=card.disk, start=512, size=MIB - 512)):
        with Device(part) as device:
            device.write(0, bytes(part.size))


def test_cut_at_any_write_it_is_gone_on_with_and_no_slot_half_full_ever_starts(card, cut):
    sizes = [length for part in (BOOT, ROOT) for length in piece_sizes(part)]
    # Its head goes, its pieces, its head (of which half is enough: then come zeros), the record.
    last = 1 + len(sizes) + 1 + 1
    for writes in range(last + 1):
        wipe(card)
        cut(writes)
        if writes < last:
            with pytest.raises(PowerCutError):
                copy(card)
        else:
            copy(card)
        cut(1 << 30)
        found = CardSlots(card)
        assert found.record().tries("B") == (slots.TRIES if writes == last else 0)
        assert (found["B"].name() != "") == (writes >= last - 2)
        assert content(card, "A") == (BOOT, ROOT)
        assert copy(card) == sum(sizes[max(0, writes - 1) :]) + HEAD_BYTES * (writes < last - 2)
        assert content(card, "B") == (BOOT, ROOT)
        assert CardSlots(card).record().tries("B") == slots.TRIES


def piece_sizes(part):
    return [min(PIECE_BYTES, len(part) - at) for at in range(0, len(part), PIECE_BYTES)]


def test_the_record_is_whole_wherever_its_writing_is_cut(card, cut):
    found = CardSlots(card)
    for tries in (3, 2, 1, 3, 2):
        before = found.record()
        cut(0)
        with pytest.raises(PowerCutError):
            found.remember(before.with_tries("A", tries % 3))
        cut(1 << 30)
        assert found.record() == before
        found.remember(before.with_tries("A", tries % 3))
        assert found.record().tries("A") == tries % 3
        assert found.record().serial == before.serial + (before.tries("A") != tries % 3)


def test_what_says_nothing_new_is_not_written(card):
    found = CardSlots(card)
    found.remember(slots.choose(found.record()).record)
    before = card.disk.read_bytes()
    found.remember(found.record())
    assert card.disk.read_bytes() == before


@pytest.mark.parametrize("at", [0, len(BOOT) - 1, len(BOOT), len(BOOT) + len(ROOT) - 1])
def test_of_a_damaged_slot_nothing_is_copied_that_is_not_what_it_was(card, at):
    part, at = (card.parts[2], at) if at < len(BOOT) else (card.parts[5], at - len(BOOT))
    with Device(part) as device:
        device.write(at, bytes([device.read(at, 1)[0] ^ 1]))
    with pytest.raises(RefusedError, match="damaged"):
        copy(card)
    assert CardSlots(card).record().tries("B") == 0


def test_a_card_that_takes_something_else_than_it_is_given_is_found_out(card, monkeypatch):
    write = Device.write
    monkeypatch.setattr(Device, "write", lambda self, offset, data: write(self, offset, data[:-1] + b"\0"))
    with pytest.raises(RefusedError, match="cannot be written"):
        copy(card)


def test_what_of_the_drive_is_the_images_is_known_by_the_card_whatever_software_runs(card, tmp_path):
    """Else panic after an update would write over the firmware."""
    root = tmp_path / "root"
    root.mkdir()
    (root / panic.OWN_FILES).write_text(f"{'b' * 64}  u-boot.bin\n")
    assert panic.read_own(card, root).digests == {"u-boot.bin": "b" * 64}
    with Device(Part(path=card.disk)) as device:
        device.write(OWN_SECTOR * SECTOR_BYTES, pack_own(f"{'a' * 64}  u-boot.bin\n" * 2000))
    assert panic.read_own(card, root).digests == {"u-boot.bin": "a" * 64}
    with Device(Part(path=card.disk)) as device:
        device.write((OWN_SECTOR + 2) * SECTOR_BYTES, b"?")
    assert panic.read_own(card, root).digests == {"u-boot.bin": "b" * 64}
    with pytest.raises(ValueError, match="too long"):
        pack_own("x" * 300_000)


def test_whoever_stops_it_goes_on_later(card):
    left = [3]

    def go_on():
        left[0] -= 1
        return left[0] >= 0

    found = CardSlots(card)
    head = found["A"].head()
    with found["A"].reading(head.manifest) as source:
        assert found["B"].write(head, source, go_on) is None
    assert found["B"].name() == ""
    assert 0 < copy(card) < len(BOOT) + len(ROOT)


@pytest.mark.parametrize("changes", [{"root": None}, {"root": 7}, {"parts": MappingProxyType({})}])
def test_a_machine_without_slots_is_told_so(card, changes):
    values = {"disk": card.disk, "boot": card.boot, "data": None, "parts": card.parts, "root": 5} | changes
    with pytest.raises(NoSlotsError):
        CardSlots(Card(**values))
