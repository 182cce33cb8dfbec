# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of conditions: each holds when it should, and a little less of it is no fault."""

from dataclasses import replace

import pytest

from relay.control.conditions import (
    ALONE_S,
    CLOCK_OFF_HOURS,
    HOT_CELSIUS,
    LEAST_FREE_BYTES,
    SECRET_FAILURES,
    SLOW_COMMITS,
    SLOW_WAIT_S,
    TABLE,
    with_conditions,
)
from relay.control.status import (
    ClockStatus,
    ComponentStatus,
    LinkState,
    LinkStatus,
    NoticeStatus,
    Status,
    StoreStatus,
    read_status,
)
from relay.process.progress import TaskStatus

WELL = Status(
    version="1",
    ready=True,
    clock=ClockStatus(trusted=True, wanted=True, source="system", hour=490_000, offset_hours=CLOCK_OFF_HOURS),
    store=StoreStatus(
        envelopes=89,
        max_envelopes=100,
        max_bytes=1000,
        free_bytes=LEAST_FREE_BYTES,
        slow_commits=SLOW_COMMITS - 1,
        commit_wait_s=SLOW_WAIT_S - 1,
    ),
    relays=0,
    alone_s=ALONE_S - 1,
    links=[
        LinkStatus(kind="tcp", interface="eth0"),
        LinkStatus(kind="tcp", interface="eth1", state=LinkState.UNPLUGGED, fault="nothing is plugged in"),
    ],
    link_states={"tcp": "listening", "ble": "off"},
    recent={"secret_failures": SECRET_FAILURES - 1, "refused_for_hour": 9, "accepted": 9},
    tasks=[TaskStatus(name="store", idle_s=59.0)],
    components=[
        ComponentStatus(name="ble", idle="no_adapter", connected=True),
        ComponentStatus(name="net", connected=True, up=True, gauges={"phones": 6, "phones_most": 7}),
        ComponentStatus(
            name="board",
            connected=True,
            up=True,
            gauges={
                "temperature_celsius": HOT_CELSIUS - 1,
                "undervoltage": 0,
                "undervoltage_seen": 0,
                "card_worn": 0,
                "card_life_used_percent": 90,
                "power_percent": 15,
                "power_external": 1,
            },
        ),
    ],
    notices=[NoticeStatus(code="no_country", text="Wi-Fi is off"), NoticeStatus(code="hint", text="by the way")],
)
STORE, CLOCK = WELL.store, WELL.clock


def board(**gauges):
    row = WELL.components[2]
    return {"components": [replace(row, gauges=row.gauges | gauges)]}


