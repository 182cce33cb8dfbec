# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay as seen from its neighbour: the real core over a real socket, without a process of its own."""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import time
from typing import TYPE_CHECKING

from relay.core.admission import Policy
from relay.core.clock import Clock
from relay.core.node import Node, NodeConfig
from relay.core.stats import LinkKind, Stats
from relay.store.database import Store

if TYPE_CHECKING:
    from pathlib import Path


class BarePeer:
    """Holds what ``database`` holds."""

    def __init__(self, database: Path, like: BarePeer | None = None) -> None:
        """``like``: has loaded the same, and lends it, as nobody here changes it."""
        self.node = Node(
            config=NodeConfig(durable=True),
            policy=Policy(max_bytes=8_000_000_000, max_envelopes=1_000_000),
            clock=Clock(now=time.monotonic(), build_hour=0),
            stats=Stats(),
            random_bytes=secrets.token_bytes,
            read_bodies=lambda seqs: [None] * len(seqs),
        )
        if like is not None:
            self.node.log.__dict__.update(like.node.log.__dict__)
            return
        with contextlib.closing(Store.open(database)) as store:
            self.node.log.load(store.load())

    def connect(self, port: int) -> None:
        """Connect to the relay at ``port``, which does not wait long for a handshake: take turns soon."""
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setblocking(False)
        self._link = self.node.connect(kind=LinkKind.TCP, interface="lo", initiator=True, now=time.monotonic())

    def turn(self) -> None:
        """Move what there is to move; waits for 10 ms at most."""
        now = time.monotonic()
        while self.node.has_work:
            self.node.run_slice(now)
        self.node.take_batch()
        while data := self.node.data_to_send(self._link, now):
            self._sock.setblocking(True)
            self._sock.sendall(data)
            self._sock.setblocking(False)
        if select.select([self._sock], [], [], 0.01)[0]:
            self.node.receive(self._link, self._sock.recv(1 << 16), now)
