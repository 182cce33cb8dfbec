# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory this process takes, and giving back what it does not."""

from __future__ import annotations

import ctypes
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


def give_back() -> None:
    """Return to the system what was freed: after a start that is a tenth of what a million envelopes take."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's
        trim(0)
