# SPDX-License-Identifier: GPL-2.0-or-later
"""A relay for a town: a million envelopes of 256 bytes against a thousand. `python -m bench million`, minutes.

Costs are processor time of the relay, all threads, so that what else the machine does moves them little.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import shutil
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from bench.footprint import PEERS, peers
from bench.ingest import put_all
from bench.reconcile import SCOPE, Side, exchange
from bench.relays import BareClient, RelayProcess, relay
from bench.store_input import FIRST_HOUR, make_envelopes
from relay.core import session as s
from relay.core.batch import Batch
from relay.core.envelope import BUCKET_BITS, HEADER_BYTES, EnvelopeType, Header, envelope_id, price_paid
from relay.core.log import AdmittedLog, EntryState
from relay.core.messages import Subscribe
from relay.core.reconcile import Reconciler, Scope
from relay.store.database import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FEW = 1_000
MANY = 1_000_000
#: Fresh ones that are put in each round, and rounds: the least of them counts.
PUTS = 10_000
ROUNDS = 5
#: ... of fetching all of a million.
ROUNDS_OF_ALL = 2
#: Fetches of a bucket of the few, so that both retrievals are of about as many.
VISITS = 30
BUCKET = 0x17
ROWS = 4096
DIFFERENCES = 100
LIMITS = f"max_bytes = 4_000_000_000\nmax_envelopes = {2 * MANY}"


def measure(folder: Path) -> dict[str, float]:
    """A million envelopes of 256 bytes: memory with ten neighbours, start, costs against a thousand, reconciling."""
    fresh = make_envelopes(2 * ROUNDS * PUTS, 0, seed=2)
    _fill(folder / "few/store", make_envelopes(FEW, 0, bucket=BUCKET))
    for part in range(MANY // ROWS + 1):
        rows = min(ROWS, MANY - part * ROWS)
        _fill(folder / "many/store", make_envelopes(rows, 0, seed=1000 + part))
    found = _reconcile(folder / "many/store/store.sqlite")
    with relay(folder / "few", limits=LIMITS) as few, relay(folder / "many", limits=LIMITS) as many:
        found |= {"start_1m_s": many.start_s, "start_1m_cpu_s": many.cpu_s(), "rss_1m_alone_mib": many.rss_mib()}
        costs: dict[str, list[float]] = defaultdict(list)
        for number in range(ROUNDS):
            for name, process, visits in (("1k", few, VISITS), ("1m", many, 1)):
                some = [fresh.pop() for _ in range(PUTS)]
                costs[f"put_{name}_us"].append(_cost_us(process, partial(_put, process, some)))
                costs[f"get_bucket_{name}_us"].append(_cost_us(process, partial(_visit, process, BUCKET_BITS, visits)))
            costs["get_all_1k_us"].append(_cost_us(few, partial(_visit, few, 0, VISITS)))
            if number < ROUNDS_OF_ALL:
                costs["get_all_1m_us"].append(_cost_us(many, partial(_visit, many, 0, 1)))
        found |= {name: min(each) for name, each in costs.items()}
    found |= {f"{name}_growth": found[f"{name}_1m_us"] / found[f"{name}_1k_us"] for name in ("put", "get_all")}
    shutil.copytree(folder / "many/store", folder / "copy")
    with (
        relay(folder / "many", limits=LIMITS, discovery=True, http=True) as many,
        peers(folder / "copy/store.sqlite", many) as neighbours,
    ):
        many.wait(lambda status: sum(link["relays"] for link in status["links"]) == PEERS)
        many.wait(lambda status: status["totals"]["total"]["reconciled"] >= PEERS, timeout_s=600)
        assert not any(peer.node.wanted() for peer in neighbours)
        return found | {"rss_1m_mib": many.rss_mib(), "rss_1m_peak_mib": many.peak_mib()}


def _fill(folder: Path, envelopes: Sequence[bytes]) -> None:
    with contextlib.closing(Store.open(folder / "store.sqlite", durable=False)) as store:
        first = store.last_seq + 1
        batch = Batch(interfaces={1: "lo"})
        batch.inserts = [
            (seq, envelope_id(each), each[:HEADER_BYTES], 1, 0, each) for seq, each in enumerate(envelopes, first)
        ]
        store.commit(batch)


def _cost_us(process: RelayProcess, work: Callable[[], int]) -> float:
    """Return the processor time, in microseconds, that each of what ``work`` counts costs a relay."""
    before = process.cpu_s()
    count = work()
    return (process.cpu_s() - before) / count * 1e6


def _put(process: RelayProcess, envelopes: Sequence[bytes]) -> int:
    client = BareClient(process.port)
    put_all(client, envelopes)
    client.close()
    return len(envelopes)


def _visit(process: RelayProcess, prefix_bits: int, visits: int) -> int:
    """Fetch a bucket, or with no bits all there is, so often; return how many envelopes that were."""
    received = 0
    for _ in range(visits):
        client = BareClient(process.port)
        client.session.subscribe(
            Subscribe(prefix_bits=prefix_bits, prefix=BUCKET >> BUCKET_BITS - prefix_bits, follow=False)
        )
        client.flush()
        events: list[s.Event] = []
        while not any(isinstance(event, s.CaughtUp) for event in events):
            events = client.read()
            # On a busy machine it takes so long that the relay asks whether anybody is there.
            client.flush()
            received += sum(len(event.items) for event in events if isinstance(event, s.Envelopes))
        client.close()
    return received


def _reconcile(database: Path) -> dict[str, float]:
    """Two logs that differ in a hundred of a million, and how long the calls of either take."""
    with contextlib.closing(Store.open(database)) as store:
        log = AdmittedLog()
        began = time.process_time()
        log.load(store.load())
        load_cpu_s = time.process_time() - began
    sides = []
    for initiator in (True, False):
        seqs = _append(log, DIFFERENCES // 2)
        began = time.process_time()
        snapshot = log.columns()
        snapshot_s = time.process_time() - began
        side = Side(Reconciler(initiator=initiator, key=bytes(16), columns=snapshot, scope=_SCOPE))
        side.calls_s.append(snapshot_s)
        sides.append((side, seqs))
        for seq in seqs:
            log.forget(seq)
    message_bytes, flights = exchange(*(side for side, _ in sides))
    for side, seqs in sides:
        assert set(side.reconciler.to_offer or ()) == set(seqs)
    return {
        "load_1m_cpu_s": load_cpu_s,
        "reconcile_1m_bytes": message_bytes,
        "reconcile_1m_round_trips": (flights + 1) // 2,
        "reconcile_1m_cpu_s": max(sum(side.calls_s) for side, _ in sides),
        "reconcile_1m_longest_call_ms": 1000 * max(max(side.calls_s) for side, _ in sides),
    }


_SCOPE = Scope(first_hour=FIRST_HOUR, last_hour=FIRST_HOUR + 167, classes=SCOPE.classes, min_price=0)


def _append(log: AdmittedLog, count: int) -> list[int]:
    """Let so many more into the log; return their sequence numbers."""
    seqs = [
        log.append(
            identity=(identity := secrets.token_bytes(32)),
            header=Header(
                type=EnvelopeType.MESSAGE,
                size_class=0,
                expiry_hour=FIRST_HOUR + random.randrange(168),
                tag=secrets.token_bytes(16),
            ),
            price=price_paid(identity, 0),
            interface=1,
            arrived_s=0.0,
            state=EntryState.PENDING,
        )
        for _ in range(count)
    ]
    log.commit(seqs[0], seqs[-1])
    return seqs
