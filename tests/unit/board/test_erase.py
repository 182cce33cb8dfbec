# SPDX-License-Identifier: GPL-2.0-or-later
"""What a panic leaves of a card, at whatever moment it is cut off."""

import hashlib
import os
import re
import shutil
import struct
import subprocess

import pytest

from image.layout import DISK_ID as IMAGE_ID
from image.layout import layout
from relay.board import card as cards
from relay.board import panic
from relay.board.card import (
    AMNESIC,
    BLANK,
    BOOT_PARTITION,
    CLOSED_SECTOR,
    DATA_PARTITION,
    MARK_SECTORS,
    Card,
    find_card,
)
from relay.board.device import Device, Part, merged
from relay.board.ext4 import ever_written
from relay.board.fat import ANY, Own, drop_torn, overwrite_small
from tests.fat32 import Fat32
from tests.unit.board.conftest import PowerCutError
from tests.waiting import wait_until

#: In whatever is to be gone; each copy has a number of its own.
SECRET = b"5ec7e7c0ffee"
#: What belongs to a box: the same in each copy of it, and found by it.
CLUSTERS = 3000


def planted(number):
    return SECRET + b"%02d" % number


def settings(number):
    """A relay.toml with a secret, of less than a cluster."""
    return b'mesh_secret = "' + planted(number) + b'"\n' + b"# more\n" * 40


BOOT = {
    "u-boot.bin": os.urandom(20_000),
    "config.txt": b"arm_64bit=1\n" * 20,
    "overlays/relay-light.dtbo": b"tree" * 100,
    "handbook/handbook-en.html": b"<html>" * 500,
    "shelf/_what-belongs-here.txt": b"Files in this folder\r\n",
    "ab.env": b"counter=3\n",
}
OWN = Own(
    digests={path: hashlib.sha256(data).hexdigest() for path, data in BOOT.items()} | {"ab.env": ANY},
    restored={"config.txt": BOOT["config.txt"]},
)
#: What desktops and editors leave beside and instead of a file, and where they leave it.
BESIDE = (
    "relay.toml", "Copy of relay.toml", ".relay.toml.swp", "relay (1).toml", "relay.toml~", "RELAY.TXT",
    ".Trashes/501/relay.toml", "$RECYCLE.BIN/S-1-5-21/$R1A2B3.toml", ".Trash-1000/files/relay.toml",
    "System Volume Information/IndexerVolumeGuid", ".fseventsd/0000000000a1", "notes/who has a card.txt",
)  # fmt: skip


class Disk:
    """A card in a file: MESH-RELAY with what the image brings along, and a partition for data."""

    def __init__(self, folder):
        self.drive = folder / "drive"
        self.data = folder / "data"
        self.whole = folder / "disk"
        self.whole.write_bytes(bytes(2048 * 512))
        self.drive.write_bytes(b"")
        self.fat = Fat32(self.drive, CLUSTERS)
        os.truncate(self.drive, self.fat.size + 3000)
        for path, data in BOOT.items():
            self.fat.write(path, data)
        self.data.write_bytes(bytes(100_000))
        self.card = Card(disk=self.whole, boot=Part(path=self.drive), data=Part(path=self.data))

    def plant(self):
        """Copies of a secret everywhere; return how many there are."""
        fat = self.fat
        number = 0
        for path in BESIDE:
            fat.write(path, settings(number := number + 1))
        # Behind the end of a file of the image's, and of settings that were longer once.
        fat.put(fat.at(fat._find(2, "u-boot.bin")[1]) + 20_000 + 100, planted(number := number + 1))
        fat.write("relay.old.toml", b"[appliance]\n".ljust(500) + settings(number := number + 1))
        fat.shorten("relay.old.toml", b"[appliance]\n")
        # In sectors without a meaning, and behind the end of the file system.
        fat.put(20 * 512, planted(number := number + 1))
        fat.put(fat.size + 1000, planted(number := number + 1))
        # Under a name of the image's, with another content.
        for path in ("handbook/handbook-en.html", "config.txt"):
            fat.delete(path)
            fat.write(path, (b"# " + planted(number := number + 1) + b"\n").ljust(4000, b"."))
        fat.write("shelf/map.pdf", planted(number := number + 1) + os.urandom(200_000))
        # In free clusters, small and large.
        deleted = {"old.toml": 0, "a large one": 90_000, "relay-2.toml": 0, "notes/many.toml": 5000}
        for path, size in deleted.items():
            fat.write(path, settings(number := number + 1).rjust(size, b"."))
        for path in deleted:
            fat.delete(path)
        return number

    def found(self):
        """Numbers of the copies that anybody finds who reads all of it."""
        raw = self.drive.read_bytes() + self.data.read_bytes()
        return {int(two) for two in re.findall(re.escape(SECRET) + b"([0-9]{2})", raw)}

    def names(self):
        """Beginnings of long names that nobody should find."""
        raw = self.drive.read_bytes()
        return [name for name in ("who h", "$R1A2", ".rela", "old.t") if name.encode("utf-16-le") in raw]


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


