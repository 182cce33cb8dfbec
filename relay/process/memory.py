# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory this process takes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SELF: Final = Path("/proc/self")


def memory_bytes(process: Path = SELF) -> int | None:
    """Return the proportional set size: what is shared with others counts in part. None if the kernel does not tell."""
    try:
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
