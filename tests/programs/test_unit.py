# SPDX-License-Identifier: GPL-2.0-or-later
"""The systemd unit, judged by systemd itself."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import relay
from relay.appliance.effective import VOLATILE_BYTES, VOLATILE_PATH
from relay.core.budget import MAX_SESSION_MEMORY_BYTES

FOLDER = Path(relay.__file__).parent / "units"
#: Units without capabilities, and how exposed they may be, in tenths.
UNITS = {"mesh-relay.service": 17, "relay-ble.service": 18}


@pytest.fixture(params=UNITS)
def unit(tmp_path, request):
    """A unit with a command that exists on the machine of the test."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / request.param
    text = (FOLDER / request.param).read_text()
    path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    return path


def analyze(*arguments):
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_finds_nothing_wrong_with_it(unit):
    found = analyze("verify", "--man=no", unit)
    complaints = [line for line in found.stderr.splitlines() if unit.name in line]
    assert (found.returncode, complaints) == (0, [])


def test_it_is_hardened(unit):
    found = analyze("security", "--offline=true", f"--threshold={UNITS[unit.name]}", unit)
    assert found.returncode == 0, found.stdout
    rows = json.loads(analyze("security", "--offline=true", "--json=short", unit).stdout)
    capable = [row["json_field"] for row in rows if "CapabilityBoundingSet" in row["json_field"] and not row["set"]]
    assert rows
    assert capable == []


@pytest.mark.parametrize("name", UNITS)
def test_the_watchdog_and_readiness_are_asked_for(name):
    text = (FOLDER / name).read_text()
    assert "Type=notify" in text
    assert re.search(r"^WatchdogSec=\d+$", text, re.MULTILINE)


def test_a_store_in_memory_is_not_removed_when_the_relay_is_started_again():
    text = (FOLDER / "mesh-relay.service").read_text()
    assert re.search(rf"^CacheDirectory={Path(VOLATILE_PATH).name}$", text, re.MULTILINE)
    # Would put the sockets where the other processes cannot get, as the user is dynamic.
    assert "RuntimeDirectoryPreserve" not in text


def test_what_all_sessions_may_hold_is_well_below_what_the_service_may():
    text = (FOLDER / "mesh-relay.service").read_text()
    high, most = (int(re.search(rf"^Memory{name}=(\d+)M$", text, re.MULTILINE)[1]) << 20 for name in ("High", "Max"))
    # A full default store beside it, and on the appliance one in memory.
    assert high > MAX_SESSION_MEMORY_BYTES + (110 << 20)
    assert most > MAX_SESSION_MEMORY_BYTES + (110 << 20) + VOLATILE_BYTES
