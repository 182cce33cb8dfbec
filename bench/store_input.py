# SPDX-License-Identifier: GPL-2.0-or-later
"""Input of the store's benchmarks."""

from __future__ import annotations

import random
import struct


def make_envelopes(count: int, size_class: int = 1) -> list[bytes]:
    """Return ``count`` different envelopes without work, the same ones every time."""
    rng = random.Random(1)
    size = (256, 1024, 4096, 16384)[size_class]
    return [
        struct.pack(">BBBBI", 1, 0, size_class, 0, 490_000 + index % 168) + rng.randbytes(size - 8)
        for index in range(count)
    ]
