# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sessions lead to the same relay (docs/protocol.md section 4.4).

Relays draw a fresh key for every session, so only somebody who holds the secret
of another session can show that it is the same relay behind both.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.core.link import Link


class Neighbours:
    """Sessions with relays, grouped by relay."""

    def __init__(self) -> None:
        self._groups: dict[int, set[int]] = {}
        self._links: dict[int, Link] = {}

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def with_hash(self, handshake_hash: bytes) -> list[Link]:
        """Return sessions with this handshake hash: one, unless we talk to ourselves."""
        return [link for link in self._links.values() if link.session.handshake_hash == handshake_hash]

    def is_self(self, link: Link) -> bool:
        """Whether the other end of ``link`` is this relay itself."""
        return bool(self.with_hash(link.session.handshake_hash))

    def link_secrets(self) -> list[bytes]:
        """Return the secrets of all sessions, to show on a new one which we share."""
        return [link.session.link_secret for link in self._links.values()]

    def add(self, link: Link) -> None:
        """Take in an established session."""
        self._links[link.number] = link
        self._groups[link.number] = {link.number}

    def remove(self, link: Link) -> list[Link]:
        """Forget a session; return the others with the same relay."""
        if self._links.pop(link.number, None) is None:
            return []
        group = self._groups.pop(link.number)
        group.discard(link.number)
        return [self._links[number] for number in sorted(group)]

    def recognise(self, link: Link, macs: list[bytes]) -> list[Link]:
        """Join ``link`` with the sessions that one of the peer's ``macs`` proves to be its own; return these."""
        found = []
        for other in list(self._links.values()):
            if other is link:
                continue
            expected = link.session.same_mac(other.session.link_secret)
            if any(hmac.compare_digest(expected, mac) for mac in macs):
                joined = self._groups[link.number] | self._groups[other.number]
                for number in joined:
                    self._groups[number] = joined
                found.append(other)
        return found

    def relays(self) -> list[list[Link]]:
        """Return the sessions with each relay; not those that have yet to show which one is behind them."""
        groups = {id(group): group for group in self._groups.values()}.values()
        found = [[self._links[number] for number in sorted(group) if self._links[number].ready] for group in groups]
        return [links for links in found if links]

    def siblings(self, link: Link) -> list[Link]:
        """Return all sessions with the relay behind ``link``, itself included."""
        return [self._links[number] for number in sorted(self._groups.get(link.number, ()))]

    def primary(self, link: Link) -> Link | None:
        """Return the session that carries offers: fast before slow, then the same choice on both sides."""
        ready = [sibling for sibling in self.siblings(link) if sibling.ready and sibling.exchange]
        return min(
            ready,
            key=lambda sibling: (
                bool(sibling.exchange and sibling.exchange.slow),
                sibling.session.handshake_hash,
            ),
            default=None,
        )
