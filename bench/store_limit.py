# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare limit of durable ingest: hash and group-commit into the store's schema, and nothing else.

``python -m bench.store_limit FOLDER`` prints it. What the relay reaches is divided
by it, in the same run and on the same file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.store_input import make_envelopes
from relay.store import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS = (64, 256, 1024)


def measure_limit(folder: Path, envelopes: Sequence[bytes]) -> dict[int, float]:
    """Return envelopes per second by group size; the limit is the largest of them.

    ``folder`` must not be in memory. One thread, multi-row statements (as fast as
    or faster than executemany), every transaction synced, checkpoints included.
    """
    return {group: _run(folder, envelopes, group) for group in GROUPS}


def _run(folder: Path, envelopes: Sequence[bytes], group: int) -> float:
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        contextlib.closing(schema.connect(Path(place) / "limit", "mode=rwc")) as connection,
    ):
        schema.create_tables(connection)
        schema.tune_writer(connection, durable=True)
        started = time.perf_counter()
        for first in range(0, len(envelopes), group):
            admitted: list[object] = []
            bodies: list[object] = []
            for seq, envelope in enumerate(envelopes[first : first + group], first + 1):
                admitted += (seq, hashlib.sha256(envelope).digest(), envelope[:24], 1, 0)
                bodies += (seq, envelope)
            connection.execute("BEGIN IMMEDIATE")
            schema.INSERT_ADMITTED.run(connection, admitted)
            schema.INSERT_BODY.run(connection, bodies)
            connection.execute("COMMIT")
        took_s = time.perf_counter() - started
        (stored,) = connection.execute("SELECT count(*) FROM body").fetchone()
        assert stored == len(envelopes)
        return len(envelopes) / took_s


def main(folder: Path) -> None:
    """Print the limit for 50,000 envelopes of 1 KiB."""
    for group, per_s in measure_limit(folder, make_envelopes(50_000)).items():
        print(f"bare limit, groups of {group}: {per_s:,.0f} envelopes/s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