def erase(disk):
    assert disk.card.mark()
    return panic.finish(disk.card, OWN)


def test_of_all_that_people_leave_on_the_drive_nothing_is_found(disk):
    count = disk.plant()
    assert disk.found() == set(range(1, count + 1)), "each copy is there, and seen"
    assert count >= 13
    assert len(disk.names()) == 4
    assert erase(disk) == ()
    assert disk.found() == set()
    assert disk.names() == []
    assert not disk.card.is_marked()


def test_the_board_still_starts_from_it(disk):
    disk.plant()
    erase(disk)
    kept = {name: data for name, data in BOOT.items() if name != "handbook/handbook-en.html"}
    assert disk.fat.files() == kept
    assert disk.fat.label() == b"MESH-RELAY "
    # And takes files again.
    disk.fat.write("relay.toml", settings(1))
    assert disk.fat.files()["relay.toml"] == settings(1)


def test_a_renamed_drive_is_erased_and_has_its_name_again(tmp_path):
    disk = Disk(tmp_path)
    disk.drive.write_bytes(b"")
    disk.fat = Fat32(disk.drive, CLUSTERS, label=b"CAMP NORTH")
    os.truncate(disk.drive, disk.fat.size)
    disk.fat.write("relay.toml", settings(1))
    assert disk.found() == {1}
    assert erase(disk) == ()
    assert disk.found() == set()
    assert disk.fat.label() == b"MESH-RELAY "
    assert b"CAMP NORTH" not in disk.drive.read_bytes()


@pytest.mark.parametrize("ruin", [b"", b"\0" * 512, b"\xff" * 65536], ids=["no FAT", "no first sector", "noise"])
def test_a_drive_that_cannot_be_read_is_written_over_as_a_whole(disk, ruin):
    disk.plant()
    if ruin:
        disk.fat.put(0, ruin)
    else:
        disk.fat.put(17, b"\x00\x02")
    assert disk.found()
    assert erase(disk) == ()
    assert disk.found() == set()


def test_the_first_thing_to_be_gone_is_what_lets_somebody_in(disk):
    """Before anything large is written over, and in a moment: of each live and each deleted relay.toml."""
    large = os.urandom(500_000)
    disk.fat.write("shelf/large.apk", large)
    disk.plant()
    with Device(disk.card.boot) as device:
        assert overwrite_small(device, OWN) == 0
    left = disk.found()
    # Not yet: behind the end of the image's files, outside of the file system, under a name of the image's, and large.
    assert left == {13, 15, 16, 17, 18, 19, 21}
    assert disk.fat.files()["shelf/large.apk"] == large


def writes_of(disk, monkeypatch):
    """How many writes an erase takes."""
    count = [0]
    write = Device.write

    def counting(self, offset, data):
        count[0] += 1
        write(self, offset, data)

    monkeypatch.setattr(Device, "write", counting)
    erase(disk)
    monkeypatch.undo()
    return count[0]


@pytest.mark.tools
def test_cut_off_after_any_write_the_next_start_finishes_it(tmp_path, monkeypatch, cut):
    disk = Disk(tmp_path)
    count = disk.plant()
    make_ext4(disk.data, 4 << 20)
    before = disk.drive.read_bytes(), disk.data.read_bytes()
    writes = writes_of(disk, monkeypatch)
    assert writes > 40
    marked = unfinished = 0
    for number in range(writes):
        disk.drive.write_bytes(before[0])
        disk.data.write_bytes(before[1])
        disk.whole.write_bytes(bytes(2048 * 512))
        cut(number)
        with pytest.raises(PowerCutError):
            erase(disk)
        monkeypatch.undo()
        unfinished += bool(disk.found())
        if not disk.card.is_marked():
            # Before the mark nothing was touched, and after the last of it there is nothing left to do.
            assert number <= 1 or disk.found() == set()
            assert number > 1 or len(disk.found()) == count
            continue
        marked += 1
        assert panic.finish(disk.card, OWN) == ()
        assert disk.found() == set(), f"cut off at write {number}"
        assert "u-boot.bin" in disk.fat.files(), f"cut off at write {number}"
        assert not disk.card.is_marked()
    assert marked > 35
    # The control: had the start not gone on, this is how often somebody would have found something.
    assert unfinished > 25


