# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of the running relay that its operator sees (relay.control.status), made anew each time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import relay
from relay.control.conditions import SLOW_COMMIT_S, with_conditions
from relay.control.notices import Notice, NoticeCode, read_notices
from relay.control.status import (
    ClockStatus,
    LinkState,
    LinkStatus,
    NoticeStatus,
    QueueName,
    QueueStatus,
    Status,
    StoreStatus,
    interface_label,
)
from relay.core.messages import Role
from relay.core.stats import (
    ERRORS,
    LOOPBACK,
    OTHER,
    Evicted,
    HandshakeFailure,
    Histogram,
    LinkKind,
    Rejected,
    SessionError,
    Total,
    Trouble,
)
from relay.process.memory import memory_bytes
from relay.run.watch import Watch
from relay.store.errors import StoreError
from relay.store.space import Space, look

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from relay.core.node import Node
    from relay.core.stats import LinkStats
    from relay.process.progress import Progress
    from relay.run.siblings import Components
    from relay.run.timekeeper import Timekeeper
    from relay.store.committer import Committer
    from relay.store.database import Store

    Peers = Counter[tuple[LinkKind, str, Role]]

#: In the place of an interface: the link as a whole.
ALL: Final = "all"
#: Ages that tell when somebody put something are told in steps of this.
AGE_STEP_S: Final = 600
_GONE: Final = "the interface is gone, or was switched off"
#: Of a kind, the first that one of its interfaces is in.
_FOREMOST: Final = (LinkState.DOWN, LinkState.UP, LinkState.DISCOVERING, LinkState.LISTENING, LinkState.UNPLUGGED)


class LinkReport(NamedTuple):
    """What a link says of itself, or of a part; see relay.links.Host."""

    up: bool
    fault: str = ""
    unplugged: bool = False


