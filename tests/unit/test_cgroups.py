# SPDX-License-Identifier: GPL-2.0-or-later
"""The control groups of `make bench-board`: what is written, and what is said where there are none."""

from __future__ import annotations

import pytest

from bench import cgroups
from bench.cgroups import PERIOD_US, CgroupError, Limits, SlowDevice, cage

LIMITS = Limits(quota_us=2000, memory_bytes=448 << 20)
SLOW = SlowDevice(number="7:3", writes_per_s=51, write_bytes_per_s=9_000_000)


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    """Say what is mounted: all that this machine has does not count."""
    path = tmp_path / "mounts"
    monkeypatch.setattr(cgroups, "_MOUNTS", path)
    return path


def test_where_no_control_groups_are_the_remedy_is_told(mounts):
    mounts.write_text("proc /proc proc rw 0 0\n")
    with pytest.raises(CgroupError, match=r"no control groups are mounted here: run .* as root"), cage("x", LIMITS):
        pytest.fail("there is no group")


def test_a_controller_that_is_missing_is_named(mounts, tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw,nosuid 0 0\n")
    with pytest.raises(CgroupError, match=r"are without io: run"), cage("x", LIMITS):
        pytest.fail("there is no group")


def test_what_may_not_be_made_is_told_with_the_remedy(mounts, tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory io\n")
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw,nosuid 0 0\n")  # and no cgroup.subtree_control
    with pytest.raises(CgroupError, match=r"no control group can be made here .* as root"), cage("x", LIMITS):
        pytest.fail("there is no group")


def test_both_versions_are_given_the_same_limits():
    assert cgroups._settings(LIMITS, SLOW, is_v2=True) == [
        ("cpu", "cpu.max", f"2000 {PERIOD_US}"),
        ("memory", "memory.max", "469762048"),
        ("io", "io.max", "7:3 wiops=51 wbps=9000000"),
    ]
    assert cgroups._settings(LIMITS, SLOW, is_v2=False) == [
        ("cpu", "cpu.cfs_period_us", str(PERIOD_US)),
        ("cpu", "cpu.cfs_quota_us", "2000"),
        ("memory", "memory.limit_in_bytes", "469762048"),
        ("blkio", "blkio.throttle.write_iops_device", "7:3 51"),
        ("blkio", "blkio.throttle.write_bps_device", "7:3 9000000"),
    ]
