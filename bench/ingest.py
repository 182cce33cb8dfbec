# SPDX-License-Identifier: GPL-2.0-or-later
"""Durable ingest over one client connection, against the bare limit of the same schema and disk."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.relays import BareClient, relay
from bench.store_input import make_envelopes
from bench.store_limit import measure_limit
from relay.core import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable

ENVELOPES = 50_000
ROUNDS = 5


def put_all(client: BareClient, envelopes: Iterable[bytes]) -> float:
    """Put everything, each acknowledged as durable; return the seconds it took."""
    assert client.session.peer is not None
    window = client.session.peer.max_puts
    left = iter(envelopes)
    unacknowledged = 0
    started = time.perf_counter()
    while True:
        room = window - unacknowledged
        if room >= window // 4:
            for envelope in itertools.islice(left, room):
                client.session.put(envelope)
                unacknowledged += 1
            client.flush()
        if not unacknowledged:
            return time.perf_counter() - started
        for event in client.read():
            assert not isinstance(event, m.Refused), event
            if isinstance(event, m.Ack):
                assert event.durable
                unacknowledged -= sum(count for _, count in event.ranges)


def measure(folder: Path) -> dict[str, float]:
    """Durable ingest, 1 KiB, one connection, and the bare limit: hash and commit in groups; best of five in turn."""
    envelopes = make_envelopes(ENVELOPES)
    best = limit = 0.0
    for round_number in range(ROUNDS):
        limit = max(limit, *measure_limit(folder, envelopes).values())
        with relay(folder / f"ingest{round_number}") as process:
            best = max(best, ENVELOPES / put_all(BareClient(process.port), envelopes))
    return {"ingest_per_s": best, "ingest_limit_per_s": limit, "ingest_ratio": best / limit}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        print(measure(Path(place)))
