# SPDX-License-Identifier: GPL-2.0-or-later
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from relay import __version__
from relay.control.coarse import MEMORY_STEP_BYTES, coarse
from relay.control.conditions import TABLE
from relay.control.status import ComponentStatus, LinkState, LinkStatus, NoticeStatus, ProcessState, interface_label
from relay.core.stats import (
    MAX_LINK_ROWS,
    OTHER,
    Download,
    Dropped,
    Evicted,
    HandshakeFailure,
    Histogram,
    HttpRefused,
    LinkKind,
    LiveDropped,
    LiveTotal,
    Rejected,
    SessionError,
    Stats,
    UpdateRefused,
    UpdateTotal,
)
from relay.process.reports import EVENTS, Component
from relay.run import metrics_doc
from relay.run.metrics import FAMILIES, HISTOGRAMS, Metrics
from relay.run.metrics_doc import most_series

#: Everything that a label may be called, and what it may say; a new label is a decision, not an accident.
WORDS = {
    "version": {__version__},
    "link": {"tcp", "unix", "dnssd", "ble"},
    "peer": {"relay", "client"},
    "direction": {"in", "out"},
    "queue": {"commit", "send", "offers", "requests"},
    "le": None,
    "component": {"ble", "bitchat", "libp2p", "net", "board"},
    "process": {"run", "ble", "bitchat", "libp2p", "net", "board"},
    "source": {"none", "system", "operator"},
    "result": {*map(str, Download), *map(str, LiveTotal), *map(str, UpdateTotal)},
    "state": {*map(str, LinkState), *map(str, ProcessState)},
    "severity": {"critical", "warning", "info"},
    "condition": {condition.name for condition in TABLE},
    "event": {event for events in EVENTS.values() for event in events},
    "reason": {
        str(reason)
        for family in (
            Rejected,
            Evicted,
            HandshakeFailure,
            Dropped,
            HttpRefused,
            LiveDropped,
            UpdateRefused,
            SessionError,
        )
        for reason in family
    },
}


def scrape(engine):
    return Metrics(engine).render()


def samples(engine):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(scrape(engine))
        for sample in family.samples
    }


def test_what_happened_is_counted_under_its_name(engine):
    engine.stats.observe(Histogram.FORWARD_LATENCY_S, 0.004)
    engine.stats.observe(Histogram.FORWARD_LATENCY_S, 1e9)
    engine.changes = {"store": replace(engine.status().store, unreadable_bodies=4)}
    found = samples(engine)
    assert found["relay_store_unreadable_bodies_total",] == 4
    assert found["relay_build_info", ("version", __version__)] == 1
    assert found["relay_envelopes_accepted_total",] == 1300
    assert found["relay_envelopes_rejected_total", ("reason", "underpaid")] == 7
    assert found["relay_bytes_total", ("direction", "in"), ("link", "tcp")] == (1 << 20) + 1
    assert found["relay_errors_total", ("link", "tcp"), ("reason", "garbage_frame")] == 1
    # Who leaves is no error, and stands under no label of one.
    assert sum(count for key, count in found.items() if key[0] == "relay_errors_total") == 1
    assert found["relay_sessions_ended_total", ("link", "tcp"), ("reason", "goodbye")] == 10
    assert sum(count for key, count in found.items() if key[0] == "relay_sessions_ended_total") == 10
    for _ in range(19):
        engine.stats.add(Download.WHOLE)
    downloads = {key[1][1]: count for key, count in samples(engine).items() if key[0] == "relay_shelf_downloads_total"}
    assert downloads == dict.fromkeys(map(str, Download), 0) | {"whole": 10}
    assert found["relay_dials_failed_total", ("link", "tcp")] == 1
    assert found["relay_link_peers", ("link", "tcp"), ("peer", "relay")] == 3
    assert found["relay_neighbours",] == 2
    assert found["relay_link_peers", ("link", "tcp"), ("peer", "client")] == 5
    for link, state in (("tcp", "up"), ("dnssd", "discovering"), ("unix", "listening"), ("ble", "off")):
        assert [s for s in LinkState if found["relay_link_state", ("link", link), ("state", str(s))]] == [state]
    assert found["relay_condition", ("condition", "store_damaged"), ("severity", "critical")] == 1
    assert found["relay_condition", ("condition", "link_down"), ("severity", "warning")] == 0
    assert found["relay_store_bytes",] == 5_000_000
    assert found["relay_store_price",] == 3
    assert found["relay_queue_length", ("queue", "commit")] == 3
    assert found["relay_clock_trusted",] == 0
    assert found["relay_forward_latency_seconds_bucket", ("le", "0.001")] == 0
    assert found["relay_forward_latency_seconds_bucket", ("le", "0.005")] == 1
    assert found["relay_forward_latency_seconds_bucket", ("le", "+Inf")] == 2
    assert found["relay_forward_latency_seconds_count",] == 2
    assert found["process_resident_memory_bytes",] > 1 << 20


