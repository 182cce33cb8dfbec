# SPDX-License-Identifier: GPL-2.0-or-later
"""Prometheus metrics: one table of names, read from the counts and the status at each scrape.

A label has only the values that the table lists, so no scrape can name a peer, an
address, a tag or a key, and every series is there from the start.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from relay import __version__
from relay.control.status import QueueName, Status
from relay.core.stats import (
    ENDS,
    Dropped,
    Evicted,
    HandshakeFailure,
    Histogram,
    LinkKind,
    LinkStats,
    Reason,
    Rejected,
    SessionError,
    Stats,
    Total,
)
from relay.process.reports import EVENTS, GAUGES, Component

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from relay.control.status import Engine

    Values = Mapping[tuple[str, ...], float]
    Read = Callable[[Stats, Status], Values]


class Kind(enum.Enum):
    """How a family's values behave."""

    COUNTER = enum.auto()
    GAUGE = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric: ``labels`` maps each label to every value it can have, ``read`` gives values by label values."""

    name: str
    kind: Kind
    help: str
    read: Read
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)


def _values(reasons: type[Reason | QueueName]) -> tuple[str, ...]:
    return tuple(str(reason) for reason in reasons)


def _counter(name: str, text: str, read: Read, **labels: tuple[str, ...]) -> Family:
    return Family(name=f"relay_{name}_total", kind=Kind.COUNTER, help=text, read=read, labels=labels)


def _gauge(name: str, text: str, read: Callable[[Status], float]) -> Family:
    return Family(name=f"relay_{name}", kind=Kind.GAUGE, help=text, read=lambda _, status: {(): read(status)})


def _labelled_gauge(name: str, text: str, read: Callable[[Status], Values], **labels: tuple[str, ...]) -> Family:
    return Family(name=f"relay_{name}", kind=Kind.GAUGE, help=text, read=lambda _, status: read(status), labels=labels)


def _total(total: Total, name: str, text: str) -> Family:
    return _counter(name, text, lambda stats, _: {(): stats.get(total)})


def _by_reason(reasons: type[Reason], name: str, text: str) -> Family:
    return _counter(
        name,
        text,
        lambda stats, _: {(reason,): count for reason, count in stats.by_label(reasons).items()},
        reason=_values(reasons),
    )


def _sum_links(stats: Stats, read: Callable[[LinkStats], Mapping[tuple[str, ...], float]]) -> Values:
    """Add up what ``read`` gives for each link, under the link's kind, over all interfaces."""
    sums: dict[tuple[str, ...], float] = {}
    for link in stats.links():
        for labels, value in read(link).items():
            key = (str(link.kind), *labels)
            sums[key] = sums.get(key, 0) + value
    return sums


def _link_up(status: Status) -> Values:
    kinds = {link.kind for link in status.links}
    return {(kind,): all(link.up for link in status.links if link.kind == kind) for kind in kinds}


def _link_reasons(stats: Stats, reasons: Collection[SessionError]) -> Values:
    return _sum_links(stats, lambda link: {(str(reason),): link.errors[reason] for reason in reasons})


def _link_peers(status: Status) -> Values:
    sums: dict[tuple[str, ...], float] = {}
    for link in status.links:
        for peer, count in (("relay", link.relays), ("client", link.clients)):
            sums[link.kind, peer] = sums.get((link.kind, peer), 0) + count
    return sums


def _component_events(component: Component) -> Family:
    def read(_: Stats, status: Status) -> Values:
        found = (row.counters for row in status.components if row.name == component.value)
        return {(event,): count for counters in found for event, count in counters.items()}

    name = component.value
    return _counter(f"{name}_events", f"What relay {name} met with", read, event=EVENTS[component])


def _component_gauge(component: Component, gauge: str) -> Family:
    def read(status: Status) -> float:
        return sum(row.gauges.get(gauge, 0) for row in status.components if row.name == component.value)

    words = gauge.replace("_", " ").capitalize()
    return _gauge(f"{component.value}_{gauge}", f"{words}, as relay {component.value} says", read)


_LINKS = _values(LinkKind)
_DIRECTIONS = ("in", "out")
_ENDS = tuple(str(reason) for reason in SessionError if reason in ENDS)
_ERRORS = tuple(str(reason) for reason in SessionError if reason not in ENDS)

