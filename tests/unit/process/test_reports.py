# SPDX-License-Identifier: GPL-2.0-or-later
"""What the relay's processes report, as lines and as sums."""

import json

import pytest

from relay.core.errors import DecodeError
from relay.process.reports import (
    EVENTS,
    GAUGES,
    MAX_KNOWN,
    MAX_NEWS_LINE_BYTES,
    MAX_NUMBER,
    MAX_REPORT_BYTES,
    MAX_TROUBLE_CHARS,
    MAX_TROUBLES,
    REPORT_INTERVAL_S,
    REPORT_LEAST_S,
    SILENT_S,
    Component,
    ComponentState,
    Idle,
    NewsForBle,
    Report,
    Reporter,
    decode_news,
    decode_report,
    encode_news,
)


@pytest.mark.parametrize("component", Component)
def test_a_report_of_everything_at_its_largest_fits_and_is_understood(component):
    reporter = Reporter(component)
    reporter.up = True
    for event in EVENTS[component]:
        reporter.count(event, MAX_NUMBER)
    for gauge in GAUGES[component]:
        reporter.gauge(gauge, MAX_NUMBER)
    reporter.troubles = ('"\u00fc' * MAX_TROUBLE_CHARS,) * (MAX_TROUBLES + 1)
    line = reporter.line(0.0)
    assert len(line) <= MAX_REPORT_BYTES
    assert line.endswith(b"\n")
    assert decode_report(component, line[:-1]) == Report(
        up=True,
        counters=dict.fromkeys(EVENTS[component], MAX_NUMBER),
        gauges=dict.fromkeys(GAUGES[component], MAX_NUMBER),
        troubles=('"?' * (MAX_TROUBLE_CHARS // 2),) * MAX_TROUBLES,
    )


def test_a_process_reports_at_once_then_changes_once_a_second_and_that_it_lives():
    reporter = Reporter(Component.BLE)
    assert reporter.line(10.0) is not None
    assert reporter.line(10.0) is None
    assert reporter.next_s() == 10.0 + REPORT_INTERVAL_S
    reporter.gauge("clients", 0)
    reporter.up = False
    assert reporter.next_s() == 10.0 + REPORT_INTERVAL_S, "nothing changed"
    reporter.count("dials")
    assert reporter.next_s() == 10.0 + REPORT_LEAST_S
    assert reporter.line(10.0 + REPORT_LEAST_S / 2) is None
    assert json.loads(reporter.line(10.0 + REPORT_LEAST_S))["counters"]["dials"] == 1
    assert reporter.line(11.0 + REPORT_INTERVAL_S) is not None
    reporter.connected()
    assert reporter.line(11.0 + REPORT_INTERVAL_S) is not None, "a new connection knows nothing"
    assert REPORT_INTERVAL_S * 2 < SILENT_S


def test_a_process_may_say_why_it_does_nothing_unless_it_does_something():
    reporter = Reporter(Component.BLE)
    reporter.idle = Idle.NO_ADAPTER
    assert decode_report(Component.BLE, reporter.line(0.0)[:-1]).idle is Idle.NO_ADAPTER
    assert reporter.last_line() is None, "nobody told it to end"
    reporter.up = True
    assert decode_report(Component.BLE, reporter.line(1.0)[:-1]).idle is None
    reporter.stopped()
    last = decode_report(Component.BLE, reporter.last_line()[:-1])
    assert (last.up, last.idle) == (False, Idle.STOPPED)


def test_what_makes_a_report_due_is_heard():
    reporter = Reporter(Component.BLE)
    heard = []
    reporter.on_change = lambda: heard.append(reporter.next_s())
    reporter.line(0.0)
    reporter.count("dials")
    reporter.gauge("clients", 1)
    reporter.up = True
    reporter.idle = Idle.NO_ADAPTER
    assert heard == [REPORT_LEAST_S] * 4
    reporter.gauge("clients", 1)
    reporter.up = True
    reporter.idle = Idle.NO_ADAPTER
    assert len(heard) == 4


def test_only_who_was_stopped_is_idle_after_the_end():
    state = ComponentState(Component.BLE)
    for idle, after in ((None, None), (Idle.NO_ADAPTER, None), (Idle.STOPPED, Idle.STOPPED)):
        state.opened()
        assert state.idle is None
        state.reported(Report(up=False, counters={}, gauges={}, idle=idle))
        assert state.idle is idle
        state.closed()
        assert state.idle is after


def test_names_that_are_not_in_the_list_are_a_bug_of_the_process():
    reporter = Reporter(Component.NET)
    with pytest.raises(KeyError):
        reporter.count("dials")
    with pytest.raises(KeyError):
        reporter.gauge("clients", 1)


def test_sums_go_on_over_lives_of_the_process_and_of_its_connection():
    state = ComponentState(Component.BLE)

    def report(**counters):
        state.opened()
        state.reported(Report(up=True, counters=counters, gauges={"clients": 3}))

    report(dials=5, rotations=2)
    report(dials=7)
    state.closed()
    assert (state.connected, state.up, state.gauges["clients"]) == (False, False, 0)
    report(dials=7, rotations=2)  # the same process again
    assert (state.counters["dials"], state.counters["rotations"]) == (7, 2)
    state.closed()
    report(dials=1, rotations=3)  # another one: its three rotations are new
    assert (state.counters["dials"], state.counters["rotations"]) == (8, 5)
    assert state.seen
    assert state.up
    assert state.gauges["clients"] == 3


def test_news_fit_a_line_with_as_many_neighbours_as_there_can_be():
    values = tuple(bytes([n]) * 16 for n in range(MAX_KNOWN + 5))
    line = encode_news(NewsForBle(news=values[0], known=values))
    assert len(line) <= MAX_NEWS_LINE_BYTES
    assert decode_news(line[:-1]) == NewsForBle(news=values[0], known=values[:MAX_KNOWN])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"up":true,"counters":{}}',
        b'{"up":1,"counters":{},"gauges":{}}',
        b'{"up":true,"counters":[],"gauges":{}}',
        b'{"up":true,"counters":{"who":1},"gauges":{}}',
        b'{"up":true,"counters":{"dials":-1},"gauges":{}}',
        b'{"up":true,"counters":{"dials":true},"gauges":{}}',
        b'{"up":true,"counters":{"dials":1.5},"gauges":{}}',
        b'{"up":true,"counters":{"dials":99999999999999999},"gauges":{}}',
        b'{"up":true,"counters":{},"gauges":{"dials":1}}',
        b'{"up":true,"counters":{},"gauges":{},"more":0}',
        b'{"up":true,"counters":{},"gauges":{},"idle":"no_adapter"}',
        b'{"up":false,"counters":{},"gauges":{},"idle":"lazy"}',
        b'{"up":false,"counters":{},"gauges":{},"idle":["stopped"]}',
        b'{"up":false,"counters":{},"gauges":{},"idle":null}',
        b"[" * 3000,
        b'{"up":true,"counters":{},"gauges":{}}' + b" " * MAX_REPORT_BYTES,
    ],
)
def test_a_report_that_is_none_is_refused(line):
    with pytest.raises(DecodeError):
        decode_report(Component.BLE, line)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"news":"","known":[]}',
        b'{"news":"00112233445566778899aabbccddeeff","known":{}}',
        b'{"news":"00112233445566778899aabbccddeeff","known":["zz112233445566778899aabbccddeeff"]}',
        b'{"news":"00112233445566778899AABBCCDDEEFF","known":[]}',
        b'{"news":12,"known":[]}',
        b'{"news":"00112233445566778899aabbccddeeff","known":[' + b'"",' * MAX_KNOWN + b'""]}',
    ],
)
def test_news_that_are_none_are_refused(line):
    with pytest.raises(DecodeError):
        decode_news(line)
