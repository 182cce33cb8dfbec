# SPDX-License-Identifier: GPL-2.0-or-later
"""Prometheus metrics: one table of names, read from the counts and the status at each scrape.

A label has only the values that the table lists, so no scrape can name a peer, an address, a tag or a key, and every
series is there from the start; but what a machine cannot tell, as it has no sensor for it, is absent. Counts of people
and relays are coarse (relay.control.coarse). docs/metrics.md is made from this table by relay.run.metrics_doc.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from relay import __version__
from relay.control import conditions
from relay.control.coarse import coarse, events, memory
from relay.control.status import LinkState, ProcessState, QueueName, Severity, Status
from relay.core.clock import HOUR_S
from relay.core.stats import (
    ENDS,
    ERRORS,
    Download,
    Dropped,
    Evicted,
    HandshakeFailure,
    Histogram,
    HttpRefused,
    LinkKind,
    LinkStats,
    LiveDropped,
    LiveTotal,
    Reason,
    Rejected,
    SessionError,
    Stats,
    Total,
)
from relay.process.reports import EVENTS, GAUGES, MEMORY, SENSORS, Component

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
    """One metric.

    ``labels`` maps each label to every value it can have, ``read`` gives values by label values. ``act``: what an
    operator does about it, "" where he only looks. ``sparse``: what ``read`` leaves out is not there, else it is 0.
    """

    name: str
    kind: Kind
    help: str
    read: Read
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    act: str = ""
    sparse: bool = False

    def series(self) -> Iterator[tuple[str, ...]]:
        """Every series that there can be: the bound of its cardinality."""
        return product(*self.labels.values())


def _values(reasons: type[enum.Enum]) -> tuple[str, ...]:
    return tuple(str(reason) for reason in reasons)


def _counter(
    name: str, text: str, read: Read, act: str = "", *, sparse: bool = False, **labels: tuple[str, ...]
) -> Family:
    return Family(
        name=f"relay_{name}_total", kind=Kind.COUNTER, help=text, read=read, labels=labels, act=act, sparse=sparse
    )


def _gauge(name: str, text: str, read: Callable[[Status], float | None], act: str = "") -> Family:
    """A gauge without labels; None: it is not there."""

    def values(_: Stats, status: Status) -> Values:
        value = read(status)
        return {} if value is None else {(): value}

    return Family(name=f"relay_{name}", kind=Kind.GAUGE, help=text, read=values, act=act, sparse=True)


def _labelled_gauge(
    name: str,
    text: str,
    read: Callable[[Status], Values],
    act: str = "",
    *,
    sparse: bool = False,
    **labels: tuple[str, ...],
) -> Family:
    return Family(
        name=f"relay_{name}",
        kind=Kind.GAUGE,
        help=text,
        read=lambda _, status: read(status),
        labels=labels,
        act=act,
        sparse=sparse,
    )


def _total(total: Total, name: str, text: str, act: str = "") -> Family:
    return _counter(name, text, lambda stats, _: {(): stats.get(total)}, act)


def _by_reason(reasons: type[Reason], name: str, text: str, act: str = "") -> Family:
    return _counter(
        name,
        text,
        lambda stats, _: {(reason,): count for reason, count in stats.by_label(reasons).items()},
        act,
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


def _link_reasons(stats: Stats, reasons: Collection[SessionError]) -> Values:
    return _sum_links(stats, lambda link: {(str(reason),): link.errors[reason] for reason in reasons})


def _airtime(stats: Stats) -> Values:
    return _sum_links(stats, lambda link: {} if link.airtime_s is None else {(): link.airtime_s})


def _link_states(status: Status) -> Values:
    return {(kind, status.link_states.get(kind, LinkState.OFF)): 1 for kind in _LINKS}


def _link_peers(status: Status) -> Values:
    sums: dict[tuple[str, ...], float] = {}
    for link in status.links:
        for peer, count in (("relay", link.relays), ("client", link.clients)):
            sums[link.kind, peer] = sums.get((link.kind, peer), 0) + count
    return sums


def _conditions(status: Status) -> Values:
    holding = {one.name for one in status.conditions}
    return {(one.name, str(one.severity)): one.name in holding for one in conditions.TABLE}


def _component_states(status: Status) -> Values:
    states = {component: str(ProcessState.NEVER_STARTED) for component in _COMPONENTS}
    states |= {row.name: str(row.state) for row in status.components}
    return dict.fromkeys(states.items(), 1)


def _memory(status: Status) -> Values:
    values = {row.name: row.gauges.get(MEMORY) for row in status.components}
    values["run"] = status.memory_bytes
    return {(name,): value for name, value in values.items() if value is not None}


def _component_events(component: Component) -> Family:
    def read(_: Stats, status: Status) -> Values:
        found = (row.counters for row in status.components if row.name == component.value)
        return {(event,): count for counters in found for event, count in counters.items()}

    name = component.value
    return _counter(
        f"{name}_events",
        f"What relay {name} met with; what happens once for each visit in steps of ten",
        read,
        event=EVENTS[component],
    )


def _component_gauge(component: Component, gauge: str) -> Family:
    is_sensor = gauge in SENSORS

    def read(status: Status) -> float | None:
        found = [row.gauges[gauge] for row in status.components if row.name == component.value and gauge in row.gauges]
        return found[0] if found else None if is_sensor else 0

    text, act = _GAUGE_TEXTS.get(
        gauge, (f"{gauge.replace('_', ' ').capitalize()}, as relay {component.value} says", "")
    )
    return _gauge(f"{component.value}_{gauge}", text, read, act)


#: Of the gauges whose name does not say it all: what they mean, and what to do.
_GAUGE_TEXTS = {
    "temperature_celsius": ("The hottest of the board's sensors, 0 or more", "from 80 on: shade and air"),
    "undervoltage": ("Whether the supply is below 4.63 V now", "another supply, or a shorter, thicker cable"),
    "undervoltage_seen": ("Whether the supply was below 4.63 V since the board started", "as above"),
    "card_life_used_percent": ("How much of an eMMC's life is used, in tens; 110: all of it", "from 90 on: replace it"),
    "card_worn": ("Spare blocks of an eMMC: 0 there are, 1 most are used, 2 nearly all", "from 1 on: replace it"),
    "power_percent": ("Charge of the emptiest battery that tells", "charge or change it"),
    "power_external": ("Whether any supply that tells feeds it from outside", "look at the cable"),
    "clients": ("Phones that are connected, coarse", ""),
    "clock_trusted": ("Whether it has the relay's clock", ""),
    "clock_learned": ("Whether it has learned a time from phones, told where clients are", ""),
    "clock_disputed": ("Whether five phones or more say another time than that clock", "set the clock"),
    "letters_brief": ("Letters that this relay alone keeps, until they end, coarse", ""),
    "phones": ("Phones on the access point, coarse", ""),
    "phones_most": ("Phones that the access point's radio holds", ""),
    "slots_used": ("Places for phones over GATT that are taken, coarse", ""),
    "neighbours": ("Relays connected by Bluetooth, coarse", ""),
    "relays_heard": ("Relays heard by Bluetooth, coarse", ""),
    "peers": ("Peers of libp2p that are connected, coarse", ""),
    "topics": ("Topics that these subscribe to, coarse", ""),
    "blocks": ("Blocks of Berty's that are kept for topics of these, coarse", ""),
    "mesh_peers": ("Relays in reach of the mesh's radio, coarse", ""),
}
_LINKS = _values(LinkKind)
_COMPONENTS = tuple(component.value for component in Component)
_DIRECTIONS = ("in", "out")
#: In the enum's order, which a set has not.
_ENDS = tuple(str(reason) for reason in SessionError if reason in ENDS)
_ERRORS = tuple(str(reason) for reason in SessionError if reason in ERRORS)
_SOURCES = ("none", "system", "operator")

FAMILIES: tuple[Family, ...] = (
    _labelled_gauge("build_info", "Version of the relay", lambda _: {(__version__,): 1}, version=(__version__,)),
    _gauge("ready", "Whether the relay accepts envelopes", lambda status: status.ready),
    _gauge("uptime_seconds", "Time since the relay started", lambda status: status.uptime_s),
    _labelled_gauge(
        "condition",
        "Whether a condition holds, of those in the table below",
        _conditions,
        "what the table says; alert rules go by this",
        condition=tuple(condition.name for condition in conditions.TABLE),
        severity=_values(Severity),
        sparse=True,
    ),
    _gauge("clock_trusted", "Whether the relay has a clock to expire by", lambda status: status.clock.trusted),
    _labelled_gauge(
        "clock_source",
        "Whose word is taken for the time: the one that is 1",
        lambda status: {(status.clock.source,): 1},
        source=_SOURCES,
    ),
    _gauge(
        "clock_time_seconds",
        "The hour that the relay goes by, in seconds since 1970; absent without a clock",
        lambda status: None if status.clock.hour is None else status.clock.hour * HOUR_S,
        "set the clock if it is hours from time()",
    ),
    _gauge(
        "clock_offset_hours",
        "The relay's hour less its neighbours', the median; absent where one has no clock",
        lambda status: status.clock.offset_hours,
        "beyond 2: look which clock is right",
    ),
    _gauge(
        "tasks_stalled",
        "Tasks that have work and are stuck",
        lambda status: sum(task.stalled for task in status.tasks),
    ),
    _labelled_gauge(
        "link_state",
        "How a kind of link is, as the interface of which there is most to say: the state that is 1. up: with a relay, "
        "or five clients or more",
        _link_states,
        "down: cable, adapter, power",
        link=_LINKS,
        state=_values(LinkState),
    ),
    _labelled_gauge(
        "link_peers",
        "Connected relays, each once for each interface, and sessions of clients, coarse: 0 clients are under 5",
        _link_peers,
        link=_LINKS,
        peer=("relay", "client"),
    ),
    _gauge("neighbours", "Connected relays, each once, coarse from 4 on", lambda status: status.relays),
    _gauge(
        "alone_seconds",
        "Time without any neighbour, 0 while there is one; absent before the first",
        lambda status: status.alone_s,
        "look whether the others are switched on",
    ),
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
        "airtime_seconds",
        "Of the time that bytes_per_s allots, what was used: its rate is the share; absent where there is no bound",
        lambda stats, _: _airtime(stats),
        "near 1: raise the bound, or put up another relay",
        link=_LINKS,
        sparse=True,
    ),
    _counter(
        "sessions_ended",
        "Sessions that ended as all do: a goodbye, or somebody left; in steps of ten",
        lambda stats, _: {key: events(count) for key, count in _link_reasons(stats, ENDS).items()},
        link=_LINKS,
        reason=_ENDS,
    ),
    _counter(
        "errors",
        "What peers did wrong in sessions",
        lambda stats, _: _link_reasons(stats, ERRORS),
        "if it goes on: a peer of another make, or hostile",
        link=_LINKS,
        reason=_ERRORS,
    ),
    _counter(
        "dials_failed",
        "Dials of relays that did not answer, as of those that are switched off",
        lambda stats, _: _sum_links(stats, lambda link: {(): link.errors[SessionError.CONNECT_FAILED]}),
        link=_LINKS,
    ),
    _counter(
        "envelopes_unwanted",
        "Envelopes that a relay sent unasked, or too late",
        lambda stats, _: _sum_links(stats, lambda link: {(): link.errors[SessionError.UNWANTED_ENVELOPE]}),
        link=_LINKS,
    ),
    _counter(
        "link_restarts",
        "Times that a failed link was started again",
        lambda stats, _: _sum_links(stats, lambda link: {(): link.restarts}),
        "see relay_link_state",
        link=_LINKS,
    ),
    _by_reason(
        HandshakeFailure,
        "handshake_failures",
        "Connections that did not become sessions",
        "decrypt, secret_required: another secret; too_many: a crowd or a flood",
    ),
    _total(Total.ACCEPTED, "envelopes_accepted", "Envelopes new to this relay, admitted and committed"),
    _total(Total.DUPLICATE, "envelopes_duplicate", "Envelopes received again while held"),
    _total(Total.FORWARDED, "envelopes_forwarded", "Envelopes handed to a relay or a client"),
    _total(Total.EXPIRED, "envelopes_expired", "Envelopes that left at the end of their time"),
    _total(Total.PURGED, "envelopes_purged", "Envelopes removed by a purge"),
    _total(Total.RETURNED, "envelopes_returned", "Envelopes accepted that had been evicted before"),
    _by_reason(
        Rejected,
        "envelopes_rejected",
        "Envelopes not admitted; what neighbours offer again and again, once",
        "full: more room; expired, far_future: the clock; storage: the disk",
    ),
    _by_reason(
        Evicted, "envelopes_evicted", "Envelopes that left before their time", "price: more room; damaged: the card"
    ),
    _total(Total.RECONCILED, "reconciliations", "Reconciliations finished"),
    _total(Total.RECONCILE_FALLBACK, "reconciliation_fallbacks", "Reconciliations that took a list of IDs"),
    _gauge("store_envelopes", "Envelopes held and committed", lambda status: status.store.envelopes),
    _gauge("store_capacity_envelopes", "Envelopes that the store may hold", lambda status: status.store.max_envelopes),
    _gauge("store_bytes", "Bytes of envelopes held and committed", lambda status: status.store.bytes),
    _gauge("store_capacity_bytes", "Bytes that the store may hold", lambda status: status.store.max_bytes),
    _gauge(
        "store_full_ratio",
        "How full the store is, of bytes or envelopes, whichever is nearer to its bound",
        lambda status: status.store.part,
        "from 0.9 on: more room, or another relay",
    ),
    _gauge(
        "store_free_bytes",
        "Free bytes of the file system of the store; absent if it does not tell",
        lambda status: status.store.free_bytes,
        "under 16 MiB: free space, or lower max_bytes",
    ),
    _gauge("store_admitted", "IDs that are not taken again, held or gone", lambda status: status.store.admitted),
    _gauge("store_oldest_age_seconds", "Age of the oldest envelope held", lambda status: status.store.oldest_age_s),
    _gauge(
        "store_untaken_age_seconds",
        "Age of the oldest envelope held that nobody took since the start, in steps of ten minutes",
        lambda status: status.store.untaken_age_s,
    ),
    _counter(
        "store_unreadable_bodies",
        "Envelopes found damaged in the store when they were read, or lost with a part of its log",
        lambda _, status: {(): status.store.unreadable_bodies},
        "replace the card or disk",
    ),
    _counter(
        "store_read_failures",
        "Times that the medium failed to read an envelope",
        lambda _, status: {(): status.store.read_failures},
        "replace the card or disk",
    ),
    _gauge(
        "store_writable",
        "Whether the store can be written",
        lambda status: status.store.writable,
        "0: free space, or replace the card or disk",
    ),
    _gauge(
        "store_log_damaged",
        "Whether the store's log was damaged at the start",
        lambda status: status.store.log_damaged,
        "replace the card or disk",
    ),
    _gauge(
        "store_price",
        "Bits of work asked for the smallest envelope, on the interface where it is highest",
        lambda status: max(status.store.price_bits.values(), default=0),
    ),
    _gauge(
        "commit_wait_seconds",
        "For how long what waits longest for the store has been waiting",
        lambda status: status.store.commit_wait_s,
        "seconds: another card",
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
    _counter(
        "live_datagrams",
        "Live datagrams by what became of them, in steps of ten; those sent and delivered once for each neighbour and "
        "gateway",
        lambda stats, _: {(result,): events(count) for result, count in stats.by_label(LiveTotal).items()},
        result=_values(LiveTotal),
    ),
    _counter(
        "live_dropped",
        "Live datagrams that went no further, or not to somebody, in steps of ten",
        lambda stats, _: {(reason,): events(count) for reason, count in stats.by_label(LiveDropped).items()},
        "rate: a flood, or more phones than the mesh carries; queue_full, late: a slow link; unread: the gateway",
        reason=_values(LiveDropped),
    ),
    _by_reason(
        HttpRefused,
        "http_refused",
        "Requests to the pages that were turned away, and connections closed",
        "token, guesses: somebody guesses; place: a flood of connections; host: add the name to http.hosts",
    ),
    _counter(
        "shelf_downloads",
        "Downloads from the shelf by how they ended, where this page is served; in steps of ten",
        lambda stats, _: {(how,): events(count) for how, count in stats.by_label(Download).items()},
        "unreadable: another card; busy, greedy, stalled: many want files, or somebody holds the places",
        result=_values(Download),
    ),
    _labelled_gauge(
        "process_memory_bytes",
        "Memory of each process of the relay (proportional set size); absent where it is not connected",
        _memory,
        sparse=True,
        process=("run", *_COMPONENTS),
    ),
    _labelled_gauge(
        "component_state",
        "How another process of the relay is: the state that is 1",
        _component_states,
        "failing, dead: its log; start it again",
        component=_COMPONENTS,
        state=_values(ProcessState),
    ),
    *(_component_events(component) for component in Component),
    *(_component_gauge(component, gauge) for component in Component for gauge in GAUGES[component] if gauge != MEMORY),
)

HISTOGRAMS: dict[Histogram, str] = {
    Histogram.FORWARD_LATENCY_S: "From an envelope's arrival to its hand-over to a relay or client that was there when "
    "it arrived",
    Histogram.RESIDENCE_S: "From an envelope's arrival to its leaving the store, whatever the cause",
    Histogram.COMMIT_S: "Of one transaction of the store, its sync included",
}


#: Prometheus' text format, whatever else a scraper would take as well: its client library reads versions in that wish,
#: fails at some, and gives others back in its answer.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Written:
    """A family as it is written: what stands before the values is made once, as labels and their values are fixed.

    The client library makes and checks it anew for each line of each scrape, which is four fifths of the work.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._head = _head(family.name, family.help, family.kind.name.lower())
        self._series = [
            (labels, _line(family.name, dict(zip(family.labels, labels, strict=True)))) for labels in family.series()
        ]

    def lines(self, stats: Stats, status: Status) -> Iterator[str]:
        """Yield all of it, with today's values."""
        values = self._family.read(stats, status)
        yield self._head
        for labels, line in self._series:
            if labels in values or not self._family.sparse:
                yield f"{line} {float(values.get(labels, 0))}"


