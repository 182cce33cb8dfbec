# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: INP001 - a program for a guest, not part of a package
"""Print the key of a dm-crypt mapping, in hexadecimal digits, as root can have it of the kernel (linux/dm-ioctl.h)."""

import fcntl
import struct
import sys

HEAD = struct.Struct("=3I2IIiIIIQ128s129s7x")
TARGET = struct.Struct("=QQiI16s")
DM_TABLE_STATUS = 0xC138FD0C
STATUS_TABLE = 1 << 4

buffer = bytearray(8192)
name = sys.argv[1].encode()
HEAD.pack_into(buffer, 0, 4, 0, 0, len(buffer), HEAD.size, 0, 0, STATUS_TABLE, 0, 0, 0, name, b"")
with open("/dev/mapper/control", "r+b", buffering=0) as control:  # noqa: PTH123 - to change nothing of how it is opened
    fcntl.ioctl(control, DM_TABLE_STATUS, buffer, True)
kind = TARGET.unpack_from(buffer, HEAD.size)[4].rstrip(b"\0").decode()
words = bytes(buffer[HEAD.size + TARGET.size :]).partition(b"\0")[0].decode().split()
print(kind, *words)
