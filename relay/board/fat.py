# SPDX-License-Identifier: GPL-2.0-or-later
"""The drive MESH-RELAY, put back to what the image brought along: all else on it is written over.

Below the file system (Microsoft, FAT: General Overview of On-Disk Format, and "Long filename specification"), as most
copies of a file that somebody edited have no name any more: they are in clusters that are free, behind the end of
files, and in what is left of names in folders. The image's own files stay where they are, so that a plug that is pulled
finds a card that starts at any moment, and goes on.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.appliance.constants import BOOT_CONFIG
from relay.board.device import Device, Range, merged

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from relay.board.device import Part

#: A digest that stands for any content: of files that the relay or U-Boot writes itself.
ANY: Final = "-"
#: What an operator edits, and copies that editors leave of it. 64 KiB is the most that relay.toml may have.
_SMALL_BYTES: Final = 64 << 10
_LABEL: Final = b"MESH-RELAY ".ljust(11)
_SLOT_BYTES: Final = 32
_DELETED, _END = 0xE5, 0x00
_FOLDER, _VOLUME, _LONG = 0x10, 0x08, 0x0F
_FREE, _BAD, _LAST = 0, 0x0FFFFFF7, 0x0FFFFFF8
_VALUE: Final = 0x0FFFFFFF
#: The bytes of a slot that has a piece of a long name.
_LONG_PIECES: Final = (slice(1, 11), slice(14, 26), slice(28, 32))
#: A drive of 2 TiB has more; ours, of 512 MiB, 512 KiB.
_MAX_TABLE_BYTES: Final = 32 << 20
#: In folders within folders; what goes on for longer is a circle.
_MAX_DEPTH: Final = 16


class NotFat32Error(Exception):
    """There is no such file system, or what it says of itself cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What the image brought along: SHA-256 in hexadecimal digits, or ANY, by path, in small letters with slashes.

    ``restored``: what is written into files of these paths if they have another content.
    """

    digests: Mapping[str, str]
    restored: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """``slots``: offsets of all that belongs to it, its own last. ``path``: in small letters, with its folders."""

    path: str
    slots: tuple[int, ...]
    first: int
    size: int
    is_folder: bool
    is_deleted: bool


class _Fat32:
    """Reads one; raise NotFat32Error or OSError."""

    def __init__(self, device: Device) -> None:
        self._device = device
        boot = device.read(0, 512)
        self.sector: int
        self.reserved: int
        self.copies: int
        self.root: int
        total: int
        sectors: int
        self.sector, per_cluster, self.reserved, self.copies = struct.unpack_from("<HBHB", boot, 11)
        roots, total16, sectors16 = struct.unpack_from("<HH", boot, 17) + struct.unpack_from("<H", boot, 22)
        total, sectors = struct.unpack_from("<II", boot, 32)
        self.info: int
        self.backup: int
        self.root, self.info, self.backup = struct.unpack_from("<IHH", boot, 44)
        if boot[510:512] != b"\x55\xaa" or self.sector not in {512, 1024, 2048, 4096} or roots or total16 or sectors16:
            raise NotFat32Error
        if per_cluster not in {1, 2, 4, 8, 16, 32, 64, 128} or not self.reserved or self.copies not in {1, 2}:
            raise NotFat32Error
        self.cluster: int = per_cluster * self.sector
        self.table_bytes: int = sectors * self.sector
        self.data = self.table_at(self.copies)
        self.end = total * self.sector
        self.clusters: int = (self.end - self.data) // self.cluster
        if not 0 < self.table_bytes <= _MAX_TABLE_BYTES or self.end > device.size or self.clusters < 1:
            raise NotFat32Error
        if self.table_bytes < 4 * (self.clusters + 2) or not self.is_cluster(self.root):
            raise NotFat32Error
        self.table = array("I", device.read(self.table_at(0), 4 * (self.clusters + 2)))

    def table_at(self, copy: int) -> int:
        return self.reserved * self.sector + copy * self.table_bytes

    def is_cluster(self, number: int) -> bool:
        return 2 <= number < self.clusters + 2

    def at(self, cluster: int) -> int:
        return self.data + (cluster - 2) * self.cluster

    def chain(self, first: int) -> list[int]:
        """The clusters that belong together, as far as they can be followed."""
        found: dict[int, None] = {}
        while self.is_cluster(first) and first not in found:
            found[first] = None
            first = self.table[first] & _VALUE
        return list(found)

    def needs(self, size: int) -> int:
        """How many clusters a file of so many bytes takes."""
        return -(-size // self.cluster)

    def content(self, entry: _Entry, chain: list[int]) -> Iterator[bytes]:
        left = entry.size
        for cluster in chain:
            yield self._device.read(self.at(cluster), min(left, self.cluster))
            left -= min(left, self.cluster)

    def entries(self, first: int, above: str) -> Iterator[_Entry]:
        """What one folder has, deleted ones too."""
        long: list[tuple[int, bytes]] = []
        for cluster in self.chain(first):
            data = self._device.read(self.at(cluster), self.cluster)
            for at in range(0, self.cluster, _SLOT_BYTES):
                slot = data[at : at + _SLOT_BYTES]
                if slot[0] == _END:
                    return
                offset = self.at(cluster) + at
                if slot[11] & 0x3F == _LONG:
                    long = [] if slot[0] == _DELETED else [*long, (offset, slot)]
                    continue
                name = _name(slot, [piece for _, piece in long])
                high, low, size = *struct.unpack_from("<H", slot, 20), *struct.unpack_from("<HI", slot, 26)
                yield _Entry(
                    path=f"{above}{name}".lower(),
                    slots=(*(place for place, _ in long), offset),
                    first=high << 16 | low,
                    size=size,
                    is_folder=bool(slot[11] & _FOLDER),
                    is_deleted=slot[0] == _DELETED,
                )
                long = []

    def walk(self, first: int, above: str = "", depth: int = 0) -> Iterator[_Entry]:
        """All entries, those of a folder before it; without the label, and what stands for folders themselves."""
        for entry in self.entries(first, above):
            kind = self._device.read(entry.slots[-1] + 11, 1)[0]
            if kind & _VOLUME or entry.path.removeprefix(above) in {".", ".."}:
                continue
            if entry.is_folder and not entry.is_deleted and depth < _MAX_DEPTH:
                yield from self.walk(entry.first, f"{entry.path}/", depth + 1)
            yield entry


def drop_torn(part: Part, names: Collection[str]) -> int:
    """Take those of the files ``names`` out of the drive's first folder in which the power failed; return how many.

    The folder may name clusters then that the table has as free: whoever writes a file next would be given the same,
    and lose it when this one is written again. Their clusters are left alone. For a drive that nobody has mounted.
    Raise OSError.

    :param names: in small letters
    """
    with Device(part, writable=False) as device:
        try:
            fat = _Fat32(device)
        except NotFat32Error:
            return 0
        taken: set[int] = set()
        places: list[int] = []
        count = 0
        for entry in fat.entries(fat.root, ""):
            if entry.is_deleted or entry.is_folder or entry.path not in names:
                continue
            chain = fat.chain(entry.first)
            ends = not chain or fat.table[chain[-1]] & _VALUE >= _LAST
            if len(chain) == fat.needs(entry.size) and ends and taken.isdisjoint(chain):
                taken.update(chain)
            else:
                places += entry.slots
                count += 1
    if places:
        with Device(part) as device:
            for place in places:
                device.write(place, bytes([_DELETED]))
            device.sync()
    return count


def overwrite_small(device: Device, own: Own) -> int:
    """First of all: files that somebody edits, which are small, and what can still be found of deleted ones.

    Return how many bytes could not be written over. It does not look into files, so that it is done in a moment.
    """
    try:
        fat = _Fat32(device)
        entries = list(fat.walk(fat.root))
    except (NotFat32Error, OSError):
        # The whole of it comes later.
        return 0
    chains = {entry.slots: fat.chain(entry.first) for entry in entries if not entry.is_deleted}
    ours = {cluster for entry in entries if entry.path in own.digests for cluster in chains.get(entry.slots, ())}
    ours.update(cluster for entry in entries if entry.is_folder for cluster in chains.get(entry.slots, ()))
    ours.update(fat.chain(fat.root))
    ranges: list[Range] = []
    for entry in sorted(entries, key=_urgency):
        if entry.path in own.digests or entry.is_folder or entry.size > _SMALL_BYTES:
            continue
        if entry.is_deleted:
            # Its chain is gone; files so small mostly lie in one piece.
            length = max(1, fat.needs(entry.size))
            clusters = [number for number in range(entry.first, entry.first + length) if fat.is_cluster(number)]
        else:
            clusters = chains[entry.slots]
        ranges += [(fat.at(number), fat.cluster) for number in clusters if number not in ours]
    return device.overwrite(ranges)


def _urgency(entry: _Entry) -> tuple[bool, bool, bool, str]:
    """First the settings that are in use, then those with a name like them, then what is there, then what was."""
    return entry.is_deleted, entry.path != BOOT_CONFIG, not entry.path.startswith("relay"), entry.path


def put_back(device: Device, own: Own) -> int:
    """Write over all that is not the image's own; return how many bytes could not be. Raise OSError.

    A drive that cannot be read as FAT32 is written over as a whole: no board starts from it anyway.
    """
    try:
        fat = _Fat32(device)
    except NotFat32Error:
        return _overwrite(device, [(0, device.size)])
    _restore(device, fat, own)
    kept, chains = _kept(fat, own)
    ours = {cluster for chain in chains.values() for cluster in chain}
    # Names first, then which cluster is whose: each sector, old or new, goes with each other one.
    slots = {place for entry in kept for place in entry.slots}
    for folder in [fat.root, *(entry.first for entry in kept if entry.is_folder)]:
        _clean_folder(device, fat, fat.chain(folder), slots)
        ours.update(fat.chain(folder))
    _clean_tables(device, fat, ours, ends={chain[-1] for chain in chains.values() if chain})
    _clean_head(device, fat)
    device.sync()
    ranges = [(fat.at(number), fat.cluster) for number in range(2, fat.clusters + 2) if number not in ours]
    after = fat.at(fat.clusters + 2)
    if after < device.size:
        ranges.append((after, device.size - after))
    for entry in kept:
        chain = chains.get(entry.slots, [])
        if chain and not entry.is_folder:
            slack = len(chain) * fat.cluster - entry.size
            ranges.append((fat.at(chain[-1]) + fat.cluster - slack, slack))
    return _overwrite(device, merged(piece for piece in ranges if piece[1]))


def _overwrite(device: Device, ranges: list[Range]) -> int:
    left = device.overwrite(ranges)
    device.discard(ranges)
    return left


def _kept(fat: _Fat32, own: Own) -> tuple[list[_Entry], dict[tuple[int, ...], list[int]]]:
    """The image's own files, the folders that they are in, and the clusters of each by its slots."""
    kept: list[_Entry] = []
    chains: dict[tuple[int, ...], list[int]] = {}
    taken = set(fat.chain(fat.root))
    folders: set[str] = set()
    for entry in fat.walk(fat.root):
        if entry.is_deleted:
            continue
        chain = fat.chain(entry.first)
        if not entry.is_folder:
            # An editor may have left it more than it needs.
            chain = chain[: max(1, fat.needs(entry.size))]
        if entry.is_folder:
            if not any(path.startswith(f"{entry.path}/") for path in folders):
                continue
        elif not _is_own(fat, entry, chain, own):
            continue
        # Two entries of the same clusters are damage: the first has them.
        if taken.isdisjoint(chain):
            taken.update(chain)
            folders.add(entry.path)
            kept.append(entry)
            chains[entry.slots] = chain
    return kept, chains


