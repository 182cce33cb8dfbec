# SPDX-License-Identifier: GPL-2.0-or-later
"""Retrieval by bucket, against the bare limit: select the same rows and send them over a socket."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.ingest import put_all
from bench.relays import BareClient, relay
from bench.store_input import make_envelopes
from relay.core import session as s
from relay.core.envelope import BUCKET_BITS, SIZES
from relay.core.messages import Subscribe
from relay.store import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVELOPES = 10_000
ROUNDS = 15
BUCKET = 0x17
BLOCK_ROWS = 64


def measure(folder: Path) -> dict[str, float]:
    """Retrieval by bucket, 1 KiB, and the bare limit: select, and sendall of each row or of 64; best of fifteen."""
    envelopes = make_envelopes(ENVELOPES, bucket=BUCKET)
    with relay(folder / "retrieval") as process:
        put_all(BareClient(process.port), envelopes)
        best = limit = blocks = 0.0
        for _ in range(ROUNDS):
            limit = max(limit, ENVELOPES / _bare(folder / "retrieval/store/store.sqlite", 1))
            blocks = max(blocks, ENVELOPES / _bare(folder / "retrieval/store/store.sqlite", BLOCK_ROWS))
            best = max(best, ENVELOPES / _retrieve(process.port, envelopes))
    return {
        "retrieval_per_s": best,
        "retrieval_limit_per_s": limit,
        "retrieval_ratio": best / limit,
        "retrieval_blocks_limit_per_s": blocks,
        "retrieval_blocks_ratio": best / blocks,
    }


def _retrieve(port: int, envelopes: Sequence[bytes]) -> float:
    client = BareClient(port)
    started = time.perf_counter()
    client.session.subscribe(Subscribe(prefix_bits=BUCKET_BITS, prefix=BUCKET, follow=False))
    client.flush()
    received: list[bytes] = []
    while True:
        events = client.read()
        for event in events:
            if isinstance(event, s.Envelopes):
                received += event.items
        if any(isinstance(event, s.CaughtUp) for event in events):
            break
    took_s = time.perf_counter() - started
    client.close()
    assert set(received) == set(envelopes)
    assert len(received) == len(envelopes)
    return took_s


def _bare(database: Path, rows_at_once: int) -> float:
    """Return the seconds that select and sendall take, another process reading."""
    total = ENVELOPES * SIZES[1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if not child:
            with contextlib.suppress(OSError), socket.create_connection(server.getsockname()) as sock:
                while sock.recv(1 << 18):
                    pass
            os._exit(0)
        sock, _ = server.accept()
    with sock, contextlib.closing(schema.connect(database, "mode=ro")) as connection:
        schema.tune_reader(connection)
        started = time.perf_counter()
        sent = 0
        cursor = connection.execute("SELECT envelope FROM body ORDER BY seq")
        while rows := cursor.fetchmany(rows_at_once):
            block = b"".join([envelope for (envelope,) in rows])
            sock.sendall(block)
            sent += len(block)
        took_s = time.perf_counter() - started
    os.waitpid(child, 0)
    assert sent == total
    return took_s


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        print(measure(Path(place)))
