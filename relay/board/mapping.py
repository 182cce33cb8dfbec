# SPDX-License-Identifier: GPL-2.0-or-later
"""Encryption of a partition by the kernel (dm-crypt), as linux/dm-ioctl.h has it. Blocking.

Not by `dmsetup` or `cryptsetup`: a key that is drawn here is in one buffer, which is written over, and in the kernel;
no program has it in its arguments, and none is needed for a relay that keeps nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from relay.board.card import SECTOR_BYTES

#: The name of the one mapping there is.
NAME: Final = "mesh-relay-data"
CONTROL: Final = Path("/dev/mapper/control")

#: Cipher and bytes of its key, for processors with AES instructions and for those without (a Pi 3, 4, Zero 2 W):
#: Adiantum (Crowley and Biggers, 2018) is several times as fast there.
AES: Final = ("aes-xts-plain64", 64)
ADIANTUM: Final = ("xchacha12,aes-adiantum-plain64", 32)
#: As large as the blocks of the file system: fewer, longer pieces to encrypt.
_OPTIONS: Final = b" 2 sector_size:4096 iv_large_sectors"
_BLOCK_SECTORS: Final = 8

#: struct dm_ioctl: version, sizes, count, open, flags, event, padding, device, name, uuid.
_HEAD: Final = struct.Struct("=3I2IIiIIIQ128s129s7x")
#: struct dm_target_spec: start and length in sectors, status, next, type.
_TARGET: Final = struct.Struct("=QQiI16s")
_VERSION: Final = (4, 0, 0)
_CREATE, _REMOVE, _SUSPEND, _LOAD, _STATUS, _MESSAGE = 3, 4, 6, 9, 12, 14
_IS_SUSPEND, _SKIP_LOCKFS, _NOFLUSH, _SECURE = 1 << 1, 1 << 10, 1 << 11, 1 << 15
#: Python copies what is shorter than 1025 bytes to its stack and back, and nobody would write over that.
_BUFFER_BYTES: Final = 4096
_HEX: Final = tuple(b"%02x" % byte for byte in range(256))


def best_cipher(cpuinfo: str) -> tuple[str, int]:
    """AES where the processor has instructions for it, by /proc/cpuinfo."""
    words = (line.partition(":") for line in cpuinfo.splitlines())
    has_aes = any(name.strip() in {"flags", "Features"} and "aes" in value.split() for name, _, value in words)
    return AES if has_aes else ADIANTUM


def map_with_fresh_key(device: Path, start: int, cipher: tuple[str, int], name: str = NAME) -> Path:
    """Encrypt ``device`` with a key that the kernel draws and nobody keeps; return the device to use. Raise OSError.

    :param start: bytes at its beginning that are left as they are, a multiple of 4096
    """
    number = device.stat().st_rdev
    sectors = (_size(device) - start) // SECTOR_BYTES // _BLOCK_SECTORS * _BLOCK_SECTORS
    before = f"{cipher[0]} ".encode()
    after = f" 0 {os.major(number)}:{os.minor(number)} {start // SECTOR_BYTES}".encode() + _OPTIONS
    key = bytearray(cipher[1])
    # Waits until the kernel's generator is seeded, which reading does not.
    os.getrandom(1)
    with open("/dev/urandom", "rb", buffering=0) as random:  # noqa: PTH123 - unbuffered, and into our own buffer
        if random.readinto(key) != len(key):
            raise OSError("the kernel gave too few random bytes")
    _remove(name)
    made = _call(_CREATE, name)
    buffer = bytearray(_BUFFER_BYTES)
    try:
        at = _put_target(buffer, sectors, "crypt")
        for piece in (before, *(_HEX[byte] for byte in key), after):
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        _call(_LOAD, name, buffer, flags=_SECURE, targets=1)
        _call(_SUSPEND, name)
    except OSError:
        _remove(name)
        raise
    finally:
        _wipe(key)
        _wipe(buffer)
    return _node(made)


def destroy(name: str = NAME) -> bool:
    """Have the kernel forget the key of a mapping, now, whoever uses it; return whether it has none any more.

    What is still to be written is not waited for. From here on, all that reads or writes there fails at once.
    """
    try:
        _call(_SUSPEND, name, flags=_IS_SUSPEND | _NOFLUSH | _SKIP_LOCKFS)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    wiped = False
    with suppress(OSError):
        # struct dm_target_msg: the sector by which the target is meant, then the words.
        message = bytearray(_BUFFER_BYTES)
        message[_HEAD.size + 8 : _HEAD.size + 17] = b"key wipe\0"
        _call(_MESSAGE, name, message)
        wiped = True
    # And the key goes with the table that had it. Nobody waits for ever for a device that is suspended.
    with suppress(OSError):
        sectors = _length(name)
        errors = bytearray(_BUFFER_BYTES)
        _put_target(errors, sectors, "error")
        _call(_LOAD, name, errors, targets=1)
        _call(_SUSPEND, name, flags=_NOFLUSH | _SKIP_LOCKFS)
        wiped = True
    return wiped


def is_destroyed(name: str = NAME) -> bool:
    """Whether there is a mapping by which nothing reaches its device any more."""
    found = bytearray(_BUFFER_BYTES)
    try:
        _call(_STATUS, name, found, flags=_NOFLUSH)
    except OSError:
        return False
    return bool(_TARGET.unpack_from(found, _HEAD.size)[4].rstrip(b"\0") == b"error")


def _length(name: str) -> int:
    """Sectors of a mapping."""
    found = bytearray(_BUFFER_BYTES)
    _call(_STATUS, name, found, flags=_NOFLUSH)
    return int(_TARGET.unpack_from(found, _HEAD.size)[1])


def _size(device: Path) -> int:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _node(device: int) -> Path:
    """The kernel makes this one by itself; those below /dev/mapper udev would have to make."""
    return Path(f"/dev/dm-{os.minor(device)}")


def _remove(name: str) -> None:
    with suppress(OSError):
        _call(_REMOVE, name)


def _put_target(buffer: bytearray, sectors: int, kind: str) -> int:
    """Describe the one target; return where its parameters go."""
    _TARGET.pack_into(buffer, _HEAD.size, 0, sectors, 0, 0, kind.encode())
    return _HEAD.size + _TARGET.size


def _call(command: int, name: str, buffer: bytearray | None = None, *, flags: int = 0, targets: int = 0) -> int:
    """Do it; return the device's number. Raise OSError, FileNotFoundError where there is no such mapping."""
    told = bytearray(_BUFFER_BYTES) if buffer is None else buffer
    head = (*_VERSION, len(told), _HEAD.size, targets, 0, flags, 0, 0, 0, name.encode(), b"")
    _HEAD.pack_into(told, 0, *head)
    # _IOWR(0xfd, command, struct dm_ioctl)
    request = 3 << 30 | _HEAD.size << 16 | 0xFD << 8 | command
    try:
        descriptor = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, request, told, True)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == 6:  # ENXIO: device mapper knows no such name
            raise FileNotFoundError(name) from error
        raise
    return int(_HEAD.unpack_from(told)[10])


def _wipe(buffer: bytearray) -> None:
    buffer[:] = bytes(len(buffer))
