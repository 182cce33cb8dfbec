# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that live in real time, run once more where they failed; and how many needed that.

`python -m tests.reruns NAME PYTEST-ARGUMENT...` runs pytest. Guests share two cores, and now and then that makes one
of them late: what failed is run once more, and what fails twice is a failure. Which tests those were is written to
build/NAME-reruns.json; more of them than BUDGET is a failure whatever the second run says, for then it is not the
machine, or the tests are worth too little.
"""

import json
import subprocess
import sys
from pathlib import Path

#: Of some 56 tests each of radios and of the image, on a machine that may do other work as well.
BUDGET = 3
#: pytest's exit status for tests that failed; anything else is no lateness of a guest.
TESTS_FAILED = 1


def run(name, arguments, root):
    """Run in the folder ``root``; return the exit status."""
    build = root / "build"
    build.mkdir(exist_ok=True)
    cache = build / f"{name}-cache"
    record = build / f"{name}-reruns.json"
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *arguments]
    record.unlink(missing_ok=True)
    (cache / "v" / "cache" / "lastfailed").unlink(missing_ok=True)
    status = subprocess.run(command, cwd=root, check=False).returncode
    failed = []
    if status == TESTS_FAILED:
        failed = sorted(json.loads((cache / "v" / "cache" / "lastfailed").read_text()))
    record.write_text(json.dumps({"budget": BUDGET, "rerun": failed}, indent=1) + "\n")
    if not failed:
        return status
    if len(failed) > BUDGET:
        print(f"\n== {len(failed)} failed; a busy machine explains {BUDGET} ({record})")
        return status
    print(f"\n== once more what failed: {len(failed)} of at most {BUDGET} ({record})", flush=True)
    command += ["--last-failed", "--last-failed-no-failures", "none"]
    return subprocess.run(command, cwd=root, check=False).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:], Path.cwd()))
