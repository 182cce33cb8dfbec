# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets in pieces, for links that take one short packet at a time.

``set ID 8 | index u16 | count u16 | type of the whole u8 | piece``; the whole is a packet as encoded, unpadded, with
TTL 0. Pieces carry no signature: what they make has one. We carry pieces as they are, and put together only what we
have to read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relay.bitchat.packet import Packet, PacketType, decode_packet, expanded_bytes, make_packet
from relay.core.codec import Reader
from relay.core.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Hashable

SET_ID_BYTES: Final = 8
HEAD_BYTES: Final = SET_ID_BYTES + 5
MAX_PIECE_BYTES: Final = 469
"""Longest piece that the apps make."""
ANDROID_MAX_PIECES: Final = 256
IPHONE_MAX_PIECES: Final = 10_000
LIFETIME_S: Final = 30.0
"""How long both apps wait for the rest of a set."""

MAX_SET_PIECES: Final = 64
MAX_SET_BYTES: Final = 32 << 10
"""Of a set that we put together: a courier's letter or a long message; more is a file."""
MAX_WHOLE_BYTES: Final = 0xFFFF
"""... and of what is in it once it is decompressed: as much as a packet of version 1 holds."""
MAX_SETS: Final = 64
MAX_SETS_OF_LINK: Final = 8
"""So that one phone does not take the places of all."""
MAX_SETS_OF_RELAYS: Final = 32
"""All other islands come by one link."""
MAX_PASSING_OF_LINK: Final = 6
"""Sets of one link, not whole yet, whose pieces are passed on: an Android has room for 64 of all whom it hears."""
MAX_PASSING_OF_RELAYS: Final = 16
_SET_CONTEXT: Final = b"fragments"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Piece:
    """One piece of a packet; ``whole_type`` is what it says the packet is."""

    set_id: bytes
    index: int
    count: int
    whole_type: int
    data: bytes

    def encode(self) -> bytes:
        """Return the payload of a fragment."""
        numbers = self.index.to_bytes(2, "big") + self.count.to_bytes(2, "big")
        return self.set_id + numbers + bytes([self.whole_type]) + self.data


def decode_piece(payload: bytes) -> Piece:
    """Return a piece; DecodeError for one that cannot be of any set."""
    reader = Reader(payload)
    set_id, index, count, kind = reader.bytes(SET_ID_BYTES), reader.u16(), reader.u16(), reader.u8()
    if not index < count <= IPHONE_MAX_PIECES:
        raise DecodeError(f"piece {index} of {count}")
    return Piece(set_id=set_id, index=index, count=count, whole_type=kind, data=reader.rest())


def split(packet: Packet, frame_bytes: int) -> tuple[Packet, ...]:
    """Return a packet in pieces that each fit a frame of so many bytes; ValueError where Androids would not take them.

    Who splits the same packet for the same frames makes the same pieces, so that those of two relays make one set.
    """
    whole = packet.with_ttl(0).encode(padded=False)
    empty = _piece_packet(packet, b"")
    room = min(MAX_PIECE_BYTES, frame_bytes - len(empty.encode(padded=False)) - HEAD_BYTES)
    if room < 1 or len(whole) > room * ANDROID_MAX_PIECES:
        raise ValueError(f"packet of {len(whole)} bytes in frames of {frame_bytes}")
    pieces = [whole[at : at + room] for at in range(0, len(whole), room)]
    # With the room, so that pieces of two lengths are two sets.
    digest = hashlib.sha256(_SET_CONTEXT + packet.flood_id + room.to_bytes(2, "big")).digest()
    return tuple(
        _piece_packet(
            packet,
            Piece(
                set_id=digest[:SET_ID_BYTES],
                index=index,
                count=len(pieces),
                whole_type=packet.type,
                data=data,
            ).encode(),
        )
        for index, data in enumerate(pieces)
    )


def _piece_packet(packet: Packet, payload: bytes) -> Packet:
    return make_packet(
        PacketType.FRAGMENT,
        payload,
        sender=packet.sender,
        recipient=packet.recipient,
        timestamp_ms=packet.timestamp_ms,
        ttl=packet.ttl,
    )


@dataclass(slots=True)
class _Passing:
    expires_at: float
    missing: int
    """A bit for each piece, 1,250 bytes for the most there can be: as numbers in a set that were 0.8 MB."""


