# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are looked for."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
from relay.config.paths import config_candidates, state_directory
print(*config_candidates({"CREDENTIALS_DIRECTORY": "/run/credentials/x"}))
print(state_directory({"STATE_DIRECTORY": "/var/lib/mesh-relay"}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that nobody knows")
def test_a_dynamic_user_that_no_name_service_knows_finds_its_configuration():
    found = subprocess.run(
        [sys.executable, "-c", f"import os; from relay.config import paths; os.setuid(61234)\n{PROGRAM}"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    candidates, state = found.stdout.splitlines()
    assert candidates.startswith("/run/credentials/x/relay.toml ")
    assert state == "/var/lib/mesh-relay"
