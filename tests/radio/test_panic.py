# SPDX-License-Identifier: GPL-2.0-or-later
"""A panic on a kernel's own FAT, ext4 and disk, with the plug pulled during it, and the start after that."""

import os
import re
import shutil
import struct
import subprocess
import time

import pytest

from relay.board.card import DISK_ID, MARK, MARK_SECTORS
from tests.fat32 import Fat32
from tests.guest.guest import Guest
from tests.radio.test_board import HOLD_S, SYSTEMCTL
from tests.waiting import wait_until

DRIVE, DATA = "/dev/ubda1", "/dev/ubda7"
SECTOR, MIB = 512, 1 << 20
FAT_AT, FAT_MIB = MIB, 24
DATA_AT, DATA_MIB = 31 * MIB, 32
SECRET = "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f"
RELAY_TOML = f"""\
[appliance]
mesh_secret = "{SECRET}00"
[board]
panic_hold_s = {HOLD_S}
[tcp]
discovery = false
"""
#: As editors, desktops and operators leave copies of it; `n` is another number each time.
PLANT = """
n=0
plant() { n=$((n + 1)); sed "s/%s../%s$(printf %%02d $n)/" /run/relay.toml > /run/planted; }
put() { plant; mkdir -p "$(dirname "$1")"; cp /run/planted "$1"; }
mount -t vfat %s /mnt
cp /run/relay.toml /mnt/relay.toml; mkdir -p /mnt/handbook; cp /run/own /mnt/handbook/own.html
put "/mnt/Copy of relay.toml"; put /mnt/.relay.toml.swp; put "/mnt/relay (1).toml"; put /mnt/relay.toml~
put /mnt/.Trashes/501/relay.toml; put '/mnt/$RECYCLE.BIN/S-1-5-21/$R1A2B3.toml'; put /mnt/.Trash-1000/files/relay.toml
put /mnt/old.toml; put /mnt/older.toml; put /mnt/dir/oldest.toml; sync
rm -r /mnt/old.toml /mnt/older.toml /mnt/dir
plant; { head -c 1100 /dev/zero; cat /run/planted; } > /mnt/long.txt; sync; truncate -s 800 /mnt/long.txt
plant; { head -c 300000 /dev/urandom; cat /run/planted; } > /mnt/app.apk
umount /mnt
mkdir -p /data; mount -t ext4 %s /data
put /data/ssh/ssh_host_ed25519_key; put /data/timesync/clock; put /data/mesh-relay/relay.key
plant; { head -c 5000000 /dev/urandom; cat /run/planted; } > /data/mesh-relay/store.sqlite
put /data/mesh-relay/gone; sync; rm /data/mesh-relay/gone; sync
echo $n
"""