def _is_own(fat: _Fat32, entry: _Entry, chain: list[int], own: Own) -> bool:
    digest = own.digests.get(entry.path)
    if digest is None or len(chain) < fat.needs(entry.size):
        return False
    if digest == ANY:
        return True
    made = hashlib.sha256()
    for piece in fat.content(entry, chain):
        made.update(piece)
    return made.hexdigest() == digest


def _restore(device: Device, fat: _Fat32, own: Own) -> None:
    """Give files that no board starts without their content back, where they are."""
    for entry in list(fat.walk(fat.root)):
        wanted = own.restored.get(entry.path)
        chain = fat.chain(entry.first)
        if wanted is None or entry.is_deleted or entry.is_folder or len(chain) < fat.needs(len(wanted)):
            continue
        if _is_own(fat, entry, chain, own):
            continue
        for number, cluster in enumerate(chain[: fat.needs(len(wanted))]):
            device.write(fat.at(cluster), wanted[number * fat.cluster :][: fat.cluster])
        device.write(entry.slots[-1] + 28, struct.pack("<I", len(wanted)))
        device.sync()


def _clean_folder(device: Device, fat: _Fat32, chain: list[int], kept: set[int]) -> None:
    """Leave nothing in a folder but what is kept, where it is; behind the last one, nothing."""
    places = [fat.at(cluster) + at for cluster in chain for at in range(0, fat.cluster, _SLOT_BYTES)]
    old = b"".join(device.read(fat.at(cluster), fat.cluster) for cluster in chain)
    slots = [old[at : at + _SLOT_BYTES] for at in range(0, len(old), _SLOT_BYTES)]
    itself = {b".".ljust(11), b"..".ljust(11)}
    stays = [place in kept or slot[:11] in itself for place, slot in zip(places, slots, strict=True)]
    for number, slot in enumerate(slots):
        if not stays[number] and _is_label(slot) and chain[0] == fat.root:
            slots[number], stays[number] = _LABEL + slot[11:], True
    last = max((number for number, stay in enumerate(stays) if stay), default=-1)
    gap = bytes([_DELETED]) + bytes(_SLOT_BYTES - 1)
    for number, stay in enumerate(stays):
        if not stay:
            slots[number] = gap if number < last else bytes(_SLOT_BYTES)
    new = b"".join(slots)
    for number, cluster in enumerate(chain):
        part = slice(number * fat.cluster, (number + 1) * fat.cluster)
        if new[part] != old[part]:
            device.write(fat.at(cluster), new[part])
    device.sync()


