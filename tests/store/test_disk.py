# SPDX-License-Identifier: GPL-2.0-or-later
"""A real disk that is full, or read-only: in a mount namespace, with a small file system."""

import os
import subprocess
import sys

import pytest

NAMESPACE = ["unshare", "--mount"] if not os.geteuid() else ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.mark.parametrize("part", ["full", "killed", "read_only"])
def test_on_a_disk_that_takes_no_more(part, tmp_path):
    if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root, or a kernel that lets users make mount namespaces")
    (tmp_path / "disk").mkdir()
    (tmp_path / "elsewhere").mkdir()
    child = [sys.executable, "-m", "tests.store.disk_child", part, tmp_path / "disk", tmp_path / "elsewhere"]
    done = subprocess.run([*NAMESPACE, *child], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