def test_what_another_process_reports_is_counted_under_its_name(engine):
    report = {"counters": {"dials": 7}, "gauges": {"clients": 7, "adapters": 1}}
    engine.changes = {
        "components": [
            ComponentStatus(name="ble", connected=True, up=True, **report),
            ComponentStatus(name="net", gauges={"memory_bytes": 5}),
        ]
    }
    found = samples(engine)
    for component, state in (("ble", "up"), ("net", "dead"), ("board", "never_started")):
        states = [
            s for s in ProcessState if found["relay_component_state", ("component", component), ("state", str(s))]
        ]
        assert states == [state]
    assert found["relay_ble_events_total", ("event", "dials")] == 7
    assert found["relay_ble_events_total", ("event", "rotations")] == 0
    assert found["relay_ble_clients",] == 5
    assert found["relay_process_memory_bytes", ("process", "net")] == MEMORY_STEP_BYTES
    # What no sensor tells is not 0 but not there.
    assert not {key for key in found if "temperature" in key[0] or ("process", "ble") in key}
    assert found["relay_net_radios",] == 0


def test_every_series_is_there_before_its_first_event(engine):
    engine.stats = Stats()
    engine.changes = {"links": [], "queues": []}
    found = {key for key in samples(engine) if key[0].startswith("relay_")}
    for family in FAMILIES:
        for values in () if family.sparse else family.series():
            assert (family.name, *sorted(zip(family.labels, values, strict=True))) in found


def test_no_label_can_name_a_peer_an_address_a_tag_or_a_key(engine):
    marker = "fe80--1-marker"
    engine.changes = {
        "links": [LinkStatus(kind=marker, interface=marker, fault=marker, state=LinkState.DOWN, errors={marker: 1})],
        "notices": [NoticeStatus(code="config", text=marker, serious=True)],
    }
    engine.stats.link(LinkKind.TCP, marker).bytes_in += 1
    text = scrape(engine)
    assert marker not in text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label in WORDS, f"{sample.name} has a new label {label}"
                assert WORDS[label] is None or value in WORDS[label]
                if label == "le":
                    assert re.fullmatch(r"\+Inf|[0-9.]+", value)


def test_prometheus_own_linter_has_no_complaint(engine):
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=scrape(engine), capture_output=True, text=True, check=False, timeout=30
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_a_thousand_peers_of_every_kind_make_no_more_series_than_none(engine):
    none = samples(engine)
    for number in range(1000):
        link = engine.stats.link(list(LinkKind)[number % 4], f"usb{number}")
        for reason in SessionError:
            link.error(reason)
    engine.changes = {
        "relays": 1000,
        "links": [LinkStatus(kind="tcp", interface=f"usb{n}", relays=1, clients=9, state="up") for n in range(1000)],
        "components": [
            ComponentStatus(name=name, gauges={"clients": 1000, "phones": 1000, f"new{name}": 1}, counters={name: 1})
            for name in ("ble", "bitchat", "net", "board", *(f"strange{n}" for n in range(1000)))
        ],
    }
    crowd = samples(engine)
    assert {key for key in crowd if key[0].startswith("relay_")} == {k for k in none if k[0].startswith("relay_")}
    assert len([key for key in crowd if key[0].startswith("relay_")]) <= most_series()
    assert len(scrape(engine)) < 200_000


