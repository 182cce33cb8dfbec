# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.soak --minutes N``: steady traffic through a full store; memory must stay flat."""

from __future__ import annotations

import argparse
import itertools
import secrets
import statistics
import struct
import tempfile
import threading
import time
from pathlib import Path

from bench.relays import BareClient, RelayProcess, relay
from bench.store_input import FIRST_HOUR
from relay.core.envelope import NONCE_BYTES, SIZES, grind
from relay.core.messages import Subscribe

PER_SECOND = 200
#: Reached within two minutes: from then on each newcomer displaces another, or is refused.
MAX_ENVELOPES = 10_000
RECONNECT_EVERY = 500
SAMPLE_S = 5.0
WARM_UP = 0.2
#: Growth between the first and the last third after warm-up that is still flat.
ALLOWED = 1.03


def main() -> None:
    """Run, print the memory by minute, and fail when it grows."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    folder = Path.home() / ".cache/mesh-relay"
    folder.mkdir(parents=True, exist_ok=True)
    limits = f"max_envelopes = {MAX_ENVELOPES}\nmax_bytes = {MAX_ENVELOPES * SIZES[1]}"
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        relay(Path(place) / "a", limits=limits, http=True) as a,
        relay(Path(place) / "b", limits=limits, peers=(a.port,)) as b,
    ):
        samples = _load(a, b, time.monotonic() + 60 * minutes)
        status = a.status()
    for index in range(0, len(samples), max(1, round(60 / SAMPLE_S))):
        print(f"minute {index * SAMPLE_S / 60:5.1f}: {samples[index]:.1f} MiB")
    steady = samples[int(len(samples) * WARM_UP) :]
    third = max(1, len(steady) // 3)
    growth = statistics.median(steady[-third:]) / statistics.median(steady[:third])
    print(f"{status['totals']['total']['accepted']:,} accepted; last third over first third: {growth:.4f}")
    if growth > ALLOWED:
        raise SystemExit(f"memory grew by {growth - 1:.1%}, more than {ALLOWED - 1:.0%}")
    print("1 passed, 0 failed")


def _load(a: RelayProcess, b: RelayProcess, until: float) -> list[float]:
    """Put into ``a`` and read from ``b``, reconnecting now and then; return the memory of ``a`` over time."""
    samples: list[float] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            client = BareClient(b.port)
            client.session.subscribe(Subscribe(prefix_bits=4, prefix=secrets.randbelow(16)))
            client.flush()
            for _ in range(RECONNECT_EVERY):
                client.read()
                client.flush()  # answers to pings
                if stop.is_set():
                    break
            client.close()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    client = BareClient(a.port)
    started = next_sample = time.monotonic()
    for number in itertools.count():
        now = time.monotonic()
        if now >= until:
            break
        if now >= next_sample:
            samples.append(a.rss_mib())
            next_sample += SAMPLE_S
        if number % RECONNECT_EVERY == RECONNECT_EVERY - 1:
            client.close()
            client = BareClient(a.port)
        header = struct.pack(">BBBBI", 1, 0, 0, 0, FIRST_HOUR + number % 168)
        body = secrets.token_bytes(SIZES[0] - len(header) - NONCE_BYTES)
        client.session.put(grind(header + body, price=number % 8, random_bytes=secrets.token_bytes))
        client.flush()
        client.read()
        time.sleep(max(0.0, started + number / PER_SECOND - time.monotonic()))
    stop.set()
    return samples


if __name__ == "__main__":
    main()