FAMILIES: tuple[Family, ...] = (
    _labelled_gauge("build_info", "Version of the relay", lambda _: {(__version__,): 1}, version=(__version__,)),
    _gauge("ready", "Whether the relay accepts envelopes", lambda status: status.ready),
    _gauge("uptime_seconds", "Time since the relay started", lambda status: status.uptime_s),
    _gauge("clock_trusted", "Whether the relay has a clock to expire by", lambda status: status.clock.trusted),
    _gauge(
        "tasks_stalled",
        "Tasks that have work and make no progress",
        lambda status: sum(task.stalled for task in status.tasks),
    ),
    _labelled_gauge("link_up", "Whether a link of this kind works, wherever there is one", _link_up, link=_LINKS),
    _labelled_gauge(
        "link_peers",
        "Connected relays, each once for each interface, and sessions of clients",
        _link_peers,
        link=_LINKS,
        peer=("relay", "client"),
    ),
    _gauge("neighbours", "Connected relays, each once", lambda status: status.relays),
    _counter(
        "bytes",
        "Bytes of sessions, encryption included",
        lambda stats, _: _sum_links(stats, lambda link: {("in",): link.bytes_in, ("out",): link.bytes_out}),
        link=_LINKS,
        direction=_DIRECTIONS,
    ),
    _counter(
        "frames",
        "Frames of sessions",
        lambda stats, _: _sum_links(stats, lambda link: {("in",): link.frames_in, ("out",): link.frames_out}),
        link=_LINKS,
        direction=_DIRECTIONS,
    ),
    _counter(
        "sessions_ended",
        "Sessions that ended as all do: a goodbye, or somebody left",
        lambda stats, _: _link_reasons(stats, ENDS),
        link=_LINKS,
        reason=_ENDS,
    ),
    _counter(
        "errors",
        "Connections that failed, and what peers did wrong in sessions",
        lambda stats, _: _link_reasons(stats, set(SessionError) - ENDS),
        link=_LINKS,
        reason=_ERRORS,
    ),
    _counter(
        "link_restarts",
        "Times that a failed link was started again",
        lambda stats, _: _sum_links(stats, lambda link: {(): link.restarts}),
        link=_LINKS,
    ),
    _by_reason(HandshakeFailure, "handshake_failures", "Connections that did not become sessions"),
    _total(Total.ACCEPTED, "envelopes_accepted", "Envelopes new to this relay, admitted and committed"),
    _total(Total.DUPLICATE, "envelopes_duplicate", "Envelopes received again while held"),
    _total(Total.FORWARDED, "envelopes_forwarded", "Envelopes handed to a relay or a client"),
    _total(Total.EXPIRED, "envelopes_expired", "Envelopes that left at the end of their time"),
    _total(Total.PURGED, "envelopes_purged", "Envelopes removed by a purge"),
    _total(Total.RETURNED, "envelopes_returned", "Envelopes accepted that had been evicted before"),
    _by_reason(Rejected, "envelopes_rejected", "Envelopes not admitted"),
    _by_reason(Evicted, "envelopes_evicted", "Envelopes that left before their time"),
    _total(Total.RECONCILED, "reconciliations", "Reconciliations finished"),
    _total(Total.RECONCILE_FALLBACK, "reconciliation_fallbacks", "Reconciliations that took a list of IDs"),
    _gauge("store_envelopes", "Envelopes held", lambda status: status.store.envelopes),
    _gauge("store_capacity_envelopes", "Envelopes that the store may hold", lambda status: status.store.max_envelopes),
    _gauge("store_bytes", "Bytes of envelopes held", lambda status: status.store.bytes),
    _gauge("store_capacity_bytes", "Bytes that the store may hold", lambda status: status.store.max_bytes),
    _gauge("store_admitted", "IDs that are not taken again, held or gone", lambda status: status.store.admitted),
    _gauge("store_oldest_age_seconds", "Age of the oldest envelope held", lambda status: status.store.oldest_age_s),
    _counter(
        "store_unreadable_bodies",
        "Envelopes found damaged in the store when they were read, or lost with a part of its log",
        lambda _, status: {(): status.store.unreadable_bodies},
    ),
    _gauge(
        "store_log_damaged", "Whether the store's log was damaged at the start", lambda status: status.store.log_damaged
    ),
    _gauge("store_writable", "Whether the store can be written", lambda status: status.store.writable),
    _gauge(
        "store_price",
        "Bits of work asked for the smallest envelope, on the interface where it is highest",
        lambda status: max(status.store.price_bits.values(), default=0),
    ),
    _labelled_gauge(
        "queue_length",
        "Items waiting",
        lambda status: {(str(queue.name),): queue.length for queue in status.queues},
        queue=_values(QueueName),
    ),
    _labelled_gauge(
        "queue_capacity",
        "Items that may wait",
        lambda status: {(str(queue.name),): queue.capacity for queue in status.queues},
        queue=_values(QueueName),
    ),
    _by_reason(Dropped, "queue_dropped", "Items that a bounded queue let go of"),
    _labelled_gauge(
        "component_up",
        "Whether another process of the relay is connected and does its work",
        lambda status: {(row.name,): row.up for row in status.components},
        component=tuple(component.value for component in Component),
    ),
    *(_component_events(component) for component in Component),
    *(_component_gauge(component, gauge) for component in Component for gauge in GAUGES[component]),
)

HISTOGRAMS: dict[Histogram, str] = {
    Histogram.FORWARD_LATENCY_S: "From an envelope's arrival to its hand-over to a relay",
    Histogram.RESIDENCE_S: "From an envelope's arrival to its leaving the store",
}


class RelayCollector(Collector):
    """Reads the engine once per scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield every family of the table, each with all its series."""
        stats = self._engine.stats
        status = self._engine.status()
        for family in FAMILIES:
            values = family.read(stats, status)
            kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=list(family.labels))
            for labels in product(*family.labels.values()):
                metric.add_metric(labels, float(values.get(labels, 0)))
            yield metric
        for histogram, text in HISTOGRAMS.items():
            yield _histogram(stats, histogram, text)


def _histogram(stats: Stats, histogram: Histogram, text: str) -> Metric:
    distribution = stats.distribution(histogram)
    bounds = [*(str(bound) for bound in distribution.bounds), "+Inf"]
    buckets = []
    reached = 0
    for bound, count in zip(bounds, distribution.counts, strict=True):
        reached += count
        buckets.append((bound, float(reached)))
    metric = HistogramMetricFamily(f"relay_{histogram}", text)
    metric.add_metric([], buckets, distribution.sum)
    return metric


class Metrics:
    """A registry of this relay alone: its own families, and memory, CPU and files of its process."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(RelayCollector(engine))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the scrape and its content type, in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
