# SPDX-License-Identifier: GPL-2.0-or-later
"""Delay of live forwarding through relays A, B and C, commits included."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path

from bench.relays import BareClient, RelayProcess, relay
from bench.store_input import make_envelopes
from relay.core import session as s
from relay.core.messages import Subscribe

RELAYS = 3
PER_SECOND = 100
ENVELOPES = 1500
#: The first ones find caches cold and links new.
WARM_UP = 100


def measure(folder: Path) -> dict[str, float]:
    """Delay for each relay on the way through three, commit included, at 100 envelopes a second.

    The time from the sender's write to the subscriber's read, divided by three.
    """
    envelopes = make_envelopes(ENVELOPES)
    with (
        relay(folder / "a") as a,
        relay(folder / "b", peers=(a.port,)) as b,
        relay(folder / "c", peers=(b.port,)) as c,
    ):
        b.wait(lambda status: sum(link["relays"] for link in status["links"]) == RELAYS - 1)
        return _figures([delay / RELAYS for delay in _delays_ms(a.port, c.port, envelopes, PER_SECOND)[WARM_UP:]])


def measure_one(process: RelayProcess, envelopes: list[bytes], per_second: int) -> dict[str, float]:
    """Return the delay through one relay, as :func:`measure` does through three."""
    return _figures(_delays_ms(process.port, process.port, envelopes, per_second))


def _figures(delays_ms: list[float]) -> dict[str, float]:
    delays_ms = sorted(delays_ms)
    return {
        "hop_median_ms": statistics.median(delays_ms),
        "hop_p99_ms": delays_ms[len(delays_ms) * 99 // 100],
    }


def _delays_ms(sender_port: int, reader_port: int, envelopes: list[bytes], per_second: int) -> list[float]:
    """Send at a steady rate by one relay, receive by another; return how long each was under way."""
    wanted = set(envelopes)
    arrived: dict[bytes, float] = {}
    reader = BareClient(reader_port)
    # What is there already comes first, and is none of these.
    reader.session.subscribe(Subscribe(prefix_bits=0, prefix=0))
    reader.flush()
    while not any(isinstance(event, s.CaughtUp) for event in reader.read()):
        pass

    def receive() -> None:
        while len(arrived) < len(wanted):
            for event in reader.read():
                if isinstance(event, s.Envelopes):
                    now = time.perf_counter()
                    arrived.update((envelope, now) for envelope in event.items if envelope in wanted)

    thread = threading.Thread(target=receive)
    thread.start()
    sent = _send(BareClient(sender_port), envelopes, per_second)
    thread.join()
    reader.close()
    return [1000 * (arrived[envelope] - sent[envelope]) for envelope in envelopes]


def _send(client: BareClient, envelopes: list[bytes], per_second: int) -> dict[bytes, float]:
    """Put at a steady rate; return when each was written."""
    sent = {}
    started = time.perf_counter()
    for index, envelope in enumerate(envelopes):
        time.sleep(max(0.0, started + index / per_second - time.perf_counter()))
        client.session.put(envelope)
        sent[envelope] = time.perf_counter()
        client.flush()
    return sent


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        print(measure(Path(place)))
