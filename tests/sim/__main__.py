# SPDX-License-Identifier: GPL-2.0-or-later
"""A town of a thousand relays in one process: `make sim`.

Everything can also be set by the environment: RELAY_SIM_RELAYS,
RELAY_SIM_MINUTES, RELAY_SIM_SEED.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.sim.judge import faults
from tests.sim.report import as_text, digest, make_report, write
from tests.sim.town import Simulation, town_of

FOLDER = Path("build/sim")


def main() -> int:
    """Run it, write the report, and fail if it shows a fault."""
    environ = os.environ
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--relays", type=int, default=int(environ.get("RELAY_SIM_RELAYS", "1000")))
    parser.add_argument("--minutes", type=float, default=float(environ.get("RELAY_SIM_MINUTES", "20")))
    parser.add_argument("--seed", default=environ.get("RELAY_SIM_SEED", "1"))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    started = time.perf_counter()
    simulation = Simulation(town_of(arguments.relays, minutes=arguments.minutes, seed=arguments.seed))
    simulation.run()
    report = make_report(simulation)
    write(simulation, report, arguments.folder)
    print(as_text(report))
    print(f"digest {digest(report)}")
    print(f"{time.perf_counter() - started:.0f} s; report and picture in {arguments.folder}")
    found = faults(report)
    for fault in found:
        print(f"FAULT: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
