# SPDX-License-Identifier: GPL-2.0-or-later
"""Reruns of tests that were late are recorded, and bounded."""

import json
import os

import pytest

from tests.reruns import BUDGET, TESTS_FAILED, run

# Fails as often as the file says, which counts down.
FLAKY = """
import pathlib
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_late(number):
    left = pathlib.Path(__file__).with_name(str(number))
    times = int(left.read_text()) if left.exists() else {failures}
    left.write_text(str(times - 1))
    assert times <= 0
"""


@pytest.fixture
def outcome(tmp_path, monkeypatch):
    """Run so many tests that fail so often; return the status, what is on record, and how often the first one ran."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def outcome(tests, failures):
        (tmp_path / "test_flaky.py").write_text(FLAKY.format(tests=tests, failures=failures))
        status = run("flaky", ["-q", "-p", "no:xdist", "-c", os.devnull, "test_flaky.py"], tmp_path)
        record = json.loads((tmp_path / "build" / "flaky-reruns.json").read_text())
        return status, record, failures - int((tmp_path / "0").read_text())

    return outcome


def test_without_failures_nothing_is_run_again(outcome):
    assert outcome(2, 0) == (0, {"budget": BUDGET, "rerun": []}, 1)


def test_what_fails_once_is_run_again_and_recorded(outcome):
    status, record, runs = outcome(2, 1)
    assert (status, runs) == (0, 2)
    assert record["rerun"] == ["test_flaky.py::test_late[0]", "test_flaky.py::test_late[1]"]


def test_what_fails_twice_is_a_failure(outcome):
    status, _, runs = outcome(1, 2)
    assert (status, runs) == (TESTS_FAILED, 2)


def test_more_than_the_budget_is_a_failure_although_all_would_pass(outcome):
    status, record, runs = outcome(BUDGET + 1, 1)
    assert (status, runs) == (TESTS_FAILED, 1)
    assert len(record["rerun"]) == BUDGET + 1
