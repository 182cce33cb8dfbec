# SPDX-License-Identifier: GPL-2.0-or-later
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import product

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay import __version__
from relay.control.status import ComponentStatus, LinkStatus, interface_label
from relay.core.stats import (
    MAX_LINK_ROWS,
    OTHER,
    Dropped,
    Evicted,
    HandshakeFailure,
    Histogram,
    LinkKind,
    Rejected,
    SessionError,
    Stats,
)
from relay.process.reports import EVENTS
from relay.run.metrics import FAMILIES, Metrics

#: Everything that a label may be called, and what it may say; a new label is a decision, not an accident.
WORDS = {
    "version": {__version__},
    "link": {"tcp", "unix", "dnssd", "ble"},
    "peer": {"relay", "client"},
    "direction": {"in", "out"},
    "queue": {"commit", "send", "offers", "requests"},
    "le": None,
    "component": {"ble", "net", "board"},
    "event": {event for events in EVENTS.values() for event in events},
    "reason": {
        str(reason) for family in (Rejected, Evicted, HandshakeFailure, Dropped, SessionError) for reason in family
    },
}


def scrape(engine, accept=""):
    body, _ = Metrics(engine).render(accept)
    return body.decode()


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
    assert found["relay_sessions_ended_total", ("link", "tcp"), ("reason", "goodbye")] == 1
    assert sum(count for key, count in found.items() if key[0] == "relay_sessions_ended_total") == 3
    assert found["relay_link_peers", ("link", "tcp"), ("peer", "relay")] == 3
    assert found["relay_neighbours",] == 2
    assert found["relay_link_peers", ("link", "tcp"), ("peer", "client")] == 3
    assert found["relay_link_up", ("link", "tcp")] == found["relay_link_up", ("link", "dnssd")] == 1
    # One that is down is not hidden by another.
    links = [LinkStatus(kind="dnssd", interface=name, up=name == "eth1") for name in ("eth0", "eth1")]
    engine.changes["links"] = links
    assert samples(engine)["relay_link_up", ("link", "dnssd")] == 0
    assert found["relay_store_bytes",] == 5_000_000
    assert found["relay_store_price",] == 3
    assert found["relay_queue_length", ("queue", "commit")] == 3
    assert found["relay_clock_trusted",] == 0
    assert found["relay_forward_latency_seconds_bucket", ("le", "0.0025")] == 0
    assert found["relay_forward_latency_seconds_bucket", ("le", "0.005")] == 1
    assert found["relay_forward_latency_seconds_bucket", ("le", "+Inf")] == 2
    assert found["relay_forward_latency_seconds_count",] == 2
    assert found["process_resident_memory_bytes",] > 1 << 20


def test_what_another_process_reports_is_counted_under_its_name(engine):
    report = {"counters": {"dials": 7}, "gauges": {"clients": 2, "adapters": 1}}
    engine.changes = {"components": [ComponentStatus(name="ble", connected=True, up=True, **report)]}
    found = samples(engine)
    assert found["relay_component_up", ("component", "ble")] == 1
    assert found["relay_component_up", ("component", "net")] == 0
    assert found["relay_ble_events_total", ("event", "dials")] == 7
    assert found["relay_ble_events_total", ("event", "rotations")] == 0
    assert found["relay_ble_clients",] == 2
    assert found["relay_net_radios",] == 0


def test_every_series_is_there_before_its_first_event(engine):
    engine.stats = Stats()
    engine.changes = {"links": [], "queues": []}
    found = {key for key in samples(engine) if key[0].startswith("relay_")}
    for family in FAMILIES:
        for values in product(*family.labels.values()):
            assert (family.name, *sorted(zip(family.labels, values, strict=True))) in found


def test_no_label_can_name_a_peer_an_address_a_tag_or_a_key(engine):
    marker = "fe80--1-marker"
    engine.changes = {"links": [LinkStatus(kind=marker, interface=marker, errors={marker: 1})]}
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


def test_a_scraper_that_asks_for_openmetrics_gets_it(engine):
    assert scrape(engine, "application/openmetrics-text; version=1.0.0").endswith("# EOF\n")


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
