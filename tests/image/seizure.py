# SPDX-License-Identifier: GPL-2.0-or-later
"""What somebody finds who takes a card, or the memory: markers that were planted, and where they are looked for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from pathlib import Path

from relay.core.envelope import CLASS_OF_SIZE, HEADER_BYTES, NONCE_BYTES, EnvelopeType, Header
from tests.image.appliance import MEMORY_MIB
from tests.netns.rawclient import RawClient
from tests.waiting import wait_until

#: Each marker but the IDs begins with these, so that all are found in one pass.
PREFIX = bytes.fromhex("c3a55e1f00d7be11")
ENVELOPES = 60
#: Names, addresses, keys and log lines, as a program might keep that writes down too much.
NOTES = 20
SIZE = 256
#: Of a guest on a busy machine, about anything.
ANSWER_S = 300
_BLOCK = 64 << 20
_OVERLAP = 64


def marked_envelopes(round_number, hour):
    """Envelopes with a marker in the tag and one in the body of each."""
    for number in range(ENVELOPES):
        mark = PREFIX + bytes((round_number, number))
        tag = (mark + b"tag").ljust(16, b"\x01")
        header = Header(type=EnvelopeType.MESSAGE, size_class=CLASS_OF_SIZE[SIZE], expiry_hour=hour, tag=tag)
        body = (mark + b"body") * 8
        yield header.encode() + body.ljust(SIZE - HEADER_BYTES - NONCE_BYTES, b"\x02") + bytes(NONCE_BYTES)


class Planted:
    """200 markers: of 60 envelopes tag, body and ID, that a client puts, and 20 notes."""

    def __init__(self, round_number, hour):
        self.envelopes = list(marked_envelopes(round_number, hour))
        self.ids = [hashlib.sha256(envelope).digest() for envelope in self.envelopes]
        marks = [PREFIX + bytes((round_number, number)) for number in range(ENVELOPES)]
        self.noted = [PREFIX + bytes((round_number, ENVELOPES + number)) + b"note" for number in range(NOTES)]
        self.marks = {mark + kind for mark in marks for kind in (b"tag", b"body")} | set(self.noted)

    def __len__(self):
        return len(self.ids) + len(self.marks)

    def found(self, path):
        """How many of them are in a file, a card or a memory."""
        return sum(mark in self.marks for mark in marks_in(path)) + len(those_in(path, self.ids))


def blocks(path):
    """All that a sparse file holds, in pieces that overlap."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        at, size = 0, os.fstat(descriptor).st_size
        while at < size:
            try:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(descriptor, at, os.SEEK_HOLE)
            for start in range(at, end, _BLOCK):
                yield os.pread(descriptor, min(_BLOCK + _OVERLAP, end - start), start)
            at = end
    finally:
        os.close(descriptor)


def marks_in(path):
    """Every marker with the prefix, of whatever round."""
    pattern = re.compile(re.escape(PREFIX) + rb"..(?:tag|body|note)", re.DOTALL)
    return {found for block in blocks(path) if PREFIX in block for found in pattern.findall(block)}


def those_in(path, wanted):
    """Which of these bytes are in a file."""
    return {one for block in blocks(path) for one in wanted if one in block}


def memory_of(appliance):
    """The file that is a guest's memory; it has no name any more."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
            if f"uml_dir={appliance.folder}".encode() not in arguments or b"leash.py" in arguments:
                continue
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()).endswith("(deleted)") and descriptor.stat().st_size >= MEMORY_MIB << 20:
                    return descriptor
        except OSError:
            continue
    raise AssertionError(f"no memory of {appliance.name}")


def connect(appliance, lan, *, pause_s=1, explain=None):
    """A client at the other end of the cable."""
    explain = explain or appliance.explain

    def address():
        return re.search(r"inet6 (fe80\S+)/", appliance.sh("ip -6 address show dev eth0 scope link"))

    where = wait_until(explain, address, ANSWER_S, pause_s=pause_s)[1]
    name = (where, 4270, 0, socket.if_nametoindex(lan.name))

    def opened():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(name)
        except OSError:
            sock.close()
            return None
        return sock

    return RawClient(wait_until(explain, opened, ANSWER_S, pause_s=pause_s))


def plant(appliance, lan, planted):
    """Put the envelopes as a client does, write the notes beside the store, and have all of it on the card."""
    with connect(appliance, lan) as client:
        client.put(planted.envelopes)
        durable = client.relay.durable
    notes = b"".join(b"%s=ana 192.0.2.7 key\n" % note for note in planted.noted)
    (appliance.share / "notes").write_bytes(notes)
    appliance.sh("cp /run/lab/share/notes /var/lib/private/mesh-relay/notes; sync; sync")
    return durable


def storage_notices(appliance):
    """What the relay says of its card, on page and light."""
    status = json.loads(appliance.run("relay", "status", "--json").stdout)
    return [notice["text"] for notice in status["notices"] if notice["code"] == "storage"]
