# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules, configurations and dashboards of docs/prometheus, by Prometheus' own judgement of them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from docs.prometheus import dashboard
from relay.control.conditions import TABLE
from relay.run.metrics import FAMILIES, HISTOGRAMS
from relay.run.metrics_doc import most_series

FOLDER = Path(__file__).parents[2] / "docs" / "prometheus"
RULES = (FOLDER / "rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)
CONDITION = re.compile(r'[^_]condition=~?"([^"]*)"')
PARTS = ("bucket", "count", "sum")


def promtool(*arguments):
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_and_does_not_where_it_should():
    promtool("test", "rules", "rules_test.yml")
    cases = (FOLDER / "rules_test.yml").read_text().split("  - name: ")[1:]
    for alert in ALERTS:
        shown = [case for case in cases if re.match(rf"{alert}\b", case)]
        assert shown, f"{alert} has no test in rules_test.yml"
        assert all("exp_samples: []" in case for case in shown), f"{alert} is never seen not to fire"
        assert all(f'alertname="{alert}", instance="ill"' in case for case in shown)
        assert not any('instance="well"' in expected for case in shown for expected in re.findall("labels:.*", case))


def test_prometheus_takes_the_configuration():
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "rules.yml")


def test_a_relay_fits_into_what_prometheus_takes_of_one():
    text = (FOLDER / "prometheus.yml").read_text()
    limits = {name: int(value) for name, value in re.findall(r"^    (\w+_limit): (\d+)$", text, re.MULTILINE)}
    (said,) = re.findall(r"A relay has under (\d+) series", text)
    # And process_ and scrape's own, some ten.
    assert most_series() < int(said) < limits["sample_limit"]
    labels = [
        (name, value)
        for family in FAMILIES
        for row in family.series()
        for name, value in zip(family.labels, row, strict=True)
    ]
    # Those of a target (job, instance) come with them.
    assert max(len(family.labels) for family in FAMILIES) + 4 < limits["label_limit"]
    assert max(len(name) for name, _ in labels) < limits["label_name_length_limit"]
    assert max(len(str(value)) for _, value in labels) < limits["label_value_length_limit"]


def test_each_alert_stands_in_the_document():
    text = (FOLDER.parent / "watching.md").read_text()
    assert [alert for alert in ALERTS if f"`{alert}`" not in text] == []


def test_the_dashboards_are_what_their_program_makes():
    for name, view in dashboard.VIEWS.items():
        assert (FOLDER / name).read_text() == dashboard.render(view), "python -m docs.prometheus.dashboard"


def test_rules_and_dashboards_ask_for_what_relays_tell():
    told = {family.name for family in FAMILIES} | {f"relay_{name}_{part}" for name in HISTOGRAMS for part in PARTS}
    text = "\n".join([*dashboard.queries(), *re.findall(r"expr: (?:\|\n)?(?: {10}.*\n)*.*", RULES)])
    assert set(re.findall(r"\brelay_\w+", text)) <= told
    conditions = {name for names in re.findall(r'[^_]condition!?=~?"([^"]*)"', RULES) for name in names.split("|")}
    assert conditions <= {condition.name for condition in TABLE}


#: Conditions that no alert asks for by name, as one asks for what they are found by.
BY_METRIC = {
    "store_unwritable": ("RelayDiskFull", "relay_store_writable == 0"),
    "disk_full": ("RelayDiskFull", "relay_store_free_bytes <"),
    "card_slow": ("RelaySlowCard", "relay:slow_commits:increase10m >"),
    "store_nearly_full": ("RelayStoreNearlyFull", "relay_store_full_ratio >"),
    "store_evicting": ("RelayEvicting", "relay:evicted_unexpired:increase10m >"),
    "store_refusing": ("RelayRefusing", "relay:refused_for_room:increase10m >"),
    "alone": ("RelayAlone", "relay_alone_seconds >"),
    "undervoltage": ("RelayUndervoltage", "relay_board_undervoltage_seen == 1"),
    "hot": ("RelayHot", "relay_board_temperature_celsius >="),
}
#: Nobody is called for these: a start is over within a minute, and RelayRestartLoop tells of one that never is.
NOT_CALLED_FOR = {"starting"}


def test_every_problem_that_a_relay_can_have_calls_somebody():
    rules = dict(re.findall(r"- alert: (\w+)\n((?: {8}.*\n)+)", RULES))
    (left_out,) = re.findall(r'condition!~"([^"]*)"', rules["RelayNeedsALook"])
    by_name = {name for text in rules.values() for found in CONDITION.findall(text) for name in found.split("|")}
    assert by_name.isdisjoint(BY_METRIC)
    # What is left out there has an alert of its own, or is known to have none; all else RelayNeedsALook calls for.
    assert set(left_out.split("|")) == by_name | BY_METRIC.keys() | NOT_CALLED_FOR
    for condition, (alert, asked) in BY_METRIC.items():
        assert asked in rules[alert], condition
    # The alert is as bad as the relay itself says that it is.
    for condition in TABLE:
        alert, _ = BY_METRIC.get(condition.name, ("", ""))
        for name, text in rules.items():
            if name == alert or (condition.name in "|".join(CONDITION.findall(text)).split("|") and not alert):
                (given,) = re.findall(r"labels: {severity: (\w+)}", text) or [""]
                taken_over = "by (job, instance, severity)" in text or f'"severity", "{condition.severity}"' in text
                assert given == condition.severity or (not given and taken_over), (name, condition.name)
    problems = {condition.name for condition in TABLE if condition.severity != "info"}
    assert by_name | BY_METRIC.keys() | NOT_CALLED_FOR <= problems