def test_settings_go_before_anything_else(disk, monkeypatch, cut):
    """And the control: in another order they are there when the plug is pulled at the same moment."""
    disk.plant()
    before = disk.drive.read_bytes()
    for is_there, step in (
        (True, lambda: panic.erase_drive(disk.card.boot, OWN)),
        (False, lambda: panic.finish(disk.card, OWN)),
    ):
        disk.drive.write_bytes(before)
        cut(6)
        with pytest.raises(PowerCutError):
            step()
        monkeypatch.undo()
        assert (1 in disk.found()) is is_there


#: e2fsprogs, for tests of the partition for data.
SYSTEM = "/usr/sbin:/sbin:/usr/bin"


def make_ext4(path, size=24 << 20):
    with path.open("wb") as file:
        file.truncate(size)
    program = shutil.which("mke2fs", path=SYSTEM)
    subprocess.run(
        [program, "-q", "-F", "-t", "ext4", "-b", "1024", "-g", "8192", "-E", "lazy_itable_init=0", path], check=True
    )


def debugfs(path, *commands):
    program = shutil.which("debugfs", path=SYSTEM)
    script = "\n".join(commands)
    done = subprocess.run([program, "-w", "-f", "-", path], input=script, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.tools
def test_all_that_was_ever_put_on_the_partition_for_data_goes(disk, tmp_path):
    make_ext4(disk.data)
    for number, name in enumerate(("host-key", "clock", "store.sqlite", "removed"), 1):
        (tmp_path / name).write_bytes(planted(number) * 1000)
        debugfs(disk.data, f"write {tmp_path / name} {name}")
    debugfs(disk.data, "rm removed")
    assert disk.found() == {1, 2, 3, 4}
    assert erase(disk) == ()
    assert disk.found() == set()
    assert disk.data.read_bytes().startswith(BLANK)


@pytest.mark.tools
def test_of_a_large_partition_only_what_was_used_is_written_over(disk, tmp_path):
    make_ext4(disk.data, 120 << 20)
    (tmp_path / "store.sqlite").write_bytes(planted(1) * 300_000)
    debugfs(disk.data, f"write {tmp_path / 'store.sqlite'} store.sqlite")
    with Device(disk.card.data) as device:
        ranges = ever_written(device)
        used = sum(length for _, length in ranges)
        # Whole groups of 8 MiB, of which newer e2fsprogs (1.47.2 for 1.47.0) takes into use by themselves some more.
        assert 4_200_000 < used < 80 << 20
        # None is there twice, and nothing is outside.
        assert sum(length for _, length in merged(ranges)) == used
        assert all(start >= 0 and start + length <= device.size for start, length in ranges)
    assert erase(disk) == ()
    assert disk.found() == set()


def test_of_an_encrypted_partition_the_keys_go_first(disk):
    disk.data.write_bytes(b"LUKS\xba\xbe" + planted(1).rjust(1 << 20) + os.urandom(20 << 20))
    with Device(disk.card.data) as device:
        # By the first block a start that goes on with it knows that the rest is noise.
        assert ever_written(device) == [(0, 4096), (4096, (16 << 20) - 4096)]
    assert panic.destroy_keys(disk.card)
    assert disk.found() == set()
    assert disk.data.read_bytes().startswith(b"LUKS")
    assert erase(disk) == ()
    assert disk.data.read_bytes().startswith(BLANK)


def test_what_nobody_has_the_key_of_is_not_written_over(disk):
    left = os.urandom(1 << 20)
    disk.data.write_bytes(AMNESIC.ljust(4096, b"\0") + left)
    assert erase(disk) == ()
    assert disk.data.read_bytes() == BLANK + disk.data.read_bytes()[512:4096] + left


def test_what_resists_is_said_and_tried_again(disk):
    disk.plant()
    resisting = Card(disk=disk.whole, boot=Part(path=disk.whole.with_name("none")), data=disk.card.data)
    assert resisting.mark()
    assert panic.finish(resisting, OWN) == (panic.DRIVE,)
    assert resisting.is_marked()
    assert panic.finish(disk.card, OWN) == ()


def test_a_sector_that_cannot_be_written_saves_no_other(disk, monkeypatch):
    disk.plant()
    bad = disk.fat.at(CLUSTERS - 40)
    write = Device.write

    def failing(self, offset, data):
        if offset <= bad < offset + len(data):
            raise OSError("no")
        write(self, offset, data)

    monkeypatch.setattr(Device, "write", failing)
    assert erase(disk) == (panic.DRIVE,)
    assert disk.found() == set()
    assert disk.card.is_marked()


@pytest.mark.parametrize("torn", ["free", "short", "shared", "whole"])
def test_of_what_the_relay_writes_nothing_stays_that_the_next_file_could_share(disk, torn):
    fat = disk.fat
    told, more = b"told " * 500, b"more " * 500
    fat.write("relay.toml", settings(1))
    fat.write("relay-status.txt", told)
    fat.write("relay-status.txt.new", more)
    slots, first, _ = fat._find(2, "relay-status.txt.new")
    if torn == "free":
        fat.table[first] = 0
    elif torn == "short":
        fat.table[first] = 0x0FFFFFFF
    elif torn == "shared":
        fat.put(slots[-1] + 26, struct.pack("<H", fat._find(2, "relay-status.txt")[1]))
    fat._flush()
    names = {"relay-status.txt", "relay-status.txt.new"}
    assert drop_torn(disk.card.boot, names) == (torn != "whole")
    assert drop_torn(disk.card.boot, names) == 0
    found = Fat32(disk.drive, CLUSTERS, opened=True)
    found.table = fat.table
    found = {name: data for name, data in found.files().items() if name.startswith("relay")}
    left = {"relay.toml": settings(1), "relay-status.txt": told}
    assert found == left | ({"relay-status.txt.new": more} if torn == "whole" else {})


def test_the_mark_is_believed_in_either_place(disk):
    disk.card.mark()
    for sector in MARK_SECTORS:
        with disk.whole.open("r+b") as file:
            file.seek(sector * 512)
            file.write(bytes(512))
        assert disk.card.is_marked() is (sector != MARK_SECTORS[-1])
        assert disk.card.is_marked() == (sector == MARK_SECTORS[0])


def test_a_start_that_goes_on_with_it_shows_that_on_the_light(tmp_path):
    led = tmp_path / "class/leds/ACT"
    led.mkdir(parents=True)
    for name, text in (("max_brightness", "1"), ("brightness", "0"), ("trigger", "none [mmc0]")):
        (led / name).write_text(text)

    def shown(text):
        wait_until(f"the light shows {text}", lambda: (led / "brightness").read_text() == text, 20, pause_s=0.01)

    with panic.flickering(tmp_path):
        for text in "1010":
            shown(text)
    assert (led / "brightness").read_text() == "0"
    # And is no reason to stop where there is none.
    with panic.flickering(tmp_path / "none"):
        pass


def fake_sys(folder, name, number, partitions):
    """A disk in /sys and /dev, as find_card looks for it."""
    disk = folder / "sys/devices" / name
    for part, minor in partitions.items():
        node = disk / f"{name}p{part}"
        node.mkdir(parents=True)
        for file, value in (("partition", part), ("start", 2048 * part), ("size", 2048)):
            (node / file).write_text(f"{value}\n")
        link = folder / f"sys/dev/block/7:{minor}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(node)
    dev = folder / "dev"
    dev.mkdir()
    table = bytearray(512)
    struct.pack_into("<I", table, 440, number)
    (dev / name).write_bytes(bytes(table))
    return folder / "sys", dev


@pytest.mark.parametrize(("number", "is_ours"), [(cards.DISK_ID, True), (0x12345678, False)])
def test_only_a_card_of_a_relay_is_one(tmp_path, number, is_ours, monkeypatch):
    sys, dev = fake_sys(tmp_path, "mmcblk0", number, {1: 1, 5: 5, 7: 7})
    monkeypatch.setattr(cards, "_partition", lambda _, sys: sys / "devices/mmcblk0/mmcblk0p5")
    found = find_card(sys=sys, dev=dev)
    if is_ours:
        parts = {number: Part(path=dev / "mmcblk0", start=number << 20, size=1 << 20) for number in (1, 5, 7)}
        assert found == Card(disk=dev / "mmcblk0", boot=parts[1], data=parts[7], parts=parts, root=5)
    else:
        assert found is None


def test_numbers_are_those_of_the_image():
    table = layout()
    assert cards.DISK_ID == IMAGE_ID
    assert table["MESH-RELAY"].number == BOOT_PARTITION
    assert max(MARK_SECTORS) < table["MESH-RELAY"].start
    assert table["MESH-RELAY"].start > CLOSED_SECTOR
    assert max(item.number for item in table.partitions) == DATA_PARTITION - 1
