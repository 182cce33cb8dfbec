# SPDX-License-Identifier: GPL-2.0-or-later
"""What an honest session has to wait for while others do their worst (relay.core.turns, places and budget)."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.enemy import DEAF, KINDS
from bench.relays import BareClient, RelayProcess, relay
from bench.store_input import make_envelopes
from relay.core.messages import Ack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COUNTS: Final = (1, 28, 256)
#: What was there before, for those who subscribe to it.
STORED: Final = 2000
#: Of one kind from one number of connections; a sample is a PING and a put.
SAMPLES: Final = 15
QUIET_SAMPLES: Final = 60
LONGEST_S: Final = 6.0
#: A phone does not ask all the time.
PAUSE_S: Final = 0.01
NEWCOMERS: Final = 20
NEWCOMER_S: Final = 5.0


class Honest:
    """A client that says little and waits for each answer."""

    def __init__(self, port: int, envelopes: Iterator[bytes]) -> None:
        self._client = BareClient(port)
        self._envelopes = envelopes

    def ping_s(self) -> float:
        """Return how long the answer to a PING takes."""
        session = self._client.session
        began, heard = time.perf_counter(), session.frames_in
        session.probe(time.monotonic())
        self._client.flush()
        while session.frames_in == heard:
            self._client.read()
        return time.perf_counter() - began

    def put_s(self) -> float:
        """Return how long it takes until an envelope is acknowledged."""
        began = time.perf_counter()
        self._client.session.put(next(self._envelopes))
        self._client.flush()
        while not any(isinstance(event, Ack) for event in self._client.read()):
            pass
        return time.perf_counter() - began

    def medians_s(self, samples: int) -> tuple[float, float]:
        """Return the medians of so many PINGs and puts, of fewer where they take long."""
        until = time.perf_counter() + LONGEST_S
        pings, puts = [], []
        while len(pings) < samples and (not pings or time.perf_counter() < until):
            time.sleep(PAUSE_S)
            pings.append(self.ping_s())
            puts.append(self.put_s())
        return statistics.median(pings), statistics.median(puts)

    def close(self) -> None:
        """Leave."""
        self._client.close()


def measure(folder: Path) -> dict[str, float]:
    """Delay of an honest session's PINGs and puts beside 1, 28 and 256 hostile ones, against quiet; worst of all kinds.

    Newcomers served within 5 s meanwhile, of 20, and the relay's memory at its largest.
    """
    return Attack(folder, [*KINDS, *DEAF], COUNTS).run()


class Attack:
    """All kinds of messages, from each number of connections."""

    def __init__(self, folder: Path, kinds: Sequence[str], counts: Sequence[int]) -> None:
        self._folder = folder
        self._kinds = kinds
        self._counts = counts
        self._envelopes = iter(make_envelopes(10_000, 0, seed=7))
        self.newcomers = self.served = 0

    def run(self) -> dict[str, float]:
        """Return the figures."""
        with relay(self._folder / "hostile", http=True) as process:
            store = BareClient(process.port)
            for envelope in make_envelopes(STORED):
                store.session.put(envelope)
            store.flush()
            process.wait(lambda status: status["store"]["envelopes"] == STORED)
            store.close()
            honest = Honest(process.port, self._envelopes)
            enemy = Enemy(process.port)
            quiet = honest.medians_s(QUIET_SAMPLES)
            print(f"  quiet: PING {1000 * quiet[0]:.2f} ms, put {1000 * quiet[1]:.2f} ms", flush=True)
            worst = 0.0
            for kind in self._kinds:
                for count in self._counts:
                    worst = max(worst, self._round(process, enemy, honest, quiet, kind, count))
            enemy.end()
            honest.close()
            return {
                "hostile_delay_ratio": worst,
                "hostile_newcomers": self.served * NEWCOMERS / max(self.newcomers, 1),
                "hostile_rss_mib": process.peak_mib(),
            }

    def _round(
        self,
        process: RelayProcess,
        enemy: Enemy,
        honest: Honest,
        quiet: tuple[float, float],
        kind: str,
        count: int,
    ) -> float:
        connected = enemy.attack(kind, count)
        ping_s, put_s = honest.medians_s(SAMPLES)
        # Spread over the rounds with the most connections.
        due = NEWCOMERS * (self._kinds.index(kind) + 1) // len(self._kinds) if count == max(self._counts) else 0
        while self.newcomers < due:
            self.newcomers += 1
            self.served += self._is_served(process.port)
        enemy.rest()
        ratio = max(ping_s / quiet[0], put_s / quiet[1])
        print(
            f"  {kind:<18} from {connected:>3}: PING {1000 * ping_s:8.2f} ms, put {1000 * put_s:8.2f} ms, "
            f"{ratio:6.1f} times; {self.served} of {self.newcomers} newcomers; {process.rss_mib():.0f} MiB",
            flush=True,
        )
        return ratio

    def _is_served(self, port: int) -> bool:
        began = time.perf_counter()
        try:
            newcomer = Honest(port, self._envelopes)
            newcomer.put_s()
            newcomer.close()
        except (OSError, AssertionError):
            return False
        return time.perf_counter() - began < NEWCOMER_S


class Enemy:
    """The process that attacks."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.enemy", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._tell("- 0")

    def attack(self, kind: str, count: int) -> int:
        """Say one thing from so many connections, in place of what it did; return how many it has."""
        return self._tell(f"{kind} {count}")

    def rest(self) -> None:
        """Leave off."""
        self._tell("- 0")

    def _tell(self, line: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.hostile")
    parser.add_argument("--kinds", nargs="*", default=[*KINDS, *DEAF])
    parser.add_argument("--counts", nargs="*", type=int, default=COUNTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        print(Attack(Path(place), arguments.kinds, arguments.counts).run())
