# SPDX-License-Identifier: GPL-2.0-or-later
"""One session of a relay and what belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.core.live_queue import LiveQueue
from relay.core.update_state import UpdateState

if TYPE_CHECKING:
    from relay.core.airtime import Airtime
    from relay.core.exchange import Exchange
    from relay.core.messages import Role
    from relay.core.serving import Serving
    from relay.core.session import Session
    from relay.core.stats import LinkStats, Reason


class Link:
    """One session and what belongs to it."""

    __slots__ = (
        "airtime",
        "close_reason",
        "closed",
        "exchange",
        "held",
        "interface",
        "kind_stats",
        "live",
        "named",
        "news",
        "news_told",
        "number",
        "paused",
        "pending_bytes",
        "pinned",
        "price_told",
        "ready",
        "serving",
        "session",
        "since",
        "timer_at",
        "until",
        "unwanted",
        "update",
    )

    def __init__(
        self,
        *,
        number: int,
        session: Session,
        interface: int,
        stats: LinkStats,
        serving: Serving,
        pinned: bytes | None,
        named: bool,
        now: float,
    ) -> None:
        self.number = number
        self.session = session
        self.interface = interface
        self.kind_stats = stats
        self.serving = serving
        self.pinned = pinned
        #: Whether the operator named the peer that we dialled.
        self.named = named
        self.since = now
        #: Of its interface, where that is bounded; whether it holds back what can wait, and is not read from.
        self.airtime: Airtime | None = None
        self.held = False
        self.paused = False
        self.exchange: Exchange | None = None
        #: Live datagrams that wait for it.
        self.live = LiveQueue()
        self.update = UpdateState()
        self.ready = False
        self.closed = False
        self.close_reason: Reason | None = None
        self.pending_bytes = 0
        self.price_told = 0
        #: What the peer was told of us, and the last two values that it, a relay, told of itself.
        self.news_told = b""
        self.news: tuple[bytes, ...] = ()
        self.unwanted = 0
        #: When the side that dialled ends a session between relays.
        self.until: float | None = None
        #: The one timer that counts; an earlier one makes it void.
        self.timer_at: float | None = None

    @property
    def held_bytes(self) -> int:
        """What it holds in memory, about, that a peer decides about: received, to be said, remembered."""
        session = self.session
        held = session.input_bytes + session.queued_bytes + session.unanswered_bytes
        held += self.pending_bytes + self.serving.held_bytes + self.live.held_bytes
        return held + self.exchange.held_bytes if self.exchange is not None else held

    @property
    def role(self) -> Role | None:
        """What the peer is, once it said so."""
        return self.session.peer.role if self.session.peer else None
