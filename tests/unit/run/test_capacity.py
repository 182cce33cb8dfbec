# SPDX-License-Identifier: GPL-2.0-or-later
"""What a store may hold where nobody says."""

import pytest

from relay.config.run import GIB, MIB, StoreConfig
from relay.run import capacity

ZERO_2W, PI_4 = 448 * MIB, 3800 * MIB


@pytest.mark.parametrize(
    ("memory", "limit", "envelopes"),
    [
        (PI_4, None, 1_000_000),
        # As the unit of the service has it: enough for a million.
        (PI_4, 352 * MIB, 1_000_000),
        (PI_4, 200 * MIB, 233_000),
        (PI_4, 64 * MIB, 10_000),
        (ZERO_2W, 352 * MIB, 652_000),
        (None, None, 100_000),
    ],
)
def test_as_many_envelopes_as_memory_has_room_for(memory, limit, envelopes):
    assert capacity.envelopes_for(memory, limit) == envelopes


@pytest.mark.parametrize(
    ("free", "stored", "most"),
    [
        (100 * GIB, 0, 4 * GIB),
        (3 * GIB, GIB, 2 * GIB),
        # Somebody else filled the disk: what was acknowledged stays.
        (0, GIB, GIB),
        (0, 0, MIB),
        (None, 0, GIB),
    ],
)
def test_half_of_the_disk_and_never_less_than_is_there(free, stored, most):
    assert capacity.bytes_for(free, stored) == most


def test_an_operators_word_goes_before_the_machine(tmp_path):
    assert capacity.capacity(StoreConfig(path=tmp_path, max_bytes=5 * MIB, max_envelopes=300)) == (5 * MIB, 300)
    of_machine = capacity.capacity(StoreConfig(path=tmp_path))
    assert of_machine.max_bytes >= MIB
    assert of_machine.max_envelopes >= 10_000


def test_the_least_bound_of_the_groups_above_counts(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    assert capacity.group_limit_bytes(tmp_path / "cgroup", tmp_path) is None
    (tmp_path / "a/b/memory.high").write_text("max\n")
    (tmp_path / "a/b/memory.max").write_text("3000\n")
    (tmp_path / "a/memory.high").write_text("2000\n")
    assert capacity.group_limit_bytes(tmp_path / "cgroup", tmp_path) == 2000
    assert capacity.group_limit_bytes(tmp_path / "none", tmp_path) is None
    (tmp_path / "cgroup").write_text("4:memory:/x\n")
    assert capacity.group_limit_bytes(tmp_path / "cgroup", tmp_path) is None


def test_memory_is_what_the_kernel_says(tmp_path):
    file = tmp_path / "meminfo"
    file.write_text("MemFree: 1 kB\nMemTotal:         448000 kB\n")
    assert capacity.memory_bytes(file) == 448_000 * 1024
    file.write_text("MemTotal:\n")
    assert capacity.memory_bytes(file) is None
    assert capacity.memory_bytes(tmp_path / "none") is None
