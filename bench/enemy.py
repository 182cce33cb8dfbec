# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.enemy``: connections that say one thing as fast as they can, for bench.hostile.

A process of its own, so that what it costs is not taken from the honest client's time.
It shakes hands as anybody does, then sends records full of one message, made once and
only encrypted anew. Whoever is turned away comes again.
"""

from __future__ import annotations

import argparse
import os
import secrets
import select
import selectors
import socket
import sys
import time
from typing import TYPE_CHECKING, Final

from bench.store_input import make_envelopes
from relay.core import messages as m
from relay.core.frames import FRAME_HEADER_BYTES, MAX_RECORD_PLAINTEXT_BYTES
from relay.core.news import NEWS_BYTES
from relay.core.session import Session, State

if TYPE_CHECKING:
    from collections.abc import Callable

#: Connections from one address, as many as a relay takes by default.
PER_ADDRESS: Final = 32
#: A connection that was ended is made again after so long; at most so many in a turn.
AGAIN_S: Final = 0.2
DIALLED_A_TURN: Final = 8
READ_BYTES: Final = 1 << 18
LOOPBACK: Final = "127.0.0.1"
#: The longest wait until all have a session: some kinds cannot have so many.
READY_S: Final = 2.0
_OFFER: Final = m.Offer(bytes(32), 0, 500_000)

#: What they say, and to which role they pretend.
KINDS: dict[str, tuple[m.Role, Callable[[], bytes]]] = {
    "ping": (m.Role.CLIENT, lambda: bytes([m.MessageType.PING])),
    "pong": (m.Role.CLIENT, lambda: bytes([m.MessageType.PONG])),
    "put_malformed": (m.Role.CLIENT, lambda: m.encode_put(0, bytes(4))),
    "put_one_byte": (m.Role.CLIENT, lambda: m.encode_put(0, b"\x01")),
    "put_again": (m.Role.CLIENT, lambda: m.encode_put(0, make_envelopes(1, 0)[0])),
    "subscribe": (m.Role.CLIENT, lambda: m.Subscribe(prefix_bits=0, prefix=0).encode()),
    "fetch": (m.Role.CLIENT, lambda: m.encode_ids(m.MessageType.FETCH, [secrets.token_bytes(32)] * m.MAX_FETCH_IDS)[0]),
    "price": (m.Role.RELAY, lambda: bytes([m.MessageType.PRICE, 0])),
    "news": (m.Role.RELAY, lambda: bytes([m.MessageType.NEWS]) + bytes(NEWS_BYTES)),
    "live": (m.Role.RELAY, lambda: m.encode_live(9, b"\1" + secrets.token_bytes(m.LIVE_ID_BYTES) + b"x")),
    "offer": (m.Role.RELAY, lambda: m.encode_offers([_OFFER])[0]),
    "missing": (m.Role.RELAY, lambda: m.encode_ids(m.MessageType.MISSING, [bytes(32)])[0]),
    "reconcile": (m.Role.RELAY, lambda: bytes([m.MessageType.RECONCILE]) + bytes(64)),
}
#: The same from connections that read nothing.
DEAF: Final = {"put_one_byte_deaf": "put_one_byte", "subscribe_deaf": "subscribe"}


def plaintext(message: bytes) -> bytes:
    """A record's worth of one message, a frame each."""
    frame = b"\0" + len(message).to_bytes(2, "big") + message
    return frame * (MAX_RECORD_PLAINTEXT_BYTES // (FRAME_HEADER_BYTES + len(message)))


class Connection:
    """One connection, and one after it when it is ended."""

    def __init__(self, source: str, to: tuple[str, int], role: m.Role, *, is_deaf: bool) -> None:
        self._source = source
        self._to = to
        self._role = role
        self._is_deaf = is_deaf
        self._unsent = b""
        self.sock: socket.socket | None = None
        self.due_s = 0.0

    def dial(self, selector: selectors.BaseSelector) -> None:
        """Begin a connection."""
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.bind((self._source, 0))
        self.sock.connect_ex(self._to)
        self._session = Session(
            initiator=True, hello=m.Hello(role=self._role), random_bytes=secrets.token_bytes, now=0.0
        )
        self._unsent = b""
        selector.register(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    @property
    def is_open(self) -> bool:
        """Whether it has a session."""
        return self.sock is not None and self._session.state is State.OPEN

    def act(self, block: bytes, *, may_read: bool, may_write: bool) -> None:
        """Send what fits; raise OSError when it is over."""
        if self.sock is None:
            return
        if may_read and not (self._is_deaf and self.is_open):
            data = self.sock.recv(READ_BYTES)
            if not data:
                raise ConnectionError
            if not self.is_open:
                self._session.receive_data(data, 0.0)
                if self.is_open and self._role is m.Role.RELAY:
                    self._session.send_same([])
        if may_write:
            self._unsent = self._unsent or self._session.data_to_send() or self._record(block)
            if self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]

    def _record(self, block: bytes) -> bytes:
        if not self.is_open or not block:
            return b""
        data = self._session._encrypt.encrypt(block)  # noqa: SLF001 - what no session of ours would say
        return len(data).to_bytes(2, "big") + data

    def end(self, selector: selectors.BaseSelector) -> None:
        """Forget the connection, to make another one soon."""
        if self.sock is not None:
            selector.unregister(self.sock)
            self.sock.close()
            self.sock = None
        self.due_s = time.monotonic() + AGAIN_S


class Attack:
    """Connections of one kind, for as long as it lasts."""

    def __init__(
        self, selector: selectors.BaseSelector, to: tuple[str, int], network: int, kind: str, count: int
    ) -> None:
        """``network``: on loopback, addresses that no attack before used, whose connections may be worked on yet."""
        role, message = KINDS[DEAF.get(kind, kind)]
        self._selector = selector
        self._block = plaintext(message())
        self._connections = [
            Connection(
                f"127.{network}.0.{1 + number // PER_ADDRESS}" if to[0] == LOOPBACK else "",
                to,
                role,
                is_deaf=kind in DEAF,
            )
            for number in range(count)
        ]
        self._ready_by = time.monotonic() + READY_S
        self._is_ready = False

    def turn(self) -> None:
        """Dial whoever has no connection, and act where something can be done."""
        now = time.monotonic()
        idle = [connection for connection in self._connections if connection.sock is None and connection.due_s <= now]
        for connection in idle[:DIALLED_A_TURN]:
            connection.dial(self._selector)
        open_count = sum(connection.is_open for connection in self._connections)
        if not self._is_ready and (now > self._ready_by or open_count == len(self._connections)):
            self._is_ready = True
            print(open_count, flush=True)
        for key, events in self._selector.select(0.05):
            if key.data is None:
                continue
            try:
                key.data.act(
                    self._block if self._is_ready else b"",
                    may_read=bool(events & selectors.EVENT_READ),
                    may_write=bool(events & selectors.EVENT_WRITE),
                )
            except OSError:
                key.data.end(self._selector)

    def end(self) -> None:
        """End all connections."""
        for connection in self._connections:
            connection.end(self._selector)


def main() -> None:
    """Do what standard input says until it ends: a kind and a number of connections in a line, "-" for none.

    Says on standard output how many have a session, once all have or some time has passed.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.enemy", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default=LOOPBACK)
    arguments = parser.parse_args()
    to = (arguments.host, arguments.port)
    # Another machine would take nothing of this one's processors.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(5)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    network = 1
    attack = Attack(selector, to, network, "ping", 0)
    while True:
        if select.select([sys.stdin], [], [], 0)[0]:
            words = sys.stdin.readline().split()
            if not words:
                return
            attack.end()
            kind, count = ("ping", "0") if words[0] == "-" else words
            network += 1
            attack = Attack(selector, to, network, kind, int(count))
        attack.turn()


if __name__ == "__main__":
    main()
