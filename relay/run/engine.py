# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives the core with one event loop: streams, commits, timers, the wall clock.

All decisions are the core's (relay.core.node). This moves bytes, and calls back
after the commit. Nothing here runs unless something happened or is due.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import relay
from relay.control.notices import read_notices
from relay.control.status import (
    ClockRefusedError,
    ClockStatus,
    LinkStatus,
    NoticeStatus,
    QueueName,
    QueueStatus,
    Status,
    StoreStatus,
    interface_label,
)
from relay.core.errors import RelayError
from relay.core.messages import Goodbye, Role
from relay.core.stats import Dropped, Evicted, HandshakeFailure, LinkKind, SessionError
from relay.process.reports import Component, NewsForBle
from relay.run.siblings import Components
from relay.run.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.core.intake import PendingBatch
    from relay.core.link import Link
    from relay.core.node import Node
    from relay.core.stats import LinkStats, Reason, Stats
    from relay.links import StreamInfo
    from relay.process.progress import Progress
    from relay.store.committer import Committer
    from relay.store.database import Store

logger = logging.getLogger(__name__)

#: How often envelopes are looked at that may have to leave.
RETIRE_INTERVAL_S: Final = 600.0
#: How often the residence clock is saved: the only write of an idle relay.
SAVE_CLOCK_INTERVAL_S: Final = 3600.0