class Overview:
    """Looks at everything, and changes nothing."""

    def __init__(
        self,
        *,
        node: Node,
        store: Store,
        committer: Committer,
        progress: Progress,
        components: Components,
        log_damaged: bool,
        link_states: Mapping[tuple[LinkKind, str], LinkReport],
        now: float,
        card_trouble: str = "",
    ) -> None:
        """``link_states``: which links and parts of them work, where that is known, and what an operator can do.

        ``log_damaged``: the store's was, at the start. ``card_trouble``: a notice of the store's own, if there is one.
        """
        self._node = node
        self._store = store
        self._committer = committer
        self._progress = progress
        self._components = components
        self._link_states = link_states
        self._log_damaged = log_damaged
        self._own_notices = [Notice(code=NoticeCode.STORAGE, text=card_trouble)] if card_trouble else []
        self._notices: list[NoticeStatus] = []
        self._watch = Watch(now)
        self._space = Space()
        self._memory_bytes: int | None = None
        self._commit_fault = ""
        #: Since when the store takes nothing, by what was looked at now and then.
        self._unwritable_since: float | None = None

    def look(self, now: float) -> None:
        """Look at what takes asking the system: files of other processes, the disk, memory. Now and then only."""
        self._notices = [
            NoticeStatus(code=str(notice.code), text=notice.text, serious=notice.code.serious)
            for notice in (*self._own_notices, *read_notices())
        ]
        self._space = look(self._store.path)
        self._memory_bytes = memory_bytes()
        if not self.store_fault():
            self._unwritable_since = None
        elif self._unwritable_since is None:
            self._unwritable_since = now
        self._note(now)

    def store_fault(self) -> str:
        """Why the store takes nothing, in a word or two; "" while it does."""
        if not self._node.storage_failed and not self._space.read_only:
            return ""
        return "read only" if self._space.read_only else self._commit_fault

    def unwritable_s(self, now: float) -> float:
        """For how long it has been seen to take nothing, in seconds."""
        return 0.0 if self._unwritable_since is None else now - self._unwritable_since

    def commit_failed(self, error: BaseException) -> None:
        """Note why the store refused a commit."""
        self._commit_fault = error.reason.replace("_", " ") if isinstance(error, StoreError) else ""

    def status(self, now: float, *, started: float, ready: bool, timekeeper: Timekeeper) -> Status:
        """Return a fresh picture; ``started`` and ``now`` in monotonic seconds."""
        node = self._node
        counts = self._note(now)
        recent = self._watch.recent(counts)
        links = self._link_statuses(now)
        status = Status(
            version=relay.__version__,
            uptime_s=round(now - started, 1),
            ready=ready,
            clock=ClockStatus(
                trusted=node.clock.trusted,
                source=timekeeper.source,
                hour=node.clock.hour(now),
                wanted=timekeeper.is_wanted,
                offset_hours=node.sight.clock_offset_hours(now),
            ),
            store=self._store_status(now, recent["slow_commits"]),
            memory_bytes=self._memory_bytes,
            links=links,
            link_states=self._kinds(links),
            queues=[
                QueueStatus(name=QueueName.COMMIT, length=self._committer.pending_rows, capacity=node.max_pending_rows),
                QueueStatus(name=QueueName.REQUESTS, length=node.wanted(), capacity=node.max_wanted),
            ],
            totals=node.stats.totals(),
            recent=recent,
            relays=node.sight.relays_near,
            alone_s=self._watch.alone_s(now),
            dials_failed=sum(row.errors[SessionError.CONNECT_FAILED] for row in node.stats.links()),
            tasks=self._progress.check(),
            components=self._components.statuses(),
            notices=self._notices,
        )
        return with_conditions(status)

    def _note(self, now: float) -> dict[str, int]:
        """Keep what a later look compares with; return the counts of which that is made."""
        get = self._node.stats.get
        counts = {
            "accepted": get(Total.ACCEPTED),
            "evicted": get(Evicted.PRICE),
            "refused_full": get(Rejected.FULL),
            "refused_for_hour": get(Rejected.EXPIRED) + get(Rejected.FAR_FUTURE),
            "secret_failures": get(HandshakeFailure.DECRYPT) + get(HandshakeFailure.SECRET_REQUIRED),
            "slow_commits": self._node.stats.distribution(Histogram.COMMIT_S).above(SLOW_COMMIT_S),
        }
        relays_on = [(kind, interface) for kind, interface, role in self._node.sight.peers() if role is Role.RELAY]
        self._watch.note(now, counts, relays_on)
        return counts

    def _store_status(self, now: float, slow_commits: int) -> StoreStatus:
        node = self._node
        policy = node.admission.policy
        writable = not node.storage_failed and not self._space.read_only
        return StoreStatus(
            envelopes=node.log.committed_count,
            bytes=node.log.committed_bytes,
            max_envelopes=policy.max_envelopes,
            max_bytes=policy.max_bytes,
            oldest_age_s=round(node.sight.oldest_age_s(now), 1),
            untaken_age_s=node.sight.untaken_age_s(now) // AGE_STEP_S * AGE_STEP_S,
            admitted=len(node.log),
            durable=node.config.durable,
            writable=writable,
            fault=self.store_fault(),
            unreadable_bodies=node.stats.get(Evicted.DAMAGED) + node.stats.get(Trouble.HEADER_DAMAGED),
            read_failures=node.stats.get(Trouble.READ_FAILED),
            free_bytes=self._space.free_bytes,
            commit_wait_s=round(self._committer.wait_s, 3),
            slow_commits=slow_commits,
            log_damaged=self._log_damaged,
            price_bits={
                interface_label(node.interface_name(number)): node.admission.price(number)
                for number in node.log.held_by_interface
            },
        )

    # -- links ------------------------------------------------------------

    def _link_statuses(self, now: float) -> list[LinkStatus]:
        peers = self._node.sight.peers()
        live = {(kind, interface) for kind, interface, _ in peers}
        missed = self._watch.missed(now)
        counted = {(row.kind, row.interface): row for row in self._node.stats.links()}
        keys = dict.fromkeys((*counted, *self._link_states, *missed))
        lasting = {key for key in keys if key in missed or self._is_lasting(*key)}
        return [
            self._link_status(key, counted.get(key), peers, is_missed=key in missed, is_passing=key not in lasting)
            for key in keys
            if key in lasting or key in live
        ]

    def _is_lasting(self, kind: LinkKind, interface: str) -> bool:
        """Whether there is anything to say of an interface without anybody there: what once was is no row for ever."""
        key = kind, interface
        if interface == ALL:
            # As a whole it is shown while it does not work; else its parts are.
            return key in self._link_states and not self._link_states[key].up and kind is not LinkKind.BLE
        if kind in {LinkKind.TCP, LinkKind.DNSSD}:
            return key in self._link_states
        return True

    def _link_status(
        self, key: tuple[LinkKind, str], row: LinkStats | None, peers: Peers, *, is_missed: bool, is_passing: bool
    ) -> LinkStatus:
        kind, interface = key
        whole = self._link_states.get((kind, ALL), LinkReport(up=True))
        part = self._link_states.get(key)
        if part is None and kind is LinkKind.TCP and interface not in {ALL, OTHER, LOOPBACK}:
            part = LinkReport(up=False, fault=_GONE, unplugged=True)
        report = whole if part is None or not whole.up else part
        relays, clients = peers[kind, interface, Role.RELAY], peers[kind, interface, Role.CLIENT]
        status = LinkStatus(
            kind=str(kind),
            interface=interface_label(interface),
            state=_state(kind, report, is_live=bool(relays or clients)),
            missed=is_missed and report.unplugged,
            passing=is_passing,
            fault=report.fault,
            relays=relays,
            clients=clients,
        )
        if row is None:
            return status
        happened = {reason: count for reason, count in row.errors.items() if count}
        return replace(
            status,
            bytes_in=row.bytes_in,
            bytes_out=row.bytes_out,
            restarts=row.restarts,
            ended={str(reason): count for reason, count in happened.items() if reason not in ERRORS},
            errors={str(reason): count for reason, count in happened.items() if reason in ERRORS},
        )

    def _kinds(self, links: list[LinkStatus]) -> dict[str, str]:
        """How each kind of link is, that is there at all: as its interface that most needs to be spoken of."""
        kinds = {}
        for kind in dict.fromkeys(kind for kind, _ in self._link_states):
            whole = self._link_states.get((kind, ALL))
            # By loopback only this machine comes: that lets nobody else in.
            states = {
                LinkState.DOWN if link.missed else link.state
                for link in links
                if link.kind == str(kind) and not (link.passing and link.interface == LOOPBACK)
            }
            if whole is not None and not states and kind is not LinkKind.TCP:
                states = {_state(kind, whole, is_live=False)}
            kinds[str(kind)] = str(next((state for state in _FOREMOST if state in states), LinkState.OFF))
        idle = [row.name for row in self._components.statuses() if row.idle]
        return kinds | {name: str(LinkState.OFF) for name in idle if name in kinds}


def _state(kind: LinkKind, report: LinkReport, *, is_live: bool) -> LinkState:
    if not report.up:
        return LinkState.UNPLUGGED if report.unplugged else LinkState.DOWN
    if kind is LinkKind.DNSSD:
        return LinkState.DISCOVERING
    return LinkState.UP if is_live else LinkState.LISTENING