class Disk:
    """A small card in a file of the host's: what reached it is what a pulled plug leaves."""

    def __init__(self, folder):
        self.path = folder / "disk"
        with self.path.open("wb") as file:
            file.truncate(DATA_AT + DATA_MIB * MIB)
        table = bytearray(SECTOR)
        struct.pack_into("<I", table, 440, DISK_ID)
        self._entry(table, 0, 0x0C, FAT_AT, FAT_MIB * MIB)
        first = FAT_AT + FAT_MIB * MIB
        self._entry(table, 3, 0x0F, first, DATA_AT + DATA_MIB * MIB - first)
        self._put(0, table)
        # Three logical partitions, each after a sector that describes it and the next.
        logical = [(first, 2 * MIB, MIB), (first + 3 * MIB, 2 * MIB, MIB)]
        logical.append((DATA_AT - MIB, DATA_MIB * MIB, MIB))
        for number, (at, size, gap) in enumerate(logical):
            described = bytearray(SECTOR)
            self._entry(described, 0, 0x93, gap, size)
            if number + 1 < len(logical):
                following = logical[number + 1][0]
                self._entry(described, 1, 0x05, following - first, logical[number + 1][1] + gap)
            self._put(at, described)
        Fat32(self.path, FAT_MIB * 1000, offset=FAT_AT)
        data = folder / "data"
        with data.open("wb") as file:
            file.truncate(DATA_MIB * MIB)
        program = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin")
        subprocess.run([program, "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0", data], check=True)
        self._put(DATA_AT, data.read_bytes())

    @staticmethod
    def _entry(table, number, kind, start, size):
        """Of a partition table; bytes from the beginning of whatever it counts from."""
        place = 446 + 16 * number
        struct.pack_into("<B3sB3sII", table, place, 0, b"", kind, b"", start // SECTOR, size // SECTOR)
        table[510:512] = b"\x55\xaa"

    def _put(self, at, data):
        with self.path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def found(self):
        raw = self.path.read_bytes()
        return {int(number) for number in re.findall(SECRET.encode() + b"([0-9]{2})", raw)}

    def is_marked(self):
        with self.path.open("rb") as file:
            return MARK in [os.pread(file.fileno(), SECTOR, sector * SECTOR) for sector in MARK_SECTORS]


class Box:
    """A guest on that disk."""

    def __init__(self, parts, disk):
        self.disk = disk
        self.is_cut = False
        self.guest = Guest(parts, "box", memory_mib=256, arguments=(f"ubd0={disk.path}",))

    def __enter__(self):
        self.guest.__enter__()
        return self

    def __exit__(self, *_):
        if self.is_cut:
            shutil.rmtree(self.guest.folder)
        else:
            self.guest.close()

    def cut(self):
        """Pull the plug."""
        self.guest.kill()
        self.is_cut = True

    def relay(self):
        """Plant, and start the board; return how many copies there are."""
        guest = self.guest
        guest.write("/usr/local/bin/systemctl", SYSTEMCTL)
        guest.write("/run/relay.toml", RELAY_TOML)
        guest.write("/run/own", "the image's own\n")
        guest.sh("chmod 755 /usr/local/bin/systemctl; mkdir -p /mnt /run/systemd")
        count = int(guest.sh(PLANT % (SECRET, SECRET, DRIVE, DATA)).split()[-1])
        guest.sh(
            "mkdir -p /run/share /run/mesh-relay-board; mount --bind /run/share /usr/share/misc;"
            f"python3 -m relay appliance apply --boot-device {DRIVE}"
        )
        config = "/run/mesh-relay-config/relay.toml"
        given = {"CREDENTIALS_DIRECTORY": "/run/mesh-relay-config"}
        self.board = guest.python("-m", "relay", "board", "--config", config, "--boot-device", DRIVE, env=given)
        wait_until(
            "the board is up",
            lambda: guest.run("test", "-S", "/run/mesh-relay-board/board.sock", check=False).code == 0,
            30,
        )
        return count

    def panic(self):
        self.guest.start_process("python3", "-m", "relay", "board", "panic", "--sure")


@pytest.mark.lasts(60)
@pytest.mark.timeout(300)
def test_nothing_is_found_after_a_panic_nor_after_the_start_that_went_on_with_one(parts, tmp_path):
    disk = Disk(tmp_path)
    with Box(parts, disk) as box:
        count = box.relay()
        assert count >= 16
        assert disk.found() == set(range(count + 1)), "the control: each of them can be found"
        box.panic()
        wait_until("it begins", disk.is_marked, 30, pause_s=0.01)
        began = time.monotonic()
        wait_until("settings and keys are gone", lambda: not disk.found() & {0, 1, 2, 3, 4, 13, 15}, 30, pause_s=0.01)
        print(f"settings and keys gone after {time.monotonic() - began:.2f} s")
        wait_until("it is over", lambda: "poweroff --force" in box.guest.sh("cat /run/systemctl.log"), 60)
        assert disk.found() == set(), box.board.output
        assert not disk.is_marked()

    cut = Disk(tmp_path)
    with Box(parts, cut) as box:
        box.relay()
        box.panic()
        wait_until("it begins", cut.is_marked, 30, pause_s=0.005)
        box.cut()
    assert cut.is_marked()
    assert cut.found(), "the control: an erase that is forgotten leaves some"
    with Box(parts, cut) as box:
        box.guest.sh(f"python3 -m relay appliance finish-panic --boot-device {DRIVE}")
        assert cut.found() == set()
        assert not cut.is_marked()
        said = box.guest.sh(f"python3 -m relay appliance apply --boot-device {DRIVE} 2>&1")
        assert "this start finished it" in said
        box.guest.sh(f'mkdir -p /mnt; mount -t vfat {DRIVE} /mnt; test -z "$(ls -A /mnt)"; touch /mnt/new; umount /mnt')
