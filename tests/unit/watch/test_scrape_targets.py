# SPDX-License-Identifier: GPL-2.0-or-later
"""Which relays are listed for Prometheus, from what addresses answered."""

import json

from hypothesis import given
from hypothesis import strategies as st

from relay.config.settings import Address
from relay.watch.scrape_targets import (
    KEEP_S,
    LABEL,
    MAX_TARGETS,
    Identity,
    merge,
    read_identity,
    same_label,
    service_discovery,
)


def at(host):
    return Address(host, 9470)


def run(number, label=""):
    return Identity(run=f"{number:016x}", label=label)


def listed(targets):
    return [(target.address.host, target.label) for target in targets]


def test_a_relay_is_listed_once_however_many_addresses_it_has_and_keeps_the_one_it_had():
    answers = {at("fe80::1%eth0"): run(1), at("10.0.2.1"): run(1), at("10.0.1.1"): run(1), at("10.0.1.2"): run(2)}
    first = merge([], answers, 0.0)
    assert listed(first) == [("10.0.1.1", ""), ("10.0.1.2", "")]
    # One more address, which would have been preferred, makes no other series.
    assert listed(merge(first, {**answers, at("10.0.0.1"): run(1)}, 1.0)) == listed(first)
    # By the address that is left, when that one is gone.
    assert listed(merge(first, {at("fe80::1%eth0"): run(1), at("10.0.1.2"): run(2)}, 1.0)) == [
        ("10.0.1.1", ""),
        ("10.0.1.2", ""),
        ("fe80::1%eth0", ""),
    ]


def test_a_relay_that_falls_silent_stays_listed_for_a_day_unless_it_is_somewhere_else():
    before = merge([], {at("10.0.1.1"): run(1, "gate"), at("10.0.1.2"): run(2)}, 0.0)
    silent = merge(before, {}, KEEP_S - 1)
    assert listed(silent) == [("10.0.1.2", ""), ("10.0.1.1", "gate")]
    assert merge(silent, {}, KEEP_S) == []
    # It started again: at another address by its label, at the same one without.
    moved = merge(before, {at("10.0.1.9"): run(3, "gate"), at("10.0.1.2"): run(4)}, 60.0)
    assert listed(moved) == [("10.0.1.2", ""), ("10.0.1.9", "gate")]


def test_of_two_relays_with_one_label_the_one_that_had_it_keeps_it():
    first = {at("10.0.1.5"): run(5, "gate")}
    known = merge([], first, 0.0)
    second = {**first, at("10.0.1.1"): run(1, "gate")}
    assert listed(merge(known, second, 1.0)) == [("10.0.1.1", ""), ("10.0.1.5", "gate")]
    assert same_label(second.values()) == ["gate"]
    assert same_label([*first.values(), *first.values(), run(1), run(2)]) == []


def test_who_repeats_a_relays_value_gives_it_no_label_and_does_not_take_its_own():
    true = {at("10.0.1.5"): run(5, "gate")}
    known = merge([], true, 0.0)
    for liar in ("10.0.1.1", "10.0.1.9"):
        for answers in ({at(liar): run(5, "x"), **true}, {**true, at(liar): run(5, "x")}):
            assert listed(merge(known, answers, 1.0)) == [("10.0.1.5", "gate")]


def test_false_relays_push_out_none_that_is_listed_also_when_it_starts_again():
    true = {at(f"10.9.0.{n}"): run(n) for n in range(10)}
    known = merge([], true, 0.0)
    false = {at(f"10.1.{n >> 8}.{n & 255}"): run(1000 + n) for n in range(2 * MAX_TARGETS)}
    known = merge(known, {**false, **true}, 1.0)
    again = merge(known, {**false, **{address: run(500 + n) for n, address in enumerate(true)}}, 2.0)
    for targets in (known, again):
        assert len(targets) == MAX_TARGETS
        assert {target.address for target in targets} >= set(true)


def test_prometheus_reads_addresses_and_the_label_alone():
    targets = merge([], {at("10.0.1.1"): run(1, "gate"), at("fe80::2%eth0"): run(2)}, 0.0)
    assert json.loads(json.dumps(service_discovery(targets))) == [
        {"targets": ["[fe80::2%eth0]:9470"], "labels": {}},
        {"targets": ["10.0.1.1:9470"], "labels": {LABEL: "gate"}},
    ]


def test_what_is_listed_is_bounded_and_those_seen_last_stay():
    old = merge([], {at(f"10.1.{n >> 8}.{n & 255}"): run(n) for n in range(MAX_TARGETS)}, 0.0)
    new = merge(old, {at(f"10.2.0.{n}"): run(5000 + n) for n in range(10)}, 1.0)
    assert len(new) == MAX_TARGETS
    assert sum(target.seen_s == 1.0 for target in new) == 10


@given(st.binary(max_size=200))
def test_any_answer_is_taken_for_what_it_is(raw):
    assert read_identity(raw) is None or b"run" in raw


def test_an_answer_that_is_no_relays_is_none():
    good = {"run": "00ff00ff00ff00ff", "label": "gate"}
    assert read_identity(json.dumps(good).encode()) == Identity(run="00ff00ff00ff00ff", label="gate")
    assert read_identity(b'{"run": "00ff00ff00ff00ff"}') == Identity(run="00ff00ff00ff00ff")
    for wrong in ({"run": 5}, {"run": "x"}, [], 3, None, good | {"label": 'a"} b'}, good | {"label": ["a"]}, {}):
        assert read_identity(json.dumps(wrong).encode()) is None
    assert read_identity(b"[" * 100_000) is None
