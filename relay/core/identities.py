# SPDX-License-Identifier: GPL-2.0-or-later
"""Sequence numbers by identity: 12 bytes an entry, and never a moment in which all of it is built anew.

A hash table that grows by one bucket at a time (W. Litwin, "Linear Hashing", VLDB 1980).
A bucket keeps a byte of the hash of each entry, by which it is found, and further bits of it
beside its number, so that a split computes no hash again; the identity itself is looked up
where it is kept anyway. The hash is Python's of bytes, SipHash under a key of
the process, so that nobody can grind identities into one bucket.
"""

from __future__ import annotations

from array import array
from itertools import compress
from typing import TYPE_CHECKING, Final

from relay.core.envelope import ID_BYTES
from relay.core.reconcile_set import SCALAR_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Entries a bucket on average: its own 180 bytes are then three an entry, and a byte tells
#: most of them apart.
BUCKET_ENTRIES: Final = 64
_MARK_BITS: Final = 8
_MARK_MASK: Final = (1 << _MARK_BITS) - 1
#: What is kept of an entry, in one number: bits of its hash above these of its sequence number.
_SEQ_BITS: Final = 40
_SEQ_MASK: Final = (1 << _SEQ_BITS) - 1
#: Bits of the hash that choose a bucket: enough for a thousand million entries.
_CHOICE_MASK: Final = (1 << 64 - _SEQ_BITS) - 1
_HASH_MASK: Final = _CHOICE_MASK << _MARK_BITS | _MARK_MASK


class Identities:
    """Maps identities of 32 bytes to sequence numbers."""

    __slots__ = ("_count", "_entries", "_marks", "_size", "_split", "identity_of")

    def __init__(self, identity_of: Callable[[int], bytes]) -> None:
        """``identity_of`` returns the identity of a sequence number that is in here."""
        self.identity_of = identity_of
        self._count = 0
        #: Of each bucket: of each entry in it a byte of its hash, and the rest with its number.
        self._marks = [bytearray()]
        self._entries = [array("Q")]
        #: Buckets when this round of splits began, and how many of these are split.
        self._size = 1
        self._split = 0

    def __len__(self) -> int:
        return self._count

    def _bucket(self, choice: int) -> int:
        bucket = choice & self._size - 1
        return bucket if bucket >= self._split else choice & 2 * self._size - 1

    def find(self, identity: bytes) -> int:
        """Return the sequence number of an identity, 0 if there is none."""
        hashed = hash(identity)
        choice, mark = hashed >> _MARK_BITS & _CHOICE_MASK, hashed & _MARK_MASK
        # As in _bucket: every envelope, offer and fetch passes here.
        bucket = choice & self._size - 1
        if bucket < self._split:
            bucket = choice & 2 * self._size - 1
        marks = self._marks[bucket]
        at = marks.find(mark)
        while at >= 0:
            entry = self._entries[bucket][at]
            seq = entry & _SEQ_MASK
            if entry >> _SEQ_BITS == choice and self.identity_of(seq) == identity:
                return seq
            at = marks.find(mark, at + 1)
        return 0

    def add_all(self, identities: Iterable[tuple[bytes, int]]) -> None:
        """Take in identities that are not there, with their numbers: many at once cost half."""
        all_marks, all_entries = self._marks, self._entries
        count, room = self._count, BUCKET_ENTRIES * len(all_marks)
        size, split = self._size, self._split
        for identity, seq in identities:
            count += 1
            if count > room:
                self._split_next()
                room += BUCKET_ENTRIES
                size, split = self._size, self._split
            hashed = hash(identity)
            choice = hashed >> _MARK_BITS & _CHOICE_MASK
            bucket = choice & size - 1
            if bucket < split:
                bucket = choice & 2 * size - 1
            all_marks[bucket].append(hashed & _MARK_MASK)
            all_entries[bucket].append(choice << _SEQ_BITS | seq)
        self._count = count

    def _split_next(self) -> None:
        """Give what is in one bucket to two, by a further bit of its hashes."""
        bucket, bit = self._split, self._size << _SEQ_BITS
        marks, entries = self._marks[bucket], self._entries[bucket]
        goes = [entry & bit for entry in entries]
        stays = [not each for each in goes]
        self._marks.append(bytearray(compress(marks, goes)))
        self._entries.append(array("Q", compress(entries, goes)))
        self._marks[bucket] = bytearray(compress(marks, stays))
        self._entries[bucket] = array("Q", compress(entries, stays))
        self._split += 1
        if self._split == self._size:
            self._size, self._split = 2 * self._size, 0

    def remove(self, identity: bytes, seq: int) -> None:
        """Forget an identity that is there with this number."""
        choice = hash(identity) >> _MARK_BITS & _CHOICE_MASK
        bucket = self._bucket(choice)
        marks, entries = self._marks[bucket], self._entries[bucket]
        at = entries.index(choice << _SEQ_BITS | seq)
        # The last one takes its place.
        marks[at], entries[at] = marks[-1], entries[-1]
        del marks[-1], entries[-1]
        self._count -= 1

    def fill(self, columns: Iterable[tuple[bytes | bytearray, Sequence[int]]]) -> None:
        """Take in, while nothing is in here, many at once: identities one after the other, and their numbers."""
        hashes, seqs = array("I"), array("Q")
        for ids, numbers in columns:
            view = bytes(ids)
            hashes.extend([hash(view[at : at + ID_BYTES]) & _HASH_MASK for at in range(0, len(view), ID_BYTES)])
            seqs.extend(iter(numbers))  # an array takes none of another type
        self._count = len(seqs)
        buckets = self._count // BUCKET_ENTRIES + 1
        self._size = 1 << buckets.bit_length() - 1
        self._split = buckets - self._size
        self._marks = [bytearray() for _ in range(buckets)]
        self._entries = [array("Q") for _ in range(buckets)]
        if self._count <= SCALAR_ENTRIES:
            for hashed, seq in zip(hashes, seqs, strict=True):
                choice = hashed >> _MARK_BITS
                bucket = self._bucket(choice)
                self._marks[bucket].append(hashed & _MARK_MASK)
                self._entries[bucket].append(choice << _SEQ_BITS | seq)
        else:
            self._fill_sorted(hashes, seqs)

    def _fill_sorted(self, hashes: array[int], seqs: array[int]) -> None:
        # One at a time takes a second for a million: each in another place of memory.
        import numpy as np  # noqa: PLC0415 - 10 MiB that small logs do without

        hashed = np.frombuffer(hashes, np.uint32)
        buckets = hashed >> _MARK_BITS & self._size - 1
        split = buckets < self._split
        buckets[split] = hashed[split] >> _MARK_BITS & 2 * self._size - 1
        order = np.argsort(buckets, kind="stable").astype(np.uint32)
        ends = np.cumsum(np.bincount(buckets, minlength=len(self._marks))).tolist()
        del buckets, split
        hashed = hashed[order]
        marks = hashed.astype(np.uint8).tobytes()
        entries = np.frombuffer(seqs, np.uint64)[order]
        entries |= (hashed >> _MARK_BITS).astype(np.uint64) << _SEQ_BITS
        content = entries.tobytes()
        start = 0
        for bucket, end in enumerate(ends):
            self._marks[bucket] = bytearray(marks[start:end])
            self._entries[bucket] = array("Q", content[8 * start : 8 * end])
            start = end
