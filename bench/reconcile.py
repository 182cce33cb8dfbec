# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes, round trips and CPU of reconciling 100,000 envelopes: `python -m bench.reconcile`.

Bytes are those of messages, both ways, until each side knows what to send; the
frame layer adds three a message and sixteen a record. CPU is process time in
the calls of one side, hashing of every ID included; what loading numpy costs,
once a process, is printed apart. Every run checks both answers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from array import array
from dataclasses import dataclass, field

from relay.core.reconcile import AdmittedColumns, Reconciler, Scope

ENVELOPES = 100_000
HOURS = 168
FIRST_HOUR = 480_000
DIFFERENCES = 100
SEEDS = 100
NEWEST_HOURS = 3
CURVE = (0, 1, 10, 100, 1_000, 10_000, 100_000)
CURVE_SEEDS = 3
SCOPE = Scope(first_hour=FIRST_HOUR, last_hour=FIRST_HOUR + HOURS - 1, classes=0b1111, min_price=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one reconciliation took; ``cpu_s`` is the busier side's, ``slice_s`` the longest call."""

    message_bytes: int
    round_trips: int
    cpu_s: float
    slice_s: float
    used_list: bool


@dataclass(slots=True)
class Side:
    """A reconciler and the process time of each call into it."""

    reconciler: Reconciler
    calls_s: list[float] = field(default_factory=list)

    def turn(self, messages: list[bytes] | None) -> list[bytes]:
        """Start (without messages) or answer; return what is to be sent."""
        if messages is None:
            self.reconciler.start()
            self._work()
        for message in messages or ():
            began = time.process_time()
            self.reconciler.receive(message)
            self.calls_s.append(time.process_time() - began)
            self._work()
        return self.reconciler.messages_to_send()

    def _work(self) -> None:
        more = True
        while more:
            began = time.process_time()
            more = self.reconciler.step()
            self.calls_s.append(time.process_time() - began)


def shared_rows(count: int) -> list[tuple[int, int, bytes]]:
    """``count`` entries (sequence number, hour, ID) spread evenly over the hours, in no order of hours."""
    source = random.Random(count)
    rows = [(seq, FIRST_HOUR + seq % HOURS, source.randbytes(32)) for seq in range(count)]
    source.shuffle(rows)
    return rows


def columns(rows: list[tuple[int, int, bytes]]) -> AdmittedColumns:
    """Return the columns of entries."""
    return AdmittedColumns(
        ids=b"".join([identity for _, _, identity in rows]),
        expiry_hour=array("I", [hour for _, hour, _ in rows]),
        size_class=array("B", bytes(len(rows))),
        price=array("b", bytes(len(rows))),
        seq=array("Q", [seq for seq, _, _ in rows]),
    )


def joined(first: AdmittedColumns, second: AdmittedColumns) -> AdmittedColumns:
    """Return the rows of both."""
    return AdmittedColumns(
        ids=bytes(first.ids) + bytes(second.ids),
        expiry_hour=first.expiry_hour + second.expiry_hour,
        size_class=first.size_class + second.size_class,
        price=first.price + second.price,
        seq=first.seq + second.seq,
    )


def reconcile(shared: AdmittedColumns, seed: int, differences: int, newest_hours: int = HOURS) -> Run:
    """Reconcile two sides that have ``shared`` and half of the ``differences`` each; check both answers."""
    source = random.Random(seed)
    first = FIRST_HOUR + HOURS - newest_hours
    rows = [(ENVELOPES + i, first + source.randrange(newest_hours), source.randbytes(32)) for i in range(differences)]
    half = differences - differences // 2
    key = source.randbytes(16)
    initiator, responder = (
        Side(Reconciler(initiator=first, key=key, columns=joined(shared, columns(own)), scope=SCOPE))
        for first, own in ((True, rows[:half]), (False, rows[half:]))
    )
    message_bytes, flights = exchange(initiator, responder)
    found = [set(side.reconciler.to_offer or ()) for side in (initiator, responder)]
    assert found == [{row[0] for row in rows[:half]}, {row[0] for row in rows[half:]}], f"seed {seed}"
    return Run(
        message_bytes=message_bytes,
        round_trips=(flights + 1) // 2,
        cpu_s=max(sum(initiator.calls_s), sum(responder.calls_s)),
        slice_s=max(initiator.calls_s + responder.calls_s),
        used_list=initiator.reconciler.used_list,
    )


def exchange(initiator: Side, responder: Side) -> tuple[int, int]:
    """Let two sides talk until they are done; return the bytes of their messages and how often those went over."""
    message_bytes, flights = 0, 0
    messages: list[bytes] | None = None
    while messages is None or messages:
        messages = (responder if flights % 2 else initiator).turn(messages)
        message_bytes += sum(map(len, messages))
        flights += bool(messages)
    return message_bytes, flights


def measure(*, seeds: int = SEEDS) -> dict[str, float]:
    """Print the figures and return the worst over all seeds, keyed as in build/bench.json."""
    began = time.process_time()
    import numpy as np  # noqa: PLC0415 - what it costs is measured

    print(f"numpy {np.__version__} loads in {time.process_time() - began:.3f} s of CPU, once a process")
    shared = columns(shared_rows(ENVELOPES - DIFFERENCES // 2))
    worst: list[Run] = []
    results: dict[str, float] = {}
    for name, newest_hours in (("recent", NEWEST_HOURS), ("scattered", HOURS)):
        runs = [reconcile(shared, seed, DIFFERENCES, newest_hours) for seed in range(seeds)]
        _show(f"{DIFFERENCES} differences, {name}, {seeds} seeds", runs)
        results[f"reconcile_{name}_bytes"] = max(run.message_bytes for run in runs)
        worst += runs
    results["reconcile_round_trips"] = max(run.round_trips for run in worst)
    results["reconcile_cpu_s"] = round(max(run.cpu_s for run in worst), 4)
    print("curve, scattered over all hours:")
    for differences in CURVE:
        half = columns(shared_rows(ENVELOPES - differences // 2)) if differences != DIFFERENCES else shared
        count = min(seeds, CURVE_SEEDS)
        _show(f"{differences:>7} differences", [reconcile(half, seed, differences) for seed in range(count)])
    return results


def _show(title: str, runs: list[Run]) -> None:
    sizes = [run.message_bytes for run in runs]
    trips = [run.round_trips for run in runs]
    cpu = [run.cpu_s for run in runs]
    print(
        f"{title}: bytes median {statistics.median(sizes):.0f} max {max(sizes)}, "
        f"round trips median {statistics.median(trips):.0f} max {max(trips)}, "
        f"CPU a side median {statistics.median(cpu):.3f} s max {max(cpu):.3f} s, "
        f"longest call {max(run.slice_s for run in runs) * 1000:.1f} ms, "
        f"lists {sum(run.used_list for run in runs)}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    print(measure(seeds=parser.parse_args().seeds))