class Passing:
    """The sets whose pieces pass: so many of each link at a time, lest phones have no room for those of others."""

    def __init__(self) -> None:
        self._sets: dict[Hashable, dict[tuple[bytes, bytes], _Passing]] = {}

    def may_pass(self, link: Hashable, sender: bytes, piece: Piece, now: float, *, most: int) -> bool:
        """Whether a piece is of one of the ``most`` sets of this link that pass, and note it."""
        sets = self._sets[link] = {name: one for name, one in self._sets.get(link, {}).items() if one.expires_at > now}
        name = (sender, piece.set_id)
        one = sets.get(name)
        if one is None:
            if len(sets) >= most:
                return False
            one = sets[name] = _Passing(now + LIFETIME_S, (1 << piece.count) - 1)
        one.missing &= ~(1 << piece.index)
        if not one.missing:
            del sets[name]
        return True

    def forget(self, link: Hashable) -> None:
        """A link is gone."""
        self._sets.pop(link, None)


@dataclass(slots=True)
class _Set:
    link: Hashable
    count: int
    expires_at: float
    pieces: dict[int, bytes] = field(default_factory=dict)
    held_bytes: int = 0


class Reassembly:
    """Sets that are not whole yet: bounded in pieces, bytes, number (for each link, too) and time."""

    def __init__(self) -> None:
        self._sets: dict[tuple[bytes, bytes], _Set] = {}
        #: Sets that were given up, until somebody counts them.
        self.lost = 0

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def held_bytes(self) -> int:
        """Bytes of all pieces that wait."""
        return sum(waiting.held_bytes for waiting in self._sets.values())

    def take(self, link: Hashable, packet: Packet, now: float, *, most: int = MAX_SETS_OF_LINK) -> Packet | None:
        """Take a fragment and return the packet that it completes, if it does, with TTL 0: its pieces go on.

        ``most``: how many sets this link may have begun. Raises DecodeError for a fragment of a set that is too large,
        or does not fit its set; the set is over then. The packet is not checked: it may be of any type, and anybody's.
        """
        piece = decode_piece(packet.payload)
        if piece.count > MAX_SET_PIECES:
            raise DecodeError(f"set of {piece.count} pieces, at most {MAX_SET_PIECES} are put together")
        self.expire(now)
        name = (packet.sender, piece.set_id)
        waiting = self._sets.get(name)
        if waiting is None:
            self._make_room(link, most)
            waiting = self._sets[name] = _Set(link, piece.count, now + LIFETIME_S)
        if piece.index in waiting.pieces:
            return None
        waiting.pieces[piece.index] = piece.data
        waiting.held_bytes += len(piece.data)
        if waiting.count != piece.count or waiting.held_bytes > MAX_SET_BYTES:
            del self._sets[name]
            raise DecodeError("a piece that does not fit its set, or makes it too large")
        if len(waiting.pieces) < waiting.count:
            return None
        del self._sets[name]
        whole = b"".join(waiting.pieces[index] for index in range(waiting.count))
        if expanded_bytes(whole) > MAX_WHOLE_BYTES:
            raise DecodeError(f"a set that would be more than {MAX_WHOLE_BYTES} bytes")
        return decode_packet(whole).with_ttl(0)

    def expire(self, now: float) -> None:
        """Forget sets that were not completed in time."""
        late = [name for name, waiting in self._sets.items() if waiting.expires_at <= now]
        for name in late:
            del self._sets[name]
        self.lost += len(late)

    def forget(self, link: Hashable) -> None:
        """A link is gone, and with it what it began."""
        self._sets = {name: waiting for name, waiting in self._sets.items() if waiting.link != link}

    def _make_room(self, link: Hashable, most: int) -> None:
        """Let the oldest set of this link go if it has too many, else the oldest of whoever has the most."""
        counts: dict[Hashable, int] = {}
        for waiting in self._sets.values():
            counts[waiting.link] = counts.get(waiting.link, 0) + 1
        loser = link
        if counts.get(link, 0) < most:
            if len(self._sets) < MAX_SETS:
                return
            loser = max(counts, key=counts.__getitem__)
        del self._sets[next(name for name, waiting in self._sets.items() if waiting.link == loser)]
        self.lost += 1
