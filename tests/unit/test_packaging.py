# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever installs the package gets all of it: types, data files, the command, the licence."""

import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import relay
from relay.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder], cwd=ROOT, check=True
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(wheel.read(name).decode())


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "relay").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "relay/py.typed" in package
    assert package == {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_licence_travels_along(wheel, metadata):
    assert metadata["License-Expression"] == "GPL-2.0-or-later"
    (name,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
    assert "GNU GENERAL PUBLIC LICENSE\n                       Version 2" in wheel.read(name).decode()


def test_the_version_is_the_one_of_the_code(metadata):
    assert metadata["Version"] == relay.__version__


def test_what_needs_glib_comes_only_when_asked_for_and_the_client_s_bluetooth_always(metadata):
    assert {"core", "ble", "net", "sniff"} <= set(metadata.get_all("Provides-Extra"))
    for requirement in metadata.get_all("Requires-Dist"):
        name, _, condition = requirement.partition(";")
        if name.startswith(("bluezero", "dbus")):
            assert condition.strip() == ("extra == 'core'" if name.startswith("dbus-next") else "extra == 'ble'")
    assert (ROOT / ".ci" / "requirements-run.txt").read_text().count("\ndbus-next==") == 1


def test_the_relay_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="relay")
    assert command.load() is main
