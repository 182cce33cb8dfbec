# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay remembers of a mesh: announces and public messages, in RAM only and bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.bitchat.rules import IPHONE
from relay.core.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Hashable

    from relay.bitchat.announce import Announce
    from relay.bitchat.packet import Packet

ANNOUNCE_LIFE_S: Final = IPHONE.announce_age_ms / 1000
"""As long as any phone takes an announce."""
MAX_PEERS: Final = 1_000
"""Announces with their keys, half a kilobyte each."""
MAX_KEYS_OF_PEER: Final = 8
"""Signing keys under one Noise key. That is public, so anybody can announce it beside keys of his own. Of more, the
oldest goes of the link that brought the most."""

MESSAGE_LIFE_S: Final = 21_600.0
"""As long as iPhones take a public message."""
MAX_MESSAGES: Final = 1_000
"""As many as phones keep."""
MAX_MESSAGE_BYTES: Final = 1 << 20
"""All messages together."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Peer:
    """The newest announce under one signing key."""

    packet: Packet
    announce: Announce


class Memory:
    """Who is there, and what was said to all."""

    def __init__(self) -> None:
        self._peers: Pool[tuple[bytes, bytes], Peer] = Pool(
            most=MAX_PEERS, most_bytes=MAX_PEERS * 1024, life_s=ANNOUNCE_LIFE_S
        )
        #: By peer ID, the links by which its keys came, the newest key last.
        self._keys: dict[bytes, dict[bytes, Hashable]] = {}
        self._messages: Pool[bytes, Packet] = Pool(
            most=MAX_MESSAGES, most_bytes=MAX_MESSAGE_BYTES, life_s=MESSAGE_LIFE_S
        )

    @property
    def peers(self) -> int:
        """How many announces there are."""
        return len(self._peers)

    @property
    def messages(self) -> int:
        """How many messages there are."""
        return len(self._messages)

    def is_news(self, packet: Packet, announce: Announce) -> bool:
        """Whether an announce is newer than what is known under its key."""
        known = self._peers.get((packet.sender, announce.signing_key))
        return known is None or packet.timestamp_ms > known.packet.timestamp_ms

    def is_newest(self, packet: Packet, announce: Announce) -> bool:
        """Whether an announce is the last that is known under its key."""
        known = self._peers.get((packet.sender, announce.signing_key))
        return known is not None and packet.timestamp_ms == known.packet.timestamp_ms

    def keep_announce(self, packet: Packet, announce: Announce, *, origin: Hashable, now: float) -> None:
        """Remember a verified announce."""
        key = announce.signing_key
        keys = self._keys.setdefault(packet.sender, {})
        keys.pop(key, None)
        keys[key] = origin
        if len(keys) > MAX_KEYS_OF_PEER:
            counts = Counter(keys.values())
            loser = max(keys, key=lambda known: counts[keys[known]])
            del keys[loser]
            self._peers.pop((packet.sender, loser))
        self._peers.put(
            (packet.sender, key),
            Peer(packet=packet, announce=announce),
            origin=origin,
            now=now,
            size=packet.held_bytes,
        )
        self._tidy_keys()

    def keys_of(self, peer_id: bytes, origin: Hashable = None) -> tuple[bytes, ...]:
        """Return the signing keys under which a peer is known: those by this link first, and the newest first."""
        keys = self._keys.get(peer_id, {})
        newest = [key for key in reversed(keys) if (peer_id, key) in self._peers]
        return tuple(sorted(newest, key=lambda key: keys[key] != origin))

    def is_here(self, peer_id: bytes, key: bytes, timestamp_ms: int) -> bool:
        """Whether somebody has announced himself under a key since then."""
        known = self._peers.get((peer_id, key))
        return known is not None and known.packet.timestamp_ms > timestamp_ms

    def leave(self, peer_id: bytes, key: bytes) -> None:
        """Somebody says that he goes: he is no longer announced. What he said stays."""
        self._peers.pop((peer_id, key))

    def keep_message(self, packet: Packet, *, origin: Hashable, now: float) -> None:
        """Remember a verified public message."""
        if packet.sync_id not in self._messages:
            # All other islands come by one link: without room it is who says the most whose oldest goes.
            self._messages.put(
                packet.sync_id, packet, origin=origin, now=now, size=packet.held_bytes, part=packet.sender
            )

    def announces_now(self) -> list[Packet]:
        """Return the announces, the newest first."""
        return sorted(
            (peer.packet for _, peer in self._peers.items()), key=lambda packet: packet.timestamp_ms, reverse=True
        )

    def messages_now(self) -> list[tuple[bytes, Packet]]:
        """Return (sync ID, message), the newest first."""
        return sorted(self._messages.items(), key=lambda item: item[1].timestamp_ms, reverse=True)

    def expire(self, now: float) -> None:
        """Forget what no phone takes any more, as far as our own clock of residence tells."""
        self._peers.expire(now)
        self._messages.expire(now)
        self._tidy_keys()

    def close_link(self, link: Hashable) -> None:
        """What came by this link is kept with that of other closed links."""
        self._peers.leave(link)
        self._messages.leave(link)

    def _tidy_keys(self) -> None:
        """Forget the keys of peers that gave way."""
        if len(self._keys) > 2 * MAX_PEERS:
            self._keys = {
                peer_id: kept
                for peer_id, keys in self._keys.items()
                if (kept := {key: by for key, by in keys.items() if (peer_id, key) in self._peers})
            }
