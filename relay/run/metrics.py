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
from typing import TYPE_CHECKING, NamedTuple

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
    UpdateRefused,
    UpdateTotal,
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
    operator does about it, or what it is for where nothing is to be done. ``sparse``: what ``read`` leaves out is not
    there, else it is 0.
    """

    name: str
    kind: Kind
    help: str
    read: Read
    act: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sparse: bool = False

    def series(self) -> Iterator[tuple[str, ...]]:
        """Every series that there can be: the bound of its cardinality."""
        return product(*self.labels.values())


def _values(reasons: type[enum.Enum]) -> tuple[str, ...]:
    return tuple(str(reason) for reason in reasons)


def _counter(name: str, text: str, read: Read, act: str, *, sparse: bool = False, **labels: tuple[str, ...]) -> Family:
    return Family(
        name=f"relay_{name}_total", kind=Kind.COUNTER, help=text, read=read, labels=labels, act=act, sparse=sparse
    )


def _gauge(name: str, text: str, read: Callable[[Status], float | None], act: str) -> Family:
    """A gauge without labels; None: it is not there."""

    def values(_: Stats, status: Status) -> Values:
        value = read(status)
        return {} if value is None else {(): value}

    return Family(name=f"relay_{name}", kind=Kind.GAUGE, help=text, read=values, act=act, sparse=True)


def _labelled_gauge(
    name: str,
    text: str,
    read: Callable[[Status], Values],
    act: str,
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


def _total(total: Total, name: str, text: str, act: str) -> Family:
    return _counter(name, text, lambda stats, _: {(): stats.get(total)}, act)


def _by_reason(reasons: type[Reason], name: str, text: str, act: str) -> Family:
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
        _EVENT_ACTS[component],
        event=EVENTS[component],
    )


def _component_gauge(component: Component, gauge: str) -> Family:
    is_sensor = gauge in SENSORS

    def read(status: Status) -> float | None:
        found = [row.gauges[gauge] for row in status.components if row.name == component.value and gauge in row.gauges]
        return found[0] if found else None if is_sensor else 0

    text, act = _GAUGE_TEXTS[gauge]
    return _gauge(f"{component.value}_{gauge}", text, read, act)


#: What other processes count: what to look for in it.
_EVENT_ACTS = {
    Component.BLE: "adapter_lost, bluetoothd_lost, dbus_errors again and again: its log, another adapter; "
    "refused_busy, gave_way: more phones than places",
    Component.BITCHAT: "the same of adapters; packets_limited, packets_crowded: a flood, or a crowd; what was "
    "refused is in docs/bitchat.md",
    Component.LIBP2P: "discovery_failed, http_unavailable: its log; *_refused, *_limited, streams_crowded_out, "
    "http_places: a crowd, or somebody floods it",
    Component.NET: "radio_lost, join_failed, *_blocked again and again: its log, relay net probe; dhcp_*: somebody "
    "asks for all addresses",
    Component.BOARD: "config_refused: correct relay.toml; undervoltage: another supply; panics: what it kept "
    "was erased",
}
#: What other processes measure: what it means, and what to do.
_GAUGE_TEXTS = {
    "temperature_celsius": ("The hottest of the board's sensors, 0 or more", "from 80 on: shade and air"),
    "undervoltage": ("Whether the supply is below 4.63 V now", "another supply, or a shorter, thicker cable"),
    "undervoltage_seen": (
        "Whether the supply was below 4.63 V since the board started",
        "1: the same, then start it again",
    ),
    "card_life_used_percent": ("How much of an eMMC's life is used, in tens; 110: all of it", "from 90 on: replace it"),
    "card_worn": ("Spare blocks of an eMMC: 0 there are, 1 most are used, 2 nearly all", "from 1 on: replace it"),
    "power_percent": ("Charge of the emptiest battery that tells", "charge or change it"),
    "power_external": ("Whether any supply that tells feeds it from outside", "look at the cable"),
    "adapters": ("Bluetooth adapters that it runs", "fewer than there are: plug it in anew; its log"),
    "adapters_up": ("Of these, those that work", "fewer than adapters: its log; another adapter"),
    "clients": ("Phones that are connected, coarse", "for planning: near its places, put up another relay"),
    "clock_trusted": ("Whether it has the relay's clock", "0 is the default: it then learns the time from phones"),
    "clock_learned": (
        "Whether it has learned a time from phones, told where clients are",
        "for judging what phones get: without any time, replays are told from news for 21 minutes only",
    ),
    "clock_disputed": (
        "Whether five phones or more say another time than that clock",
        "as clock_disputed below says",
    ),
    "letters_brief": (
        "Letters that this relay alone keeps, until they end, coarse",
        "for planning: none of them survives this relay",
    ),
    "radios": ("Radios of the mesh that are set up", "for reading radios_up by"),
    "radios_up": ("Of these, those that have joined", "fewer than radios: its page says why; relay net probe"),
    "bridge_ports": ("Interfaces in the bridge", "fewer than you set up: look at cables and radios"),
    "access_points": ("Networks for phones that are set up", "for reading access_points_up by"),
    "access_points_up": ("Of these, those on the air", "fewer than access_points: its page says why"),
    "phones": ("Phones on the access point, coarse", "near phones_most: put up another relay"),
    "phones_most": ("Phones that the access point's radio holds", "for reading phones by"),
    "slots_used": (
        "Places for phones over GATT that are taken, coarse",
        "near max_clients in [ble] for long: another relay, or a second adapter",
    ),
    "neighbours": ("Relays connected by Bluetooth, coarse", "fewer than usual: look whether the others are on"),
    "relays_heard": ("Relays heard by Bluetooth, coarse", "for judging the place: 0 with a relay near: the antenna"),
    "peers": (
        "Peers of libp2p that are connected, coarse",
        "for seeing that it is used; none with IPFS nodes near: its port, and their networks",
    ),
    "topics": ("Topics that these subscribe to, coarse", "for judging use; topics_refused rises: somebody floods it"),
    "blocks": (
        "Blocks of Berty's that are kept for topics of these, coarse",
        "for planning; blocks_limited, kept_refused rise: more room, or somebody floods it",
    ),
    "mesh_peers": (
        "Relays in reach of the mesh's radio, coarse",
        "fewer than usual: antennas, and whether the others are on",
    ),
}
_LINKS = _values(LinkKind)
_COMPONENTS = tuple(component.value for component in Component)
_DIRECTIONS = ("in", "out")
#: In the enum's order, which a set has not.
_ENDS = tuple(str(reason) for reason in SessionError if reason in ENDS)
_ERRORS = tuple(str(reason) for reason in SessionError if reason in ERRORS)
_SOURCES = ("none", "system", "operator")

FAMILIES: tuple[Family, ...] = (
    _labelled_gauge(
        "build_info",
        "Version of the relay",
        lambda _: {(__version__,): 1},
        "update those that lag behind",
        version=(__version__,),
    ),
    _gauge(
        "ready",
        "Whether the relay accepts envelopes",
        lambda status: status.ready,
        "0 for minutes: a large store on a slow card; for longer: its log",
    ),
    _gauge(
        "uptime_seconds",
        "Time since the relay started",
        lambda status: status.uptime_s,
        "small again and again: its log, and the power supply",
    ),
    _labelled_gauge(
        "condition",
        "Whether a condition holds, of those in the table below",
        _conditions,
        "what the table says; alert rules go by this",
        condition=tuple(condition.name for condition in conditions.TABLE),
        severity=_values(Severity),
        sparse=True,
    ),
    _gauge(
        "clock_trusted",
        "Whether the relay has a clock to expire by",
        lambda status: status.clock.trusted,
        "0 is the default; see clock_untrusted and clock_refused below",
    ),
    _labelled_gauge(
        "clock_source",
        "Whose word is taken for the time: the one that is 1",
        lambda status: {(status.clock.source,): 1},
        "for telling why a clock is wrong; none is the default",
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
        "1 or more: start it again; if that happens again, replace the card or disk",
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
        "no relay where there was one: cable, antenna, the other relay; many clients: put up another",
        link=_LINKS,
        peer=("relay", "client"),
    ),
    _gauge(
        "neighbours",
        "Connected relays, each once, coarse from 4 on",
        lambda status: status.relays,
        "fewer than usual: look whether the others are switched on",
    ),
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
        "for planning: its rate, against what the link carries",
        link=_LINKS,
        direction=_DIRECTIONS,
    ),
    _counter(
        "frames",
        "Frames of sessions",
        lambda stats, _: _sum_links(stats, lambda link: {("in",): link.frames_in, ("out",): link.frames_out}),
        "for judging bytes: many frames with few bytes are small envelopes, or chatter",
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
        "stalled, slow_reader, timeout_idle by far the most: people at the edge of reach, or a slow link",
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
        "if it goes on: a relay that is off, or an address in peers that is old",
        link=_LINKS,
    ),
    _counter(
        "envelopes_unwanted",
        "Envelopes that a relay sent unasked, or too late",
        lambda stats, _: _sum_links(stats, lambda link: {(): link.errors[SessionError.UNWANTED_ENVELOPE]}),
        "some are usual where links are slow; more than is accepted: a peer of another make, or hostile",
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
    _total(
        Total.ACCEPTED,
        "envelopes_accepted",
        "Envelopes new to this relay, admitted and committed",
        "for seeing that it is used: 0 for long means that nobody new comes by",
    ),
    _total(
        Total.DUPLICATE,
        "envelopes_duplicate",
        "Envelopes received again while held",
        "for judging the mesh: far above accepted, the same comes by many ways, which costs airtime",
    ),
    _total(
        Total.FORWARDED,
        "envelopes_forwarded",
        "Envelopes handed to a relay or a client",
        "0 while accepted rises: nobody fetches here, and no neighbour is there",
    ),
    _total(
        Total.EXPIRED,
        "envelopes_expired",
        "Envelopes that left at the end of their time",
        "for planning: so much leaves by itself",
    ),
    _total(
        Total.PURGED,
        "envelopes_purged",
        "Envelopes removed by a purge",
        "for planning: so much was taken back by its senders",
    ),
    _total(
        Total.RETURNED,
        "envelopes_returned",
        "Envelopes accepted that had been evicted before",
        "if it goes on: more room, as what had to leave is wanted",
    ),
    _by_reason(
        Rejected,
        "envelopes_rejected",
        "Envelopes not admitted; what neighbours offer again and again, once",
        "full: more room; expired, far_future: the clock; storage: the disk",
    ),
    _by_reason(
        Evicted, "envelopes_evicted", "Envelopes that left before their time", "price: more room; damaged: the card"
    ),
    _total(
        Total.RECONCILED,
        "reconciliations",
        "Reconciliations finished",
        "for seeing that relays compare; 0 with a neighbour: its log",
    ),
    _total(
        Total.RECONCILE_FALLBACK,
        "reconciliation_fallbacks",
        "Reconciliations that took a list of IDs",
        "many: peers that differ by far, or one that answers falsely; each costs airtime",
    ),
    _gauge(
        "store_envelopes",
        "Envelopes held and committed",
        lambda status: status.store.envelopes,
        "see relay_store_full_ratio",
    ),
    _gauge(
        "store_capacity_envelopes",
        "Envelopes that the store may hold",
        lambda status: status.store.max_envelopes,
        "too few: max_envelopes in [store], which takes memory",
    ),
    _gauge(
        "store_bytes",
        "Bytes of envelopes held and committed",
        lambda status: status.store.bytes,
        "see relay_store_full_ratio",
    ),
    _gauge(
        "store_capacity_bytes",
        "Bytes that the store may hold",
        lambda status: status.store.max_bytes,
        "too few: max_bytes in [store], which takes disk",
    ),
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
    _gauge(
        "store_admitted",
        "IDs that are not taken again, held or gone",
        lambda status: status.store.admitted,
        "for planning memory, which each of them takes",
    ),
    _gauge(
        "store_oldest_age_seconds",
        "Age of the oldest envelope held",
        lambda status: status.store.oldest_age_s,
        "hours on a full store: more room, as all leave early",
    ),
    _gauge(
        "store_untaken_age_seconds",
        "Age of the oldest envelope held that nobody took since the start, in steps of ten minutes",
        lambda status: status.store.untaken_age_s,
        "hours with a neighbour there: look at the link to it, and at its store",
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
        "above 0 for long: more room, or another relay; somebody may flood it",
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
        "near its capacity for minutes: commit: another card; requests: a slow link",
        queue=_values(QueueName),
    ),
    _labelled_gauge(
        "queue_capacity",
        "Items that may wait",
        lambda status: {(str(queue.name),): queue.capacity for queue in status.queues},
        "for reading relay_queue_length by",
        queue=_values(QueueName),
    ),
    _by_reason(
        Dropped,
        "queue_dropped",
        "Items that a bounded queue let go of",
        "discovered_full: somebody announces false relays; request_timeout: a slow link; admitted_full: more room",
    ),
    _counter(
        "live_datagrams",
        "Live datagrams by what became of them, in steps of ten; those sent and delivered once for each neighbour and "
        "gateway",
        lambda stats, _: {(result,): events(count) for result, count in stats.by_label(LiveTotal).items()},
        "for seeing that talk is passed on; what was not is in relay_live_dropped_total",
        result=_values(LiveTotal),
    ),
    _counter(
        "live_dropped",
        "Live datagrams that went no further, or not to somebody, in steps of ten",
        lambda stats, _: {(reason,): events(count) for reason, count in stats.by_label(LiveDropped).items()},
        "rate: a flood, or more phones than the mesh carries; queue_full, late: a slow link; unread: the gateway",
        reason=_values(LiveDropped),
    ),
    _counter(
        "updates",
        "Newer software between relays: offers told and heard, parts given and taken, updates written, and neighbours "
        "that were told whether they may start anew",
        lambda stats, _: {(result,): count for result, count in stats.by_label(UpdateTotal).items()},
        "for seeing that an update spreads; what was not taken is in relay_updates_refused_total",
        result=_values(UpdateTotal),
    ),
    _by_reason(
        UpdateRefused,
        "updates_refused",
        "Newer software of neighbours, or parts of it, that was not taken or not given",
        "wrong_piece, bad_signature: a relay near lies, or has a worn card; wrong_key: another's releases; timeout, "
        "cut_off: a slow link; failed: it turned back here; unreadable, write: another card",
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
        "grows for days: start it again, and tell the project",
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


class Meaning(NamedTuple):
    """What a histogram means, and its ``act`` as that of a family."""

    text: str
    act: str


HISTOGRAMS: dict[Histogram, Meaning] = {
    Histogram.FORWARD_LATENCY_S: Meaning(
        "From an envelope's arrival to its hand-over to a relay or client that was there when it arrived",
        "seconds at the median: a slow link, or a slow card (relay_commit_seconds)",
    ),
    Histogram.RESIDENCE_S: Meaning(
        "From an envelope's arrival to its leaving the store, whatever the cause",
        "hours on a full store: more room, as people come back after days",
    ),
    Histogram.COMMIT_S: Meaning(
        "Of one transaction of the store, its sync included",
        "above 1 again and again: another card",
    ),
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
        for histogram, meaning in HISTOGRAMS.items():
            lines.extend(_histogram(stats, histogram, meaning.text))
        return "\n".join(lines) + "\n" + generate_latest(self._process).decode()
