# SPDX-License-Identifier: GPL-2.0-or-later
"""A real disk that is full, or read-only: in a mount namespace, with a small file system."""

import os
import subprocess
import sys

import pytest

from relay.store.space import has_stopped

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


@pytest.mark.parametrize(
    ("options", "stopped"),
    [
        ("rw,errors=remount-ro", False),
        # As Linux 6.18 shows an ext4 that met an error; statvfs says nothing of it.
        ("rw,errors=remount-ro,emergency_ro", True),
        ("rw,shutdown", True),
        ("ro,errors=remount-ro", True),
        ("", False),
    ],
)
def test_a_file_system_that_gave_up_is_known_without_writing_to_it(options, stopped):
    others = "21 1 7:1 / /boot ro,relatime - vfat /dev/loop1 ro,shutdown\nnot a line of it\n"
    mount = f"112 78 7:0 / /var/lib/relay rw,relatime shared:3 - ext4 /dev/loop0 {options}"
    assert has_stopped(others + mount, os.makedev(7, 0)) is stopped
