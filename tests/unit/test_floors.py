# SPDX-License-Identifier: GPL-2.0-or-later
"""`make lint` fails when a package imports what stands above or beside it, however the import is written."""

import ast
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TYPING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
LINT = Path(sysconfig.get_path("scripts")) / "lint-imports"


@pytest.fixture
def tree(tmp_path):
    """The sources, to plant something in."""
    shutil.copytree(ROOT / "relay", tmp_path / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken(tree):
    """What is wrong, by the first word of the contract's name."""
    found = subprocess.run([LINT, "--no-cache", "--no-logo"], cwd=tree, capture_output=True, text=True, check=False)
    assert "Contracts:" in found.stdout, found.stdout + found.stderr
    names = [line.partition(":")[0] for line in found.stdout.splitlines() if line.endswith(" BROKEN")]
    assert bool(names) is bool(found.returncode)
    return names


def test_nobody_imports_what_he_must_not(tree):
    assert broken(tree) == []


@pytest.mark.parametrize(
    ("module", "source", "contract"),
    [
        ("process/planted.py", "from relay.control import status\n", "Floors"),
        (
            "core/planted.py",
            f"{TYPING}    import relay.links.tcp\n",
            "Floors",
        ),
        ("ble/planted.py", "def f():\n    from relay.run.engine import Engine\n    return Engine\n", "Floors"),
        ("store/planted.py", "from ..links import tcp\n", "Floors"),
        ("somewhere/__init__.py", "", "Floors"),
        ("core/airtime.py", f"{TYPING}    from relay.core.node import Node\n", "Circles"),
        ("config/planted.py", "from importlib import import_module\nx = import_module('relay.ble.app')\n", "Strings"),
        ("ble/planted.py", "from dbus_next.signature import Variant\n", "dbus-next"),
        ("ble/planted.py", "import bluezero.adapter\n", "bluezero"),
    ],
)
def test_a_planted_import_is_found(tree, module, source, contract):
    path = tree / "relay" / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    assert broken(tree) == [contract]


def dynamic(tree):
    """Where modules are imported by the one function that need not be imported itself."""
    return [
        f"{path.name}:{node.lineno}"
        for path in sorted((tree / "relay").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "__import__"
    ]


def test_nobody_imports_by_a_string_without_importing_anything_for_that(tree):
    assert dynamic(tree) == []
    (tree / "relay" / "config" / "planted.py").write_text("x = __import__('relay.ble.app')\n")
    assert dynamic(tree) == ["planted.py:1"]
