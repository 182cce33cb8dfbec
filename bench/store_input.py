# SPDX-License-Identifier: GPL-2.0-or-later
"""Input of the benchmarks."""

from __future__ import annotations

import itertools
import random
import struct
from typing import TYPE_CHECKING

from relay.core.envelope import HEADER_BYTES, NONCE_BYTES, SIZES, TAG_BYTES, grind, in_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Expiry hours begin here (January 2027): above the build date that relays refuse to go below.
FIRST_HOUR = 500_000


def _tag(rng: random.Random, bucket: int | None) -> bytes:
    tag = rng.randbytes(TAG_BYTES)
    return tag if bucket is None else in_bucket(bucket, tag)


def make_envelopes(
    count: int, size_class: int = 1, *, hours: int = 168, seed: int = 1, bucket: int | None = None
) -> list[bytes]:
    """Return ``count`` different envelopes that pay for an empty store, the same ones every time."""
    return list(itertools.islice(endless_envelopes(size_class, hours=hours, seed=seed, bucket=bucket), count))


def endless_envelopes(
    size_class: int = 1, *, hours: int = 168, seed: int = 1, bucket: int | None = None
) -> Iterator[bytes]:
    """Yield what :func:`make_envelopes` returns, each made when it is asked for."""
    rng = random.Random(seed)
    body_bytes = SIZES[size_class] - HEADER_BYTES - NONCE_BYTES
    for index in itertools.count():
        yield grind(
            struct.pack(">BBBBI", 1, 0, size_class, 0, FIRST_HOUR + index % hours)
            + _tag(rng, bucket)
            + rng.randbytes(body_bytes),
            price=0,
            random_bytes=rng.randbytes,
        )