def _clean_tables(device: Device, fat: _Fat32, ours: set[int], ends: set[int]) -> None:
    """All other clusters are free, in all copies; those that were found bad stay bad. ``ends``: last ones of chains."""
    table = array("I", fat.table)
    for number in ends:
        if table[number] & _VALUE < _LAST:
            table[number] = _VALUE
    for number in range(2, len(table)):
        if number not in ours and table[number] & _VALUE != _BAD:
            table[number] = _FREE
    new = table.tobytes()
    new += bytes(fat.table_bytes - len(new))
    for copy in reversed(range(fat.copies)):
        device.write(fat.table_at(copy), new)
        device.sync()


def _clean_head(device: Device, fat: _Fat32) -> None:
    """The label as it was, no count of what is free, and nothing in sectors that have no meaning."""
    used = {0, fat.info, fat.backup, fat.backup + fat.info}
    for number in range(fat.reserved):
        at = number * fat.sector
        old = new = device.read(at, fat.sector)
        if number not in used:
            new = bytes(fat.sector)
        elif old[82:90] == b"FAT32   ":
            new = old[:71] + _LABEL + old[82:]
        elif old[:4] == b"RRaA" and old[484:488] == b"rrAa":
            new = old[:488] + b"\xff" * 8 + old[496:]
        if new != old:
            device.write(at, new)


def _is_label(slot: bytes) -> bool:
    return slot[0] not in {_DELETED, _END} and slot[11] & 0x3F != _LONG and bool(slot[11] & _VOLUME)


def _name(slot: bytes, pieces: list[bytes]) -> str:
    if pieces:
        text = b"".join(piece[part] for piece in reversed(pieces) for part in _LONG_PIECES)
        return text.decode("utf-16-le", errors="replace").partition("\0")[0]
    base, end = (slot[part].decode("cp437").rstrip() for part in (slice(0, 8), slice(8, 11)))
    return f"{base}.{end}" if end else base
