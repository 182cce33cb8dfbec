# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay net` where there is nothing to do, or nothing to be done; what it does is in tests/radio."""

import json
import os
import subprocess
import sys

import pytest

from relay.net.app import only_one
from relay.net.found import FILE_NAME


@pytest.fixture
def relay(tmp_path):
    def run(*arguments, before=()):
        environ = os.environ | {
            "XDG_RUNTIME_DIR": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path),
            "HOME": str(tmp_path),
        }
        return subprocess.run(
            [*before, sys.executable, "-m", "relay", "net", *arguments],
            env=environ, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run


def test_without_radios_and_bridge_there_is_nothing_to_do_and_no_failure(relay, tmp_path):
    config = tmp_path / "relay.toml"
    config.write_text('[net]\ncountry = "DE"\n')
    found = relay("--config", str(config))
    assert found.returncode == 0
    assert "nothing to do" in found.stderr
    assert "[net.radios.NAME]" in found.stderr


def test_probe_works_without_rights_and_without_radios(relay, tmp_path):
    config = tmp_path / "relay.toml"
    config.write_text('[net.radios.far]\ninterface = "none-such"\n')
    found = relay("probe", "--json", "--config", str(config))
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    assert document["configured"][0]["problems"] == ["there is no radio none-such: plug one in"]
    # The option counts before the command as well.
    assert "none-such" in relay("--config", str(config), "probe").stdout


def test_an_operator_can_probe_though_the_configuration_of_the_system_is_root_s(relay, tmp_path):
    config = tmp_path / "mesh-relay" / "relay.toml"
    config.parent.mkdir()
    config.write_text("[mesh]\nsecret = what only root may read\n")
    config.chmod(0)
    # As root without what lets it read everything.
    before = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    if before:
        os.chown(config, 65534, 65534)
    found = relay("probe", "--json", before=before)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["configured"] == []
    # Whoever names it wants to know what it says.
    named = relay("probe", "--config", str(config), before=before)
    assert named.returncode == 78
    assert "cannot be read" in named.stderr


def test_nothing_is_put_back_under_the_feet_of_one_that_runs(relay, tmp_path):
    with only_one(tmp_path / "mesh-relay"):
        found = relay("undo")
    assert found.returncode == 1
    assert "is running" in found.stderr


def test_a_record_that_cannot_be_read_is_told_with_its_remedy(relay, tmp_path):
    record = tmp_path / "mesh-relay" / FILE_NAME
    record.parent.mkdir()
    record.write_text("{}")
    found = relay("undo")
    assert found.returncode == 1
    assert "remove the file" in found.stderr
    assert record.exists()
