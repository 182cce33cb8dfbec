# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay of the simulation: the real core, a store in memory, and the shell between them.

The shell does what relay.run does with asyncio and SQLite: it moves bytes,
commits one batch at a time after a delay, runs slices and timers. A crash loses
whatever was not committed, and every connection without a goodbye.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.core.clock import Clock
from relay.core.log import EntryState
from relay.core.node import Node, NodeConfig
from relay.core.session import State
from relay.core.stats import Evicted, LinkKind, Stats, Total
from tests.sim.talk import KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.core.admission import Policy
    from relay.core.intake import PendingBatch
    from relay.core.link import Link
    from relay.core.messages import LiveDatagram
    from tests.sim.radio import End
    from tests.sim.scheduler import Scheduler

#: Calls of data_to_send that return nothing while there is said to be more: a shell
#: would spin through them.
MAX_EMPTY_TURNS = 64
COMMIT_S = (0.004, 0.020)


@dataclass(slots=True)
class Row:
    """What the store keeps of one admitted envelope."""

    identity: bytes
    header: bytes
    interface: int
    arrived_s: int
    body: bytes | None
    displaced: bool = False


class Store:
    """Committed rows by sequence number; survives a crash."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.state: dict[str, int] = {}
        self.interfaces: dict[int, str] = {0: "other"}
        self.by_identity: dict[bytes, int] = {}
        self.inserted = self.dropped = 0

    def commit(self, pending: PendingBatch) -> None:
        """Apply a batch, all of it."""
        batch = pending.batch
        for seq, identity, header, interface, arrived_s, body in batch.inserts:
            assert seq not in self.rows, "a sequence number was used twice"
            assert self.by_identity.get(identity, seq) in (seq, *batch.forget), "an envelope was admitted twice"
            self.rows[seq] = Row(identity, header, interface, arrived_s, body)
            self.by_identity[identity] = seq
            self.inserted += body is not None
        for seq in batch.displace:
            self.rows[seq].displaced = True
        for seq in (*batch.drop_bodies, *batch.displace):
            assert self.rows[seq].body is not None, "a body left twice"
            self.rows[seq].body = None
            self.dropped += 1
        for seq in batch.forget:
            row = self.rows.pop(seq)
            if self.by_identity[row.identity] == seq:
                del self.by_identity[row.identity]
            assert row.body is None, "forgotten while its body is held"
        self.state.update(batch.state)
        self.interfaces.update(batch.interfaces)

    def read(self, seqs: Sequence[int]) -> list[bytes | None]:
        """Return bodies, None for what is not held."""
        return [self.rows[seq].body if seq in self.rows else None for seq in seqs]

    def holds(self, identity: bytes) -> bool:
        """Whether the body of an identity is committed and here."""
        seq = self.by_identity.get(identity)
        return seq is not None and self.rows[seq].body is not None


class Relay:
    """One relay and its shell."""

    hostile = False

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        name: int,
        seed: str,
        policy: Policy,
        wall_s: float | None = None,
        build_hour: int = 0,
        commit_s: tuple[float, float] = COMMIT_S,
        secret: bytes | None = None,
        bytes_per_s: dict[str, float] | None = None,
    ) -> None:
        """``wall_s``: Unix time at virtual time zero for a trusted clock, None for no clock."""
        self.name = name
        self.policy = policy
        self.store = Store()
        self.up = False
        self.rng = random.Random(f"{seed}/{name}")
        self.ends: dict[int, tuple[Link, End]] = {}
        self.crashes = 0
        #: Stats of earlier lives, so that counters reconcile with the store over crashes.
        self.past: list[Stats] = []
        self._scheduler = scheduler
        self._wall_s = wall_s
        self._build_hour = build_hour
        self._commit_s = commit_s
        self._secret = secret
        self._bytes_per_s = bytes_per_s or {}
        #: Hears what the gateways of this relay get.
        self.on_live: Callable[[int, LiveDatagram], None] = lambda _name, _datagram: None
        self._life = 0
        self._committing = False
        self._wake_s: float | None = None
        self.boot()

    # -- life -------------------------------------------------------------

    def boot(self) -> None:
        """Start with what the store holds."""
        now, state = self._scheduler.now, self.store.state
        self._life += 1
        self.up = True
        self._committing = False
        self._wake_s = None
        self.ends = {}
        clock = Clock(
            now=now,
            build_hour=self._build_hour,
            residence_s=float(state.get("residence_s", 0)),
        )
        self.node = Node(
            config=NodeConfig(durable=True, secret=self._secret, bytes_per_s=self._bytes_per_s),
            policy=self.policy,
            clock=clock,
            stats=Stats(),
            random_bytes=self.rng.randbytes,
            read_bodies=self.store.read,
            interfaces=self.store.interfaces,
        )
        self.node.live.wanted = frozenset({KIND})
        if self._wall_s is not None:
            self.node.observe_clock(now=now, wall_s=self._wall_s + now, trusted=True)
        self.node.log.load(
            (seq, row.identity, row.header, row.interface, row.arrived_s, row.body is not None, row.displaced)
            for seq, row in sorted(self.store.rows.items())
        )

    def crash(self) -> None:
        """Lose everything that is not in the store, and every connection."""
        self.up = False
        self.crashes += 1
        self._life += 1
        self.past.append(self.node.stats)
        for _, end in list(self.ends.values()):
            end.on_bytes = lambda _: None
            end.on_lost = end.on_room = lambda: None
            end.may_read = lambda: False
        self.ends = {}

    # -- links ------------------------------------------------------------

    def attach(
        self,
        end: End,
        *,
        initiator: bool,
        kind: LinkKind = LinkKind.TCP,
        interface: str = "mesh",
        slow: bool = False,
        pinned: bytes | None = None,
    ) -> Link:
        """Open a session over an end of a contact."""
        link = self.node.connect(
            kind=kind, interface=interface, initiator=initiator, now=self._scheduler.now, slow=slow, pinned=pinned
        )
        self.ends[link.number] = (link, end)
        node = self.node
        end.may_read = lambda: node.may_receive(link)
        end.on_bytes = lambda data: self._on_bytes(link, data)
        end.on_room = lambda: self._on_room(link)
        end.on_lost = lambda: self._on_lost(link)
        self.turn()
        return link

    def _on_bytes(self, link: Link, data: bytes) -> None:
        self.node.receive(link, data, self._scheduler.now)
        self.turn()

    def _on_room(self, link: Link) -> None:
        self._send(link)
        self.turn()

    def _on_lost(self, link: Link) -> None:
        self.ends.pop(link.number, None)
        self.node.lost(link, self._scheduler.now)
        self.turn()

    def _send(self, link: Link) -> None:
        held = self.ends.get(link.number)
        if held is None:
            return
        end, now = held[1], self._scheduler.now
        empty_turns = 0
        while end.room_bytes:
            data = self.node.data_to_send(link, now, end.room_bytes)
            if data:
                end.write(data)
                empty_turns = 0
                continue
            if not self.node.has_output(link):
                break
            empty_turns += 1
            assert empty_turns < MAX_EMPTY_TURNS, "has_output() without output"
        if link.closed and not link.session.queued_bytes:
            end.close()

    # -- turns ------------------------------------------------------------

    def turn(self) -> None:
        """Do everything that is to be done now."""
        node, now = self.node, self._scheduler.now
        for _ in range(10_000):
            ready = list(node.take_ready())
            for link in ready:
                self._send(link)
            while node.has_work:
                node.run_slice(now)
                ready = ready or [None]
            if not ready:
                break
        else:
            raise AssertionError("the relay never comes to an end")
        for heard in node.live.take_heard():
            if heard.gateway is None:
                self.on_live(self.name, heard.datagram)
        self._commit()
        self._arm()

    def _commit(self) -> None:
        if self._committing:
            return
        pending = self.node.take_batch()
        if pending is not None:
            self._committing = True
            self._scheduler.after(self.rng.uniform(*self._commit_s), self._committed, pending, self._life)

    def _committed(self, pending: PendingBatch, life: int) -> None:
        if life != self._life:
            return
        self._committing = False
        self.store.commit(pending)
        self.node.committed(pending, self._scheduler.now)
        self.turn()

    def _arm(self) -> None:
        due_s = self.node.next_deadline()
        if due_s is not None and (self._wake_s is None or due_s < self._wake_s):
            self._wake_s = due_s
            self._scheduler.at(due_s, self._timer, due_s, self._life)

    def _timer(self, due_s: float, life: int) -> None:
        if life != self._life or due_s != self._wake_s:
            return
        self._wake_s = None
        self.node.handle_timer(self._scheduler.now)
        self.turn()

    def retire(self) -> None:
        """What the service does every hour."""
        self.node.retire(self._scheduler.now, save_clock=True)
        self.turn()

    # -- what others look at ----------------------------------------------

    def relay_links(self) -> list[Link]:
        """Open sessions with relays."""
        return [link for link, _ in self.ends.values() if link.exchange is not None and not link.closed]

    def held(self) -> set[bytes]:
        """Identities whose body the log says is committed and here."""
        return {entry.identity for entry in self.node.log.entries(EntryState.HELD)}

    def counted(self, reason) -> int:
        """A counter, over all lives."""
        return sum(stats.get(reason) for stats in (*self.past, self.node.stats))

    def departures(self) -> int:
        """Bodies that left, by the counters."""
        return sum(map(self.counted, (Total.EXPIRED, Total.PURGED, Evicted.PRICE)))

    def is_open(self, link: Link) -> bool:
        """Whether a session is established."""
        return link.session.state is State.OPEN
