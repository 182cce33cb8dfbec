# SPDX-License-Identifier: GPL-2.0-or-later
"""The appliance's units, judged by systemd itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import relay

FOLDER = Path(relay.__file__).parent / "units"
#: Highest exposure of each (systemd-analyze security), in tenths. What is above 20 drives
#: the network: hostapd and dnsmasq need raw sockets and CAP_NET_ADMIN.
EXPOSURE = {
    "relay-ap@.service": 28,
    "relay-appliance.service": 19,
    "relay-board.service": 20,
    "relay-console.service": 11,
    "relay-dhcp@.service": 43,
    "relay-firewall.service": 19,
    "relay-phones@.service": 43,
    "relay-portal.service": 5,
    "relay-segment@.service": 21,
}


@pytest.fixture
def folder(tmp_path):
    """All of them, with commands that exist on the machine of the test."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in [*FOLDER.glob("*.service"), *FOLDER.glob("*.socket")]:
        text = re.sub(r"^(Exec\w+)=\S+", r"\1=/bin/true", path.read_text(), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text)
    return tmp_path


def analyze(*arguments, cwd):
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, cwd=cwd
    )


@pytest.mark.parametrize("name", [*EXPOSURE, "relay-portal.socket"])
def test_systemd_finds_nothing_wrong_with_it(folder, name):
    found = analyze("verify", "--man=no", f"./{name.replace('@', '@eth0')}", cwd=folder)
    assert [line for line in found.stderr.splitlines() if name.partition("@")[0] in line] == []


@pytest.mark.parametrize(("name", "tenths"), EXPOSURE.items())
def test_it_is_hardened(folder, name, tenths):
    found = analyze("security", "--offline=true", f"--threshold={tenths}", f"./{name}", cwd=folder)
    assert found.returncode == 0, found.stdout


def test_nobody_holds_more_capabilities_than_is_said():
    held = {}
    for name in EXPOSURE:
        (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", (FOLDER / name).read_text(), re.MULTILINE)
        held[name.partition(".")[0]] = set(line.split())
    assert held["relay-board"] == {"CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"}
    assert held["relay-segment@"] == {"CAP_NET_RAW"}
    assert held["relay-portal"] == held["relay-console"] == set()
