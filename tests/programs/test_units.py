# SPDX-License-Identifier: GPL-2.0-or-later
"""The units, judged by systemd itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import relay
from relay.appliance.effective import VOLATILE_BYTES, VOLATILE_PATH
from relay.core.budget import MAX_SESSION_MEMORY_BYTES

FOLDER = Path(relay.__file__).parent / "units"
#: Highest exposure of each (systemd-analyze security), in tenths; 25 is where somebody has to say why.
EXPOSURE = {
    "mesh-relay.service": 12,
    "relay-ap@.service": 19,
    "relay-appliance.service": 19,
    "relay-bitchat.service": 7,
    "relay-ble.service": 10,
    "relay-board.service": 20,
    "relay-console.service": 11,
    "relay-dhcp-stop@.service": 6,
    "relay-dhcp@.service": 19,
    "relay-firewall.service": 19,
    "relay-give.service": 15,
    "relay-libp2p.service": 12,
    "relay-net.service": 18,
    "relay-phones@.service": 19,
    "relay-portal.service": 5,
    "relay-restart.service": 13,
    "relay-segment@.service": 17,
    "relay-shelf.service": 5,
    "relay-slot.service": 18,
    "relay-stick.service": 17,
    "relay-trial.service": 13,
    "relay-usb.service": 12,
}
OTHERS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in {".socket", ".path", ".mount", ".timer"})
#: What has to be root, and why: it writes to the card's drive and erases other users' files; it makes /run's folders
#: and mounts the card; it is the packet filter, and done in a moment; it makes
#: an empty file in a folder of root's; they start the machine again, and do nothing else.
ROOT = {
    "relay-board.service",
    "relay-appliance.service",
    "relay-firewall.service",
    "relay-restart.service",
    "relay-trial.service",
    "relay-usb.service",
}
#: What outlives its process and is read by others would not be found by them, were the user a dynamic one.
FIXED_USER = {"relay-slot.service": "mesh-relay-slot"}


@pytest.fixture
def folder(tmp_path):
    """All of them, with commands that exist on the machine of the test."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in FOLDER.iterdir():
        text = re.sub(r"^(Exec\w+)=\S+", r"\1=/bin/true", path.read_text(), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text)
    return tmp_path


def analyze(*arguments, cwd):
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, cwd=cwd
    )


@pytest.mark.parametrize("name", [*EXPOSURE, *OTHERS])
def test_systemd_finds_nothing_wrong_with_it(folder, name):
    found = analyze("verify", "--man=no", f"./{name.replace('@', '@eth0')}", cwd=folder)
    assert [line for line in found.stderr.splitlines() if name.partition("@")[0] in line] == []


@pytest.mark.parametrize(("name", "tenths"), EXPOSURE.items())
def test_it_is_hardened(folder, name, tenths):
    found = analyze("security", "--offline=true", f"--threshold={tenths}", f"./{name}", cwd=folder)
    assert found.returncode == 0, found.stdout


def test_no_unit_is_left_out():
    assert sorted(EXPOSURE) == sorted(path.name for path in FOLDER.glob("*.service"))
    assert max(EXPOSURE.values()) <= 25


@pytest.mark.parametrize("name", EXPOSURE)
def test_each_has_a_user_of_its_own_and_a_filter_of_system_calls(name):
    text = (FOLDER / name).read_text()
    assert ("DynamicUser=yes" in text) == (name not in ROOT | FIXED_USER.keys())
    assert re.findall(r"^User=(?!mesh-relay)(.*)$", text, re.MULTILINE) == []
    assert name not in FIXED_USER or f"User={FIXED_USER[name]}\n" in text
    assert "SystemCallFilter=@system-service" in text
    # The service manager does for root what root asks on its socket.
    families = re.search(r"^RestrictAddressFamilies=(.*)$", text, re.MULTILINE)[1].split()
    if name in {"relay-ap@.service", "relay-dhcp@.service", "relay-phones@.service"}:
        assert "AF_UNIX" not in families


def test_the_mesh_s_secret_is_given_to_one_process():
    given = {name for name in EXPOSURE if "mesh-secret" in (FOLDER / name).read_text()}
    assert given == {"mesh-relay.service"}
    given = {name for name in EXPOSURE if "wifi-secret" in (FOLDER / name).read_text()}
    assert given == {"relay-net.service"}


def test_nobody_holds_more_capabilities_than_is_said():
    held = {}
    for name in EXPOSURE:
        (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", (FOLDER / name).read_text(), re.MULTILINE)
        held[name.partition(".")[0]] = set(line.split())
    assert held["relay-board"] == {"CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"}
    # To mount, and to leave a group; it gives them up before it reads what it offers (relay/stick/privilege.py).
    assert held["relay-stick"] == {"CAP_SYS_ADMIN", "CAP_SETGID"}
    assert held["relay-segment@"] == {"CAP_NET_RAW"}
    assert held["relay-net"] == {"CAP_NET_ADMIN", "CAP_NET_RAW"}
    assert all(
        held[name] == set()
        for name in ("mesh-relay", "relay-ble", "relay-bitchat", "relay-libp2p", "relay-portal", "relay-console")
    )


@pytest.mark.parametrize(
    "name", ["mesh-relay.service", "relay-ble.service", "relay-bitchat.service", "relay-libp2p.service"]
)
def test_the_watchdog_and_readiness_are_asked_for(name):
    text = (FOLDER / name).read_text()
    assert "Type=notify" in text
    assert re.search(r"^WatchdogSec=\d+$", text, re.MULTILINE)


def test_the_network_is_put_back_however_it_ended():
    text = (FOLDER / "relay-net.service").read_text()
    assert re.search(r"^ExecStopPost=\S+ net undo$", text, re.MULTILINE)
    # The record outlives the process whose folder it lies in.
    assert "RuntimeDirectoryPreserve=yes" in text


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
