# SPDX-License-Identifier: GPL-2.0-or-later
"""Live datagrams: from a gateway of one relay to those of all others, now or never (docs/protocol.md section 6.12).

They are flooded: to every neighbour but the one of whom they came, each once. Nothing of them is stored, and what
cannot go on soon is dropped and counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.core.frames import LIVE_LANE
from relay.core.live_queue import LiveQueue
from relay.core.messages import MAX_HOPS, LiveDatagram, encode_live
from relay.core.pacing import Paced
from relay.core.rate import Bucket, Rate
from relay.core.stats import LiveDropped, LiveTotal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from relay.core.link import Link
    from relay.core.neighbours import Neighbours
    from relay.core.stats import Stats

#: New datagrams that come by one interface, or of one gateway: what three or four islands full of phones say.
DATAGRAMS_IN: Final = Rate(per_s=100.0, burst=400.0)
#: ... and their bytes.
BYTES_IN: Final = Rate(per_s=64 << 10, burst=256 << 10)
#: Interfaces and gateways with a rate of their own; more share one. Names of gateways come from their processes.
MAX_ORIGINS: Final = 128
#: What goes out on a slow link, where the radio's few kB a second are for messages.
SLOW_BYTES_OUT: Final = Rate(per_s=2000.0, burst=4000.0)
#: Put into a session at a time, on a fast link; on a slow one it is one datagram.
AT_ONCE_BYTES: Final = 32 << 10
#: Datagrams are known again for longer than one can be under way, each hop as late as can be ...
SEEN_S: Final = 300.0
#: ... unless there are more: 3 MiB. Then the limit of hops is what ends a loop.
MAX_SEEN: Final = 16_384
#: The first relay draws how many others may pass it on, so that the number does not tell a neighbour that it is the
#: first: one of so many.
HOP_DRAWS: Final = 8


@dataclass(frozen=True, slots=True)
class Heard:
    """A datagram for the gateways here; ``gateway``: whose it is, if it is one of them."""

    datagram: LiveDatagram
    gateway: str | None = None


class Live:
    """Which datagrams go where."""

    def __init__(
        self,
        stats: Stats,
        neighbours: Neighbours,
        random_bytes: Callable[[int], bytes],
        mark_ready: Callable[[Link], None],
    ) -> None:
        """``mark_ready`` hears of links that have something to send."""
        self._stats = stats
        self._neighbours = neighbours
        self._random_bytes = random_bytes
        self._mark_ready = mark_ready
        #: Kinds that gateways here want; the others' are passed on alone.
        self.wanted: frozenset[int] = frozenset()
        self._heard: deque[Heard] = deque()
        #: In order of arrival, and until when they are known.
        self._seen: dict[bytes, float] = {}
        self._rates: dict[Hashable, tuple[Bucket, Bucket]] = {}
        self._paced = Paced()

    # -- in ---------------------------------------------------------------

    def received(self, link: Link, hops: int, datagram: LiveDatagram, now: float) -> None:
        """Take what a neighbour sent: ``hops`` more relays may pass it on."""
        key = _key(datagram)
        if self._is_known(key, now):
            # Who has it need not hear it from us.
            for sibling in self._neighbours.siblings(link):
                sibling.live.discard(key)
            self._stats.add(LiveTotal.DUPLICATE)
            return
        if not self._admit(link.interface, key, datagram, now):
            return
        self._stats.add(LiveTotal.RECEIVED)
        if datagram.kind in self.wanted:
            self._heard.append(Heard(datagram))
        if hops:
            self._pass_on(key, encode_live(hops - 1, datagram.encode()), link, now)
        else:
            self._stats.add(LiveDropped.HOPS)

    def handed_over(self, gateway: str, datagram: LiveDatagram, now: float) -> bool:
        """Take what a gateway here says to all others; False if that is beyond its rate."""
        key = _key(datagram)
        if self._is_known(key, now):
            self._stats.add(LiveTotal.DUPLICATE)
            return True
        if not self._admit(gateway, key, datagram, now):
            return False
        self._stats.add(LiveTotal.HANDED_OVER)
        if datagram.kind in self.wanted:
            self._heard.append(Heard(datagram, gateway))
        hops = MAX_HOPS - self._random_bytes(1)[0] % HOP_DRAWS
        self._pass_on(key, encode_live(hops, datagram.encode()), None, now)
        return True

    def _is_known(self, key: bytes, now: float) -> bool:
        return self._seen.get(key, now) > now

    def _admit(self, origin: Hashable, key: bytes, datagram: LiveDatagram, now: float) -> bool:
        """Count what is new against the rate of where it comes from. What is beyond it may still come another way."""
        if origin not in self._rates and len(self._rates) >= MAX_ORIGINS:
            origin = None
        datagrams, data = self._rates.setdefault(origin, (Bucket(DATAGRAMS_IN, now), Bucket(BYTES_IN, now)))
        if not datagrams.take(1, now) or not data.take(len(datagram.data), now):
            self._stats.add(LiveDropped.RATE)
            return False
        self._seen.pop(key, None)
        while self._seen and (len(self._seen) >= MAX_SEEN or next(iter(self._seen.values())) <= now):
            del self._seen[next(iter(self._seen))]
        self._seen[key] = now + SEEN_S
        return True

    # -- out --------------------------------------------------------------

    def take_heard(self) -> deque[Heard]:
        """Return what is for the gateways here."""
        heard, self._heard = self._heard, deque()
        return heard

    def _pass_on(self, key: bytes, message: bytes, source: Link | None, now: float) -> None:
        """Let a message wait for every neighbour but the one of whom it came, on the session that carries offers."""
        came_by = self._neighbours.siblings(source) if source is not None else []
        for link in self._neighbours:
            if link.exchange is None or link.exchange.cursor is None or link in came_by:
                continue
            dropped = link.live.add(key, message, now)
            self._stats.add(LiveDropped.QUEUE_FULL, dropped)
            self._mark_ready(link)

    def pump(self, link: Link, now: float) -> None:
        """Hand a link's session what it may send now."""
        queue, session = link.live, link.session
        self._stats.add(LiveDropped.LATE, queue.drop_late(now))
        self._paced.discard(link)
        if not queue or not session.is_lane_idle(LIVE_LANE):
            return
        paces = _paces(link, now)
        open_at = max((pace.open_at(now) for pace in paces), default=now)
        if open_at > now:
            self._paced.add(link, open_at)
            return
        sent_bytes = 0
        while queue and sent_bytes < AT_ONCE_BYTES:
            message = queue.take()
            session.send_live(message)
            self._stats.add(LiveTotal.SENT)
            sent_bytes += len(message)
            for pace in paces:
                pace.spend(len(message), now)
            if paces:
                break

    def has_output(self, link: Link) -> bool:
        """Whether :meth:`pump` has something for a link now."""
        return bool(link.live) and link not in self._paced

    # -- time -------------------------------------------------------------

    @property
    def next_s(self) -> float | None:
        """When :meth:`take_due` returns a link (monotonic seconds)."""
        return self._paced.next_s

    def take_due(self, now: float) -> list[Link]:
        """Return the links that waited for their rate and may go on."""
        return self._paced.take_due(now)

    def forget(self, link: Link) -> None:
        """The link is gone, and what waited for it."""
        self._paced.discard(link)
        self._stats.add(LiveDropped.LINK_LOST, len(link.live))
        link.live = LiveQueue()


def _paces(link: Link, now: float) -> list[Bucket]:
    """Return what bounds a link: its own rate if it is slow, its interface's if the operator bounds that."""
    queue, paces = link.live, []
    if link.session.is_slow:
        queue.slow_bytes = queue.slow_bytes or Bucket(SLOW_BYTES_OUT, now)
        paces.append(queue.slow_bytes)
    if link.airtime is not None:
        paces.append(link.airtime.live_bytes)
    return paces


def _key(datagram: LiveDatagram) -> bytes:
    return bytes([datagram.kind]) + datagram.identity