CAUSES = [
    ("store_unwritable", {"store": replace(STORE, writable=False, fault="full")}),
    ("store_damaged", {"store": replace(STORE, unreadable_bodies=1)}),
    ("store_damaged", {"store": replace(STORE, read_failures=1)}),
    ("task_stalled", {"tasks": [TaskStatus(name="store", idle_s=61.0, stalled=True)]}),
    ("no_link", {"link_states": {"tcp": "unplugged", "ble": "down"}, "links": [WELL.links[1]]}),
    # Somebody on this machine, and a radio that was stopped, let nobody in.
    (
        "no_link",
        {
            "link_states": {"tcp": "unplugged", "ble": "off"},
            "links": [
                LinkStatus(kind="tcp", interface="lo", state=LinkState.UP),
                LinkStatus(kind="ble", interface="hci0"),
            ],
        },
    ),
    ("starting", {"ready": False}),
    ("card_slow", {"store": replace(STORE, slow_commits=SLOW_COMMITS)}),
    ("card_slow", {"store": replace(STORE, commit_wait_s=SLOW_WAIT_S)}),
    ("store_mended", {"store": replace(STORE, log_damaged=True)}),
    ("disk_full", {"store": replace(STORE, free_bytes=LEAST_FREE_BYTES - 1)}),
    ("store_nearly_full", {"store": replace(STORE, envelopes=90)}),
    ("store_nearly_full", {"store": replace(STORE, bytes=900)}),
    ("store_evicting", {"recent": {"evicted": 1}}),
    ("store_refusing", {"recent": {"refused_full": 1}}),
    ("link_down", {"links": [LinkStatus(kind="tcp", interface="eth0", state=LinkState.DOWN)]}),
    ("link_down", {"links": [replace(WELL.links[1], missed=True)]}),
    # One that had a relay is unplugged, another listens.
    (
        "link_down",
        {"link_states": {"tcp": "down"}, "links": [WELL.links[0], replace(WELL.links[1], missed=True)]},
    ),
    ("discovery_down", {"links": [LinkStatus(kind="dnssd", interface="eth0", state=LinkState.DOWN)]}),
    ("alone", {"alone_s": ALONE_S}),
    ("secret_differs", {"recent": {"secret_failures": SECRET_FAILURES}}),
    ("clock_refused", {"clock": ClockStatus(wanted=True)}),
    ("clock_wrong", {"clock": replace(CLOCK, offset_hours=-CLOCK_OFF_HOURS - 1)}),
    ("clock_wrong", {"recent": {"refused_for_hour": 3, "accepted": 0}}),
    ("clock_untrusted", {"clock": ClockStatus()}),
    (
        "clock_disputed",
        {"components": [ComponentStatus(name="bitchat", connected=True, up=True, gauges={"clock_disputed": 1})]},
    ),
    ("ble_down", {"components": [ComponentStatus(name="ble")]}),
    ("bitchat_down", {"components": [ComponentStatus(name="bitchat")]}),
    ("libp2p_down", {"components": [ComponentStatus(name="libp2p")]}),
    ("net_down", {"components": [ComponentStatus(name="net", connected=True)]}),
    ("net_down", {"components": [ComponentStatus(name="net", connected=True, up=True, troubles=["channel 13"])]}),
    ("board_down", {"components": [ComponentStatus(name="board")]}),
    ("access_point_full", {"components": [replace(WELL.components[1], gauges={"phones": 7, "phones_most": 7})]}),
    ("undervoltage", board(undervoltage=1, undervoltage_seen=1)),
    ("undervoltage", board(undervoltage_seen=1)),
    ("hot", board(temperature_celsius=HOT_CELSIUS)),
    ("card_worn", board(card_worn=1)),
    ("card_worn", board(card_life_used_percent=100)),
    ("power_low", board(power_external=0)),
    *(
        (name, {"notices": [NoticeStatus(code=code, text="line 3", serious=True)]})
        for name, code in (
            ("config_mistake", "config"),
            ("secret_mistake", "secret"),
            ("card_trouble", "storage"),
            ("turned_back", "slot"),
            ("board_trouble", "board"),
            ("network_trouble", "network"),
            ("undervoltage", "undervoltage"),
        )
    ),
]


def test_a_relay_that_is_well_says_so_though_much_is_nearly_wrong():
    assert with_conditions(WELL).conditions == []


@pytest.mark.parametrize(("name", "change"), CAUSES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CAUSES)])
def test_each_condition_holds_for_its_cause_and_no_other_does(name, change):
    [found] = with_conditions(replace(WELL, **change)).conditions
    assert found.name == name
    assert found.says in found.text
    assert found.remedy in found.text


def test_every_condition_has_a_cause_here_and_a_remedy():
    assert {name for name, _ in CAUSES} == {condition.name for condition in TABLE}
    for name, change in CAUSES:
        [found] = with_conditions(replace(WELL, **change)).conditions
        # One without a remedy of its own has it in its details; the relay that starts needs none.
        assert found.remedy or any(found.details) or name == "starting"


def test_the_worst_comes_first_and_all_of_it_survives_the_socket():
    status = with_conditions(replace(WELL, ready=False, store=replace(STORE, writable=False), clock=ClockStatus()))
    assert [one.severity for one in status.conditions] == ["critical", "warning", "info"]
    assert len(status.problems()) == 2
    assert read_status(status.as_dict()) == status
