# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.image.survival [short]`: runs what shows that the appliance survives, and says it.

What the tests measured goes to build/survival.json, and the whole form's, with the date and a hash of what the image is
made from, to survival.json beside this file. ``short``: nothing is run, `make test-image` did; only what it found is
said.
"""

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.guest.uml import ROOT
from tests.image.arm64 import inputs_hash

RESULT = Path(__file__).with_name("survival.json")
BUILT = ROOT / "build" / "survival.json"
#: Where tests/image/conftest.py writes for these runs, and for `make test-image`.
MEASURED, SHORT = ROOT / "build" / "survival-measured.json", ROOT / "build" / "image.json"
#: Power cuts, what happens once, seizure and panic, damage; that a slot fails, and that a relay updates another.
WHOLE = (
    "test_cut.py",
    "test_power.py",
    "test_power_once.py",
    "test_damage.py",
    "test_storage.py",
    "test_spreading.py",
    "test_slots.py::test_the_second_slot_is_filled_in_spite_of_pulled_plugs_and_starts_where_the_first_does_not",
)
IDLE = ("test_idle.py",)
CONTROLS = 3


def begin(tests, arguments=()):
    """Begin pytest, which has its end with this process's group."""
    command = [ROOT / ".ci/netns", sys.executable, "-m", "pytest", "-m", "image", "-p", "no:cacheprovider", *arguments]
    command += [f"tests/image/{name}" for name in tests]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"SURVIVAL_REPORT": str(MEASURED)})


def summary(found):
    """What issue 15 asks for."""
    series = [found[f"power_cuts_{storage}"] for storage in ("plain", "durable")]
    return {
        "power_cut_cycles": sum(one["cycles"] for one in series),
        "power_cut_acknowledged": sum(one["acknowledged"] for one in series),
        "acknowledged_lost": sum(one["acknowledged_lost"] for one in series),
        "controls_caught": sum(name.startswith("control_caught") for name in found),
        "markers_found": found["markers_found"],
        "control_markers_found": found["control_markers_found"],
        "rollback_ok": found["rollback_ok"],
        "update_cuts": found["update_cuts"],
        "panic_key_gone_s": found["panic_key_gone_s"],
        "idle_writes_amnesic": found["idle_writes_amnesic"],
    }


def main(arguments):
    is_short = arguments[:1] == ["short"]
    if not is_short:
        MEASURED.parent.mkdir(exist_ok=True)
        MEASURED.unlink(missing_ok=True)
        # There is nothing to wait for but the ten minutes.
        os.environ["SURVIVAL"] = "1"
        running = [begin(IDLE), begin(WHOLE, arguments)]
        if status := max([one.wait() for one in running]):
            return status
    found = json.loads((SHORT if is_short else MEASURED).read_text())
    made = summary(found)
    assert made["controls_caught"] == CONTROLS
    BUILT.write_text(json.dumps(made, indent=1) + "\n")
    print(json.dumps(made))
    if not is_short:
        head = {"date": dt.datetime.now(dt.UTC).date().isoformat(), "inputs_sha256": inputs_hash()}
        details = {name: value for name, value in sorted(found.items()) if name not in made}
        RESULT.write_text(json.dumps(head | made | {"measured": details}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
