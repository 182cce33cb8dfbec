# SPDX-License-Identifier: GPL-2.0-or-later
"""Envelopes acknowledged as durable, and how many of them are gone after kill -9."""

from __future__ import annotations

import random
import tempfile
import threading
from pathlib import Path

from bench.relays import BareClient, RelayProcess, relay
from bench.store_input import make_envelopes
from relay.core import messages as m
from relay.core import session as s
from relay.core.messages import Subscribe

KILLS = 8
ENVELOPES = 30_000


def measure(folder: Path) -> dict[str, float]:
    """Acknowledged as durable in bursts that kill -9 ends, and how many of them are gone afterwards."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"durability: seed {seed}")
    acknowledged: set[bytes] = set()
    for kill in range(KILLS):
        envelopes = make_envelopes(ENVELOPES, size_class=0, seed=seed + kill)
        process = RelayProcess(folder / "killed")
        acknowledged |= _burst(process, envelopes, rng.uniform(0.02, 0.4))
    with relay(folder / "killed") as process:
        stored = _all(process)
    return {"acknowledged": len(acknowledged), "acknowledged_lost": len(acknowledged - stored)}


def _burst(process: RelayProcess, envelopes: list[bytes], kill_after_s: float) -> set[bytes]:
    client = BareClient(process.port)
    window = 512
    sent = 0
    acknowledged: set[bytes] = set()
    threading.Timer(kill_after_s, process.process.kill).start()
    try:
        while True:
            for envelope in envelopes[sent : len(acknowledged) + window]:
                client.session.put(envelope)
                sent += 1
            client.flush()
            for event in client.read():
                if isinstance(event, m.Ack):
                    acknowledged.update(envelopes[number] for number in event.numbers())
    except (OSError, AssertionError):  # killed
        process.process.wait(10)
    client.close()
    return acknowledged


def _all(process: RelayProcess) -> set[bytes]:
    client = BareClient(process.port)
    client.session.subscribe(Subscribe(prefix_bits=0, prefix=0, follow=False))
    client.flush()
    found: set[bytes] = set()
    while True:
        for event in client.read():
            if isinstance(event, s.Envelopes):
                found.update(event.items)
            if isinstance(event, s.CaughtUp):
                return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        print(measure(Path(place)))
