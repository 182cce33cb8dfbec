# SPDX-License-Identifier: GPL-2.0-or-later
"""The unit of `relay net`: two capabilities, and the network put back however it ends."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import relay

UNIT = Path(relay.__file__).parent / "units" / "relay-net.service"


@pytest.fixture
def unit(tmp_path):
    """The unit with commands that exist on the machine of the test."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / UNIT.name
    path.write_text(re.sub(r"^(Exec\w+)=\S+", r"\1=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    return path


def analyze(*arguments):
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_finds_nothing_wrong_with_it(unit):
    found = analyze("verify", "--man=no", unit)
    complaints = [line for line in found.stderr.splitlines() if unit.name in line]
    assert (found.returncode, complaints) == (0, [])


def test_it_is_hardened_but_for_the_network(unit):
    found = analyze("security", "--offline=true", "--threshold=20", unit)
    assert found.returncode == 0, found.stdout
    rows = json.loads(analyze("security", "--offline=true", "--json=short", unit).stdout)
    capable = {row["name"] for row in rows if "CapabilityBoundingSet" in row["name"] and not row["set"]}
    assert capable == {
        "CapabilityBoundingSet=~CAP_NET_ADMIN",
        "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)",
    }


def test_the_network_is_put_back_however_it_ended():
    text = UNIT.read_text()
    assert re.search(r"^ExecStopPost=\S+ net undo$", text, re.MULTILINE)
    # The record outlives the process whose folder it lies in.
    assert "RuntimeDirectoryPreserve=yes" in text
