# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench``: measures, prints each figure with its method, writes build/bench.json.

Figures depend on the machine; the ratios are taken within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench import disk, durability, footprint, hop, hostile, ingest, million, pages, reconcile, retrieval

if TYPE_CHECKING:
    from collections.abc import Callable


def _reconcile(_: Path) -> dict[str, float]:
    """Bytes, round trips and CPU until each of two relays knows what the other lacks, worst of 100 seeds."""
    return reconcile.measure()


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "ingest": ingest.measure,
    "retrieval": retrieval.measure,
    "hop": hop.measure,
    "hostile": hostile.measure,
    "reconcile": _reconcile,
    "pages": pages.measure,
    "full": footprint.measure_full,
    "idle": footprint.measure_idle,
    "disk": disk.measure,
    "durability": durability.measure,
}
#: Measured when they are named only: minutes.
LONG: dict[str, Callable[[Path], dict[str, float]]] = {"million": million.measure}


def main() -> None:
    """Measure the parts named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, *LONG, []], help="what to measure; all but million by default"
    )
    # Not /tmp, which is memory on many machines: syncs there cost nothing.
    parser.add_argument(
        "--folder", type=Path, default=Path.home() / ".cache/mesh-relay", help="a folder on a real disk"
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    figures: dict[str, float] = {}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    parts = PARTS | LONG
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
            print(f"\n{name}: {(parts[name].__doc__ or '').strip().splitlines()[0]}", flush=True)
            found = parts[name](Path(place))
        for key, value in found.items():
            print(f"  {key:<28} {value:>14,.3f}", flush=True)
        figures.update(found)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
