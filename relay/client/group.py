# SPDX-License-Identifier: GPL-2.0-or-later
"""What a message to a group carries in front, so that every member can answer all (docs/protocol.md section 12.3)."""

from dataclasses import dataclass, field
from typing import Final

from relay.client.card import Card
from relay.client.identity import RENDEZVOUS_BYTES
from relay.client.text import cut
from relay.core.codec import Reader, Writer
from relay.core.errors import DecodeError
from relay.core.noise import KEY_BYTES

GROUP_ID_BYTES: Final = 16
MAX_GROUP_NAME_BYTES: Final = 255
MAX_CARDS: Final = 255
"""One byte; 12,513 bytes with the longest name, which fit in the first piece."""
MAX_VERSION: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Who is in a group, by the word of whoever sends this; a higher `version` says so later.

    `name` is text from a stranger.
    """

    id: bytes
    version: int
    name: str
    members: tuple[Card, ...] = field(repr=False)

    def encode(self) -> bytes:
        """Return ID, version, name and members."""
        name = cut(self.name, MAX_GROUP_NAME_BYTES).encode()
        writer = Writer().bytes(self.id).u32(self.version).u8(len(name)).bytes(name).u8(len(self.members))
        for card in self.members:
            writer.bytes(card.static).bytes(card.rendezvous)
        return bytes(writer)

    @property
    def rank(self) -> tuple[int, bytes]:
        """What is greater holds: of two changes at the same time all members keep the same one."""
        return self.version, b"".join(sorted(card.static for card in self.members))


def split_group_head(start: bytes) -> tuple[Group, int]:
    """Return the group and where the body goes on; DecodeError when `start` has no such head.

    `start` is the first piece or the whole of the body.
    """
    reader = Reader(start)
    group_id = reader.bytes(GROUP_ID_BYTES)
    version = reader.u32()
    name = reader.bytes(reader.u8()).decode(errors="replace")
    count = reader.u8()
    if not count:
        raise DecodeError("a group without members")
    members = tuple(
        Card(static=reader.bytes(KEY_BYTES), rendezvous=reader.bytes(RENDEZVOUS_BYTES)) for _ in range(count)
    )
    if len({card.static for card in members}) != count:
        raise DecodeError("a group with a member twice")
    return Group(id=group_id, version=version, name=name, members=members), len(start) - reader.remaining
