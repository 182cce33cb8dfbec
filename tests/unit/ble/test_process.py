# SPDX-License-Identifier: GPL-2.0-or-later
"""What surrounds the Bluetooth process: its settings, its imports, and what the operator is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relay.adapters.presence import Presence
from relay.adapters.privacy import missing, warnings
from relay.config.ble import BleConfig
from relay.config.file import ConfigError, parse_config
from relay.process.reports import Idle

#: Only `relay ble` may load these: they pull in GLib and D-Bus.
HEAVY = {"bluezero", "dbus", "dbus_next", "gi"}


def parse(text):
    return parse_config(text.encode(), Path("relay.toml"), {"HOME": "/home/user"}).ble


def test_the_defaults_need_no_file():
    assert parse("[ble]\n[tcp]\nport = 4270\n") == BleConfig(
        enabled=True, adapters=(), max_clients=12, max_neighbours=3, rotation_s=900
    )
    assert parse('[ble]\nadapters = ["hci1"]\nrotation_s = 300').adapters == ("hci1",)


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ('adapters = ["eth0"]', '["hci0"]'),
        ("adapters = 1", '["hci0"]'),
        ("max_clients = 0", "1 to 64"),
        ("rotation_s = 1", "30"),
        ("airtime_kbytes_per_s = 3", "[limits.bytes_per_s]"),
        ("max_client = 3", "did you mean max_clients?"),
    ],
)
def test_a_wrong_setting_is_told_with_its_line_and_remedy(line, remedy):
    with pytest.raises(ConfigError) as caught:
        parse(f"[ble]\n{line}\n")
    (problem,) = caught.value.problems
    assert problem.line == 2
    assert remedy in problem.message


def test_relay_run_imports_nothing_of_bluetooth():
    script = (
        "import sys; from relay.config import file; from relay.run import app; file.load_config(file.EXAMPLE); "
        "import relay.cli; relay.cli.build_parser(); print(*sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(found.stdout.split())
    assert "relay.config.ble" in loaded
    assert {name for name in loaded if name.partition(".")[0] in HEAVY} == set()
    assert not {name for name in loaded if name.startswith(("relay.ble", "relay.bluetooth"))}


def test_a_machine_without_an_adapter_is_no_fault_and_one_that_lost_its_own_is(tmp_path):
    assert Presence(is_wanted=True, kernel_list=tmp_path).look() is None
    presence = Presence(is_wanted=False, kernel_list=tmp_path / "none")
    assert presence.look() is Idle.NO_ADAPTER, "a kernel that knows no Bluetooth"
    presence = Presence(is_wanted=False, kernel_list=tmp_path)
    assert presence.look() is Idle.NO_ADAPTER
    (tmp_path / "hci0").mkdir()
    assert presence.look() is None
    (tmp_path / "hci0").rmdir()
    assert presence.look() is None


ADDRESS, NAMES = "Privacy = device", "ReverseServiceDiscovery = false"


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("", [ADDRESS, NAMES]),
        ("[General]\n#Privacy = device\n", [ADDRESS, NAMES]),
        ("[General]\nPrivacy = off\nReverseServiceDiscovery = false\n", [ADDRESS]),
        ("[General]\nName = %h-%d\nPrivacy = device\n[LE]\n", [NAMES]),
        ("[General]\nPrivacy=network/on\nReverseServiceDiscovery=false\n", []),
        ("Privacy = device\nReverseServiceDiscovery = false\n", [ADDRESS, NAMES]),
        ("[LE]\nPrivacy = device\n", [ADDRESS, NAMES]),
    ],
)
def test_what_the_air_would_tell_is_noticed(text, lacking, tmp_path):
    assert missing(text) == lacking
    path = tmp_path / "main.conf"
    path.write_text(text)
    told = warnings(path)
    assert [line for line in (ADDRESS, NAMES) if any(line in one for one in told)] == lacking
    assert len(warnings(tmp_path / "missing")) == 2
