# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory, wake-ups and processor time of a relay that idles, and its memory with a full store."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.ingest import put_all
from bench.pages import first_bytes_ms
from bench.peers import BarePeer
from bench.relays import BareClient, RelayProcess, relay
from bench.store_input import make_envelopes

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE_S = 60.0
STORED = 100_000
PEERS = 10


def measure_idle(folder: Path) -> dict[str, float]:
    """Memory, processor share and voluntary context switches over all threads, idle for a minute.

    HTTP, metrics and DNS-SD are on and one relay is connected.
    """
    with (
        relay(folder / "other", discovery=True, http=True) as other,
        relay(folder / "idle", peers=(other.port,), discovery=True, http=True) as idle,
    ):
        idle.wait(lambda status: any(link["relays"] for link in status["links"]))
        time.sleep(5)  # announcements of DNS-SD
        cpu_s, switches = _cpu_s(idle), _switches(idle)
        time.sleep(IDLE_S)
        return {
            "rss_idle_mib": idle.rss_mib(),
            "idle_cpu_percent": 100 * (_cpu_s(idle) - cpu_s) / IDLE_S,
            "idle_switches_per_s": (_switches(idle) - switches) / IDLE_S,
        }


def measure_full(folder: Path) -> dict[str, float]:
    """Memory with 100,000 envelopes and ten relays that hold the same, the time to start, and to be scraped."""
    with relay(folder / "full") as first:
        put_all(BareClient(first.port), make_envelopes(STORED))
    with relay(folder / "full", discovery=True, http=True) as full, _copied_peers(folder, full) as peers:
        full.wait(lambda status: sum(link["relays"] for link in status["links"]) == PEERS)
        full.wait(lambda status: status["totals"]["total"]["reconciled"] >= PEERS)
        assert not any(peer.node.wanted() for peer in peers)
        return {"rss_100k_mib": full.rss_mib(), "start_100k_s": full.start_s, **_scrape(full)}


def _scrape(process: RelayProcess) -> dict[str, float]:
    """How long Prometheus waits for the metrics, and how many bytes they are."""
    [(scrape_ms, scrape_bytes)] = first_bytes_ms(process.http_port, ("/metrics",)).values()
    return {"scrape_ms": scrape_ms, "scrape_bytes": scrape_bytes}


@contextlib.contextmanager
def _copied_peers(folder: Path, full: RelayProcess) -> Iterator[list[BarePeer]]:
    # A copy: the relay holds the lock of its own.
    shutil.copytree(folder / "full/store", folder / "copy")
    with peers(folder / "copy/store.sqlite", full) as connected:
        yield connected


@contextlib.contextmanager
def peers(database: Path, full: RelayProcess) -> Iterator[list[BarePeer]]:
    """Connect ten relays that hold what ``database`` holds, for the length of a block."""
    first = BarePeer(database)
    connected = [first, *(BarePeer(database, first) for _ in range(PEERS - 1))]
    for peer in connected:
        peer.connect(full.port)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            for peer in connected:
                peer.turn()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield connected
    finally:
        stop.set()
        thread.join()


def _cpu_s(process: RelayProcess) -> float:
    fields = process.proc("stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _switches(process: RelayProcess) -> int:
    total = 0
    for task in Path(f"/proc/{process.process.pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        print(measure_full(Path(place)))
        print(measure_idle(Path(place)))
