# SPDX-License-Identifier: GPL-2.0-or-later
"""The client as a library is what its page says, and the example there runs as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

import relay.client
from tests.client.online import RelayProcess

PAGE = Path(__file__).parents[2] / "docs" / "client.md"


def test_the_example_of_the_page_runs_as_it_is_printed(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (command, said) = re.search(r"Run as `(.*?)`.*?it prints `(.*?)`", PAGE.read_text(), re.DOTALL).groups()
    assert command == "python example.py localhost:4270 /tmp/people"
    program = tmp_path / "example.py"
    program.write_text(example)
    running = RelayProcess(tmp_path / "relay")
    try:
        running.start()
        shown = subprocess.run(
            [sys.executable, program, running.address, tmp_path / "people"],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    finally:
        running.stop()
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, said + "\n", "")


def test_every_name_of_the_library_is_there_and_on_the_page():
    text = PAGE.read_text()
    for name in relay.client.__all__:
        assert callable(getattr(relay.client, name))
        assert re.search(rf"`{name}[`(]", text), f"{name} is not in docs/client.md"
    assert not hasattr(relay.client, "Courier")


def test_methods_that_the_page_names_exist():
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| `.")]
    named = {name for row in rows for name in re.findall(r"`\.(\w+)`", row.split("|")[1])}
    assert {"send_text", "deliver", "collect", "take"} <= named
    attributes = {"identity", "contacts", "bulletins"}
    assert {name for name in named - attributes if not callable(getattr(relay.client.Client, name, None))} == set()


def test_the_package_alone_imports_nothing_slow():
    script = "import sys, relay.client; print([name for name in ('asyncio', 'sqlite3', 'nacl') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