class Engine:
    """The running relay (implements relay.control.status.Engine and relay.links.Host)."""

    def __init__(
        self,
        *,
        node: Node,
        store: Store,
        committer: Committer,
        progress: Progress,
        trust_system_clock: bool,
        max_connections: int,
        max_connections_per_address: int,
    ) -> None:
        self.node = node
        self.ready = False
        self._is_stopping = False
        self._store = store
        self._committer = committer
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._trust_system_clock = trust_system_clock
        self._operator_offset_s: float | None = None
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address
        self._streams: dict[int, Stream] = {}
        self._addresses: Counter[str] = Counter()
        self._up: dict[tuple[LinkKind, str], bool] = {}
        self._components = Components(on_state=self._component_state, on_refused=self.preamble_refused)
        self._wake_scheduled = False
        self._slice_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._next_retire = 0.0
        self._next_save = self._started + SAVE_CLOCK_INTERVAL_S
        self._task = progress.register("engine", pending=lambda: self._wake_scheduled)
        self._commits = progress.register("store", pending=lambda: committer.pending_rows > 0)

    @property
    def stats(self) -> Stats:
        """The counts since start."""
        return self.node.stats

    # -- links ------------------------------------------------------------

    def stream(
        self,
        describe: Callable[[asyncio.BaseTransport], StreamInfo | None],
        on_closed: Callable[[Reason | None], None] | None = None,
    ) -> asyncio.Protocol:
        """Return a protocol for a new stream; see relay.links.Host."""
        return Stream(self, describe, on_closed)

    def component(self, component: Component) -> asyncio.Protocol:
        """Return a protocol for the connection of another process of the relay; see relay.links.Host."""
        self.wake()
        return self._components.connection(component)

    def _component_state(self, component: Component, up: bool) -> None:  # noqa: FBT001 - a callback
        if component is Component.BLE:
            self._up[LinkKind.BLE, "all"] = up

    def is_linked(self, peer: str, interface: str) -> bool:
        """Whether a session with a relay at this address is open; see relay.links.Host."""
        return any(
            stream.info is not None
            and stream.info.peer == peer
            and interface in ("", stream.info.interface)
            and stream.link is not None
            and stream.link.ready
            for stream in self._streams.values()
        )

    def link_stats(self, kind: LinkKind, interface: str) -> LinkStats:
        """Counters of a kind of link on an interface."""
        return self.node.stats.link(kind, interface)

    def addresses_gone(self, addresses: frozenset[str]) -> None:
        """End the streams that use one of our addresses that we have no more."""
        for stream in list(self._streams.values()):
            if stream.info is not None and stream.info.local in addresses:
                stream.abort()

    def preamble_refused(self) -> None:
        """Count a foreign stream whose first line is wrong."""
        self.stats.add(HandshakeFailure.BAD_PREAMBLE)

    def announcement_dropped(self) -> None:
        """Count a relay that announces itself beyond the bound of its segment."""
        self.stats.add(Dropped.DISCOVERED_FULL)

    def link_failed(self, kind: LinkKind) -> None:
        """Count that part of a link failed and is started again."""
        self.link_stats(kind, "all").restarts += 1

    def link_state(self, kind: LinkKind, *, up: bool) -> None:
        """Note that a link runs or failed; a failure counts as a restart."""
        if not up:
            self.link_failed(kind)
        self._up[kind, "all"] = up

    def opened(self, stream: Stream) -> Link | None:
        """Start the session of a new stream, or None when there are too many."""
        info = stream.info
        if info is None or self._is_stopping:
            return None
        taken = self._addresses[info.peer] if info.peer else 0
        too_many = not info.initiator and taken >= self._max_per_address
        if too_many or (len(self._streams) >= self._max_connections and not self._make_room(taken)):
            self.stats.add(HandshakeFailure.TOO_MANY)
            return None
        link = self.node.connect(
            kind=info.kind,
            interface=info.interface,
            initiator=info.initiator,
            now=self._loop.time(),
            slow=info.slow,
            pinned=info.pinned,
        )
        self._streams[link.number] = stream
        self._addresses[info.peer] += 1
        return link

    def _make_room(self, taken: int) -> bool:
        """End a connection for a newcomer whose address has ``taken`` so many; False when none has less right to stay.

        Whoever opens connections until the relay is full must not keep others out: the
        address with the most gives one up, of these one without a session if there is any.
        Where all have as few as the newcomer, only one without a session goes.
        """
        accepted = [
            (self._addresses[stream.info.peer], stream.link.session.peer is None, -stream.link.number, stream)
            for stream in self._streams.values()
            if stream.info is not None and stream.link is not None and stream.info.peer and not stream.info.initiator
        ]
        if not accepted:
            return False
        count, is_unproven, _, stream = max(accepted, key=lambda candidate: candidate[:3])
        if count < taken + 1 or (count == taken + 1 and not is_unproven):
            return False
        stream.evict()
        return True

    def evict(self, link: Link) -> None:
        """End a session to make room for another one."""
        self.node.close(link, Goodbye.BUSY, HandshakeFailure.TOO_MANY, self._loop.time())

    def received(self, link: Link, data: bytes) -> None:
        """Hand bytes of a stream to the core."""
        self.node.receive(link, data, self._loop.time())
        self.wake()

    def lost(self, stream: Stream) -> Reason | None:
        """Forget a stream; return why its session ended."""
        link, info = stream.link, stream.info
        if link is None or info is None or self._streams.pop(link.number, None) is None:
            return None
        self._addresses[info.peer] -= 1
        if not self._addresses[info.peer]:
            del self._addresses[info.peer]
        self.node.lost(link, self._loop.time())
        self.wake()
        return link.close_reason

    def slow_reader(self, link: Link) -> None:
        """The peer does not read: end its session."""
        self.node.close(link, Goodbye.SLOW_READER, SessionError.SLOW_READER, self._loop.time())

    def pull(self, link: Link) -> bytes:
        """Return the next bytes for a stream."""
        return self.node.data_to_send(link, self._loop.time())

    def has_output(self, link: Link) -> bool:
        """Whether a further :meth:`pull` may return more."""
        return self.node.has_output(link)

    def may_receive(self, link: Link) -> bool:
        """Whether to read on from a stream."""
        return not self._is_stopping and self.node.may_receive(link)

    # -- the loop ---------------------------------------------------------

    def wake(self) -> None:
        """Let :meth:`_process` run once, after all that is readable now was read."""
        if not self._wake_scheduled:
            self._wake_scheduled = True
            self._loop.call_soon(self._process)

    def wake_later(self, link: Link) -> None:
        """Flush this link again after the others had their turn."""
        self.node.mark_ready(link)
        self.wake()

    def _process(self) -> None:
        self._wake_scheduled = False
        self._task.beat()
        pending = self.node.take_batch()
        if pending is not None:
            self._committer.submit(pending.batch, lambda error: self._committed(pending, error))
        for link in self.node.take_ready():
            stream = self._streams.get(link.number)
            if stream is not None:
                stream.flush()
        if self.node.has_work and not self._slice_scheduled:
            self._slice_scheduled = True
            self._loop.call_soon(self._slice)
        if self._components.wants_news:
            self._components.tell(NewsForBle(news=self.node.news, known=tuple(self.node.known_news())))
        self._set_timer()

    def _slice(self) -> None:
        self._slice_scheduled = False
        if self.node.has_work:
            self.node.run_slice(self._loop.time())
        self.wake()

    def _set_timer(self) -> None:
        due = self.node.next_deadline()
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.node.handle_timer(self._loop.time())
        self.wake()

    def _committed(self, pending: PendingBatch, error: BaseException | None) -> None:
        self._commits.beat()
        now = self._loop.time()
        if error is None:
            self.node.committed(pending, now)
        else:
            logger.error("the store refused a commit (%s): nothing of it was acknowledged", type(error).__name__)
            self.node.commit_failed(pending, now)
        self._reload()
        self.wake()

    def _reload(self) -> None:
        """Read from the store again what memory got ahead of; tried again at the next tick if that fails."""
        if self.node.needs_reload:
            try:
                self.node.reload(self._store.load())
            except RelayError as error:
                # The text of a store's error holds a path; the type says enough.
                logger.error("the store cannot be read (%s): nothing new is accepted", type(error).__name__)  # noqa: TRY400

    # -- time -------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due rarely: read the wall clock, retire envelopes, save the residence clock."""
        now = self._loop.time()
        self._observe_clock(now)
        self._reload()
        if now < self._next_retire:
            return
        self._next_retire = now + RETIRE_INTERVAL_S
        save = now >= self._next_save
        if save:
            self._next_save = now + SAVE_CLOCK_INTERVAL_S
        self.node.retire(now, save_clock=save)
        self.wake()

    def _observe_clock(self, now: float) -> None:
        if self._operator_offset_s is not None:
            self.node.observe_clock(now=now, wall_s=now + self._operator_offset_s, trusted=True)
        else:
            self.node.observe_clock(now=now, wall_s=time.time(), trusted=self._trust_system_clock)

    def set_clock(self, unix_s: int) -> None:
        """Take the operator's word for the time, until the next start.

        Earlier mistakes can be corrected, but nothing before the build date is believed.
        """
        least_s = self.node.clock.build_hour * 3600
        if unix_s < least_s:
            raise ClockRefusedError(
                f"that is before {time.strftime('%Y-%m-%d %H:%M', time.gmtime(least_s))} UTC, "
                "when this version of the relay was made; check the year"
            )
        now = self._loop.time()
        self._operator_offset_s = unix_s - now
        self._observe_clock(now)
        self._next_retire = now
        self.node.retire(now, save_clock=True)
        self.wake()

    # -- shutdown ---------------------------------------------------------

    async def shutdown(self) -> None:
        """Commit what came in, acknowledge it, say goodbye, save the clock."""
        # Peers that go on sending would keep the store from ever being done.
        self._is_stopping = True
        for stream in list(self._streams.values()):
            stream.flush()
        await self._committer.drain()
        now = self._loop.time()
        self.node.retire(now, save_clock=True)
        pending = self.node.take_batch()
        if pending is not None:
            self._committer.submit(pending.batch, lambda error: self._committed(pending, error))
            await self._committer.drain()
        self.node.shutdown(self._loop.time())
        self._components.abort()
        for stream in list(self._streams.values()):
            stream.flush()

    # -- what people see --------------------------------------------------

    def status(self) -> Status:
        """Return a fresh picture."""
        now = self._loop.time()
        node = self.node
        return Status(
            version=relay.__version__,
            uptime_s=round(now - self._started, 1),
            ready=self.ready,
            clock=ClockStatus(
                trusted=node.clock.trusted,
                source=self._clock_source(),
                hour=node.clock.hour(now),
            ),
            store=self._store_status(now),
            links=self._link_statuses(),
            queues=self._queue_statuses(),
            totals=self.stats.totals(),
            tasks=self._progress.check(),
            components=self._components.statuses(),
            notices=[
                NoticeStatus(code=str(notice.code), text=notice.text, serious=notice.code.serious)
                for notice in read_notices()
            ],
        )

    def _clock_source(self) -> str:
        if self._operator_offset_s is not None:
            return "operator"
        return "system" if self._trust_system_clock else "none"

    def _store_status(self, now: float) -> StoreStatus:
        node = self.node
        policy = node.admission.policy
        return StoreStatus(
            envelopes=node.log.held_count,
            bytes=node.log.held_bytes,
            max_envelopes=policy.max_envelopes,
            max_bytes=policy.max_bytes,
            oldest_age_s=round(node.oldest_age_s(now), 1),
            admitted=len(node.log),
            durable=node.config.durable,
            writable=not node.storage_failed,
            unreadable_bodies=node.stats.get(Evicted.DAMAGED),
            price_bits={
                interface_label(node.interface_name(number)): node.admission.price(number)
                for number in node.log.held_by_interface
            },
        )

    def _link_statuses(self) -> list[LinkStatus]:
        peers = self.node.peers()
        return [
            LinkStatus(
                kind=str(row.kind),
                interface=interface_label(row.interface),
                up=self._up.get((row.kind, "all"), True),
                relays=peers[row.kind, row.interface, Role.RELAY],
                clients=peers[row.kind, row.interface, Role.CLIENT],
                bytes_in=row.bytes_in,
                bytes_out=row.bytes_out,
                restarts=row.restarts,
                errors={str(reason): count for reason, count in row.errors.items() if count},
            )
            for row in self.stats.links()
        ]

    def _queue_statuses(self) -> list[QueueStatus]:
        node = self.node
        return [
            QueueStatus(name=QueueName.COMMIT, length=self._committer.pending_rows, capacity=node.max_pending_rows),
            QueueStatus(name=QueueName.REQUESTS, length=node.wanted(), capacity=node.max_wanted),
        ]
