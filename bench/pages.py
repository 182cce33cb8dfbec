# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the status page and a scrape take, in quiet and while a client puts as fast as it can."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.ingest import put_all
from bench.relays import BareClient, relay
from bench.store_input import endless_envelopes
from relay.process.answers import ANSWER_AGE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

ASKED = 11
#: Whoever asks sooner is given the answer of before.
PAUSE_S = 1.5 * ANSWER_AGE_S
#: More than any machine puts meanwhile, which takes 10 s: a client that is refused would leave a quiet relay.
LIMITS = "max_bytes = 100_000_000_000\nmax_envelopes = 10_000_000"


def first_bytes_ms(port: int, paths: Sequence[str]) -> dict[str, tuple[float, int]]:
    """For each path the median time from a request to the first byte of an answer made for it, in ms, and its bytes."""
    times: dict[str, list[float]] = {path: [] for path in paths}
    sizes: dict[str, int] = {}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        for path in (*paths, *(paths * ASKED)):  # the first of each imports what it needs
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            times[path].append(time.perf_counter() - began)
            sizes[path] = len(response.read())
    return {path: (1000 * statistics.median(times[path][1:]), sizes[path]) for path in paths}


def measure(folder: Path) -> dict[str, float]:
    """First byte of the status page and of a scrape: in quiet, and while one client puts without a pause."""
    paths = ("/", "/metrics")
    with relay(folder / "pages", http=True, limits=LIMITS) as process:
        quiet = first_bytes_ms(process.http_port, paths)
        # A process of its own: in ours it would take turns with the one that measures.
        command = [sys.executable, "-m", "bench.pages", str(process.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as putting:
            assert putting.stdin is not None
            assert putting.stdout is not None
            assert putting.stdout.readline()
            putting.stdin.close()
            busy = first_bytes_ms(process.http_port, paths)
            assert putting.poll() is None, "the client ended: the figures are those of a quiet relay"
            accepted = process.status()["totals"]["total"]["accepted"]
            putting.kill()
    return {
        "page_ms": quiet["/"][0],
        "page_bytes": quiet["/"][1],
        "page_busy_ms": busy["/"][0],
        "page_busy_ratio": busy["/"][0] / quiet["/"][0],
        "scrape_busy_ms": busy["/metrics"][0],
        "scrape_busy_ratio": busy["/metrics"][0] / quiet["/metrics"][0],
        "page_busy_accepted": accepted,
    }


def _put(port: int) -> None:
    client = BareClient(port)
    print("ready", flush=True)
    sys.stdin.read()
    # Made as they are put: a supply would last a slow machine too long, and a fast one too short.
    put_all(client, endless_envelopes())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _put(int(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory(dir=Path.home()) as place:
            print(measure(Path(place)))