def test_nobody_who_comes_or_goes_alone_is_seen_in_a_count_of_people_or_visits(engine):
    seen = set()
    for clients in range(5):
        engine.stats = Stats()
        for _ in range(clients):
            engine.stats.link(LinkKind.UNIX, "other").error(SessionError.GOODBYE)
        state = LinkState.UP if clients else LinkState.LISTENING
        engine.changes = {
            "link_states": {"ble": str(state), "unix": "listening"},
            "links": [
                LinkStatus(kind="ble", interface="hci0", state=state, clients=clients, ended={"goodbye": clients})
            ],
            "components": [
                ComponentStatus(
                    name="ble", connected=True, up=True, gauges={"clients": clients}, counters={"connections": clients}
                ),
                ComponentStatus(name="net", connected=True, up=True, gauges={"phones": clients}),
                ComponentStatus(
                    name="libp2p",
                    connected=True,
                    up=True,
                    gauges={"peers": clients, "topics": clients, "blocks": clients},
                    counters={
                        name: clients
                        for name in EVENTS[Component.LIBP2P]
                        if (name.startswith(("peer", "seals_")) and name not in {"seals_malformed", "seals_limited"})
                        or name
                        in {
                            "blocks_sent",
                            "blocks_received",
                            "blocks_kept",
                            "records_taken",
                            "published_taken",
                            "wants_missed",
                        }
                    },
                ),
                ComponentStatus(
                    name="bitchat",
                    connected=True,
                    up=True,
                    gauges={"clients": clients, "clock_learned": int(clients >= 3), "letters_brief": clients},
                    counters={
                        name: clients
                        for name in EVENTS[Component.BITCHAT]
                        if name.startswith(("packets_", "type_", "live_", "clients_"))
                        or name in {"letters_kept", "letters_refused", "letters_lost"}
                    },
                ),
            ],
        }
        for total in (*LiveTotal, *LiveDropped):
            engine.stats.add(total, clients)
        status = coarse(engine.status()).as_dict()
        told = [status["links"], status["link_states"], status["components"], status["totals"]]
        seen.add((json.dumps(told), re.sub(r"(?m)^process_.*", "", scrape(engine))))
    assert len(seen) == 1


def test_what_is_told_of_the_process_counts_no_connections(engine):
    """The client's own metrics have the number of open files, which rises by one for each who comes."""
    names = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"}
    found = samples(engine)
    assert {key[0] for key in found if not key[0].startswith("relay_")} == names
    assert found["process_resident_memory_bytes",] % MEMORY_STEP_BYTES == 0
    engine.changes = {"memory_bytes": 5, "components": [ComponentStatus(name="net", gauges={"memory_bytes": 5})]}
    memory = {value for key, value in samples(engine).items() if key[0] == "relay_process_memory_bytes"}
    assert memory == {MEMORY_STEP_BYTES}


def test_the_document_is_what_the_code_says():
    document = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert document.read_text() == metrics_doc.document(), "python -m relay.run.metrics_doc > docs/metrics.md"
    texts = [*((family.help, family.act) for family in FAMILIES), *HISTOGRAMS.values()]
    assert all(text[0].isupper() and not text.endswith(".") for text, _ in texts)
    # What to do about it, or what it is for where there is nothing to do.
    assert all(re.fullmatch(r"[^.|\n].{8,}[^.]", act) for _, act in texts), [act for _, act in texts if len(act) < 10]


def test_a_scrape_is_as_the_client_library_would_write_it(engine):
    """What is written by hand here is read by another and written again, the same but for the form of numbers."""
    engine.stats.observe(Histogram.FORWARD_LATENCY_S, 0.004)
    written = scrape(engine)
    read = list(text_string_to_metric_families(written))

    class Again(Collector):
        def collect(self):
            return read

    registry = CollectorRegistry()
    registry.register(Again())

    def lines(text):
        rows = [line.rpartition(" ") for line in text.splitlines()]
        return sorted((row[0], row[2] if row[0].startswith("#") else float(row[2])) for row in rows)

    assert lines(generate_latest(registry).decode()) == lines(written)
    assert not any(set(f"{family.name}{family.help}{family.labels}") & set('\\\n"') for family in FAMILIES)


def test_interfaces_that_come_under_ever_new_names_do_not_grow_memory():
    stats = Stats()
    for number in range(10 * MAX_LINK_ROWS):
        stats.link(LinkKind.TCP, f"usb{number}").bytes_in += 1
    rows = stats.links()
    assert len(rows) <= MAX_LINK_ROWS + 1
    assert sum(row.bytes_in for row in rows) == 10 * MAX_LINK_ROWS
    assert rows[-1].interface == OTHER
    assert stats.link(LinkKind.TCP, "usb0") is rows[0]


def test_a_clock_that_went_back_does_not_spoil_a_histogram():
    stats = Stats()
    stats.observe(Histogram.RESIDENCE_S, -5.0)
    assert stats.distribution(Histogram.RESIDENCE_S).sum == 0.0


def test_an_interface_named_after_its_hardware_address_is_not_told():
    assert interface_label("wlx00c0ca123456") == "wlx*"
    assert interface_label("enp3s0") == "enp3s0"
