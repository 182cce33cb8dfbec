# SPDX-License-Identifier: GPL-2.0-or-later
"""relay/core/ does no I/O and knows no time or randomness of its own: its source says so.

That it knows nothing of the rest of the relay is one of the contracts of `make lint`, which cannot tell the rest:
what is reached through a package that is allowed, and what needs no import.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[3] / "relay" / "core"

# Dotted names, each with all below it. Some are here for what they hide: uuid,
# tempfile and nacl.utils draw random bytes, datetime reads the clock, importlib
# lets anything in unseen.
FORBIDDEN = {
    *("asyncio", "concurrent", "multiprocessing", "select", "selectors", "signal", "subprocess", "threading"),
    *("http", "socket", "socketserver", "ssl", "urllib"),
    *("io", "os", "pathlib", "shutil", "sqlite3", "sys", "tempfile"),
    *("datetime", "sched", "time"),
    *("random", "secrets", "uuid", "nacl.utils", "nacl.bindings.randombytes", "numpy.random"),
    *("ctypes", "importlib", "logging", "warnings"),
    *("aiohttp", "prometheus_client", "pyroute2", "zeroconf"),
}
FORBIDDEN_CALLS = {"__import__", "eval", "exec", "input", "open", "print"}


def imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str, str]]:
    """Line, absolute name and local name of each import in a module of `package`, however deep in its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            parents = above[: len(above) + 1 - node.level] if node.level else []
            for alias in node.names:
                name = ".".join([*parents, *filter(None, [node.module]), alias.name])
                yield node.lineno, name, alias.asname or alias.name


def chain(node: ast.expr) -> list[str]:
    """The names of `a.b.c`; none where it starts with anything but a name."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (base := chain(node.value)):
        return [*base, node.attr]
    return []


def uses(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that a module imports, reaches through an import, or calls unimported."""
    absolute = {}
    for line, name, local in imports(tree, package):
        yield line, name
        root = local.partition(".")[0]
        absolute[root] = root if "." in local else name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (names := chain(node)) and names[0] in absolute:
            yield node.lineno, ".".join([absolute[names[0]], *names[1:]])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield node.lineno, f"{node.func.id}()"


def is_forbidden(name: str) -> bool:
    parts = name.split(".")
    return name.endswith("()") or any(".".join(parts[: count + 1]) in FORBIDDEN for count in range(len(parts)))


def offences(core: Path) -> list[str]:
    """`file:line: name` of everything in the folder that relay.core may not use."""
    found = []
    for path in sorted(core.rglob("*.py")):
        package = ".".join(["relay", "core", *path.relative_to(core).parts[:-1]])
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        found += [
            f"{path.relative_to(core)}:{line}: {name}"
            for line, name in sorted(set(uses(tree, package)))
            if is_forbidden(name)
        ]
    return found


def test_the_core_does_not_read_the_world():
    assert list(CORE.rglob("*.py")), "looked in the wrong place"
    assert offences(CORE) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import time", "time"),
        ("import asyncio.streams as s", "asyncio.streams"),
        ("from os import urandom", "os.urandom"),
        ("def f():\n    if True:\n        import socket", "socket"),
        ("class C:\n    def f(self):\n        from random import Random", "random.Random"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import logging", "logging"),
        ("from nacl import utils", "nacl.utils"),
        ("import numpy as np\nx = np.random.rand(3)", "numpy.random.rand"),
        ("import nacl.bindings as b\nx = b.randombytes(32)", "nacl.bindings.randombytes"),
        ("import nacl.bindings\nx = nacl.bindings.randombytes(32)", "nacl.bindings.randombytes"),
        ("x = open('file')", "open()"),
        ("x = __import__('os')", "__import__()"),
    ],
)
def test_a_planted_offence_is_found_wherever_it_stands(tmp_path, source, name):
    (tmp_path / "fine.py").write_text("import struct\n")
    (tmp_path / "planted.py").write_text(source)
    found = offences(tmp_path)
    assert found
    assert all(offence.startswith("planted.py:") for offence in found)
    assert any(offence.endswith(f": {name}") for offence in found)


def test_a_planted_offence_is_found_in_a_folder_of_the_core(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "planted.py").write_text("import time\nfrom .. import errors\n")
    assert offences(tmp_path) == ["deep/planted.py:1: time"]


def test_what_the_core_is_made_of_is_no_offence(tmp_path):
    (tmp_path / "fine.py").write_text(
        "import hashlib\n"
        "import numpy as np\n"
        "from dataclasses import dataclass\n"
        "from nacl.bindings import crypto_scalarmult\n"
        "from relay.core.errors import DecodeError\n"
        "from . import errors\n"
        "from .errors import RelayError\n"
        "def f(self, time):\n"
        "    return self.random.time, time.os, np.zeros(3)\n"
    )
    assert offences(tmp_path) == []
