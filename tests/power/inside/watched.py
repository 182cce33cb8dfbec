# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: INP001, PLC0415 - a program for a guest, not part of a package, which finds the relay's first
"""`relay run` as the image has it, which says on a serial line what its store does.

``watched.py LINE SYNC ARGUMENT...``

Before a commit ``begin N``, N envelopes of which leave for others; after it ``end``. Where the files of the store lie,
``lies NAME START+LENGTH ...`` in bytes of their file system, at the start and whenever that has changed. SYNC other
than ``full`` is what the store is told to sync by instead: the control, as a relay would be that acknowledges early.
"""

import fcntl
import os
import re
import struct
import sys
import tty
from pathlib import Path

FIEMAP = 0xC020660B
HEAD = struct.Struct("=QQIIII")
EXTENT = struct.Struct("=QQQ2QI3I")
MAX_EXTENTS = 200


def program():
    """Where the image has the relay."""
    return re.search(r"insert\(0, '([^']+)'\)", Path("/usr/bin/relay").read_text())[1]


def where(path):
    """Offsets and lengths of a file in its file system (Documentation/filesystems/fiemap.rst)."""
    buffer = bytearray(HEAD.size + MAX_EXTENTS * EXTENT.size)
    HEAD.pack_into(buffer, 0, 0, 2**64 - 1, 0, 0, MAX_EXTENTS, 0)
    try:
        with path.open("rb") as file:
            fcntl.ioctl(file, FIEMAP, buffer)
    except OSError:
        # Not there, or in memory, which lies nowhere.
        return ""
    count = HEAD.unpack_from(buffer)[3]
    found = [EXTENT.unpack_from(buffer, HEAD.size + at * EXTENT.size) for at in range(count)]
    return " ".join(f"{start}+{length}" for _, start, length, *_ in found)


def main(line, sync, *arguments):
    sys.path.insert(0, program())
    from relay.cli import main as relay
    from relay.store import schema
    from relay.store.database import Store

    line = os.open(line, os.O_WRONLY | os.O_NOCTTY)
    tty.setraw(line)
    commit, tune = Store.commit, schema.tune_writer
    known = {}

    def say_where(path):
        for name, file in (("base", path), ("log", path.with_name(path.name + "-wal"))):
            if (found := where(file)) != known.get(name):
                known[name] = found
                os.write(line, f"lies {name} {found}\n".encode())

    def watched(store, *batches):
        say_where(store.path)
        os.write(line, b"begin %d\n" % sum(len(batch.displace) for batch in batches))
        commit(store, *batches)
        os.write(line, b"end\n")
        say_where(store.path)

    def tuned(connection, *, durable):
        tune(connection, durable=durable)
        if sync != "full":
            connection.execute(f"PRAGMA synchronous = {sync}")

    Store.commit, schema.tune_writer = watched, tuned
    return relay(list(arguments))


sys.exit(main(*sys.argv[1:]))
