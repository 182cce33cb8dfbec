# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay appliance data`: the partition for data, made, erased or checked, and mounted, at each start.

The first of ours to run, as root, before anything else is mounted. An erase that began and was interrupted
(relay.board.panic) goes on before all that. Then what is wanted meets what is there:

=========== ======================= ============================ ==========================
wanted      nothing, or amnesic     a file system, or damaged    a LUKS volume
=========== ======================= ============================ ==========================
amnesic     made with a fresh key   erased, then made            erased, then made
volatile    left as it is           erased                       erased
by default  made with a fresh key   left, and told               left, and told
plain       made                    checked and used [#]_        left, and told
durable     to be made, and told    left, and told               to be opened, and told
a mistake   left as it is           left, and told               left, and told
=========== ======================= ============================ ==========================

Only who writes, without a mistake, that nothing is kept, has something erased.

.. [#] What takes no writes is only read; what is none of a relay's, by its first blocks, is left, and told.

The plug may be pulled at any moment. So a plain file system comes first, in a partition that only the running kernel
knows of, and the table on the card last: a partition that is found at a start has a complete file system in it, or a
first sector that says what is in it. What e2fsck cannot mend is made anew; the data on it were lost already, and a
relay without its store is worth more than none.
"""

from __future__ import annotations

import ctypes
import enum
import fcntl
import json
import logging
import os
import pwd
import struct
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.appliance import apply
from relay.appliance.constants import BOOT_STATUS, DATA
from relay.appliance.data_state import DataState, Trouble
from relay.board import mapping, panic
from relay.board.card import AMNESIC, BLANK, BOOT_PARTITION, DATA_PARTITION, SECTOR_BYTES, Card, find_card
from relay.board.device import Device, Part
from relay.board.ext4 import LUKS_MAGIC, is_ext4
from relay.board.fat import drop_torn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.appliance.plan import Facts, Plan

logger = logging.getLogger(__name__)

ALIGN_SECTORS: Final = 2048
#: An MBR has 32 bits for a sector's number.
MAX_SECTORS: Final = 2**32 - 1
#: Before what is encrypted: the sector that says so, and no file system has its own first sectors there.
HEADER_BYTES: Final = ALIGN_SECTORS * SECTOR_BYTES
#: An inode per MiB: the store is one file of any size, and the tables of a 32 GB card take 8 MiB, not 500.
_MKFS: Final = ("mke2fs", "-q", "-F", "-t", "ext4", "-T", "largefile", "-m", "1")
#: All of that is written now, not bit by bit by the kernel later: an idle relay writes nothing.
_KEPT_FS: Final = ("-J", "size=16", "-E", "lazy_itable_init=0,root_owner=0:0")
#: After a power cut nobody opens it again, so it has no journal to be mended by; and tables of inodes are not written
#: before they are used (mounted with noinit_itable, not afterwards either): a start writes a MiB, not 24.
_LOST_FS: Final = ("-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0")
#: What the relay writes to the drive, and by which short names it is known where the power failed between the two.
STATUS_NAMES: Final = frozenset(
    {BOOT_STATUS, f"{BOOT_STATUS}.new", "relay-~1.txt", "relay-~2.txt", "relay-~1.new", "relay-~2.new"}
)
#: Of which nothing is not zero where nobody wrote yet.
_LOOK_BYTES: Final = 64 << 10
#: linux/blkpg.h
_BLKPG: Final = 0x1269
_BLKPG_ADD_PARTITION: Final = 1
#: No access times: reading writes nothing.
MOUNT_OPTIONS: Final = "noatime,nosuid,nodev,noexec,errors=remount-ro"
#: e2fsck: 0 is clean, 1 and 2 are mended.
_FSCK_MENDED: Final = 2


class Kept(enum.Enum):
    """What is on the partition."""

    NOTHING = "nothing"
    #: Encrypted with a key that is gone, or of this start.
    AMNESIC = "amnesic"
    PLAIN = "plain"
    DURABLE = "durable"
    #: A file system that was damaged, perhaps.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder on the partition, its owner, and where it is looked for."""

    name: str
    owner: str
    seen_at: Path


#: In every mode: the store, with `relay.key` where there is one.
STORE: Final = Folder(name="mesh-relay", owner="root", seen_at=Path("/var/lib/private/mesh-relay"))
#: Kept in the clear only where all is: the time of the last look at a clock, and the key by which SSH knows this box.
PLAIN_ONLY: Final = (
    Folder(name="timesync", owner="systemd-timesync", seen_at=Path("/var/lib/systemd/timesync")),
    Folder(name="ssh", owner="root", seen_at=Path("/var/lib/mesh-relay-ssh")),
)


def prepare(facts: Facts) -> DataState:
    """Do all of it; return what became of it. Raises nothing that the card is the reason of."""
    card = find_card()
    if card is None:
        return DataState(trouble=Trouble.UNUSABLE)
    if card.is_marked() and panic.go_on(card):
        # The relay works from memory, and says why (relay.appliance.plan).
        return DataState(trouble=Trouble.UNUSABLE)
    with suppress(OSError):
        if torn := drop_torn(card.boot, STATUS_NAMES):
            logger.warning("the power failed while relay-status.txt was written: %d of it taken away", torn)
    was_closed = card.was_closed()
    plan = _read_plan(card, replace(facts, data=DataState(was_closed=was_closed)))
    if plan.closed is not None:
        card.remember_closed(closed=plan.closed)
    try:
        state = _prepare(card, plan.storage, forgets=plan.forgets)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("the partition for data cannot be used (%s)", error)
        state = DataState(trouble=Trouble.UNUSABLE)
    return replace(state, was_closed=was_closed)


def _read_plan(card: Card, facts: Facts) -> Plan:
    # find_card took none for ours that has not this one.
    device = node(card, BOOT_PARTITION) or card.disk
    try:
        with apply.mounted(device) as folder:
            return apply.read_plan(folder, facts)
    except apply.BootPartitionError as error:
        return apply.unreadable_plan(error, facts)


def _prepare(card: Card, wanted: str | None, *, forgets: bool) -> DataState:
    """``wanted`` and ``forgets``: as of Plan."""
    device = node(card, DATA_PARTITION)
    kept = Kept.NOTHING if device is None or card.data is None else what_is_kept(card.data)
    if not forgets and kept not in _USED[wanted]:
        # Neither used nor erased, as nobody said so.
        return DataState(trouble=Trouble.DURABLE_KEPT if kept is Kept.DURABLE else Trouble.PLAIN_KEPT)
    if wanted is None:
        return DataState()
    forgot = False
    if kept not in _USED[wanted]:
        logger.warning("erasing what was kept before")
        with panic.flickering():
            if card.data is None or not panic.erase_data(card.data):
                return DataState(trouble=Trouble.RESISTS)
        kept, forgot = Kept.NOTHING, True
    if wanted == "volatile":
        return DataState(forgot=forgot)
    if wanted == "plain" and kept is Kept.UNKNOWN and device is not None and is_foreign(device):
        return DataState(trouble=Trouble.FOREIGN)
    if device is None:
        device = make_partition(card.disk, plain=wanted == "plain")
        kept = Kept.PLAIN if wanted == "plain" else Kept.NOTHING
    if wanted == "durable":
        return DataState(trouble=Trouble.LOCKED if kept is Kept.DURABLE else Trouble.UNMADE)
    if wanted == "plain":
        use(device, (STORE, *PLAIN_ONLY), is_made=kept in {Kept.PLAIN, Kept.UNKNOWN})
    else:
        mount(_make_amnesic(device), f"{MOUNT_OPTIONS},noinit_itable", (STORE,))
    return DataState(size_bytes=apply.size_of(DATA), forgot=forgot)


_FREE: Final = frozenset({Kept.NOTHING, Kept.AMNESIC})
#: What may be there for each mode; a file system that was damaged is mended, or made anew.
_USED: Final = {
    None: _FREE,
    "amnesic": _FREE,
    "volatile": _FREE,
    "plain": _FREE | {Kept.PLAIN, Kept.UNKNOWN},
    "durable": _FREE | {Kept.DURABLE},
}


def what_is_kept(data: Part) -> Kept:
    """What the first blocks say. Raise OSError."""
    with Device(data) as device:
        head = device.read(0, SECTOR_BYTES)
        if head == BLANK or not any(device.read(0, min(device.size, _LOOK_BYTES))):
            return Kept.NOTHING
        if head == AMNESIC:
            return Kept.AMNESIC
        if head.startswith(LUKS_MAGIC):
            return Kept.DURABLE
        return Kept.PLAIN if is_ext4(device) else Kept.UNKNOWN


def node(card: Card, number: int) -> Path | None:
    """The device of a partition, if there is such a one; the kernel makes it by itself."""
    for entry in Path("/sys/class/block", card.disk.name).glob("*/partition"):
        if int(entry.read_text()) == number:
            return card.disk.with_name(entry.parent.name)
    return None


def _make_amnesic(device: Path) -> Path:
    with Device(Part(path=device)) as opened:
        if opened.read(0, SECTOR_BYTES) != AMNESIC:
            opened.write(0, AMNESIC)
            opened.sync()
    cipher = mapping.best_cipher(Path("/proc/cpuinfo").read_text())
    mapped = mapping.map_with_fresh_key(device, HEADER_BYTES, cipher)
    _run(*_MKFS, *_LOST_FS, mapped)
    return mapped


def _make_plain(device: Path) -> None:
    _run(*_MKFS, *_KEPT_FS, device)
    # The first sector is no part of it, and may say that there is none.
    with Device(Part(path=device)) as opened:
        opened.write(0, bytes(SECTOR_BYTES))
        opened.sync()
    os.sync()


def make_partition(disk: Path, *, plain: bool) -> Path:
    """Make a partition behind all that there is; return its device. ``plain``: with a file system."""
    table = json.loads(_run("sfdisk", "--json", disk))["partitiontable"]
    end = min(_number(Path("/sys/class/block", disk.name, "size")), MAX_SECTORS)
    lines = [f"label: dos\nlabel-id: {table['id']}\nunit: sectors"]
    free = 0
    for entry in table["partitions"]:
        size = entry["size"]
        if entry["type"] in ("f", "5"):
            size = end - entry["start"]
        else:
            free = max(free, entry["start"] + size)
        bootable = ", bootable" if entry.get("bootable") else ""
        lines.append(f"{entry['node']}: start={entry['start']}, size={size}, type={entry['type']}{bootable}")
    start = -(-free // ALIGN_SECTORS) * ALIGN_SECTORS + ALIGN_SECTORS
    size = (end - start) // ALIGN_SECTORS * ALIGN_SECTORS
    if size < ALIGN_SECTORS:
        raise OSError("the card has no room behind the image")
    _tell_kernel(disk, start, size)
    found = [
        entry for entry in Path("/sys/class/block", disk.name).glob("*/partition") if _number(entry) == DATA_PARTITION
    ]
    if not found:
        raise OSError("the kernel does not see the new partition")
    device = disk.with_name(found[0].parent.name)
    if plain:
        _make_plain(device)
    else:
        # Whatever another use of this card left there.
        with Device(Part(path=device)) as opened:
            opened.write(0, BLANK + bytes(ALIGN_SECTORS * SECTOR_BYTES - len(BLANK)))
            opened.sync()
    lines.append(f"start={start}, size={size}, type=93")
    quiet = ("--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never")
    _run("sfdisk", *quiet, disk, text="\n".join(lines) + "\n")
    os.sync()
    return device


def _tell_kernel(disk: Path, start: int, size: int) -> None:
    """Add the partition to those the kernel knows; ``start`` and ``size`` in sectors. See linux/blkpg.h."""
    told = ctypes.create_string_buffer(
        struct.pack("@qqi64s64s", start * SECTOR_BYTES, size * SECTOR_BYTES, DATA_PARTITION, b"", b"")
    )
    argument = struct.pack("@iiiP", _BLKPG_ADD_PARTITION, 0, len(told), ctypes.addressof(told))
    descriptor = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _BLKPG, argument)
    finally:
        os.close(descriptor)


def use(device: Path, folders: Sequence[Folder], *, is_made: bool) -> None:
    """Mount what keeps messages, mended or made anew if need be; raise OSError or SubprocessError.

    What takes no writes any more, as worn cards do, is not mended and nothing is made of it: it is read, and what it
    holds goes to memory (relay.run.storing).
    """
    if is_made and not is_writable(device):
        logger.warning("the partition for data takes no writes, and is read only")
        mount(device, f"ro,noload,{MOUNT_OPTIONS}", folders)
        return
    check(device, is_made=is_made)
    mount(device, MOUNT_OPTIONS, folders)


def is_writable(device: Path) -> bool:
    """Whether it takes a write; what is written is what is there."""
    try:
        with Device(Part(path=device)) as opened:
            opened.write(0, opened.read(0, SECTOR_BYTES))
            opened.sync()
    except OSError:
        return False
    return True


def is_foreign(device: Path) -> bool:
    """Whether there is something that others know by its first blocks, and that no relay makes."""
    # With nothing to say it fails.
    command = ("blkid", "--probe", "--match-tag", "TYPE", "--output", "value", str(device))
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603 - fixed words
    return bool(found) and not found[0].startswith("ext")


def check(device: Path, *, is_made: bool) -> None:
    """Mend a plain file system, or make it anew where there is none."""
    if is_made:
        if _status("e2fsck", "-p", device) <= _FSCK_MENDED or _status("e2fsck", "-f", "-y", device) <= _FSCK_MENDED:
            return
        logger.warning("the partition for data was beyond repair and is made anew")
    _make_plain(device)


def mount(device: Path, options: str, folders: Sequence[Folder]) -> None:
    """Mount it, and each of its folders where it is looked for.

    Not in /etc/fstab: services would require the mounts, and without its card's
    last partition a relay still relays, from memory.
    """
    _run("mount", "-t", "ext4", "-o", options, device, DATA)
    for folder in folders:
        place = DATA / folder.name
        if not place.exists():
            # Of one that is only read it is not made, and not missed.
            if os.statvfs(DATA).f_flag & os.ST_RDONLY:
                continue
            account = pwd.getpwnam(folder.owner)
            place.mkdir(mode=0o700)
            os.chown(place, account.pw_uid, account.pw_gid)
        folder.seen_at.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", place, folder.seen_at)


def _number(file: Path) -> int:
    return int(file.read_text())


def _run(*command: str | Path, text: str | None = None) -> str:
    done = subprocess.run(  # noqa: S603 - fixed words
        [str(word) for word in command], check=True, stdout=subprocess.PIPE, input=text, text=True
    )
    return done.stdout


def _status(*command: str | Path) -> int:
    return subprocess.run([str(word) for word in command], check=False).returncode  # noqa: S603 - fixed words
