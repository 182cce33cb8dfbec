# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives the core with one event loop: streams, commits, timers, the wall clock.

All decisions are the core's (relay.core.node). This moves bytes, and calls back
after the commit. Nothing here runs unless something happened or is due.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from relay.core.errors import RelayError
from relay.core.stats import Dropped, Evicted, HandshakeFailure, LinkKind
from relay.process.reports import Component, NewsForBle
from relay.run.connections import Connections
from relay.run.gateways import Gateways
from relay.run.overview import ALL, LinkReport, Overview
from relay.run.siblings import Components
from relay.run.storing import LASTING
from relay.run.timekeeper import Timekeeper
from relay.store.errors import StoreIoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.control.status import Status
    from relay.core.intake import PendingBatch
    from relay.core.node import Node
    from relay.core.stats import LinkStats, Reason, Stats
    from relay.links import StreamInfo
    from relay.process.link_socket import Gateway
    from relay.process.progress import Progress
    from relay.store.committer import Committer
    from relay.store.database import Store

logger = logging.getLogger(__name__)

#: How often envelopes are looked at that may have to leave.
RETIRE_INTERVAL_S: Final = 600.0
#: How often the residence clock is saved: the only write of an idle relay.
SAVE_CLOCK_INTERVAL_S: Final = 3600.0
#: A busy loop leaves the interpreter to the store's thread for so long after each turn, or until a commit is done. It
#: gives it up 22 times for a commit of one envelope (counted), and would wait for the switch interval to have it back.
COMMIT_S: Final = 0.0002


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
        card_trouble: str = "",
    ) -> None:
        """``card_trouble``: what everybody is to be told of the card that the store should be on."""
        self.node = node
        self.ready = False
        self._store = store
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._timekeeper = Timekeeper(node, trust_system_clock=trust_system_clock)
        self._connections = Connections(
            node,
            max_connections=max_connections,
            max_per_address=max_connections_per_address,
            wake=self.wake,
        )
        self._link_states: dict[tuple[LinkKind, str], LinkReport] = {}
        self._components = Components(on_state=self._component_state, on_refused=self.preamble_refused)
        self._gateways = Gateways(node, wake=self.wake, on_refused=self.preamble_refused)
        self._wake_scheduled = False
        self._slice_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._next_retire = 0.0
        self._next_save = self._started + SAVE_CLOCK_INTERVAL_S
        self._task = progress.register("engine", pending=lambda: self._wake_scheduled)
        self._commits = progress.register("store", pending=lambda: committer.pending_rows > 0)
        self._overview = Overview(
            node=node,
            store=store,
            committer=committer,
            now=self._started,
            progress=progress,
            components=self._components,
            link_states=self._link_states,
            log_damaged=store.log_damage is not None,
            card_trouble=card_trouble,
        )
        if store.log_damage is not None:
            self.stats.add(Evicted.DAMAGED, store.log_damage.lost)

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
        return self._connections.stream(describe, on_closed)

    def component(self, component: Component) -> asyncio.Protocol:
        """Return a protocol for the connection of another process of the relay; see relay.links.Host."""
        self.wake()
        return self._components.connection(component)

    def gateway(self, gateway: Gateway) -> asyncio.Protocol:
        """Return a protocol for the connection of a gateway; see relay.links.Host."""
        return self._gateways.connection(gateway)

    def _component_state(self, component: Component, up: bool) -> None:  # noqa: FBT001 - a callback
        if component is Component.BLE:
            self.link_state(LinkKind.BLE, up=up)

    def is_linked(self, peer: str, interface: str) -> bool:
        """Whether a session with a relay at this address is open; see relay.links.Host."""
        return self._connections.is_linked(peer, interface)

    def link_stats(self, kind: LinkKind, interface: str) -> LinkStats:
        """Counters of a kind of link on an interface."""
        return self.node.stats.link(kind, interface)

    def addresses_gone(self, addresses: frozenset[str]) -> None:
        """End the streams that use one of our addresses that we have no more."""
        self._connections.addresses_gone(addresses)

    def preamble_refused(self) -> None:
        """Count a foreign stream whose first line is wrong."""
        self.stats.add(HandshakeFailure.BAD_PREAMBLE)

    def announcement_dropped(self) -> None:
        """Count a relay that announces itself beyond the bound of its segment."""
        self.stats.add(Dropped.DISCOVERED_FULL)

    def link_failed(self, kind: LinkKind, interface: str = ALL) -> None:
        """Count that a link, or a part of it, failed and is started again."""
        self.link_stats(kind, interface).restarts += 1

    def link_state(
        self,
        kind: LinkKind,
        interface: str = ALL,
        *,
        up: bool | None,
        fault: str = "",
        unplugged: bool = False,
    ) -> None:
        """Note whether a link, or a part of it, works; see relay.links.Host."""
        if up is None:
            self._link_states.pop((kind, interface), None)
        else:
            self._link_states[kind, interface] = LinkReport(up, fault, unplugged)

    # -- the loop ---------------------------------------------------------

    def wake(self) -> None:
        """Let :meth:`_process` run once, after all that is readable now was read."""
        if not self._wake_scheduled:
            self._wake_scheduled = True
            # A timer that is due comes behind what the loop finds readable, call_soon before it.
            self._loop.call_later(0, self._process)

    def _process(self) -> None:
        self._wake_scheduled = False
        self._task.beat()
        # Before the turns, or who waits for an acknowledgement would wait for two rounds of them more.
        self._committer.deliver()
        is_busy = self._connections.take_turns()
        self._gateways.deliver()
        pending = self.node.take_batch()
        if pending is not None:
            self._committer.submit(pending.batch, lambda error: self._committed(pending, error))
        if self.node.has_work and not self._slice_scheduled:
            self._slice_scheduled = True
            self._loop.call_soon(self._slice)
        if self._components.wants_news:
            self._components.tell(NewsForBle(news=self.node.news, known=tuple(self.node.known_news())))
        self._set_timer()
        if is_busy:
            self._committer.deliver(wait_s=COMMIT_S)

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
            self._overview.commit_failed(error)
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
        """Do what is due rarely: read clock, notices and disk, retire envelopes, save the residence clock."""
        now = self._loop.time()
        self._timekeeper.observe(now)
        self._gateways.tell_time()
        self._connections.rest()
        self._overview.look(now)
        self._reload()
        if self.node.may_try_storage(now):
            # A commit tells whether the disk takes writes again; nobody needs to bring an envelope for that.
            self.node.retire(now, save_clock=True)
            self.wake()
        if now < self._next_retire:
            return
        self._next_retire = now + RETIRE_INTERVAL_S
        save = now >= self._next_save
        if save:
            self._next_save = now + SAVE_CLOCK_INTERVAL_S
        self.node.retire(now, save_clock=save)
        self.wake()

    def require_store(self, within_s: float) -> None:
        """Raise StoreIoError if the store took nothing for so long, for a reason that does not pass by itself."""
        fault = self._overview.store_fault()
        if fault in LASTING and self._overview.unwritable_s(self._loop.time()) >= within_s:
            raise StoreIoError(self._store.path, f"it has taken nothing for {within_s:g} s ({fault})")

    def set_clock(self, unix_s: int) -> None:
        """Take the operator's word for the time, until the next start; raise ClockRefusedError."""
        now = self._loop.time()
        self._timekeeper.set(unix_s, now)
        self._gateways.tell_time()
        self._next_retire = now
        self.node.retire(now, save_clock=True)
        self.wake()

    # -- shutdown ---------------------------------------------------------

    async def shutdown(self) -> None:
        """Commit what came in, acknowledge it, say goodbye, save the clock."""
        self._connections.stop()
        await self._committer.drain()
        now = self._loop.time()
        self.node.retire(now, save_clock=True)
        pending = self.node.take_batch()
        if pending is not None:
            self._committer.submit(pending.batch, lambda error: self._committed(pending, error))
            await self._committer.drain()
        self.node.shutdown(self._loop.time())
        self._components.abort()
        self._gateways.abort()
        self._connections.flush()

    # -- what people see --------------------------------------------------

    def status(self) -> Status:
        """Return a fresh picture."""
        return self._overview.status(
            self._loop.time(), started=self._started, ready=self.ready, timekeeper=self._timekeeper
        )
