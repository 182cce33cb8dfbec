# SPDX-License-Identifier: GPL-2.0-or-later
"""Links: plug-ins that bring byte streams to the relay (docs/links.md).

A link is an object with a ``name`` and ``run(host)``, which works until it is
cancelled and raises when it cannot go on; the supervisor then starts it again.
Every stream it opens or accepts gets a protocol from :meth:`Host.stream`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from relay.core.stats import LinkKind, LinkStats, Reason
    from relay.process.link_socket import Gateway
    from relay.process.reports import Component


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """What a link knows about a stream.

    ``interface``: whose share of the store it uses. ``local`` and ``peer``: addresses,
    kept in memory while the stream lives, to end it when ours goes, to count connections and to
    recognise dialled peers; a moment longer where it had more than its part of the relay's time.
    ``slow``: a radio of a few kB/s, cut into small records.
    ``pinned``: 32-byte static key that the peer must show. ``named``: the operator told us to dial it, so
    it competes for a place with nobody.
    """

    kind: LinkKind
    interface: str
    initiator: bool
    local: str = ""
    peer: str = ""
    slow: bool = False
    pinned: bytes | None = None
    named: bool = False


class Host(Protocol):
    """The relay, as links see it."""

    def stream(
        self,
        describe: Callable[[asyncio.BaseTransport], StreamInfo | None],
        on_closed: Callable[[Reason | None], None] | None = None,
    ) -> asyncio.Protocol:
        """Return a protocol for a new stream.

        ``describe`` is called once connected; None turns the stream away.
        ``on_closed`` is called once with why the session ended.
        """

    def component(self, component: Component) -> asyncio.Protocol:
        """Return a protocol for the connection on which another process of the relay reports."""

    def gateway(self, gateway: Gateway) -> asyncio.Protocol:
        """Return a protocol for the connection on which a gateway hands live datagrams over."""

    def is_linked(self, peer: str, interface: str) -> bool:
        """Whether a session with a relay at this address is open, on ``interface`` unless that is empty."""

    def addresses_gone(self, addresses: frozenset[str]) -> None:
        """End the streams that use one of our addresses that we have no more."""

    def preamble_refused(self) -> None:
        """Count a foreign stream whose first line is wrong."""

    def announcement_dropped(self) -> None:
        """Count a relay that announces itself beyond the bound of its segment."""

    def link_failed(self, kind: LinkKind, interface: str) -> None:
        """Count that part of a link failed and is started again."""

    def link_state(
        self, kind: LinkKind, interface: str, *, up: bool | None, fault: str = "", unplugged: bool = False
    ) -> None:
        """Note whether a part of a link works, and if not what an operator can do; None: it is there no more.

        ``unplugged``: it does not, as nothing is plugged in, which is a fault only where something was.
        """

    def link_stats(self, kind: LinkKind, interface: str) -> LinkStats:
        """Counters of a kind of link on an interface."""


class LinkPlugin(Protocol):
    """One kind of link."""

    name: str

    async def run(self, host: Host) -> None:
        """Work until cancelled."""
