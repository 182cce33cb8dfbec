# SPDX-License-Identifier: GPL-2.0-or-later
"""The fuzzers' corpus on every run, and proof that a fuzzer would find a bug."""

import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.replay import inputs
from tests.fuzz.targets import TARGETS, planted


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_found_interesting_is_still_taken_or_refused(name):
    known = inputs(name)
    assert known, "a target without a corpus starts from nothing each time"
    for data in known:
        print(name, data.hex())
        TARGETS[name].run(data)


@pytest.mark.slow
def test_a_planted_bug_is_found(tmp_path):
    """A decoder that raises IndexError for one relation of four fields of a hello, among 2**128."""
    pytest.importorskip("atheris", reason="the fuzzer is an optional part of the development environment")
    _, code = run("planted", 1, ["-runs=3000000", "-max_total_time=90"], corpus=tmp_path / "none", build=tmp_path)
    assert code != 0
    assert "IndexError: planted" in (tmp_path / "planted.log").read_text(encoding="utf-8", errors="replace")
    [found] = tmp_path.glob("planted-crash-*")
    with pytest.raises(IndexError, match="planted"):
        planted(found.read_bytes())