def _head(name: str, text: str, kind: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}"


def _line(name: str, labels: Mapping[str, str]) -> str:
    # Names of our own, of which none has a quote, a backslash or a line feed in it.
    pairs = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}}" if pairs else name


def _histogram(stats: Stats, histogram: Histogram, text: str) -> Iterator[str]:
    name = f"relay_{histogram}"
    distribution = stats.distribution(histogram)
    bounds = [*(str(bound) for bound in distribution.bounds), "+Inf"]
    yield _head(name, text, "histogram")
    reached = 0
    for bound, count in zip(bounds, distribution.counts, strict=True):
        reached += count
        yield f"{_line(f'{name}_bucket', {'le': bound})} {float(reached)}"
    yield f"{name}_count {float(reached)}"
    yield f"{name}_sum {float(distribution.sum)}"


#: Of the client's own metrics. Its number of open files would be that of connections, one by one.
_PROCESS = frozenset({"process_cpu_seconds", "process_resident_memory_bytes", "process_start_time_seconds"})


class _ProcessCollector(Collector):
    """Of the client's collector what tells nobody who is there."""

    def __init__(self) -> None:
        self._all = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """Yield those of _PROCESS; memory in whole steps."""
        for metric in self._all.collect():
            if metric.name == "process_resident_memory_bytes":
                metric.samples = [sample._replace(value=memory(int(sample.value))) for sample in metric.samples]
            if metric.name in _PROCESS:
                yield metric


class Metrics:
    """The families of one relay alone, and CPU, memory and start of its process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._families = [_Written(family) for family in FAMILIES]
        self._process = CollectorRegistry()
        self._process.register(_ProcessCollector())

    def render(self) -> str:
        """Return a scrape, of CONTENT_TYPE; the engine is read once, and every family has all its series."""
        stats = self._engine.stats
        status = coarse(self._engine.status())
        lines = [line for family in self._families for line in family.lines(stats, status)]
        for histogram, text in HISTOGRAMS.items():
            lines.extend(_histogram(stats, histogram, text))
        return "\n".join(lines) + "\n" + generate_latest(self._process).decode()
