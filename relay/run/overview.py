# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of the running relay that its operator sees (relay.control.status), made anew each time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import relay
from relay.control.notices import read_notices
from relay.control.status import (
    ClockStatus,
    LinkStatus,
    NoticeStatus,
    QueueName,
    QueueStatus,
    Status,
    StoreStatus,
    interface_label,
)
from relay.core.messages import Role
from relay.core.stats import ENDS, Evicted, LinkKind

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from relay.core.node import Node
    from relay.core.stats import LinkStats
    from relay.process.progress import Progress
    from relay.run.siblings import Components
    from relay.store.committer import Committer

    Peers = Counter[tuple[LinkKind, str, Role]]

#: In the place of an interface: the link as a whole.
ALL: Final = "all"


class Overview:
    """Looks at everything, and changes nothing."""

    def __init__(
        self,
        *,
        node: Node,
        committer: Committer,
        progress: Progress,
        components: Components,
        link_states: Mapping[tuple[LinkKind, str], tuple[bool, str]],
        log_damaged: bool,
    ) -> None:
        """``link_states``: which links and parts of them work, where that is known, and what an operator can do.

        ``log_damaged``: the store's was, at the start.
        """
        self._node = node
        self._committer = committer
        self._progress = progress
        self._components = components
        self._link_states = link_states
        self._log_damaged = log_damaged
        self._notices: list[NoticeStatus] = []

    def read_notices(self) -> None:
        """Read what other processes left to be said: from files, so now and then and not at each look."""
        self._notices = [
            NoticeStatus(code=str(notice.code), text=notice.text, serious=notice.code.serious)
            for notice in read_notices()
        ]

    def status(self, now: float, *, started: float, ready: bool, clock_source: str) -> Status:
        """Return a fresh picture; ``started`` and ``now`` in monotonic seconds."""
        node = self._node
        return Status(
            version=relay.__version__,
            uptime_s=round(now - started, 1),
            ready=ready,
            clock=ClockStatus(trusted=node.clock.trusted, source=clock_source, hour=node.clock.hour(now)),
            store=self._store_status(now),
            links=self._link_statuses(),
            queues=[
                QueueStatus(name=QueueName.COMMIT, length=self._committer.pending_rows, capacity=node.max_pending_rows),
                QueueStatus(name=QueueName.REQUESTS, length=node.wanted(), capacity=node.max_wanted),
            ],
            totals=node.stats.totals(),
            relays=node.relays_near,
            tasks=self._progress.check(),
            components=self._components.statuses(),
            notices=self._notices,
        )

    def _store_status(self, now: float) -> StoreStatus:
        node = self._node
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
            log_damaged=self._log_damaged,
            price_bits={
                interface_label(node.interface_name(number)): node.admission.price(number)
                for number in node.log.held_by_interface
            },
        )

    def _link_statuses(self) -> list[LinkStatus]:
        counted = {(row.kind, row.interface): row for row in self._node.stats.links()}
        parts = [key for key in self._link_states if key[1] != ALL]
        # Discovery has no sessions: of an interface that went there is nothing to be seen.
        shown = [key for key in counted if key[0] is not LinkKind.DNSSD or key in parts]
        peers = self._node.peers()
        return [
            self._link_status(kind, interface, counted.get((kind, interface)), peers)
            for kind, interface in dict.fromkeys([*shown, *parts])
        ]

    def _link_status(self, kind: LinkKind, interface: str, row: LinkStats | None, peers: Peers) -> LinkStatus:
        whole = self._link_states.get((kind, ALL), (True, ""))
        up, fault = self._link_states.get((kind, interface), whole)
        status = LinkStatus(
            kind=str(kind),
            interface=interface_label(interface),
            up=up,
            fault=fault,
            relays=peers[kind, interface, Role.RELAY],
            clients=peers[kind, interface, Role.CLIENT],
        )
        if row is None:
            return status
        return replace(
            status,
            bytes_in=row.bytes_in,
            bytes_out=row.bytes_out,
            restarts=row.restarts,
            ended={str(reason): count for reason, count in row.errors.items() if count and reason in ENDS},
            errors={str(reason): count for reason, count in row.errors.items() if count and reason not in ENDS},
        )
