# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes and views of stores for the tests."""

import hashlib
import random
from typing import NamedTuple

from relay.core.batch import Batch
from relay.core.envelope import SIZES, EnvelopeType, Header, grind

EXPIRY_HOUR = 490_000


def make_envelope(seed, size_class=1):
    """A valid envelope that ``seed`` fully determines."""
    rng = random.Random(f"envelope {seed} {size_class}")
    header = Header(
        type=EnvelopeType.MESSAGE,
        size_class=size_class,
        expiry_hour=EXPIRY_HOUR + rng.randrange(168),
        tag=rng.randbytes(16),
    ).encode()
    payload = rng.randbytes(SIZES[size_class] - len(header) - 8)
    return grind(header + payload, price=0, random_bytes=rng.randbytes)


def insert(seq, envelope, *, interface=1, arrived_s=1000, keep=True):
    identity = hashlib.sha256(envelope).digest()
    return (seq, identity, envelope[:24], interface, arrived_s, envelope if keep else None)


def insert_batch(seqs, size_class=1, **others):
    return Batch(inserts=[insert(seq, make_envelope(seq, size_class)) for seq in seqs], **others)


class Row(NamedTuple):
    """What a store knows of an identity, by name."""

    seq: int
    id: bytes
    header: bytes
    interface: int
    arrived_s: int
    has_body: bool
    displaced: bool


def rows_of(store):
    """All that a store knows without reading bodies."""
    return [Row(*row[:5], bool(row[5]), bool(row[6])) for row in store.load()]


def contents(store):
    """All that a store holds, as {seq: (row, body)}."""
    rows = rows_of(store)
    bodies = store.read_bodies([row.seq for row in rows])
    return {row.seq: (row, body) for row, body in zip(rows, bodies, strict=True)}


def files(folder):
    """Every file below ``folder`` with its bytes, to compare before and after."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
